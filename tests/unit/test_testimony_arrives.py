"""Checks that a genuine testimony is never dropped, cut or taken for a forgery, whatever stands around it in its notice
or before it in the stream."""

from __future__ import annotations

import hashlib
import hmac
import random
import struct

import pytest

from secretproxy.session.session import Limits, Step
from secretproxy.session.testimony import HEAD, MOST
from tests.unit.playbook import (
    AUTHENTICATION_OK,
    GETTER,
    KEY,
    OWNER,
    PID,
    ROW_DESCRIPTION,
    START,
    Playbook,
    bind,
    complete,
    execute,
    message,
    notice,
    parse,
    query,
    ready,
    row,
    sign,
    testified,
    text,
)

SIGNED = f"SPX1 1 {PID} {START} {START + 1:016x} {GETTER} {OWNER} {b'hidden'.hex()} - {b'app'.hex()} - - p -"


def told(signed: str = SIGNED, **fields: bytes) -> bytes:
    """Makes a testimony as PostgreSQL sends it, with more fields behind its message (send_message_to_frontend() of
    elog.c)."""
    body = b"S" + text("INFO") + b"V" + text("INFO") + b"C" + text("SPX01") + b"M" + text(sign(signed))
    body += b"".join(kind.encode() + content + b"\0" for kind, content in fields.items())
    return message(b"N", body + b"\0")


def chunks(stream: bytes, sizes: list[int]) -> list[bytes]:
    """Gives the stream cut into parts of these sizes, the last size over and over."""
    parts, pos, turn = [], 0, 0
    while pos < len(stream):
        size = sizes[min(turn, len(sizes) - 1)]
        parts.append(stream[pos : pos + size])
        pos += size
        turn += 1
    return parts


LONG = {
    "context": {"W": b"SQL statement \"select 1 --" + b"x" * 9_000_000 + b'"'},
    "context in no encoding": {"W": b"\xff\xfe\x80" * 100_000},
    "detail and hint": {"D": b"d" * 200_000, "H": b"h" * 9_000_000, "W": b"w" * 100_000},
    "internal query": {"q": b"q" * 9_000_000, "W": b""},
    "just as long as is kept": {"W": b"x" * 65_300},
    "place in the source": {"W": b"x" * 70_000, "F": b"pl_exec.c", "L": b"3901", "R": b"exec_stmt_raise"},
}  # fmt: skip


@pytest.mark.parametrize("limit", [65_536, 8 * 1024 * 1024])
@pytest.mark.parametrize("fields", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("sizes", [[1 << 30], [1, 65_536], [1023, 1, 1, 1, 65_536], [HEAD - 1, 1, 65_536]])
def test_what_follows_the_message_may_be_as_long_as_it_likes(
    sizes: list[int], fields: dict[str, bytes], limit: int
) -> None:
    play = Playbook(limits=Limits(max_statement_memory=limit)).logged_in()
    play >> query("DO 'x'")
    stream = told(**fields)
    kept = 0
    for part in chunks(stream, sizes):
        play << part
        kept = max(kept, len(play.session._backend.framer._part) + len(play.session._backend.framer._rest))
    assert [(event.event, event.secret_names) for event in play.committed] == [("call", ("hidden",))]
    assert play.to_client == b"" and kept <= 4 * HEAD
    play << complete("DO") + ready()
    assert play.to_client == complete("DO") + ready()


@pytest.mark.parametrize("size", [1_000, 70_000, 3_900_000])
def test_a_message_may_be_longer_than_a_statement(size: int) -> None:
    play = Playbook(limits=Limits(max_statement_memory=65_536)).logged_in()
    play >> query("DO 'x'")
    name = "n" * (size // 2)
    for part in chunks(testified(name), [8192]):
        play << part
    assert [(event.event, event.secret_names) for event in play.committed] == [("call", (name,))]


def test_any_cut_of_it_is_heard() -> None:
    stream = (
        testified("one")
        + told(SIGNED.replace(f"{START + 1:016x}", f"{START + 2:016x}"), W=b"x" * 80_000)
        + complete("DO")
    )
    for seed in range(60):
        rolled = random.Random(seed)
        play = Playbook().logged_in()
        play >> query("DO 'x'")
        for part in chunks(stream, [rolled.choice((1, 2, 5, 900, 1500, 5000, 40_000)) for _ in range(40)]):
            play << part
        assert [event.secret_names for event in play.committed] == [("one",), ("hidden",)], seed
        assert play.to_client == complete("DO")


def test_what_may_be_one_and_never_ends_ends_the_session() -> None:
    play = Playbook().logged_in()
    play >> query("DO 'x'")
    for head in ("SPX1 1 4711 ", b"SPX2 ".hex()):
        play = Playbook().logged_in()
        play >> query("DO 'x'")
        steps = [
            play.session.from_backend(part)
            for part in chunks(notice(head + "0" * (2 * MOST), "SPX01", "INFO") + complete("DO"), [65_536])
        ]
        ended = [step for step in steps if isinstance(step, Step) and step.violation is not None]
        assert len(ended) == 1 and ended[0].violation is not None and ended[0].violation.sqlstate == "58030"
        assert [event.event for event in ended[0].commit] == ["forgery"]
        after = steps[steps.index(ended[0]) + 1 :]
        assert all(not (step if isinstance(step, bytes) else step.forward) for step in after[:-1])


def test_what_cannot_be_one_is_dropped_without_being_kept() -> None:
    play = Playbook().logged_in()
    play >> query("DO 'x'")
    for part in chunks(notice("SPX3" + "x" * 9_000_000, "SPX01", "INFO"), [8192]):
        play << part
        assert len(play.session._backend.framer._part) == 0
    assert [event.event for event in play.committed] == ["forgery"] and play.to_client == b""
    play << complete("DO") + ready()
    assert play.to_client == complete("DO") + ready()


# --- who testifies -------------------------------------------------------------------------------------------------


def greeted(play: Playbook, pid: int, start: int = START, session: str = "") -> Playbook:
    play << complete("SET") + ROW_DESCRIPTION + row(str(pid), str(start), session, "1") + complete() + ready()
    return play


def behind_pooler() -> Playbook:
    """Its BackendKeyData is the pooler's own; the process that answers has another id."""
    play = Playbook()
    play << AUTHENTICATION_OK + message(b"K", struct.pack("!II", 999_999, 1)) + ready()
    greeted(play, PID)
    play << message(b"V", struct.pack("!i", -1)) + ready()
    return play


def test_the_backend_is_asked_who_it_is() -> None:
    play = behind_pooler()
    token = play.session.token
    assert token is not None and play.session.backend_pid == PID and play.session.pooled
    assert play.session.cancel_key == struct.pack("!II", 999_999, 1)
    greeted(play, PID, session=token)
    assert play.to_client.endswith(ready())
    play.take()
    play >> query("DO 'x'")
    play << testified()
    assert [event.event for event in play.committed] == ["call"]


@pytest.mark.parametrize(
    ("pid", "start", "session"),
    [(PID + 1, START, None), (PID, START, ""), (PID, START, "1.1.00"), (PID + 1, START + 5, "")],
)
def test_a_session_that_another_process_answers_or_that_forgets_is_refused(
    pid: int, start: int, session: str | None
) -> None:
    play = behind_pooler()
    token = play.session.token or ""
    step = play.session.from_backend(
        complete("SET")
        + ROW_DESCRIPTION
        + row(str(pid), str(start), token if session is None else session, "1")
        + complete()
        + ready()
    )
    assert isinstance(step, Step) and step.violation is not None and step.violation.sqlstate == "0A000"
    assert "pool_mode = session" in str(step.violation.detail) and step.forward == b""


def test_another_process_that_testifies_behind_a_pooler_is_a_call_and_ends_the_session() -> None:
    play = behind_pooler()
    greeted(play, PID, session=play.session.token or "")
    play.take()
    play >> query("DO 'x'")
    step = play.session.from_backend(testified(pid=PID + 1) + row("value") + complete())
    assert isinstance(step, Step) and step.violation is not None
    assert [(event.event, event.secret_names) for event in step.commit] == [("call", ("key",))]
    assert step.forward == b""


def test_without_a_pooler_another_process_is_a_forger() -> None:
    play = Playbook().logged_in()
    play >> query("DO 'x'")
    play << testified(pid=PID + 1)
    assert [event.event for event in play.committed] == ["forgery"]


# --- names that are not UTF-8 ---------------------------------------------------------------------------------------


def raw_session(client_encoding: str) -> Playbook:
    """Gives a session of a server of SQL_ASCII."""
    play = Playbook().logged_in()
    play << message(b"S", text("server_encoding") + text("SQL_ASCII")) + message(
        b"S", text("client_encoding") + text(client_encoding)
    )
    play.take()
    return play


def told_bytes(name: bytes, clock: int = START + 1) -> bytes:
    signed = SIGNED.replace(b"hidden".hex(), name.hex()).replace(f"{START + 1:016x}", f"{clock:016x}")
    said = f"{signed} {hmac.new(KEY, signed.encode(), hashlib.sha256).hexdigest()}"
    return notice(said, "SPX01", "INFO")


def getter_of(name: bytes) -> bytes:
    return f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '".encode() + name + b"')"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8", "SJIS", "GBK", "BIG5", "WIN1251", "KOI8R"])
@pytest.mark.parametrize("name", [b"\xff", b"caf\xe9", b"caf\xc3\xa9", b"\x83\x5c", b"\xef\xbf\xbd", b"plain"])
def test_a_server_that_converts_nothing_has_one_reading_of_a_name(name: bytes, encoding: str) -> None:
    play = raw_session(encoding)
    play >> message(b"Q", getter_of(name) + b"\0")
    attempt = play.committed[-1]
    play << told_bytes(name) + complete() + ready()
    assert [event.event for event in play.committed] == ["attempt"], "the call is covered by its attempt"
    assert attempt.secret_names == (name.decode("utf-8", "surrogateescape"),)
    assert [event.calls for event in play.recorded] == [1]
    # As a parameter of the protocol it is the same name.
    play.take()
    play >> parse(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', $1)") + bind([name]) + execute()
    assert play.committed[-1].secret_names == attempt.secret_names


@pytest.mark.parametrize(
    ("named", "run"), [(b"\xff", b"\xfe"), (b"\xff", b"\xef\xbf\xbd"), (b"\xc3\xa9", b"\xe9"), (b"\xe9", b"\xc3\xa9")]
)
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
def test_an_attempt_for_one_name_covers_no_other(named: bytes, run: bytes, encoding: str) -> None:
    play = raw_session(encoding)
    play >> message(b"Q", getter_of(named) + b"\0")
    play << told_bytes(run) + complete() + ready()
    assert [(event.event, event.secret_names) for event in play.committed] == [
        ("attempt", (named.decode("utf-8", "surrogateescape"),)), ("call", (run.decode("utf-8", "surrogateescape"),)),
    ]  # fmt: skip
    assert [event.calls for event in play.recorded] == [0]


def test_escapes_of_a_name_cover_only_what_they_are() -> None:
    play = raw_session("UTF8")
    for written, run in (
        (b"E'\\xe9'", b"\xe9"),
        (b"U&'\\00e9'", b"\xc3\xa9"),
        (b"E'\\u20ac'", b"\xe2\x82\xac"),
        (b"E'\\xc3\\xa9'", b"\xc3\xa9"),
    ):
        play.take()
        play >> message(b"Q", f"SELECT encrypted_secrets.secrets_getter('{OWNER}', ".encode() + written + b")\0")
        play << told_bytes(run, clock=START + 10 + play.session.pipeline.started) + complete() + ready()
        told_of = [event.secret_names for event in play.committed if event.event == "call"]
        covering = [event.secret_names for event in play.committed if event.event == "attempt" and event.secret_names]
        assert (run.decode("utf-8", "surrogateescape"),) in told_of + covering


def test_a_client_of_sql_ascii_speaks_as_the_server_does() -> None:
    for server, name in (("UTF8", "café"), ("LATIN1", "café"), ("EUC_JP", "日本"), ("KOI8R", "ж")):
        play = Playbook().logged_in()
        play << message(b"S", text("client_encoding") + text("SQL_ASCII")) + message(
            b"S", text("server_encoding") + text(server)
        )
        play.take()
        codec = {"UTF8": "utf-8", "LATIN1": "latin-1", "EUC_JP": "euc_jp", "KOI8R": "koi8-r"}[server]
        play >> message(b"Q", getter_of(name.encode(codec)) + b"\0")
        play << told_bytes(name.encode()) + complete() + ready()
        assert [(event.event, event.secret_names) for event in play.committed] == [("attempt", (name,))]


def test_the_own_words_of_a_session_cannot_be_resolved_by_its_client() -> None:
    from secretproxy.session.greeting import OWN_SQL

    for said in OWN_SQL[:2]:
        assert said.startswith("SET LOCAL search_path = pg_catalog, pg_temp;")
        for sign_ in (" = ", " * ", " + ", "::int", "::text", " count(", " extract(", " EXTRACT("):
            assert sign_ not in said.partition(";")[2], said
