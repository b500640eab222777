"""Checks framing: every cut of a stream gives the same messages, lengths are checked, long messages pass or are
demanded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.session import stream as framing
from secretproxy.session.stream import Framer
from secretproxy.wire.errors import ProtocolViolationError
from secretproxy.wire.redacted import Redacted
from tests.unit.playbook import message

ACTIONS = bytes(framing.PASS if kind in b"Dd" else action for kind, action in enumerate(framing.actions(b"1S", b"CNQ")))

bodies = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 200_000).map(lambda size: b"x" * size),
)
streams = st.lists(st.tuples(st.sampled_from([b"D", b"d", b"1", b"C", b"N", b"S"]), bodies), max_size=12)


def frames(stream: bytes, sizes: list[int], *, demanding: bool) -> tuple[list[tuple[int, int]], bytes]:
    """Gives the messages reported, by type and size, and everything that was let go on."""
    framer = Framer(ACTIONS, 1 << 30)
    seen, passed, pos, turn = [], b"", 0, 0
    while pos < len(stream):
        size = sizes[turn % len(sizes)] if sizes else len(stream)
        turn += 1
        framer.push(stream[pos : pos + size])
        pos += size
        while framer.next():
            if not framer.complete and demanding:
                framer.demand()
                continue
            if framer.complete:
                assert framer.end <= len(framer.buffer)
            seen.append((framer.kind, framer.end - framer.start))
        passed += framer.buffer[: framer.cut]
    return seen, passed


@settings(max_examples=200, deadline=None)
@given(streams, st.lists(st.integers(1, 70_000), max_size=5), st.booleans())
def test_any_cut_gives_the_same(messages: list[tuple[bytes, bytes]], sizes: list[int], demanding: bool) -> None:
    stream = b"".join(message(kind, body) for kind, body in messages)
    seen, passed = frames(stream, sizes, demanding=demanding)
    assert passed == stream
    assert seen == [(kind[0], len(body) + 5) for kind, body in messages if kind not in b"Dd"]


@pytest.mark.parametrize("length", [0, 3, 2**31 - 1, 2**32 - 1, 1 << 31])
def test_lengths_that_no_message_has(length: int) -> None:
    framer = Framer(ACTIONS, 1 << 30)
    framer.push(b"Q" + struct.pack("!I", length))
    with pytest.raises(ProtocolViolationError):
        framer.next()


def test_a_chunk_of_rows_is_not_copied() -> None:
    framer = Framer(ACTIONS, 1 << 30)
    chunk = message(b"D", b"x" * 100) * 50
    framer.push(chunk)
    assert not framer.next()
    assert framer.buffer is chunk and framer.cut == len(chunk)


def test_unread_reports_again() -> None:
    framer = Framer(ACTIONS, 1 << 30)
    framer.push(message(b"C", b"one") + message(b"C", b"two"))
    assert framer.next()
    framer.unread()
    assert framer.next() and framer.start == 0
    assert framer.next() and framer.start > 0
    assert not framer.next() and framer.at_boundary


def test_redacted_shows_nothing() -> None:
    value = Redacted(b"secret")
    for shown in (str(value), repr(value), f"{value}", f"{value:>20}", "%s" % value, str([value]), str({"a": value})):  # noqa: UP031
        assert "secret" not in shown and "redacted" in shown
    assert value.reveal() == b"secret"
