"""Lists queries, the extended protocol, errors at every stage of it, pipelines and portals."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.clients.sessions.steps import END, Played, Until, Z
from tests.support.raw import (
    FLUSH,
    SYNC,
    TERMINATE,
    bind,
    close,
    describe,
    execute,
    extended,
    parse,
    query,
    startup,
)

# A session a line.
# fmt: off

SIMPLE = {
    "one": "SELECT 1",
    "nothing": "",
    "blanks": " ;; ",
    "comment": "-- nothing at all",
    "several": "SELECT 1; SELECT 'two', NULL; SELECT 3 WHERE false",
    "no columns": "SELECT",
    "zero length": "SELECT ''::text, ''::bytea, '{}'::int[], NULL::text",
    "many types": "SELECT 1::int2, 2::int8, 1.5::float8, 'NaN'::numeric, true, '1 day'::interval, '{1,2}'::int[], '\\x00ff'::bytea",
    "rows": "SELECT * FROM items ORDER BY id",
    "a long row": "SELECT repeat('x', 300000)",
    "many rows": "SELECT n, md5(n::text) FROM generate_series(1, 3000) n",
    "wide": "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(1600)),
    "duplicate names": 'SELECT 1 AS a, 2 AS a, 3 AS "A b"',
    "unicode": "SELECT 'żółć 日本 🐘', U&'\\0441'",
    "dollars": "SELECT $a$it's; here$a$",
    "insert and back": "BEGIN; INSERT INTO items VALUES (900, 'x') RETURNING id; ROLLBACK",
    "update and back": "BEGIN; UPDATE items SET label = 'y'; DELETE FROM items WHERE id > 40; ROLLBACK",
    "error in the middle": "SELECT 1; SELECT 1/0; SELECT 2",
    "implicit transaction": "INSERT INTO items VALUES (901, 'x'); SELECT 1/0",
    "begin in the middle": "SELECT 1; BEGIN; SELECT 2; COMMIT; SELECT 3",
    "syntax": "SELECT * FORM items",
    "no table": "SELECT * FROM nowhere",
    "no column": "SELECT nothing FROM items",
    "constraint": "INSERT INTO items VALUES (-1, 'x')",
    "not null": "INSERT INTO items VALUES (902, NULL)",
    "unique": "INSERT INTO items VALUES (1, 'x')",
    "deferred": "BEGIN; INSERT INTO parts VALUES (12345); COMMIT",
    "cast": "SELECT 'x'::int",
    "encoding": b"SELECT '\xff\xfe'",
    "ddl": "CREATE TEMP TABLE t (a int); CREATE INDEX ON t (a); ALTER TABLE t ADD b text; DROP TABLE t",
    "if exists": "DROP TABLE IF EXISTS no_such_table",
    "explain": "EXPLAIN (COSTS OFF) SELECT * FROM items WHERE id = 3",
    "show": "SHOW server_version_num; SHOW TimeZone",
    "prepare": "PREPARE p AS SELECT $1::int; EXECUTE p(3); DEALLOCATE p; EXECUTE p(3)",
    "deallocate all": "PREPARE p AS SELECT 1; DEALLOCATE ALL",
    "cursor": "BEGIN; DECLARE c SCROLL CURSOR FOR SELECT id FROM items ORDER BY id; FETCH 3 FROM c; FETCH -1 FROM c; MOVE 4 IN c; CLOSE c; END",
    "held cursor": "DECLARE h CURSOR WITH HOLD FOR SELECT 1; FETCH h; CLOSE h",
    "do": "DO $$ BEGIN RAISE NOTICE 'in a block'; END $$",
    "call": "CALL commits()",
    "savepoints": "BEGIN; SAVEPOINT a; SELECT 1/0; ROLLBACK TO a; SELECT 1; RELEASE a; COMMIT",
    "warning of commit": "COMMIT",
    "begin twice": "BEGIN; BEGIN; ROLLBACK; ROLLBACK",
    "isolation": "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; SHOW transaction_isolation; INSERT INTO items VALUES (903, 'x')",
    "set local": "BEGIN; SET LOCAL work_mem = '1MB'; SHOW work_mem; COMMIT; SHOW work_mem",
    "temporary view": "CREATE TEMP VIEW v AS SELECT 1 AS a; SELECT * FROM v; DROP VIEW v",
    "enum": "SELECT 'glad'::mood, enum_range(NULL::mood)",
    "vacuum": "VACUUM parts",
    "vacuum in a transaction": "BEGIN; VACUUM parts",
    "lock": "BEGIN; LOCK parts IN ACCESS SHARE MODE; COMMIT",
    "values": "VALUES (1, 'a'), (2, 'b')",
    "table": "TABLE parts",
    "privilege": "SELECT * FROM pg_authid",
    "truncate": "BEGIN; TRUNCATE parts; ROLLBACK",
    "discard plans": "DISCARD PLANS; DISCARD SEQUENCES; DISCARD TEMP",
    "and chain": "BEGIN ISOLATION LEVEL REPEATABLE READ; COMMIT AND CHAIN; SHOW transaction_isolation; ROLLBACK",
}


def simple() -> Iterator[Played]:
    for name, text in SIMPLE.items():
        yield Played(f"simple: {name}", (query(text), Z(), query("SELECT 'after'"), Z()))
    yield Played("simple: two phase", (query("BEGIN"), Z(), query("CREATE TEMP TABLE t (a int); PREPARE TRANSACTION 'x'"), Z(), query("BEGIN; DELETE FROM written WHERE false; PREPARE TRANSACTION 'x'"), Z(), query("ROLLBACK PREPARED 'x'"), Z()))
    yield Played("simple: several at once", (query("SELECT 1") + query("") + query("SELECT 1/0") + query("BEGIN") + query("END"), Z(5)))
    yield Played("simple: failed transaction", (query("BEGIN"), Z(), query("nonsense"), Z(), query("SELECT 1"), Z(), query("COMMIT"), Z()))


EXTENDED = {
    "one": "SELECT 1",
    "nothing": "",
    "rows": "SELECT * FROM items ORDER BY id LIMIT 5",
    "no columns": "SELECT FROM items LIMIT 2",
    "a long row": "SELECT repeat('y', 200000)",
    "two statements": "SELECT 1; SELECT 2",
    "ddl": "CREATE TEMP TABLE t (a int)",
    "utility": "SET work_mem = '2MB'",
    "show": "SHOW work_mem",
    "returning": "INSERT INTO written VALUES (1) RETURNING n",
    "call": "CALL commits()",
    "notice": "SELECT says('notice', 'hello')",
    "vacuum": "VACUUM parts",
    "explain": "EXPLAIN (COSTS OFF) SELECT 1",
}


def prepared() -> Iterator[Played]:
    for name, text in EXTENDED.items():
        yield Played(f"extended: {name}", (extended(text) + SYNC, Z(), query("SELECT 'after'"), Z()))
        yield Played(
            f"extended, statement described: {name}",
            (parse(text, "s") + describe("s", b"S") + SYNC, Z(), bind(name="s") + execute() + close("s", b"S") + SYNC, Z()),
        )
    text = "SELECT $1::int4, $2::text, $3::bytea, $4::float8, $5::bool, $6::int4[]"
    values: list[str | None] = ["7", "seven", "\\x0700", "7.5", "t", "{1,NULL,3}"]
    for number, results in enumerate(([], [0], [1], [0, 1, 1, 0, 1, 1])):
        yield Played(f"parameters: results {number}", (parse(text) + bind(values, results=results) + describe() + execute() + SYNC, Z()))
    binary = [struct.pack("!i", 7), b"seven", b"\7\0", struct.pack("!d", 7.5), b"\1", None]
    yield Played("parameters: binary", (parse(text) + bind(binary, formats=[1], results=[1]) + describe() + execute() + SYNC, Z()))
    yield Played("parameters: mixed", (parse(text) + bind(binary[:1] + values[1:], formats=[1, 0, 0, 0, 0, 0]) + execute() + SYNC, Z()))
    yield Played("parameters: none, empty, long", (parse("SELECT $1::text, $2::text, length($3::text)", types=[25, 25, 25]) + bind([None, "", "z" * 90000]) + execute() + SYNC, Z()))
    yield Played("parameters: types told", (parse("SELECT $1 + $2", types=[23, 0]) + describe("", b"S") + bind(["1", "2"]) + execute() + SYNC, Z()))
    many = ", ".join(f"${n}::int" for n in range(1, 301))
    yield Played("parameters: three hundred", (parse(f"SELECT {many}") + bind([str(n) for n in range(300)]) + execute() + SYNC, Z()))
    yield Played("a named statement again and again", (parse("SELECT $1::int", "again") + SYNC, Z(), *(bind([str(n)], name="again") + execute() + SYNC for n in range(12)), Z(12)))
    yield Played("a statement that changes under its plan", (query("CREATE TEMP TABLE t (a int)"), Z(), parse("SELECT * FROM t", "s") + bind(name="s") + execute() + SYNC, Z(), query("ALTER TABLE t ADD b text"), Z(), bind(name="s") + execute() + SYNC, Z()))  # fmt: skip
    yield Played("the unnamed statement goes with a Query", (parse("SELECT 5") + SYNC, Z(), query("SELECT 6"), Z(), bind() + execute() + SYNC, Z()))
    yield Played("the unnamed statement stays over Sync", (parse("SELECT 5") + SYNC, Z(), bind() + execute() + SYNC, Z(), bind() + execute() + SYNC, Z()))
    yield Played("no Sync before Terminate", (extended("SELECT 1") + FLUSH, Until(b"C")))


def errors() -> Iterator[Played]:
    """Gives an error at every stage, first alone, then with more behind it up to the Sync, then within a
    transaction."""
    stages = {
        "parse": parse("SELEC 1", "e"),
        "parse, statement exists": parse("SELECT 1", "twice") + parse("SELECT 1", "twice"),
        "parse, unknown type": parse("SELECT $1", types=[4294967]),
        "parse, no type": parse("SELECT $1 IS NULL", "n"),
        "bind, no statement": bind(name="missing"),
        "bind, too few": parse("SELECT $1::int") + bind([]),
        "bind, too many": parse("SELECT 1") + bind(["1"]),
        "bind, bad text": parse("SELECT $1::int") + bind(["x"]),
        "bind, bad binary": parse("SELECT $1::int") + bind([b"\0"], formats=[1]),
        "bind, bad format": parse("SELECT $1::int") + bind(["1"], formats=[7]),
        "bind, formats": parse("SELECT $1::int") + bind(["1"], formats=[0, 0]),
        "bind, result formats": parse("SELECT 1") + bind(results=[0, 0]),
        "bind, portal exists": query("BEGIN") + parse("SELECT 1") + bind(portal="p") + bind(portal="p"),
        "describe, no statement": describe("missing", b"S"),
        "describe, no portal": describe("missing"),
        "describe, neither": describe("x", b"?"),
        "execute, no portal": execute("missing"),
        "execute, division": parse("SELECT 1/$1::int") + bind(["0"]) + describe() + execute(),
        "execute, after rows": parse("SELECT 1/(3 - n) FROM generate_series(1, 5) n") + bind() + execute(),
        "execute, exception": parse("SELECT says('error', 'no')") + bind() + execute(),
        "execute, twice": parse("SELECT 1") + bind() + execute() + execute(),
        "execute, constraint": parse("INSERT INTO items VALUES ($1, 'x')") + bind(["-1"]) + execute(),
        "close, neither": close("x", b"?"),
        "close, missing is none": close("missing", b"S") + close("missing"),
        "begin in a pipeline": parse("BEGIN") + bind() + execute() + parse("SELECT 1/0") + bind() + execute(),
    }
    behind = extended("SELECT 'never'") + parse("SELECT 2", "kept") + close("kept", b"S")
    for name, sent in stages.items():
        count = 2 if name == "bind, portal exists" else 1
        yield Played(f"error: {name}", (sent + SYNC, Z(count), query("SELECT 'after'"), Z()))
        yield Played(f"error, more behind: {name}", (sent + behind + FLUSH + SYNC + extended("SELECT 'next'") + SYNC, Z(count + 1)))
        yield Played(
            f"error, in a transaction: {name}",
            (query("BEGIN"), Z(), sent + SYNC + extended("SELECT 1") + SYNC, Z(count + 1), query("ROLLBACK"), Z()),
        )


def pipelines() -> Iterator[Played]:
    ten = b"".join(extended(f"SELECT {n}") for n in range(10))
    insert = extended("INSERT INTO items VALUES (905, 'x')")
    yield Played("pipeline: ten and a Sync", (ten + SYNC, Z()))
    yield Played("pipeline: a Sync each", (b"".join(extended(f"SELECT {n}") + SYNC for n in range(30)), Z(30)))
    yield Played("pipeline: Syncs alone", (SYNC * 20, Z(20)))
    yield Played("pipeline: Flush after each", (b"".join(extended(f"SELECT {n}") + FLUSH for n in range(5)) + SYNC, Z()))
    yield Played("pipeline: Flush, then wait", (extended("SELECT 1") + FLUSH, Until(b"C"), extended("SELECT 2") + FLUSH, Until(b"C"), SYNC, Z()))
    yield Played("pipeline: error in the middle", (ten + extended("SELECT 1/0") + ten + SYNC + ten + SYNC, Z(2)))
    yield Played("pipeline: error, Flush, wait", (extended("SELECT 1/0") + FLUSH, Until(b"E"), ten + FLUSH + SYNC, Z()))
    yield Played("pipeline: errors between Syncs", (b"".join(extended(f"SELECT 1/{n % 3}") + SYNC for n in range(12)), Z(12)))
    yield Played("pipeline: implicit transaction", (insert + extended("SELECT 1/0") + SYNC + extended("SELECT count(*) FROM items") + SYNC, Z(2)))
    yield Played("pipeline: begin and commit", (extended("BEGIN") + insert + extended("ROLLBACK") + extended("SELECT 1") + SYNC, Z()))
    yield Played("pipeline: transaction over Syncs", (extended("BEGIN") + SYNC + insert + SYNC + extended("SELECT 1/0") + SYNC + extended("ROLLBACK") + SYNC, Z(4)))
    yield Played("pipeline: simple and extended", (extended("SELECT 1") + query("SELECT 2") + extended("SELECT 3") + SYNC, Z(2)))
    yield Played("pipeline: Query after an error without Sync", (parse("nonsense") + query("SELECT 1") + SYNC + query("SELECT 2"), Z(2)))
    yield Played("pipeline: Query with an error before Sync", (extended("SELECT 1") + query("SELECT 1/0") + extended("SELECT 3") + SYNC, Z(2)))
    yield Played("pipeline: DISCARD ALL in it", (extended("SELECT 1") + extended("DISCARD ALL") + extended("SELECT 2") + SYNC + extended("DISCARD ALL") + SYNC, Z(2)))
    yield Played("pipeline: RESET ALL in it", (extended("RESET ALL") + extended("SELECT 1") + SYNC + extended("SHOW application_name") + SYNC, Z(2)))
    yield Played("pipeline: RESET ALL, everything behind at once", (query("RESET ALL") + parse("SELECT 5") + SYNC + bind() + execute() + SYNC + query("RESET ALL") + query("SELECT 2") * 3, Z(7)))
    yield Played("RESET ALL leaves the unnamed statement", (query("SELECT 1"), Z(), parse("RESET ALL", "r") + parse("SELECT 5") + bind(name="r") + execute() + SYNC, Z(), bind() + execute() + SYNC, Z()))
    yield Played("first words with the startup packet", (startup({"user": "app_user", "database": "app"}) + query("SELECT 1") + extended("SELECT 2") + SYNC, Z(3)), raw=True)
    yield Played("everything with the startup packet", (startup({"user": "app_user", "database": "app"}) + query("SELECT 1") + TERMINATE, END), raw=True)


def portals() -> Iterator[Played]:
    rows = parse("SELECT id FROM items ORDER BY id")
    yield Played("portal: in fives", (query("BEGIN"), Z(), rows + bind(portal="p") + describe("p") + SYNC, Z(), *(execute("p", 5) + SYNC for _ in range(12)), Z(12), query("COMMIT"), Z()))
    yield Played("portal: limit without a transaction", (rows + bind() + execute("", 3) + execute("", 3) + SYNC + execute("", 3) + SYNC, Z(2)))
    yield Played("portal: exactly all", (rows + bind() + execute("", 50) + execute("", 1) + SYNC, Z()))
    yield Played("portal: two at once", (query("BEGIN"), Z(), rows + bind(portal="a") + bind(portal="b") + execute("a", 2) + execute("b", 3) + execute("a", 1) + SYNC, Z(), close("a") + execute("b", 1) + execute("a", 1) + SYNC, Z()))
    yield Played("portal: gone with its transaction", (query("BEGIN"), Z(), rows + bind(portal="p") + execute("p", 1) + SYNC, Z(), query("COMMIT"), Z(), execute("p", 1) + SYNC, Z()))
    yield Played("portal: over FETCH", (query("BEGIN"), Z(), rows + bind(portal="p") + execute("p", 1) + SYNC, Z(), query("FETCH 2 FROM p; CLOSE p"), Z(), execute("p") + SYNC, Z()))
    yield Played("portal: of a DECLARE", (query("BEGIN; DECLARE c CURSOR FOR SELECT id FROM items"), Z(), describe("c") + execute("c", 4) + SYNC, Z(), query("ROLLBACK"), Z()))
    yield Played("portal: error while suspended", (query("BEGIN"), Z(), rows + bind(portal="p") + execute("p", 1) + SYNC, Z(), query("SELECT 1/0"), Z(), execute("p", 1) + SYNC, Z(), query("ROLLBACK"), Z()))
    yield Played("portal: binary", (rows + bind(results=[1]) + describe() + execute("", 10) + SYNC, Z()))
    yield Played("portal: returning, limited", (query("BEGIN"), Z(), parse("UPDATE items SET label = label RETURNING id") + bind() + execute("", 2) + execute("", 2) + SYNC, Z(), query("ROLLBACK"), Z()))
