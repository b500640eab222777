"""Checks detection: every place where the grammar lets a function stand, arguments as far as the text shows them, and
no look-alike."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.detect import Detector
from secretproxy.detect.arguments import Array, Constant, Values, array_literal
from secretproxy.detect.detector import CACHE_ENTRIES, Allowance, fingerprint
from secretproxy.detect.graph import Body, Object, calls_of
from secretproxy.detect.plpgsql import MOST_VARIABLES
from secretproxy.detect.string_literals import EITHER
from secretproxy.detect.verdict import MOST_CALLS
from secretproxy.wire import messages
from secretproxy.wire.errors import UnreadableError
from tests.unit.playbook import GETTER, OWNER, bind

DETECTOR = Detector()
CALL = f"encrypted_secrets.secrets_getter('{OWNER}', 'key')"


def calls(sql: str) -> list[tuple[str, uuid.UUID | None, tuple[str | None, ...] | None]]:
    verdict = DETECTOR.verdict(sql.encode(), "utf-8")
    return [(call.function, call.owner, call.names) for call in (each.resolve() for each in verdict.calls)]


EXACT = (GETTER, OWNER, ("key",))

PLACES = [
    "SELECT {}",
    "SELECT 1 WHERE {} IS NULL",
    "SELECT upper(lower({}))",
    "SELECT CASE WHEN {} = 'x' THEN 1 END",
    'SELECT ARRAY[{}], ROW({}), ({})::text COLLATE "C"',
    "SELECT * FROM {} AS s",
    "SELECT * FROM ROWS FROM ({}, generate_series(1, 2))",
    "SELECT * FROM t, LATERAL {} AS l",
    "SELECT * FROM t JOIN u ON t.x = {}",
    "SELECT * FROM t GROUP BY {} HAVING {} > 'a' ORDER BY {} LIMIT length({}) OFFSET length({})",
    "SELECT count(*) FILTER (WHERE {} = 'x') OVER (PARTITION BY {} ORDER BY {}) FROM t",
    "SELECT sum(n) OVER w FROM t WINDOW w AS (PARTITION BY {})",
    "SELECT DISTINCT ON ({}) * FROM t",
    "SELECT * FROM t TABLESAMPLE bernoulli (length({}))",
    "WITH a AS (SELECT {}) SELECT * FROM a",
    "WITH a AS MATERIALIZED (INSERT INTO t VALUES ({}) RETURNING {}) SELECT * FROM a",
    "SELECT 1 UNION ALL SELECT {} EXCEPT VALUES ({})",
    "SELECT (SELECT {}), EXISTS (SELECT {}), 1 IN (SELECT length({}))",
    "VALUES ({}), ({})",
    "INSERT INTO t (a) VALUES ({}) ON CONFLICT (a) DO UPDATE SET a = {} WHERE {} IS NULL RETURNING {}",
    "INSERT INTO t SELECT {}",
    "UPDATE t SET a = {}, (b, c) = (SELECT {}, {}) FROM u WHERE {} = 'x' RETURNING {}",
    "DELETE FROM t USING u WHERE {} = t.x RETURNING {}",
    "MERGE INTO t USING u ON t.a = {} WHEN MATCHED AND {} = 'x' THEN UPDATE SET a = {} WHEN NOT MATCHED THEN INSERT VALUES ({})",
    "CALL p({})",
    "COPY (SELECT {}) TO STDOUT",
    "EXPLAIN ANALYZE SELECT {}",
    "EXPLAIN (ANALYZE, FORMAT json) UPDATE t SET a = {}",
    "CREATE TABLE t2 AS SELECT {}",
    "CREATE MATERIALIZED VIEW m AS SELECT {}",
    "SELECT {} INTO t3",
    "DECLARE c CURSOR WITH HOLD FOR SELECT {}",
    "PREPARE p AS SELECT {}",
    "EXECUTE p({})",
    "SELECT json_object('a': {}), xmlelement(name a, {}), coalesce({}, ''), greatest({}), nullif({}, '')",
    "SELECT a[length({})] FROM t",
    "SELECT ({}).*",
    "DO $$ BEGIN PERFORM {}; END $$",
    "DO $$ DECLARE v text := {}; BEGIN v := {}; IF {} IS NULL THEN RAISE NOTICE '%', {}; END IF; RETURN; END $$",
    "DO $$ DECLARE r record; BEGIN FOR r IN SELECT {} LOOP WHILE {} <> 'x' LOOP EXIT WHEN {} = 'y'; END LOOP; END LOOP; END $$",
    "DO $$ BEGIN BEGIN PERFORM {}; EXCEPTION WHEN others THEN PERFORM {}; END; CASE {} WHEN {} THEN NULL; ELSE NULL; END CASE; END $$",
    "DO $$ DECLARE v my_domain := {}; w public.my_type DEFAULT {}; BEGIN END $$",
    "DO LANGUAGE plpgsql 'BEGIN PERFORM 1; UPDATE t SET a = b; END'; SELECT {}",
]


@pytest.mark.parametrize("template", PLACES)
def test_every_place(template: str) -> None:
    sql = template.replace("{}", CALL)
    if "'BEGIN" not in template and template.startswith("DO LANGUAGE"):
        sql = sql.replace("'", "''")
    assert calls(sql) == [EXACT] * template.count("{}")


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT secrets_getter('{OWNER}', 'key')",
        f"SELECT ENCRYPTED_SECRETS.Secrets_Getter('{OWNER}', 'key')",
        f"SELECT \"encrypted_secrets\".\"secrets_getter\"('{OWNER}', 'key')",
        f"SELECT U&\"encrypted\\005fsecrets\".U&\"secrets\\+00005fgetter\"('{OWNER}', 'key')",
        f"SELECT u&\"secrets!005fgetter\" UESCAPE '!' ('{OWNER}', 'key')",
        f"SELECT encrypted_secrets /* a comment */ . -- another\n secrets_getter\n('{OWNER}', 'key')",
        f"SELECT app.encrypted_secrets.secrets_getter('{OWNER}', 'key')",
        f"SELECT encrypted_secrets.secrets_getter('{str(OWNER).upper()}'::uuid, E'\\x6bey')",
        f"SELECT encrypted_secrets.secrets_getter('{{{OWNER}}}', U&'\\006bey')",
        f"SELECT encrypted_secrets.secrets_getter(uuid '{OWNER}', $x$key$x$::text)",
        f"SELECT encrypted_secrets.secrets_getter(secret_name => 'key', secrets_owned_field => '{OWNER}')",
        f"SELECT encrypted_secrets.secrets_getter('{OWNER}', secret_name := 'key', default_value := 'none')",
        f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'k' 'ey')".replace("'k' 'ey'", "'k'\n'ey'"),
    ],
)
def test_every_spelling(sql: str) -> None:
    assert calls(sql) == [EXACT]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT secrets_getter FROM t",
        "SELECT 1 AS secrets_getter",
        "SELECT 'encrypted_secrets.secrets_getter(1, 2)'",
        "SELECT other.secrets_getter('a', 'b')",
        "SELECT * FROM secrets_getter",
        "SELECT t.secrets_getter FROM encrypted_secrets AS t",
        "SELECT 1 -- encrypted_secrets.secrets_getter('a', 'b')",
        "SELECT 1 /* secrets_upsert(1) */",
        'SELECT "Secrets_Getter"(1, 2)',
        "SELECT my_secrets_getter(1, 2), secrets_getter2(3)",
        "INSERT INTO log VALUES ('secrets_delete')",
        "DO $$ BEGIN RAISE NOTICE 'secrets_getter(1, 2)'; END $$",
        "SET application_name = 'secrets_getter'",
        "CREATE TABLE secrets_getter (secrets_upsert text)",
    ],
)
def test_look_alikes_are_nothing(sql: str) -> None:
    verdict = DETECTOR.verdict(sql.encode(), "utf-8")
    assert not verdict.concerns, verdict


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("owner_column, 'key'", (None, ("key",))),
        (f"'{OWNER}', name_column", (OWNER, None)),
        (f"'{OWNER}', 'k' || 'ey'", (OWNER, None)),
        (f"'{OWNER}', upper('key')", (OWNER, None)),
        ("jwt_public.current_user_id(), 'key'", (None, ("key",))),
        ("'not a uuid', 'key'", (None, ("key",))),
        ("NULL, NULL", (None, None)),
        (f"'{OWNER}', 'key'::varchar(2)", (OWNER, None)),
        ("$1, $2", (None, None)),
    ],
)
def test_what_the_text_does_not_show_stays_unknown(arguments: str, expected: tuple[object, object]) -> None:
    found = calls(f"SELECT encrypted_secrets.secrets_getter({arguments})")
    assert found == [(GETTER, *expected)]


@pytest.mark.parametrize(
    ("arguments", "signature", "names"),
    [
        ("'a'", "text", ("a",)),
        ("ARRAY['a', 'b']", "text[]", ("a", "b")),
        ("ARRAY['a', NULL]::text[]", "text[]", ("a", None)),
        ("'{a,\"b c\",NULL}'::text[]", "text[]", ("a", "b c", None)),
        ("secret_names => ARRAY['a']", "text[]", ("a",)),
        ("secret_name => 'a'", "text", ("a",)),
        ("'{a,b}'", "text", ("{a,b}",)),
    ],
)
def test_which_delete(arguments: str, signature: str, names: tuple[str | None, ...]) -> None:
    found = calls(f"SELECT encrypted_secrets.secrets_delete('{OWNER}', {arguments})")
    assert found == [(f"encrypted_secrets.secrets_delete(uuid,{signature})", OWNER, names)]


def test_the_value_is_never_looked_at() -> None:
    sql = f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'key', 'the value', 'crypt')"
    verdict = DETECTOR.verdict(sql.encode(), "utf-8")
    resolved = verdict.calls[0].resolve()
    assert resolved.encoding == "crypt" and resolved.exact
    assert "the value" not in repr(resolved) and "the value" not in repr(verdict)
    swapped = f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'key', 'pgp', 'the value')"
    assert DETECTOR.verdict(swapped.encode(), "utf-8").calls[0].resolve().encoding is None


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW v AS SELECT {}",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT {} $$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN {}; END $$",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT {}; END",
        "CREATE FUNCTION f(a text DEFAULT {}) RETURNS text LANGUAGE sql RETURN a",
        "CREATE TABLE t (a text DEFAULT {}, CHECK ({} IS NOT NULL))",
        "ALTER TABLE t ADD COLUMN a text DEFAULT {}",
        "CREATE POLICY p ON t USING ({} = 'x')",
        "CREATE RULE r AS ON INSERT TO t DO ALSO SELECT {}",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW WHEN ({} = 'x') EXECUTE FUNCTION f()",
        "CREATE INDEX ON t (({}))",
        "CREATE DOMAIN d AS text CHECK ({} = VALUE)",
        "CREATE OPERATOR ### (LEFTARG = uuid, RIGHTARG = text, FUNCTION = encrypted_secrets.secrets_getter)",
        "CREATE CAST (text AS uuid) WITH FUNCTION encrypted_secrets.secrets_getter(uuid, text, text)",
        "CREATE OR REPLACE FUNCTION encrypted_secrets.secrets_getter(a uuid, b text, c text) RETURNS text LANGUAGE sql AS 'SELECT 1'",
        "DROP FUNCTION encrypted_secrets.secrets_getter(uuid, text, text)",
        "ALTER FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) RENAME TO other",
        "GRANT EXECUTE ON FUNCTION encrypted_secrets.secrets_getter(uuid, text, text) TO PUBLIC",
    ],
)
def test_definitions(sql: str) -> None:
    verdict = DETECTOR.verdict(sql.replace("{}", CALL).encode(), "utf-8")
    assert verdict.definitions == (GETTER,) and verdict.calls == ()


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM secrets_schema.secrets_table", "DELETE FROM secrets_schema.secrets_table", "COPY secrets_schema.secrets_table TO STDOUT",
            "TABLE secrets_table", "CREATE VIEW v AS TABLE secrets_schema.secrets_table"],
)  # fmt: skip
def test_the_table(sql: str) -> None:
    assert DETECTOR.verdict(sql.encode(), "utf-8").tables == ("secrets_schema.secrets_table",)


def test_text_that_does_not_parse_is_an_attempt_by_name() -> None:
    verdict = DETECTOR.verdict(f"SELEC {CALL}".encode(), "utf-8")
    assert not verdict.parsed and [call.resolve().function for call in verdict.calls] == [GETTER]
    assert DETECTOR.verdict(b"SELECT '\xff', encrypted_secrets.secrets_getter(1)", "utf-8").calls
    other = DETECTOR.verdict(b"DO LANGUAGE plpython3u $$ plpy.execute('select secrets_getter(1)') $$", "utf-8")
    assert [call.resolve().function for call in other.calls] == [GETTER]


def test_dynamic_sql_given_as_a_constant() -> None:
    sql = f"DO $$ BEGIN EXECUTE 'SELECT encrypted_secrets.secrets_getter(''{OWNER}'', $1)' USING 'key'; END $$"
    assert calls(sql) == [(GETTER, OWNER, None)]


def test_depth_does_not_end_the_walk() -> None:
    deep = "SELECT " + "(" * 500 + CALL + ")" * 500
    assert calls(deep) == [EXACT]
    wide = "SELECT " + " || ".join(["'a'"] * 3000) + f" || {CALL}"
    assert len(calls(wide)) == 1
    assert len(calls("SELECT " + "f(" * 5000 + CALL + ")" * 5000)) == 1


def test_the_cache_is_bounded() -> None:
    detector = Detector()
    for number in range(CACHE_ENTRIES + 100):
        detector.verdict(f"SELECT secrets_getter({number})".encode(), "utf-8")
    assert len(detector._cache) <= CACHE_ENTRIES


@settings(max_examples=200, deadline=None)
@given(st.lists(st.booleans(), min_size=30, max_size=30), st.sampled_from([" ", "\n", "/**/", "--x\n", "\t"]))
def test_the_cheap_look_misses_no_spelling(upper: list[bool], gap: str) -> None:
    name = "encrypted_secrets.secrets_getter"
    spelled = "".join(char.upper() if up else char for char, up in zip(name, upper + [False] * 10, strict=False))
    sql = f"SELECT{gap} {spelled.replace('.', gap + '.' + gap)}{gap}('{OWNER}',{gap}'key')"
    assert DETECTOR.may_concern(sql.encode()) and calls(sql) == [EXACT]


def test_bind_values() -> None:
    template = DETECTOR.verdict(b"SELECT encrypted_secrets.secrets_getter($1::uuid, $2)", "utf-8").calls[0]

    def resolved(values: list[bytes | None], formats: list[int], types: tuple[int, ...] = ()) -> object:
        raw = bind(values, formats=formats)
        got = template.resolve(Values(messages.read_bind(raw, 0, len(raw)), types))
        return got.owner, got.names, got.exact

    assert resolved([OWNER.bytes, b"key"], [1]) == (OWNER, ("key",), True)
    assert resolved([str(OWNER).encode(), b"key"], []) == (OWNER, ("key",), True)
    assert resolved([OWNER.hex.encode(), b"key"], [0, 1]) == (OWNER, ("key",), True)
    assert resolved([None, None], []) == (None, None, True)
    assert resolved([b"nonsense", b"key"], []) == (None, ("key",), False)
    assert resolved([OWNER.bytes, b"\xff"], [1]) == (OWNER, None, False)
    assert resolved([OWNER.bytes, b"\0\0\0\7"], [1], (2950, 23)) == (OWNER, None, False)
    assert resolved([OWNER.bytes], [1]) == (OWNER, None, False)


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("{}", ()), (" { a , b } ", ("a", "b")), ('{"a b","c\\"d",e\\,f}', ("a b", 'c"d', "e,f")), ('{NULL,"NULL",null}', (None, "NULL", None)),
        ('{""}', ("",)), ("{a\\ }", ("a ",)),
    ],
)  # fmt: skip
def test_array_literals(literal: str, expected: tuple[str | None, ...]) -> None:
    assert array_literal(literal) == Array(tuple(Constant(item) for item in expected))


@pytest.mark.parametrize("literal", ["", "a", "{", "{a", "{{a},{b}}", "{a,,b}", '{"a}', '{a"b"}', "{,}", "[1:2]={a,b}"])
def test_what_is_no_plain_array(literal: str) -> None:
    assert not isinstance(array_literal(literal), Array)


@pytest.mark.parametrize(
    ("function", "signature"),
    [("secrets_getter", "secrets_getter(uuid,text,text)"), ("secrets_delete", "secrets_delete(uuid,text)")],
)
def test_the_place_of_a_result_is_no_argument(function: str, signature: str) -> None:
    """JDBC calls a function with a parameter of type void where its result goes; PostgreSQL drops it."""
    text = f"SELECT * FROM encrypted_secrets.{function}($1, $2, $3) AS result"
    (call,) = DETECTOR.verdict(text.encode(), "utf-8").calls
    raw = bind([None, OWNER.bytes, b"api"], formats=[0, 1, 0])
    found = call.resolve(Values(messages.read_bind(raw, 0, len(raw)), (2278, 2950, 25)))
    assert (found.function, found.owner, found.names) == (f"encrypted_secrets.{signature}", OWNER, ("api",))
    assert found.exact


def test_of_very_many_calls_the_functions_are_named() -> None:
    known = DETECTOR.verdict(("SELECT 1" + f", {CALL}" * (MOST_CALLS + 1)).encode(), "utf-8")
    assert [(call.name, call.opaque) for call in known.calls] == [("secrets_getter", True)]
    many = "".join(f", encrypted_secrets.a{number}()" for number in range(MOST_CALLS + 1))
    verdict = DETECTOR.verdict(f"SELECT 1{many}, {CALL}".encode(), "utf-8")
    assert {call.resolve().function for call in verdict.calls} == {"encrypted_secrets.*", GETTER}


def test_as_many_calls_as_are_written_one_by_one() -> None:
    assert calls("SELECT 1" + f", {CALL}" * MOST_CALLS) == [EXACT] * MOST_CALLS


@pytest.mark.parametrize(
    "sql",
    [
        f"DO $$ DECLARE {' '.join(f'v{number} t;' for number in range(3000))} BEGIN PERFORM {CALL}; END $$",
        f"DO $$ DECLARE {' '.join(f'v{number} record;' for number in range(MOST_VARIABLES + 1))} BEGIN PERFORM {CALL}; END $$",
        f"DO $$ DECLARE v t {' ' * 5000} := {CALL}; BEGIN END $$",
        f"DO $$ /* {'v t ' * 3000} */ DECLARE v my_domain := {CALL}; BEGIN END $$",
        f"DO $$ BEGIN {'NULL; ' * 3000} PERFORM {CALL}; END $$",
        f"SELECT {'(' * 5000}1{')' * 5000}, {'+ ' * 200_000} {CALL}",
    ],
)
def test_what_is_too_hard_is_known_by_its_words(sql: str) -> None:
    verdict = DETECTOR.verdict(sql.encode(), "utf-8")
    assert [(call.name, call.opaque) for call in verdict.calls] == [("secrets_getter", True)]


def test_each_variable_of_a_name_has_its_own_value() -> None:
    block = f"DO $$ DECLARE v my_domain := 1; BEGIN DECLARE v my_domain := ';' || {CALL}; BEGIN END; END $$"
    assert calls(block) == [EXACT]


def test_names_that_are_too_many_stay_unknown() -> None:
    delete = Detector().verdict(b"SELECT encrypted_secrets.secrets_delete($1, $2)", "utf-8").calls[0]
    for text in ("{" + ",".join(["a"] * 20_000) + "}", "{" + "a" * 20_000 + "}"):
        raw = bind([str(OWNER).encode(), text.encode()])
        resolved = delete.resolve(Values(messages.read_bind(raw, 0, len(raw)), (0, 1009)))
        assert resolved.owner == OWNER and resolved.names is None and not resolved.exact


def test_executes_and_prepares_do_not_multiply() -> None:
    many = f", {CALL}" * 200
    prepared = DETECTOR.verdict(f"PREPARE p AS SELECT 1{many}".encode(), "utf-8").prepares
    assert [(name, [(call.name, call.opaque) for call in made]) for name, made in prepared] == [
        ("p", [("secrets_getter", True)])
    ]
    repeated = DETECTOR.verdict(b"EXECUTE p('a');" * 3000, "utf-8", [b"p"])
    assert [(execute.name, execute.arguments) for execute in repeated.executes] == [("p", ())]
    several = DETECTOR.verdict(
        "".join(f"EXECUTE p{number};FETCH c{number};" for number in range(1000)).encode(), "utf-8", [b"p1"]
    )
    assert not several.executes and not several.fetches
    assert {call.resolve().function for call in several.calls} == {"encrypted_secrets.*"}


def test_definitions_over_very_many_functions_are_few() -> None:
    many = ", ".join(f"encrypted_secrets.a{number}() AS a{number}" for number in range(1000))
    verdict = DETECTOR.verdict(f"CREATE VIEW v AS SELECT {many}, {CALL}".encode(), "utf-8")
    assert set(verdict.definitions) == {"encrypted_secrets.*", GETTER}


def test_arguments_in_very_great_number_are_not_kept() -> None:
    delete = f"encrypted_secrets.secrets_delete('{OWNER}', ARRAY[{','.join(['NULL'] * 900)}])"
    verdict = DETECTOR.verdict(f"SELECT {', '.join([delete] * 5)}".encode(), "utf-8")
    assert [(call.name, call.opaque) for call in verdict.calls] == [("secrets_delete", True)]


def test_a_turn_of_the_event_loop_has_its_share() -> None:
    later: list[Callable[[], None]] = []
    allowance = Allowance(later.append)
    one, other = Detector(allowance=allowance), Detector(allowance=allowance)
    text = b"SELECT 1" + b",1" * 100
    taken = [detector.may_analyse_now(text) for detector in (one, other) for _ in range(5)]
    assert taken.count(True) == taken.index(False) > 0
    assert len(later) == 1
    later[0]()
    assert one.may_analyse_now(text)
    # Too many signs for the event loop, whatever is left; and nobody overtakes those that wait.
    assert not Detector().may_analyse_now(b"," * 1000)
    later[-1]()
    allowance.queue = 1
    assert not one.may_analyse_now(text)
    assert allowance.take(10, queued=True)


def test_a_fingerprint_is_not_made_at_any_price() -> None:
    detector = Detector()
    assert detector.fingerprint_now(b"SELECT 1", "utf-8") == fingerprint("SELECT 1")
    assert detector.fingerprint_now(b"SELECT 1" + b",1" * 3000, "utf-8") is None


def test_a_function_of_the_catalog_that_is_very_long_is_judged_by_its_words() -> None:
    text = f"CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $f$ BEGIN PERFORM 1{',1' * 9000}, {CALL}; END $f$"
    body = Body(Object((1, 2), "function", "public", "f", "public.f()"), "plpgsql", text)
    assert [(call.name, call.opaque) for call in calls_of(body, DETECTOR.monitored)] == [("secrets_getter", True)]


@pytest.mark.parametrize(
    "body",
    [b"\0\0\0\x02\0\0", b"\0\0\0\0\0\x01\0\0", b"\0\0\0\0\0\x01\0\0\0\x01", b"\0\0\0\0\0\x01\x80\0\0\0", b"\0\0\0\0"],
)
def test_counts_of_a_bind_that_run_past_its_end_do_not_read_the_next_message(body: bytes) -> None:
    raw = b"B" + (len(body) + 4).to_bytes(4) + body
    with pytest.raises(UnreadableError):
        messages.read_bind(raw + raw, 0, len(raw))
    whole = b"B" + (16).to_bytes(4) + b"\0\0\0\x01\0\x01\0\x01\xff\xff\xff\xff"
    bound = messages.read_bind(whole, 0, len(whole))
    assert (bound.formats, [value.reveal() for value in bound.values]) == ((1,), [None])


ONLY_READS = [
    "SELECT encrypted_secrets.secrets_getter($1,$2)",
    "select encrypted_secrets.secrets_getter('a'::uuid, secret_name => 'x'::text) as v, 1, $1",
    "SELECT encrypted_secrets.secrets_getter($1::uuid,$2::varchar)",
    "SELECT * FROM encrypted_secrets.secrets_getter($1,$2)",
    "SELECT x FROM encrypted_secrets.secrets_getter($1,$2) AS x",
    "SELECT x FROM encrypted_secrets.secrets_getter($1,$2) AS x(a)",
    "SELECT encrypted_secrets.secrets_getter(uuid 'a','b')",
    "SELECT encrypted_secrets.secrets_getter($1,-1)",
    "SELECT encrypted_secrets.secrets_getter($1,NULL)",
]
DOES_MORE = [
    "SELECT x.f FROM encrypted_secrets.secrets_getter($1,$2) AS x",
    "SELECT x.* FROM encrypted_secrets.secrets_getter($1,$2) AS x",
    "SELECT x FROM encrypted_secrets.secrets_getter($1,$2) WITH ORDINALITY AS x",
    "SELECT x FROM ROWS FROM(encrypted_secrets.secrets_getter($1,$2), now()) AS x",
    "SELECT secrets_getter($1,$2)",
    "SELECT encrypted_secrets.secrets_verify($1,$2,$3)",
    "SELECT encrypted_secrets.secrets_getter($1,$2) || 'a'",
    "SELECT encrypted_secrets.secrets_getter($1,$2); SELECT 1",
    "SELECT encrypted_secrets.secrets_getter($1,$2) INTO t",
    "SELECT encrypted_secrets.secrets_getter($1,$2) LIMIT 1",
    "SELECT DISTINCT encrypted_secrets.secrets_getter($1,$2)",
    "SELECT encrypted_secrets.secrets_getter($1,$2) ORDER BY 1",
    "SELECT encrypted_secrets.secrets_getter($1,$2) FOR UPDATE",
    "SELECT encrypted_secrets.secrets_getter($1,$2) UNION SELECT '1'",
    "SELECT encrypted_secrets.secrets_getter(f(),$2)",
    "SELECT encrypted_secrets.secrets_getter($1,$2::my.d)",
    "SELECT encrypted_secrets.secrets_getter($1,$2::d)",
    "SELECT encrypted_secrets.secrets_getter($1,$2)::d",
    "SELECT encrypted_secrets.secrets_getter($1,$2)::text",
    "SELECT encrypted_secrets.secrets_getter($1,VARIADIC $2)",
    "SELECT encrypted_secrets.secrets_getter($1,'a' COLLATE x)",
    "SELECT encrypted_secrets.secrets_getter((SELECT 1),$2)",
    "WITH a AS (SELECT 1) SELECT encrypted_secrets.secrets_getter($1,$2)",
    "SELECT encrypted_secrets.secrets_getter($1,$2) WHERE true",
    "SELECT encrypted_secrets.secrets_getter($1,$2) OVER ()",
    "SELECT encrypted_secrets.secrets_getter($1,$2) FROM t",
    "SELECT encrypted_secrets.secrets_getter($1,$2) WINDOW w AS ()",
    "SELECT encrypted_secrets.secrets_getter($1,$2), f()",
    "EXPLAIN ANALYZE SELECT encrypted_secrets.secrets_getter($1,$2)",
    "SELECT (encrypted_secrets.secrets_getter($1,$2)).x",
    "SELECT encrypted_secrets.secrets_getter($1,$2) GROUP BY 1",
    "SELECT encrypted_secrets.secrets_getter($1,$2), current_user",
    "SELECT encrypted_secrets.secrets_getter($1,$2), 'a'::regclass",
    "SELECT encrypted_secrets.secrets_getter($1,ROW(1))",
    "SELECT encrypted_secrets.secrets_getter($1,ARRAY[$2])",
    "VALUES (encrypted_secrets.secrets_getter($1,$2))",
    "SELECT app.encrypted_secrets.secrets_getter($1,$2)",
    "SELECT x FROM encrypted_secrets.secrets_getter($1,$2) AS x(a text)",
    "SELECT x FROM LATERAL encrypted_secrets.secrets_getter($1,$2) AS x",
    "SELECT x FROM encrypted_secrets.secrets_getter($1,$2) AS x, t",
    "SELECT 1 FROM encrypted_secrets.secrets_getter($1,$2)",
    "TABLE encrypted_secrets.secrets_getter",
    "SELECT encrypted_secrets.secrets_getter($1,$2) FETCH FIRST 1 ROWS WITH TIES",
]


@pytest.mark.parametrize("sql", ONLY_READS)
def test_what_only_reads(sql: str) -> None:
    assert Detector().analyse(sql.encode(), "utf-8").only_reads


@pytest.mark.parametrize("sql", DOES_MORE)
def test_what_does_more_or_may(sql: str) -> None:
    assert not Detector().analyse(sql.encode(), "utf-8").only_reads


def test_a_text_that_can_be_read_in_two_ways_does_not_only_read() -> None:
    text = rb"SELECT encrypted_secrets.secrets_getter($1, 'a\b')"
    assert not Detector().analyse(text, "utf-8", EITHER).only_reads
