"""Writes what commands keep: files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import stat
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

    write = _writing(descriptor, f"{option} {place}")
    try:
        yield write
    except BaseException:
        place.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _writing(descriptor: int, named: str) -> Callable[[bytes], None]:
    """Gives a function that writes all of what it is given. It raises ConfigError; BrokenPipeError passes."""

    def write(part: bytes) -> None:
        # Not with a buffer: what closing it could not write would be said too late.
        view = memoryview(part)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"{named}: cannot be written: {error.strerror}") from None

    return write


@contextlib.contextmanager
def whole_file(place: Path) -> Iterator[Callable[[bytes], None]]:
    """Makes a file that takes its name once all of it is written; until then, what had the name stays.

    A pipe or a device is written as it is. Raises ConfigError."""
    # Where the name is a link, the file that it leads to is replaced, not the link.
    there = Path(os.path.realpath(place))
    draft = there.with_name(f"{there.name}.part")
    try:
        found = there.stat() if there.exists() else None
        if found is not None and not stat.S_ISREG(found.st_mode):
            draft = there
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be written: {error.strerror}") from None
    try:
        yield _writing(descriptor, str(place))
        if draft != there:
            _take_name(descriptor, draft, there, None if found is None else stat.S_IMODE(found.st_mode))
    except BaseException:
        if draft != there:
            draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _take_name(descriptor: int, draft: Path, there: Path, mode: int | None) -> None:
    try:
        if mode is not None:
            os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        draft.replace(there)
    except OSError as error:
        raise ConfigError(f"{there}: cannot be written: {error.strerror}") from None
