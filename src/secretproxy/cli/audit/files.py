"""Writes what commands keep: new files that only their owner reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from secretproxy.config import ConfigError


@contextlib.contextmanager
def new_file(option: str, place: Path) -> Iterator[Callable[[bytes], None]]:
    """Makes a file that only its owner reads, and removes it again unless all of it was written. Raises ConfigError."""
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{option} {place}: there is a file already; it is not overwritten") from None
    except OSError as error:
        raise ConfigError(f"{option} {place}: cannot be written: {error.strerror}") from None

    def write(part: bytes) -> None:
        # Not with a buffer: what closing it could not write would be said too late.
        view = memoryview(part)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError as error:
            raise ConfigError(f"{option} {place}: cannot be written: {error.strerror}") from None

    try:
        yield write
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
