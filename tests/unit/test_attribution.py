"""Checks that each row of a statement says what that row's call did, and each count of the protocol is read as the
server reads it."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterable

import pytest

from secretproxy.audit.masking import NameMask
from secretproxy.session.session import Limits, new_identity
from tests.unit.playbook import (
    BIND_COMPLETE,
    GETTER,
    OWNER,
    PARSE_COMPLETE,
    SYNC,
    Playbook,
    bind,
    complete,
    error,
    execute,
    message,
    parse,
    query,
    ready,
    testified,
    text,
)

CLOCK = 1_700_000_000_000_001
READ_BOTH = f"SELECT case when true then {GETTER.partition('(')[0]}('{OWNER}', 'a') else {GETTER.partition('(')[0]}('{OWNER}', 'b') end"


def getter(name: str) -> str:
    return f"encrypted_secrets.secrets_getter('{OWNER}', {name})"


A, B, C, OTHER = (getter(f"'{name}'") for name in ("a", "b", "c", "other"))
VAGUE, FIRST, SECOND = getter("lower(x)"), getter("$1"), getter("$2")


def play_of(sql: str, told: Iterable[bytes], answer: bytes = b"") -> Playbook:
    play = Playbook().logged_in()
    play >> query(sql)
    for said in told:
        play << said
    play << (answer or complete()) + ready()
    return play


def done(play: Playbook) -> list[tuple[tuple[str | None, ...] | None, int | None]]:
    """Gives of each outcome the names that it names, and what it says was done."""
    return [(event.secret_names, event.calls) for event in play.recorded if event.event == "outcome"]


def test_what_never_ran_says_so() -> None:
    play = play_of(READ_BOTH, [testified("a")])
    assert [event.secret_names for event in play.committed] == [("a",), ("b",)]
    assert done(play) == [(("a",), 1), (("b",), 0)]
    assert {event.function for event in play.recorded} == {GETTER} and {event.owner_id for event in play.recorded} == {
        OWNER
    }


def test_after_an_error_what_never_ran_says_so() -> None:
    play = play_of(f"SELECT {A}; SELECT 1/0; SELECT {B}", [testified("a"), complete()], error("22012"))
    assert done(play) == [(("a",), 1), (("b",), 0)]
    assert {(event.outcome, event.sqlstate) for event in play.recorded} == {("error", "22012")}


def test_each_counts_its_own() -> None:
    sql = f"SELECT {A}, {B} FROM generate_series(1, 3)"
    told = [testified(name, clock=CLOCK + number) for number, name in enumerate("abababa")]
    assert done(play_of(sql, told)) == [(("a",), 4), (("b",), 3)]
    assert done(play_of(sql, told[:6])) == [(None, 3)], "one outcome for what all did"
    assert done(play_of(sql, [])) == [(None, 0)]


def test_the_same_call_twice_is_one_access() -> None:
    play = play_of(f"SELECT {A}, {A}", [testified("a"), testified("a", clock=CLOCK + 1)])
    assert [event.secret_names for event in play.committed] == [("a",)]
    assert done(play) == [(None, 2)]


def test_what_cannot_be_told_apart_is_not_guessed() -> None:
    sql = f"SELECT {A}, {VAGUE} FROM t"
    play = play_of(sql, [testified("a"), testified("a", clock=CLOCK + 1)])
    assert done(play) == [(("a",), 2), (None, None)]
    assert [event.function for event in play.recorded] == [GETTER, GETTER], "the one without names names its function"
    play = play_of(sql, [testified("c")])
    assert [event.event for event in play.committed] == ["attempt", "attempt", "call"]
    assert done(play) == [(("a",), 0), (None, None)]
    assert done(play_of(sql, [])) == [(None, 0)]


def test_a_function_that_does_not_testify_has_no_count() -> None:
    play = play_of("SELECT encrypted_secrets.of_another_module(1)", [])
    assert done(play) == [(None, None)]
    play = Playbook().logged_in()
    play.session.state.testifies = False
    play >> query(f"SELECT {A}")
    play << complete() + ready()
    assert done(play) == [(None, None)], "the original's functions say nothing"


def test_a_call_as_somebody_else_is_a_row_of_its_own() -> None:
    one, two = uuid.uuid4(), uuid.uuid4()
    told = [testified("a", clock=CLOCK + number, jwt=jwt) for number, jwt in enumerate((one, two, one, None, two))]
    play = play_of(f"SELECT {A} FROM t", told)
    assert [(event.event, event.accessed_by) for event in play.committed] == [
        ("attempt", None), ("call", two), ("call", None), ("call", two),
    ]  # fmt: skip
    assert [(event.calls, event.accessed_by) for event in play.recorded] == [(2, one)]


# --- counts of the protocol ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 32_767, 32_768, 40_000, 65_535])
def test_format_codes_are_counted_unsigned(count: int) -> None:
    play = Playbook().logged_in()
    values: list[bytes | None] = [b"x"] * max(count, 2)
    values[1] = b"key"
    play >> parse(f"SELECT {SECOND}", types=[25] * 2) + bind(values, formats=[0] * count) + execute() + SYNC
    assert [(event.event, event.secret_names) for event in play.committed] == [("attempt", ("key",))]


MALFORMED = {
    "no formats": b"",
    "half a count": b"\0",
    "formats cut off": struct.pack("!H", 40_000) + b"\0\0",
    "no values": struct.pack("!H", 0),
    "values cut off": struct.pack("!HH", 0, 2) + struct.pack("!i", 3) + b"abc",
    "a length that is none": struct.pack("!HHi", 0, 1, -2) + struct.pack("!H", 0),
    "the least length": struct.pack("!HHi", 0, 1, -(2**31)) + struct.pack("!H", 0),
    "a length past the end": struct.pack("!HHi", 0, 1, 2**31 - 1) + b"abc",
    "more formats than values": struct.pack("!HHHH", 2, 0, 0, 1) + struct.pack("!i", 1) + b"x" + struct.pack("!H", 0),
}


@pytest.mark.parametrize("rest", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_bind_that_cannot_be_read_is_an_attempt(rest: bytes) -> None:
    play = Playbook().logged_in()
    play >> parse(f"SELECT {FIRST}") + message(b"B", text("") + text("") + rest) + execute() + SYNC
    assert [(event.event, event.function, event.secret_names) for event in play.committed] == [
        ("attempt", GETTER, None)
    ]


def test_a_parse_whose_types_cannot_be_read_is_remembered() -> None:
    for rest in (b"", b"\0", struct.pack("!H", 2) + b"\0\0\0\x19", struct.pack("!H", 65_535)):
        play = Playbook().logged_in()
        play >> message(b"P", text("s") + text(f"SELECT {A}") + rest) + bind(statement="s") + execute() + SYNC
        assert [event.event for event in play.committed] == ["attempt"]


# --- what is remembered of a client --------------------------------------------------------------------------------


def test_a_prepare_that_failed_is_forgotten() -> None:
    play = Playbook().logged_in()
    play >> query(f"PREPARE p AS SELECT {A}")
    play << error("42501") + ready()
    assert play.session.names.sql_calls == {} and play.session.names.remembered == ()
    play >> query(f"PREPARE p AS SELECT {A}")
    play << complete("PREPARE") + ready()
    before = play.session.names.sql_calls["p"]
    # A second one of that name fails, and the first stays.
    play >> query(f"PREPARE p AS SELECT {B}")
    play << error("42P05") + ready()
    assert play.session.names.sql_calls["p"] is before


def test_those_before_the_error_stay() -> None:
    play = Playbook().logged_in()
    play >> query(f"PREPARE a AS SELECT {A}; PREPARE b AS SELECT {B}; PREPARE c AS SELECT {C}")
    play << complete("PREPARE") + error("42501") + ready()
    assert set(play.session.names.sql_calls) == {"a"}


def test_a_pipeline_that_fails_forgets_what_it_passed_over() -> None:
    play = Playbook().logged_in()
    play >> parse(f"PREPARE p AS SELECT {A}") + bind() + execute()
    play >> parse(f"PREPARE q AS SELECT {A}") + bind() + execute() + SYNC
    play << PARSE_COMPLETE + BIND_COMPLETE + error("42501") + ready()
    assert play.session.names.sql_calls == {}


def test_two_in_flight_for_one_name_are_taken_back_in_order() -> None:
    play = Playbook().logged_in()
    play >> query(f"PREPARE p AS SELECT {A}") >> query(f"PREPARE p AS SELECT {B}")
    play << error("42501") + ready()
    assert [calls.calls[0].positional[1].text for calls in play.session.names.sql_calls.values()] == ["b"]  # type: ignore[union-attr]
    play << error("42501") + ready()
    assert play.session.names.sql_calls == {}


def test_names_of_a_resolved_execute_are_weighed() -> None:
    play = Playbook(limits=Limits(parse_thread_bytes=1 << 24)).logged_in()
    many = ", ".join("encrypted_secrets.secrets_delete($1, $2)" for _ in range(60))
    play >> query(f"PREPARE p(uuid, text[]) AS SELECT {many}, {OTHER}")
    play << complete("PREPARE") + ready()
    play >> query(f"EXECUTE p('{OWNER}', '{{{'x' * 500_000}}}')")
    assert sum(len(name or "") for event in play.committed for name in event.secret_names or ()) < 300_000
    assert {event.function for event in play.committed} >= {GETTER}


def test_long_names_are_not_kept_by_the_thousand() -> None:
    play = Playbook(limits=Limits(parse_thread_bytes=1 << 24)).logged_in()
    for number in range(30):
        call = getter("'" + "n" * 100_000 + f"{number}'")
        play >> query(f"PREPARE p{number} AS SELECT {call}") >> query(f"DECLARE c{number} CURSOR FOR SELECT {call}")
    kept = str([(c.positional, c.named) for v in play.session.names.sql_calls.values() for c in v.calls])
    held = [
        len(name or "") for calls in play.session.names.cursors.values() for call in calls for name in call.names or ()
    ]
    assert len(play.session.names.sql_calls) == 30 and len(kept) < 100_000 and sum(held) < 100_000
    play >> query("EXECUTE p3")
    assert [event.function for event in play.committed[-1:]] == [GETTER]


# --- names as they are written -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("masked:0123456789abcdef0123456789abcdef", "name:masked:0123456789abcdef0123456789abcdef"),
        ("escaped:\\xff", "name:escaped:\\xff"),
        ("name:x", "name:name:x"),
        ("unmasked:x", "unmasked:x"),
        ("\\xff", "\\xff"),
        ("\udcff", "escaped:\\xff"),
        ("\\\udcff", "escaped:\\\\\\xff"),
        ("\ufffd", "\ufffd"),
        ("café", "café"),
    ],
)
def test_what_stands_in_a_names_place_is_unambiguous(name: str, written: str) -> None:
    assert NameMask(1000, (), b"k" * 32)(name) == written


def test_no_two_names_are_written_alike() -> None:
    names = [
        "é",
        "\udce9",
        "\\xe9",
        "escaped:\\xe9",
        "\\u00e9",
        "name:é",
        "\\",
        "\\\\",
        "\udcc3\udca9",
        "masked:é",
        "\ufffd",
        "?",
        "\\udce9",
    ]
    for encoding in ("UTF8", "LATIN1", "LATIN2", "EUC_JP"):
        mask = NameMask(1000, (), b"k" * 32)
        mask.stored_in(encoding)
        assert len({mask(name) for name in names}) == len(names), encoding


def test_users_are_named_as_the_server_names_them() -> None:
    for user in ("u" * 70, "é" * 40, "x" + "é" * 40, "\udcff" * 70):
        used = new_identity(user, user + "d", None)
        cut = user.encode("utf-8", "surrogateescape")[:63]
        assert used.db_user is not None and used.db_user.encode("utf-8", "surrogateescape") == cut
        assert used.database is not None and len(used.database.encode("utf-8", "surrogateescape")) == 63
    assert new_identity("app", None, None).database == "app"
