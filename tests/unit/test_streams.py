"""Checks the two directions of a session: bytes go on, are held, dropped, replaced or wait, and none changes its
place."""

from __future__ import annotations

from secretproxy.detect.verdict import HARMLESS
from secretproxy.session.statements import Running
from secretproxy.session.step import Output, Step
from secretproxy.session.stream import BackendStream, ClientStream, Stream
from tests.unit.playbook import FLUSH, complete, message, query, ready, row

MOST = 1 << 20
NOTICE, LONG = message(b"N", b"SINFO\0\0"), message(b"N", b"x" * 100_000)


def client() -> ClientStream:
    return ClientStream(MOST, Output())


def backend() -> BackendStream:
    return BackendStream(Output())


def reported(stream: Stream) -> bytes:
    framer = stream.framer
    assert framer.next()
    return framer.buffer[framer.start : framer.end]


def parts(out: bytes | Step) -> tuple[bytes, list[bytes]]:
    """Gives what goes on at once, and what is held."""
    return (out, []) if isinstance(out, bytes) else (out.forward, [held.data for held in out.held])


def test_a_chunk_that_nobody_decides_on_is_the_same_object() -> None:
    stream, chunk = client(), query("SELECT 1") + FLUSH
    stream.begin(chunk)
    while stream.framer.next():
        pass
    assert stream.finish() is chunk


def test_the_beginning_of_a_message_waits_for_its_rest() -> None:
    stream, chunk = client(), query("SELECT 1") + query("SELECT 2")
    stream.begin(chunk[:-3])
    while stream.framer.next():
        pass
    assert stream.finish() == query("SELECT 1") and not stream.at_rest
    stream.begin(chunk[-3:])
    assert reported(stream) == query("SELECT 2")
    assert stream.finish() == query("SELECT 2") and stream.at_rest


def test_an_attempt_holds_itself_and_all_behind_it() -> None:
    stream, running = client(), Running("simple", HARMLESS)
    stream.begin(FLUSH + query("a") + query("b"))
    assert reported(stream) == FLUSH
    assert reported(stream) == query("a")
    stream.hold(stream.framer.start, stream.framer.end, running)
    assert reported(stream) == query("b")
    out = stream.finish()
    assert parts(out) == (FLUSH, [query("a"), query("b")])
    assert isinstance(out, Step) and [held.running for held in out.held] == [running, None]


def test_a_replaced_message_is_swallowed_to_its_end() -> None:
    stream, long = client(), query("x" * 100_000)
    stream.begin(FLUSH + long[:70_000])
    assert reported(stream) == FLUSH
    assert stream.framer.next() and not stream.framer.complete
    stream.replace(b"instead")
    assert parts(stream.finish()) == (FLUSH + b"instead", []) and not stream.at_rest
    stream.begin(long[70_000:] + FLUSH)
    assert reported(stream) == FLUSH
    assert stream.finish() == FLUSH and stream.at_rest


def test_what_comes_too_early_waits_whole() -> None:
    stream = client()
    stream.begin(FLUSH + query("a"))
    assert reported(stream) == FLUSH
    assert reported(stream) == query("a")
    stream.framer.unread()
    assert stream.keep_early() == FLUSH
    stream.keep(query("b"))
    assert stream.waits and stream.waiting_bytes == len(query("a") + query("b")) and not stream.at_rest
    stream.begin(query("c"))
    assert [reported(stream) for _ in range(3)] == [query("a"), query("b"), query("c")]
    assert stream.finish() == query("a") + query("b") + query("c") and stream.at_rest


def test_the_rest_of_a_chunk_can_be_read_later() -> None:
    stream = client()
    stream.begin(query("a") + query("b"))
    assert reported(stream) == query("a")
    stream.keep_rest()
    assert stream.finish() == query("a") and stream.waits
    stream.begin(b"")
    assert reported(stream) == query("b")


def test_a_dropped_message_does_not_go_on() -> None:
    stream = backend()
    stream.begin(complete() + NOTICE + ready())
    assert reported(stream) == complete()
    assert reported(stream) == NOTICE
    stream.drop()
    assert reported(stream) == ready()
    assert parts(stream.finish()) == (complete() + ready(), [])


def test_a_long_message_is_dropped_to_its_end_whatever_the_chunks() -> None:
    stream = backend()
    stream.begin(LONG[:70_000])
    assert stream.framer.next() and not stream.framer.complete
    stream.drop()
    assert parts(stream.finish()) == (b"", [])
    stream.begin(LONG[70_000:90_000])
    assert not stream.framer.next()
    assert parts(stream.finish()) == (b"", [])
    stream.begin(LONG[90_000:] + ready())
    assert reported(stream) == ready()
    assert parts(stream.finish()) == (ready(), [])


def test_what_stands_behind_a_testimony_is_held() -> None:
    stream = backend()
    stream.begin(complete() + NOTICE + row("value") + ready())
    assert reported(stream) == complete()
    assert reported(stream) == NOTICE
    stream.drop()
    stream.hold()
    assert reported(stream) == ready()
    stream.replace(b"instead")
    assert parts(stream.finish()) == (complete(), [row("value"), b"instead"])


def test_rows_are_seen_where_they_answer_the_proxys_own() -> None:
    stream = backend()
    stream.begin(row("value") + ready())
    assert reported(stream) == ready()
    stream.report_rows(True)
    stream.begin(row("value") + ready())
    assert reported(stream) == row("value")
