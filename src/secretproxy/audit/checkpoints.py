"""Checkpoints: how far an instance's chain went, signed with Ed25519, so that a tail that was cut off or made again
shows.

A checkpoint goes into secretproxy.checkpoints and, with audit.checkpoint_file, onto the end of a file that the operator
keeps where whoever can change the log cannot. May do file I/O; key bytes never reach an error text.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secretproxy.config import ConfigError

# Seconds that the operator's command may take for a checkpoint.
COMMAND_TIMEOUT = 10.0
CHECKPOINT, END, RETENTION, BEFORE = "checkpoint", "end", "retention", "before"


class PublicKeys:
    """The public halves of keys that signed one after the other, the present one first: what any of them signed is
    genuine."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self.keys = tuple(keys)

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raises InvalidSignature."""
        for key in self.keys:
            try:
                key.verify(signature, data)
            except InvalidSignature:
                continue
            return
        raise InvalidSignature


PublicKey = Ed25519PublicKey | PublicKeys


def keys_of(*keys: PublicKey | None) -> list[Ed25519PublicKey]:
    """Gives every single key of these once, in their order."""
    found: dict[bytes, Ed25519PublicKey] = {}
    for key in keys:
        for one in key.keys if isinstance(key, PublicKeys) else () if key is None else (key,):
            found.setdefault(one.public_bytes_raw(), one)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The row `seq` of `instance` had the hash `row_hash` at the time `at`.

    Row 0 is the chain's beginning, signed before the first row. Kind `end`: the process ended in good order, and that
    row is its last. Kind `retention`: rows up to this one were removed then: those after the row that a checkpoint of
    kind `before` and of the same time names, or else all.
    """

    instance: uuid.UUID
    seq: int
    row_hash: bytes
    at: datetime
    signature: bytes = b""
    kind: str = CHECKPOINT

    @property
    def signed_text(self) -> bytes:
        at = self.at.astimezone(UTC).isoformat(timespec="microseconds")
        return f"secretproxy {self.kind} 1 {self.instance} {self.seq} {self.row_hash.hex()} {at}".encode()

    def line(self) -> str:
        """Gives the checkpoint as a line of the checkpoint file."""
        return json.dumps(
            {
                "kind": self.kind,
                "instance": str(self.instance),
                "seq": self.seq,
                "row_hash": self.row_hash.hex(),
                "at": self.at.astimezone(UTC).isoformat(timespec="microseconds"),
                "signature": base64.b64encode(self.signature).decode(),
            }
        )

    @classmethod
    def read(cls, line: str) -> Checkpoint:
        """Raises ValueError."""
        try:
            found = json.loads(line)
            return cls(
                uuid.UUID(found["instance"]),
                int(found["seq"]),
                bytes.fromhex(found["row_hash"]),
                datetime.fromisoformat(found["at"]),
                base64.b64decode(found["signature"], validate=True),
                str(found.get("kind", CHECKPOINT)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a checkpoint") from error


class Signer:
    """Signs checkpoints with the key of audit.checkpoint_key_file, which is made if it is missing, with its public half
    next to it."""

    def __init__(self, key_file: Path, file: Path | None = None, command: str | None = None) -> None:
        """Raises ConfigError."""
        self._key = _load_or_make(key_file)
        self._file = file
        self._command = shlex.split(command) if command else None
        if file is not None:
            try:
                os.close(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
            except OSError as error:
                raise ConfigError(f"audit.checkpoint_file {file}: cannot be written: {error.strerror}") from None
        # Whether the file ends within a line.
        self._is_torn = file is not None and not _ends_with_a_line(file)

    def __repr__(self) -> str:
        return "Signer(<redacted>)"

    @property
    def public(self) -> Ed25519PublicKey:
        return self._key.public_key()

    def sign(
        self, instance: uuid.UUID, seq: int, row_hash: bytes, kind: str = CHECKPOINT, at: datetime | None = None
    ) -> Checkpoint:
        bare = Checkpoint(instance, seq, row_hash, at or datetime.now(UTC), kind=kind)
        return replace(bare, signature=self._key.sign(bare.signed_text))

    def sign_text(self, text: bytes) -> bytes:
        """Signs a text that is not a checkpoint; its first word says what it is."""
        return self._key.sign(text)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Appends to the file, durable when it returns, and hands the line to the command. Blocks. Raises OSError."""
        if self._file is not None:
            self._append(self._file, (checkpoint.line() + "\n").encode())
        if self._command is not None:
            self._hand_over(self._command, checkpoint.line() + "\n")

    def _append(self, path: Path, line: bytes) -> None:
        """Appends a line whole, behind what a full disk or a kill may have left of one."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            view = memoryview(b"\n" + line if self._is_torn else line)
            self._is_torn = True
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            self._is_torn = False
        finally:
            os.close(descriptor)

    @staticmethod
    def _hand_over(command: list[str], line: str) -> None:
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                process.communicate(line, COMMAND_TIMEOUT)
            except subprocess.TimeoutExpired:
                # With what it started: a shell's child would go on.
                os.killpg(process.pid, signal.SIGKILL)
                raise OSError(
                    errno.ETIMEDOUT, f"no end of audit.checkpoint_command within {COMMAND_TIMEOUT:g} s"
                ) from None
        if process.returncode:
            raise OSError(errno.EIO, f"audit.checkpoint_command ended with status {process.returncode}")


def _ends_with_a_line(path: Path) -> bool:
    """Tells whether a file is empty or ends with a newline; of one that this user may not read, True."""
    try:
        with path.open("rb") as file:
            return not file.seek(0, os.SEEK_END) or file.seek(-1, os.SEEK_END) < 0 or file.read(1) == b"\n"
    except OSError:
        return True


def _load_or_make(path: Path) -> Ed25519PrivateKey:
    try:
        if not path.exists():
            made = Ed25519PrivateKey.generate()
            private = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                return _load_or_make(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(private)
            _put_first(public_file(path), pem(made.public_key()))
            return made
        if stat.S_IMODE(path.stat().st_mode) & 0o037:
            raise ConfigError(f"audit.checkpoint_key_file {path}: others may read or write it; run `chmod 600 {path}`")
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"audit.checkpoint_key_file {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ConfigError(f"audit.checkpoint_key_file {path}: not a PEM private key without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"audit.checkpoint_key_file {path}: not an Ed25519 key")
    return key


def public_file(key_file: Path) -> Path:
    """Gives the file of the public half of a key file."""
    return key_file.with_name(key_file.name + ".pub")


def pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _put_first(path: Path, key: bytes) -> None:
    """Writes a public key before those that the file has: what older keys signed stays provable.

    Whole or not at all. Raises OSError.
    """
    earlier = path.read_bytes() if path.exists() else b""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(key + earlier)
    beside.replace(path)


# One key of a file, with what people write around it left out.
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


def load_public(path: Path) -> PublicKeys:
    """Loads every public key of a file. Raises ConfigError."""
    found = []
    try:
        for one in [match[0] for match in _PEM.finditer(path.read_bytes())]:
            key = serialization.load_pem_public_key(one)
            if not isinstance(key, Ed25519PublicKey):
                raise ConfigError(f"--public-key {path}: not an Ed25519 key")
            found.append(key)
    except OSError as error:
        raise ConfigError(f"--public-key {path}: {error.strerror}") from None
    except ValueError:
        found = []
    if not found:
        raise ConfigError(f"--public-key {path}: not a PEM public key")
    return PublicKeys(found)


def public_key_of(given: Path | None, key_file: Path | None) -> PublicKeys | None:
    """Loads the keys that checkpoints are checked with: those of the file given, or those beside the private key, or
    none. Raises ConfigError."""
    if given is None and key_file is not None and public_file(key_file).exists():
        given = public_file(key_file)
    return None if given is None else load_public(given)


def genuine(checkpoint: Checkpoint, key: PublicKey) -> bool:
    try:
        key.verify(checkpoint.signature, checkpoint.signed_text)
    except InvalidSignature:
        return False
    return True


def read_file(path: Path) -> Iterator[tuple[int, Checkpoint | None]]:
    """Reads every line of a checkpoint file with its number; None for a line that is not a checkpoint.

    Raises ConfigError.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, Checkpoint.read(line)
                    except ValueError:
                        yield number, None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--checkpoints {path}: {getattr(error, 'strerror', None) or 'not text'}") from None


def kept_outside(given: Path | None, configured: Path | None) -> tuple[list[Checkpoint], list[int]]:
    """Reads the checkpoints of a file kept elsewhere, and the numbers of lines that are none. Raises ConfigError.

    A file that was given must be there, one that the configuration names need not be made yet.
    """
    found: list[Checkpoint] = []
    unreadable: list[int] = []
    file = given if given is not None else configured if configured is not None and configured.exists() else None
    for number, checkpoint in () if file is None else read_file(file):
        if checkpoint is None:
            unreadable.append(number)
        else:
            found.append(checkpoint)
    return found, unreadable
