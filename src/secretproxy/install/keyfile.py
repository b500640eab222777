"""The file of testimony keys (testimony.key_file): lines of a version and 64 hex digits, mode 0600.

Imports nothing of the installer, so that the proxy can read its keys. Key bytes must never
reach an error text, a log line or a repr made here.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from secretproxy.files import check_readable

KEY_BYTES = 32
HEADER = "# Keys of secretproxy's testimony and session tokens: version and 64 hex digits. Keep it secret.\n"
MAX_FILE = 65_536
MAX_VERSION = 2_147_483_647


class KeyFileError(Exception):
    """The key file cannot be used; the text names the setting and the fix, and never a key."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"testimony.key_file {path}: {problem}")


def load_key_file(path: Path) -> dict[int, bytes]:
    """Reads every key of the file by version; the highest version signs."""
    try:
        check_readable(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise KeyFileError(path, "is a link to a file that there is not; mend or remove the link") from None
        raise KeyFileError(path, "there is no such file; `secretproxy install` makes it") from None
    except OSError as error:
        raise KeyFileError(path, f"cannot be read ({error.strerror}); see that this user may read it") from None
    # Its group may read it: that is how a secret is mounted for a container's user.
    if mode & 0o037:
        raise KeyFileError(path, f"others may read or write it (mode {mode:04o}); run `chmod 600 {path}`")
    if len(content) > MAX_FILE:
        raise KeyFileError(path, f"longer than {MAX_FILE} bytes; this is not a key file")
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> dict[int, bytes]:
    keys: dict[int, bytes] = {}
    for number, line in enumerate(content.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(b"#"):
            continue
        match = re.fullmatch(rb"([0-9]{1,10})[ \t]+([0-9A-Fa-f]{64})", line)
        if match is None:
            raise KeyFileError(path, f"line {number} is not `<version> <64 hex digits>`")
        version = int(match[1])
        if not 1 <= version <= MAX_VERSION:
            raise KeyFileError(path, f"line {number}: a version is between 1 and {MAX_VERSION}")
        if version in keys:
            raise KeyFileError(path, f"line {number}: version {version} is listed twice; remove one of the lines")
        keys[version] = bytes.fromhex(match[2].decode("ascii"))
    if not keys:
        raise KeyFileError(path, "holds no key; remove it and run `secretproxy install`, which makes a new one")
    return keys


def create_key_file(path: Path) -> dict[int, bytes]:
    """Creates a file with one random key, version 1; reads an existing file and never overwrites it."""
    if not path.exists():
        with suppress(FileExistsError):
            _write(path, {1: secrets.token_bytes(KEY_BYTES)}, replace=False)
    return load_key_file(path)


def write_key_file(path: Path, keys: dict[int, bytes]) -> None:
    """Replaces the file at once: a reader finds the old keys or the new ones, never half a file."""
    _write(path, keys, replace=True)


def _write(path: Path, keys: dict[int, bytes], *, replace: bool) -> None:
    text = HEADER + "".join(f"{version} {keys[version].hex()}\n" for version in sorted(keys))
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(draft, path)
            else:
                os.link(draft, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
    except FileExistsError:
        raise
    except OSError as error:
        raise KeyFileError(
            path, f"cannot be written ({error.strerror}); see that its directory is yours to write"
        ) from None
