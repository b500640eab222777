"""Runs the framer under hypothesis: any bytes, any chunks, compiled and pure; nothing is lost, and nothing else than
its error is raised."""

from __future__ import annotations

import struct
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.pure import INSTALLED, PURE
from tests.fuzz.test_machine import EXAMPLES
from tests.fuzz.test_machine import FUZZ as MACHINE

MARK, WHOLE = b"MN", b"QRS"
FUZZ = settings(MACHINE, max_examples=EXAMPLES * 2)
BODIES = st.one_of(st.binary(max_size=30), st.integers(900, 1200).map(bytes), st.integers(65_000, 67_000).map(bytes))
MESSAGES = st.one_of(
    st.builds(
        lambda kind, body: bytes([kind]) + struct.pack("!I", len(body) + 4) + body, st.sampled_from(b"PMNQRS"), BODIES
    ),
    st.binary(max_size=12),
)
STREAMS = st.lists(MESSAGES, max_size=12).map(b"".join)
# What whoever reads the messages does with one that is there in part.
CHOICES = st.lists(st.sampled_from(["let", "demand", "discard"]), min_size=1, max_size=6)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    return [stream[start:end] for start, end in pairwise(places)]


def frame(code: SimpleNamespace, chunks: list[bytes], choices: list[str], most: int = 1 << 30) -> dict[str, Any]:
    """Gives what came out, the messages that were reported, what was discarded, and how it ended."""
    framer = code.Framer(code.actions(MARK, WHOLE, 0), most)
    out, seen, discarded, owed, asked = b"", [], 0, 0, 0
    for pushed in chunks:
        chunk = pushed
        if owed:
            gone = min(owed, len(chunk))
            owed -= gone
            chunk = chunk[gone:]
        framer.push(chunk)
        try:
            while framer.next():
                start, end = framer.start, framer.end
                assert 0 <= start < end and framer.buffer[start] == framer.kind and framer.kind in MARK + WHOLE
                if framer.complete:
                    seen.append(bytes(framer.buffer[start:end]))
                    continue
                choice = choices[asked % len(choices)]
                asked += 1
                if choice == "demand":
                    framer.demand()
                elif choice == "discard":
                    kept = len(framer.buffer) - start
                    owed = framer.discard()
                    assert kept + owed == end - start
                    discarded += kept + min(owed, 0)
                    framer.buffer = framer.buffer[:start]
                    framer.cut = start
                    out += framer.buffer
                    framer.push(b"")
        except code.ProtocolViolationError as error:
            return {"out": out + framer.buffer[: framer.cut], "seen": seen, "error": str(error), "kept": None}
        out += framer.buffer[: framer.cut]
    return {"out": out, "seen": seen, "error": None, "boundary": framer.at_boundary, "streaming": framer.streaming}


@FUZZ
@given(STREAMS, st.lists(st.integers(0, 1 << 20), max_size=20))
def test_nothing_is_lost_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    whole, cut = (frame(INSTALLED, chunks, ["demand"]) for chunks in ([stream], pieces(stream, cuts)))
    assert stream.startswith(whole["out"]) and stream.startswith(cut["out"])
    assert (whole["seen"], whole["error"]) == (cut["seen"], cut["error"])
    if whole["error"] is None:
        assert whole["boundary"] == cut["boundary"]
        if whole["boundary"]:
            assert whole["out"] == cut["out"] == stream


@pytest.mark.skipif(not INSTALLED.compiled(), reason="the hot path is not compiled here: there are no two to compare")
@FUZZ
@given(STREAMS, st.lists(st.integers(0, 1 << 20), max_size=20), CHOICES, st.sampled_from([100, 70_000, 1 << 30]))
def test_compiled_and_pure_frame_the_same(stream: bytes, cuts: list[int], choices: list[str], most: int) -> None:
    chunks = pieces(stream, cuts)
    assert frame(INSTALLED, chunks, choices, most) == frame(PURE, chunks, choices, most)


READERS = ["read_bind", "fields", "data_row", "parameter_types", "read_startup", "cstring", "read_parse_types"]


def read(code: SimpleNamespace, reader: str, data: bytes) -> str:
    function = getattr(code.messages, reader)
    try:
        if reader == "read_startup":
            return repr(function(data)) if len(data) >= 8 else ""
        return repr(
            function(data, 5, len(data)) if reader in ("cstring", "read_parse_types") else function(data, 0, len(data))
        )
    except code.ProtocolViolationError as error:
        return f"{type(error).__name__}: {error}"


@FUZZ
@given(st.sampled_from(READERS), st.one_of(st.binary(max_size=60), MESSAGES))
def test_readers_raise_nothing_else_and_agree(reader: str, data: bytes) -> None:
    assert read(INSTALLED, reader, data) == read(PURE, reader, data)
