"""The file of checkpoints: a line that a full disk or a kill cut off spoils no other."""

from __future__ import annotations

import resource
import signal
import uuid
from pathlib import Path

import pytest

from secretproxy.audit.checkpoints import Checkpoint, Signer, read_file

INSTANCE = uuid.UUID(int=1)


def signer(directory: Path) -> Signer:
    return Signer(directory / "key", directory / "file")


def kept(directory: Path) -> list[Checkpoint | None]:
    return [checkpoint for _, checkpoint in read_file(directory / "file")]


def test_a_disk_that_is_full_in_the_middle_of_a_line_is_an_error(tmp_path: Path) -> None:
    """A write that takes a part of the line says so by its count alone."""
    signing = signer(tmp_path)
    first, second, third = (signing.sign(INSTANCE, number, bytes(32)) for number in (1, 2, 3))
    signing.keep(first)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "file").stat().st_size + 40, before[1]))
        with pytest.raises(OSError):
            signing.keep(second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    signing.keep(second)
    signing.keep(third)
    assert kept(tmp_path) == [first, None, second, third]


@pytest.mark.parametrize("cut", [1, 40])
def test_a_line_that_a_killed_process_left_in_pieces(tmp_path: Path, cut: int) -> None:
    signing = signer(tmp_path)
    first, second = (signing.sign(INSTANCE, number, bytes(32)) for number in (1, 2))
    signing.keep(first)
    file = tmp_path / "file"
    file.write_bytes(file.read_bytes()[:-cut])
    signer(tmp_path).keep(second)
    assert kept(tmp_path) == [first if cut == 1 else None, second]


def test_an_empty_file_and_a_whole_one(tmp_path: Path) -> None:
    made = [signer(tmp_path).sign(INSTANCE, number, bytes(32)) for number in (1, 2)]
    for one in made:
        signer(tmp_path).keep(one)
    assert kept(tmp_path) == made
    assert (tmp_path / "file").read_bytes().count(b"\n") == 2
