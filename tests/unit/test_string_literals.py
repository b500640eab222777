"""Checks strings as standard_conforming_strings = off reads them, and texts that the session may read in either way."""

from __future__ import annotations

import json

import pglast.parser
import pytest

from secretproxy.detect import Detector
from secretproxy.detect.string_literals import EITHER, ESCAPES, STANDARD, as_standard
from tests.unit.playbook import OWNER, Playbook, complete, parameter, query, ready

CALL = f"encrypted_secrets.secrets_getter('{OWNER}', 'key')"


def constants(sql: str) -> list[str]:
    found: list[str] = []
    pending = [json.loads(pglast.parser.parse_sql_json(sql))]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending += reversed(item)
        elif isinstance(item, dict):
            if "A_Const" in item and "sval" in item["A_Const"]:
                found.append(item["A_Const"]["sval"].get("sval", ""))
            pending += reversed(list(item.values()))
    return found


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (r"SELECT 'a\'b'", ["a'b"]),
        (r"SELECT 'a\\', 'b'", ["a\\", "b"]),
        (r"SELECT 'a''b\n'", ["a'b\n"]),
        (r"SELECT E'a\'b', e'\\'", ["a'b", "\\"]),
        ("SELECT 'a\\''\n  'b\\''", ["a'b'"]),
        ("SELECT 'a' -- '\n 'b\\''", ["ab'"]),
        (r"SELECT $$a\'b$$, $t$ ' \' $t$", [r"a\'b", r" ' \' "]),
        (r"""SELECT 1 AS "a'\", '\'' """, ["'"]),
        (r"SELECT /* ' /* \' */ ' */ '\''", ["'"]),
        ("SELECT 1 -- '\\\n, '\\''", ["'"]),
        (r"SELECT a$$b, '\'' FROM t", ["'"]),
        (r"SELECT N'\''", ["'"]),
        (r"SELECT 'grün\'é'", ["grün'é"]),
    ],
)
def test_as_standard(sql: str, expected: list[str]) -> None:
    assert constants(as_standard(sql)) == expected


SHOWN = rf"SELECT '\', {CALL} --'"  # a call only where it does not


@pytest.mark.parametrize(
    ("sql", "strings", "calls"),
    [
        (rf"SELECT '\'', {CALL}, '\''", ESCAPES, 1),
        (rf"SELECT '\' /*', {CALL} --*/", ESCAPES, 1),
        (rf"SELECT '\' /*', {CALL} --*/", EITHER, 1),
        (SHOWN, STANDARD, 1),
        (SHOWN, ESCAPES, 0),
        (SHOWN, EITHER, 1),
        (f"SELECT {CALL}, '\\\\'", EITHER, 1),
    ],
)
def test_readings(sql: str, strings: int, calls: int) -> None:
    verdict = Detector().verdict(sql.encode(), "utf-8", (), strings)
    assert len([call for call in verdict.calls if not call.opaque]) == calls


def test_the_session_follows_the_setting_and_knows_when_it_may_have_changed() -> None:
    hidden = rf"SELECT '\' /*', {CALL} --*/"
    play = Playbook().logged_in()
    play >> query("SELECT 1")
    play << complete("SELECT 1") << ready("I")
    play >> query(hidden)
    assert [event.event for event in play.committed] == []
    play << complete("SELECT 1") << ready("I")
    # Set, and the next one is sent at once.
    play >> query("SET standard_conforming_strings = off")
    play >> query(hidden)
    assert [event.event for event in play.committed] == ["attempt"]
    play.take()
    play << complete("SET") << parameter("standard_conforming_strings", "off") << ready("I")
    play << complete("SELECT 1") << ready("I")
    play >> query(hidden)
    assert [event.event for event in play.committed] == ["attempt"]
