"""The file of the keys of testimony and session token: `testimony.key_file`.

Lines of `VERSION HEX`, a version and 32 bytes in hexadecimal; `#` begins a comment. The highest version signs, every one is
accepted, so that keys can be rotated without a gap. No error quotes a key.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


class KeyFileError(Exception):
    """The key file cannot be used; the text names the setting and the mend."""


def load_key_file(path: Path) -> dict[int, bytes]:
    """The keys by version. Raises KeyFileError."""
    try:
        text = path.read_text(encoding="ascii")
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise KeyFileError(f"testimony.key_file: {path} does not exist; `secretproxy install` makes it") from None
    except OSError as error:
        raise KeyFileError(f"testimony.key_file: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"testimony.key_file: {path} is not a key file") from None
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise KeyFileError(f"testimony.key_file: {path} is open to others; chmod 600 {path}")
    keys: dict[int, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            version, key = int(words[0]), bytes.fromhex(words[1])
        except (ValueError, IndexError):
            raise KeyFileError(f"testimony.key_file: {path}, line {number} is not `VERSION HEX`") from None
        if len(words) != 2 or len(key) != 32 or version < 1 or version in keys:
            raise KeyFileError(f"testimony.key_file: {path}, line {number} is not a new version and 32 bytes in hexadecimal")
        keys[version] = key
    if not keys:
        raise KeyFileError(f"testimony.key_file: {path} has no key")
    return keys


def create_key_file(path: Path) -> dict[int, bytes]:
    """Makes the file with one new key, readable by its owner alone; an existing one is read. Raises KeyFileError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return load_key_file(path)
    except OSError as error:
        raise KeyFileError(f"testimony.key_file: {path} cannot be made: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"# Keys of testimony and session token. Whoever has them can forge both.\n1 {secrets.token_hex(32)}\n")
    return load_key_file(path)
