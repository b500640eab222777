"""Lists COPY, FunctionCall, settings and what is told of them, notices and notifications."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.clients.sessions.steps import END, Played, Until, Z
from tests.support.raw import (
    COPY_DONE,
    FLUSH,
    SYNC,
    TERMINATE,
    bind,
    copy_data,
    copy_fail,
    describe,
    execute,
    extended,
    function_call,
    message,
    parse,
    query,
)

# A session a line.
# fmt: off

def copies() -> Iterator[Played]:
    table, rows = query("CREATE TEMP TABLE t (a int, b text)"), [copy_data(f"{n}\trow {n}\n") for n in range(50)]
    into = "COPY t FROM STDIN"
    count = query("SELECT count(*) FROM t")
    yield Played("copy: out", (query("COPY items TO STDOUT"), Z()))
    yield Played("copy: out, extended", (extended("COPY items TO STDOUT (FORMAT csv, HEADER)") + SYNC, Z()))
    yield Played("copy: out, binary", (query("COPY (SELECT id, label, raw FROM items ORDER BY id) TO STDOUT (FORMAT binary)"), Z()))
    yield Played("copy: out, long lines", (query("COPY (SELECT repeat('z', 50000) FROM generate_series(1, 8)) TO STDOUT"), Z()))
    yield Played("copy: out, error midway", (query("COPY (SELECT 1/(20 - n) FROM generate_series(1, 40) n) TO STDOUT"), Z()))
    yield Played("copy: out between others", (query("SELECT 1; COPY parts TO STDOUT; COPY (SELECT 1) TO STDOUT; SELECT 2"), Z()))
    yield Played("copy: in", (table, Z(), query(into), Until(b"G"), *rows, COPY_DONE, Z(), count, Z()))
    yield Played("copy: in, not waiting", (table, Z(), query(into) + b"".join(rows) + COPY_DONE + count, Z(2)))
    yield Played("copy: in, nothing", (table, Z(), query(into), Until(b"G"), COPY_DONE, Z()))
    yield Played("copy: in, failed", (table, Z(), query(into), Until(b"G"), *rows, copy_fail("changed my mind"), Z(), count, Z()))
    yield Played("copy: in, bad data", (table, Z(), query(into), Until(b"G"), rows[0], copy_data("x\ty\n"), *rows, COPY_DONE, Z(), count, Z()))
    yield Played("copy: in, refused at once", (query("COPY nowhere FROM STDIN") + b"".join(rows) + COPY_DONE + query("SELECT 1"), Z(2)))
    yield Played("copy: in, extended", (table, Z(), parse(into) + bind() + describe() + execute() + SYNC, Until(b"G"), *rows, COPY_DONE + SYNC, Z(), count, Z()))
    yield Played("copy: in, extended, all at once", (table, Z(), parse(into) + bind() + execute() + b"".join(rows) + COPY_DONE + extended("SELECT 1") + SYNC + count, Z(2)))
    yield Played("copy: in, extended, error", (table, Z(), parse(into) + bind() + execute() + copy_data("x\n") + FLUSH, Until(b"E"), *rows, COPY_DONE + extended("SELECT 1") + SYNC, Z()))
    yield Played("copy: in, Sync and Flush amid", (table, Z(), query(into), Until(b"G"), rows[0] + SYNC + FLUSH + rows[1] + SYNC + COPY_DONE, Z(), count, Z()))
    yield Played("copy: in, cut anywhere", (table, Z(), query(into), Until(b"G"), *(copy_data(part) for part in ("1", "\tab", "c\n2\t", "d\n")), copy_data(""), COPY_DONE, Z(), count, Z()))
    yield Played("copy: in, binary", (table, Z(), query("COPY t (a) FROM STDIN (FORMAT binary)"), Until(b"G"), copy_data(b"PGCOPY\n\xff\r\n\0" + b"\0" * 8 + struct.pack("!hii", 1, 4, 7) + b"\xff\xff"), COPY_DONE, Z(), count, Z()))
    yield Played("copy: in, twice in one Query", (table, Z(), query(f"{into}; {into}; SELECT count(*) FROM t"), Until(b"G"), rows[0] + COPY_DONE, Until(b"G"), rows[1] + COPY_DONE, Z()))
    yield Played("copy: in, Query amid", (table, Z(), query(into), Until(b"G"), rows[0] + query("SELECT 1"), END))
    yield Played("copy: in, hung up", (table, Z(), query(into), Until(b"G"), rows[0] + TERMINATE, END))
    yield Played("copy: data out of place", (copy_data("1\n") + COPY_DONE + copy_fail() + query("SELECT 1"), Z()))
    yield Played("copy: CSV with a null and quotes", (table, Z(), query("COPY t FROM STDIN (FORMAT csv, NULL 'none')"), Until(b"G"), copy_data('1,"a ""b"", c"\nnone,x\n'), COPY_DONE, Z(), query("TABLE t"), Z()))


def functions() -> Iterator[Played]:
    """Gives FunctionCalls: built-in functions by their numbers."""
    add, upper, divide, sleep = 177, 871, 154, 2626
    four = struct.pack("!i", 4)
    yield Played("function: text", (function_call(add, ["1", "2"]), Z()))
    yield Played("function: binary", (function_call(add, [four, four], [1], 1), Z()))
    yield Played("function: mixed", (function_call(add, [four, "5"], [1, 0], 1), Z()))
    yield Played("function: upper", (function_call(upper, ["żółw"]), Z()))
    yield Played("function: NULL", (function_call(add, ["1", None]), Z()))
    yield Played("function: error", (function_call(divide, ["1", "0"]), Z(), query("SELECT 1"), Z()))
    yield Played("function: missing", (function_call(4000000, []), Z()))
    yield Played("function: arguments", (function_call(add, ["1"]), Z()))
    yield Played("function: bad binary", (function_call(add, [b"\0", four], [1], 1), Z()))
    yield Played("function: formats", (function_call(add, ["1", "2"], [0, 0, 0]), Z()))
    yield Played("function: void", (function_call(sleep, ["0.01"]), Z()))
    yield Played("function: in a transaction", (query("BEGIN"), Z(), function_call(divide, ["1", "0"]) + function_call(add, ["1", "2"]), Z(2), query("END"), Z()))
    yield Played("function: not waiting", (function_call(add, ["1", "2"]) * 5 + query("SELECT 1"), Z(6)))
    yield Played("function: behind a failed pipeline", (parse("nonsense") + function_call(add, ["1", "2"]) + SYNC + function_call(add, ["1", "2"]), Z(2)))
    yield Played("function: too short", (message(b"F", struct.pack("!I", add)) + query("SELECT 1"), Z(2)))


def settings() -> Iterator[Played]:
    """Gives what tells the client of settings, and what forgets them."""
    texts = {
        "DateStyle": "SET DateStyle = 'German'; RESET DateStyle",
        "zone": "SET TimeZone = 'Asia/Tokyo'; BEGIN; SET TimeZone = 'UTC'; ROLLBACK",
        "encoding": "SET client_encoding = 'LATIN1'; SELECT 'ä'; SET client_encoding = 'UTF8'",
        "name": "SET application_name = 'other'; RESET application_name; SHOW application_name",
        "local": "BEGIN; SET LOCAL IntervalStyle = 'iso_8601'; COMMIT",
        "role": "SET ROLE app_user; SELECT current_user; RESET ROLE; SET SESSION AUTHORIZATION app_user; RESET SESSION AUTHORIZATION",
        "search path": "SET search_path = played, public; SHOW search_path",
        "several with an error": "SET TimeZone = 'UTC'; SET TimeZone = 'Nowhere'",
        "own": "SET my.own = 'x'; SELECT current_setting('my.own'); RESET my.own; SHOW my.own",
        "all there are": "SELECT count(*) FROM pg_settings WHERE name LIKE 'secretproxy%'",
        "RESET ALL": "RESET ALL",
        "DISCARD ALL": "DISCARD ALL",
        "RESET ALL among others": "SELECT 1; RESET ALL; SELECT 2",
        "RESET ALL in a transaction": "BEGIN; RESET ALL; SELECT 1; COMMIT",
        "bytea": "SET bytea_output = 'escape'; SELECT '\\x00ff'::bytea",
        "strings": "SET standard_conforming_strings = off; SELECT 'a\\\\b'; SET standard_conforming_strings = on",
    }
    for name, text in texts.items():
        yield Played(f"settings: {name}", (query(text), Z(), query("SELECT 'after'"), Z(), query("SHOW application_name"), Z()))
    yield Played("settings: isolation behind RESET ALL", (query("BEGIN"), Z(), query("RESET ALL"), Z(), query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), Z(), query("COMMIT"), Z()))
    yield Played("settings: RESET ALL and back", (query("BEGIN"), Z(), query("RESET ALL"), Z(), query("ROLLBACK"), Z(), query("SELECT 1"), Z()))
    yield Played("settings: snapshot behind RESET ALL", (query("BEGIN ISOLATION LEVEL REPEATABLE READ"), Z(), extended("RESET ALL") + SYNC, Z(), query("SET TRANSACTION SNAPSHOT '00000003-00000000-1'"), Z(), query("ROLLBACK"), Z()))
    yield Played("settings: RESET ALL in a failed transaction", (query("BEGIN; RESET ALL; SELECT 1/0"), Z(), query("SELECT 1"), Z(), query("ROLLBACK"), Z(), query("SELECT 1"), Z()))
    yield Played("settings: DISCARD ALL in a transaction", (query("BEGIN"), Z(), query("DISCARD ALL"), Z(), query("ROLLBACK"), Z()))
    yield Played("settings: DISCARD ALL forgets statements", (parse("SELECT 1", "s") + SYNC, Z(), query("DISCARD ALL"), Z(), bind(name="s") + execute() + SYNC, Z(), parse("SELECT 2", "s") + SYNC, Z()))
    yield Played("settings: DISCARD ALL again and again", (query("DISCARD ALL") * 10, Z(10), query("SELECT 1"), Z()))
    yield Played("settings: a transaction is not begun", (query("SELECT pg_current_xact_id_if_assigned() IS NULL, now() = statement_timestamp()"), Z(), query("RESET ALL"), Z(), query("SELECT now() = statement_timestamp()"), Z()))


def told() -> Iterator[Played]:
    """Gives notices and notifications."""
    for level in ("debug", "log", "info", "notice", "warning", "error"):
        for least in ("debug1", "notice", "error"):
            yield Played(f"told: {level} where {least} is least", (query(f"SET client_min_messages = '{least}'"), Z(), query(f"SELECT says('{level}', 'hello')"), Z(), extended(f"SELECT says('{level}', 'hello')") + SYNC, Z()))
    yield Played("told: a long notice", (query("DO $$ BEGIN RAISE NOTICE '%', repeat('n', 150000); END $$"), Z()))
    yield Played("told: a long error", (query("DO $$ BEGIN RAISE EXCEPTION '%', repeat('e', 150000); END $$"), Z(), query("SELECT 1"), Z()))
    yield Played("told: many notices", (query("DO $$ BEGIN FOR n IN 1..500 LOOP RAISE NOTICE 'no %', n; END LOOP; END $$"), Z()))
    yield Played("told: between rows", (query("SELECT n, says('notice', n::text) FROM generate_series(1, 20) n"), Z()))
    yield Played("told: no testimony", (query("DO $$ BEGIN RAISE NOTICE 'x' USING ERRCODE = 'SPX02'; RAISE NOTICE 'CSPX01'; END $$"), Z()))
    yield Played("heard: oneself", (query("LISTEN news; NOTIFY news, 'payload'"), Z(), query("SELECT 1"), Z(), query("UNLISTEN *"), Z()))
    yield Played("heard: at commit", (query("LISTEN news"), Z(), query("BEGIN; NOTIFY news; NOTIFY news, 'b'"), Z(), extended("SELECT 1") + SYNC, Z(), query("COMMIT"), Z()))
    yield Played("heard: not after rollback", (query("LISTEN news"), Z(), query("BEGIN; NOTIFY news"), Z(), query("ROLLBACK"), Z()))
    yield Played("heard: in a pipeline", (query("LISTEN news"), Z(), extended("SELECT pg_notify('news', 'p')") + extended("SELECT 2") + SYNC, Z(), query("SELECT 3"), Z()))
    yield Played("heard: with RESET ALL", (query("LISTEN news"), Z(), query("NOTIFY news; RESET ALL"), Z(), query("SELECT 1"), Z()))
