"""Checks that what a client has prepared, bound and declared costs the same for each message, however much of it there
is: eight times as much may take three times eight times as long, not sixty-four times."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from secretproxy.session.session import Step
from tests.unit.playbook import (
    BIND_COMPLETE,
    OWNER,
    PARSE_COMPLETE,
    SYNC,
    Playbook,
    bind,
    close,
    complete,
    error,
    execute,
    parse,
    query,
    ready,
)

SECRET = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'key')"
NAMED = "SELECT encrypted_secrets.secrets_getter($1, $2)"
LONG = [str(OWNER).encode(), b"x" * 1100]
FEW, MANY = 100, 800


def take(play: Playbook, chunk: bytes) -> None:
    """Has the session read all of it, whatever is due."""
    out = play.session.from_client(chunk)
    while isinstance(out, Step) and out.again:
        out = play.session.from_client(b"")


def parses(count: int, kind: str = "s") -> bytes:
    return b"".join(parse(SECRET, f"{kind}{number}") for number in range(count))


def prepares(count: int) -> str:
    return ";".join(f"PREPARE p{number} AS {SECRET}" for number in range(count))


def prepared(count: int) -> Playbook:
    play = Playbook().logged_in()
    take(play, parses(count) + SYNC)
    play << PARSE_COMPLETE * count + ready()
    return play


def given_again(count: int) -> Callable[[], object]:
    """Gives names that are given again, one by one."""
    play = prepared(count)
    return lambda: take(play, parses(count))


def a_pipeline_that_failed(count: int) -> Callable[[], object]:
    """Gives names to be taken back, while a later pipeline has given as many others."""
    play = Playbook().logged_in()
    take(play, bind(statement="missing") + parses(count) + SYNC + parses(count, "t"))
    return lambda: play << error("26000") + ready()


def names_in_doubt(count: int) -> Callable[[], object]:
    """Gives names that an earlier pipeline may or may not have closed."""
    play = prepared(count)
    take(play, parse("SELECT 1") + b"".join(close("S", f"s{number}") for number in range(count)) + SYNC)
    return lambda: take(play, (bind(statement="other") + execute("other")) * count)


def long_portals(count: int) -> Callable[[], object]:
    play = Playbook().logged_in()
    take(play, parse(NAMED, "s", [2950, 25]))
    play << PARSE_COMPLETE
    take(play, b"".join(bind(LONG, statement="s", portal=f"p{number}") for number in range(count)))
    play << BIND_COMPLETE * count
    return lambda: take(play, b"".join(bind(LONG, statement="s", portal=f"p{number}") for number in range(count)))


def prepares_that_fail(count: int) -> Callable[[], object]:
    """Gives the first of two statements that make the same ones."""
    play = Playbook().logged_in()
    play >> query(prepares(count)) >> query(prepares(count))
    return lambda: play << complete("PREPARE") + error("42P05") + ready()


@pytest.mark.parametrize(
    "shape",
    [given_again, a_pipeline_that_failed, names_in_doubt, long_portals, prepares_that_fail],
    ids=lambda shape: shape.__name__,
)
def test_names_cost_as_much_as_there_are(shape: Callable[[int], Callable[[], object]]) -> None:
    def seconds(count: int) -> float:
        found = []
        for _ in range(3):
            work = shape(count)
            begun = time.thread_time()
            work()
            found.append(time.thread_time() - begun)
        return min(found)

    assert seconds(MANY) < 24 * seconds(FEW) + 0.005


def test_above_a_number_of_names_any_text_may_hold_one() -> None:
    play = prepared(100)
    assert play.session.names.remembered == (b"",)
    play >> query('EXECUTE "s99"')
    play << complete() + ready()
    play >> query("CLOSE nothing")
    assert [event.secret_names for event in play.committed] == [("key",)]
    take(play, b"".join(close("S", f"s{number}") for number in range(99)))
    assert play.session.names.remembered == (b"s99",)


def test_one_text_prepares_no_more_than_a_session_may() -> None:
    play = Playbook().logged_in()
    play >> query(prepares(1001))
    assert play.session.names.sql_calls == {} and [event.sqlstate for event in play.recorded] == ["54000"]
    play << error("26000") + ready()
    play >> query(prepares(1000))
    play << complete("PREPARE") * 1000 + ready()
    assert len(play.session.names.sql_calls) == 1000


def test_reported_settings_are_kept_where_they_matter() -> None:
    """Each may be as long as a message: PostgreSQL 18 reports search_path."""
    play = Playbook().logged_in()
    for name in ("search_path", "IntervalStyle", *(f"made.up{number}" for number in range(100))):
        play << b"S" + (len(name) + 60_006).to_bytes(4, "big") + name.encode() + b"\0" + b"x" * 60_000 + b"\0"
    assert sum(len(value) for value in play.session.parameters.values()) < 100


def test_what_comes_before_its_time_is_kept_as_bytes() -> None:
    """A client that has not logged in sends a byte at a time: they weigh what they are, and are counted at once."""
    play = Playbook()
    for byte in query("SELECT 1") + b"Q" * 3000:
        play >> bytes((byte,))
    assert play.session.waiting_bytes == len(query("SELECT 1")) + 3000
    assert type(play.session._client._waiting) is bytearray
