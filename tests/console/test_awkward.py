"""Checks that every page is there and true where the log is awkward: empty, of one row, with clocks that jump, of two
instances, with names as long and as foreign as names can be, and of ten thousand users."""

from __future__ import annotations

import asyncio
import html
import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from secretproxy.config import Settings
from secretproxy.console import view
from secretproxy.install import install
from tests.conftest import Backend
from tests.console.conftest import settings_of
from tests.console.test_routes import FILES, PAGES, READ, path_of
from tests.support.console import WRITER, Browser, ConsoleSite, logins_with_passwords, running

DATABASE = "awkward"
OWNER = "0a1b2c3d-4e5f-4061-8283-94a5b6c7d8e9"
# 200 bytes of one secret's name, turned round in the middle, with an emoji, markup and what ends a line.
NAME = "\u0627\u0644\u202e\U0001f511</td><script>\u2028\x01" + "\u00fc" * 86
assert len(NAME.encode()) == 200
ADDED = """INSERT INTO secretproxy.access_log (at, event, function, operation, owner_id, secret_names, db_user, application_name,
 client_addr, session_id, statement_no, outcome, instance, seq, calls) VALUES (%s, %s, 'f()', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 1)"""


@pytest.fixture(scope="module")
def site(postgres: Backend) -> Iterator[ConsoleSite]:
    if postgres.server is None:
        pytest.skip("pg_hba.conf of a container is not at hand")
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    asyncio.run(install(postgres.dsn(database=DATABASE), postgres.key_file))
    given = settings_of(postgres).model_dump(exclude_unset=True)
    given["audit"]["dsn"] = postgres.dsn(WRITER, DATABASE)
    with (
        logins_with_passwords(postgres),
        running(postgres.dsn("nobody", DATABASE), Settings.model_validate(given)) as found,
    ):
        yield found
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.fixture(scope="module")
def reader(site: ConsoleSite) -> Browser:
    browser = site.browser()
    assert browser.sign_in().status == 303
    return browser


def every_page(reader: Browser, **changes: str) -> str:
    """Gives the text of every page, with and without a filter; none has failed, and no character turns text round."""
    said = ""
    for entry in READ:
        if entry.path in FILES:
            continue
        filled = path_of(
            entry, {name: changes[name] for name in changes if name in entry.filters or f"{{{name}}}" in entry.path}
        )
        for path in {filled} if changes or "{" in entry.path else {entry.path, filled}:
            answer = reader.get(path)
            assert answer.status == 200 or (answer.status == 400 and path == "/secret"), (path, answer.text)
            assert 'class="problem" role="alert"' not in answer.text or answer.status == 400, path
            # A field of a form holds the very text, which is sent again.
            said += re.sub(r' value="[^"]*"', "", answer.text)
    assert not {*"\u202e\u2028\x01"} & set(said) and "<script>\\u" not in said
    return said


def test_an_empty_log_and_then_one_row(site: ConsoleSite, reader: Browser, postgres: Backend) -> None:
    said = every_page(reader)
    for words in ("No access fits.", "Nobody, as far as this log goes back.", "It touched no secret in that time"):
        assert words in said, words
    assert "NaN" not in said and "nan" not in re.findall(r'(?:x|y|width|height|d|points)="([^"]*)"', said)
    session = str(uuid.uuid4())
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as sql:
        # Nothing is known of it but that it was, by a clock that is two days ahead.
        row = (datetime.now(UTC) + timedelta(days=2), "access", None, None, None, None, None, None, session, 1, None)
        sql.execute(ADDED, (*row, str(uuid.uuid4()), 1))
    said = every_page(reader, session=session)
    assert session in said and "unknown" in said


def test_clocks_that_jump_and_two_instances_that_write_at_once(
    site: ConsoleSite, reader: Browser, postgres: Backend
) -> None:
    """Rows have the order of their numbers in a session's story, whatever their clocks say; a time line is never drawn
    out of its frame."""
    now = datetime.now(UTC).replace(microsecond=0)
    one, other, session = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as sql:
        for seq, minutes, event, outcome in (
            (1, 0, "attempt", None),
            (2, -90, "outcome", "ok"),
            (3, -30, "attempt", None),
            (4, -31, "outcome", "error"),
        ):
            sql.execute(
                ADDED,
                (
                    now + timedelta(minutes=minutes),
                    event,
                    "read",
                    OWNER,
                    [NAME],
                    NAME[:40],
                    NAME[:30],
                    "10.0.0.1",
                    session,
                    (seq + 1) // 2,
                    outcome,
                    one,
                    seq,
                ),
            )
        for seq in (1, 2):
            sql.execute(
                ADDED,
                (
                    now,
                    "access",
                    "write",
                    OWNER,
                    [NAME, None, "second"],
                    "of another",
                    "",
                    "::1",
                    str(uuid.uuid4()),
                    1,
                    "ok",
                    other,
                    seq,
                ),
            )
    said = every_page(
        reader, session=session, name=NAME, secret=NAME, user=NAME[:40], application=NAME[:30], owner=OWNER
    )
    assert one[:8] in said and other[:8] in said
    story = reader.get(f"/session/{session}").text
    assert re.findall(r'<li class="(\w+)">', story) == ["attempt", "outcome", "attempt", "outcome"]
    for drawn in re.findall(r"<svg.*?</svg>", said, re.DOTALL):
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', drawn)[1])  # type: ignore[index]
        for x, wide in re.findall(r'<rect[^>]* x="([-\d.]+)"[^>]* width="([-\d.]+)"', drawn):
            assert float(x) >= 0 and float(wide) >= 0 and float(x) + float(wide) <= width + 1, drawn
    text = reader.get("/secret", {"owner": OWNER, "name": NAME}).text
    assert html.escape("<script>") in text and "\u00fc" * 86 in text and "\\u202e" in text
    touched = reader.get("/incident", {"application": NAME[:30], "since": "1d"}).text
    assert "also used by" in touched and "last written" in touched


def test_ten_thousand_users(site: ConsoleSite, reader: Browser, postgres: Backend) -> None:
    """Tables say how many lines they leave out; no page has a line a user."""
    with psycopg.connect(postgres.dsn(database=DATABASE), autocommit=True) as sql:
        sql.execute(
            "INSERT INTO secretproxy.access_log (at, event, function, operation, owner_id, secret_names, db_user)"
            " SELECT now() - make_interval(secs => n), 'direct', 'f()', 'read', %s, ARRAY['crowded'], 'user ' || n"
            " FROM generate_series(1, 10000) AS n",
            (OWNER,),
        )
    for path in ("/", "/findings", "/compare?by=user&a_since=2d&b_since=1d", f"/secret?owner={OWNER}&name=crowded"):
        text = reader.get(path).text
        assert 'class="problem" role="alert"' not in text and len(text) < 1_000_000, path
    assert "9,800 more" in text
    touched = reader.get("/incident", {"user": "user 7", "since": "1d"}).text
    assert "and 9,979 more, whom the downloads name" in touched and len(touched) < 20_000
    assert reader.get("/incident/download", {"user": "user 7", "since": "1d"}).status == 200


def test_no_route_is_left_out() -> None:
    assert {entry.path for entry in PAGES if entry.method == "GET"} == {entry.path for entry in READ}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
def test_no_two_times_look_alike_when_clocks_are_changed(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """The hour that comes twice has another zone's name the second time; in UTC there is no such hour."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        # Clocks are changed in each of these zones within these weeks.
        weeks = (
            datetime(2026, month, day, tzinfo=UTC)
            for month, day in ((3, 5), (3, 27), (4, 2), (10, 1), (10, 23), (10, 30))
        )
        times = [begin + timedelta(minutes=15 * step) for begin in weeks for step in range(4 * 24 * 6)]
        assert len({view.local(at) for at in times}) == len({view.utc(at) for at in times}) == len(times)
    finally:
        monkeypatch.undo()
        time.tzset()
