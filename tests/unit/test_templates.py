"""Checks that a text whose template is known has the verdict that its own analysis gives, and that literals are found
where PostgreSQL's own lexer finds them."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator

import pglast.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secretproxy.detect import Detector
from secretproxy.detect.dependencies import SELECT, Dependencies, Dependency, Named
from secretproxy.detect.detector import _NO_STRING, CACHE_ENTRIES
from secretproxy.detect.literals import (
    MORE_NUMBERS,
    MORE_STRINGS,
    MOST_DIGITS,
    NUMBER,
    SPLIT,
    STRING,
    span,
    split,
    split_in_python,
    without_comments,
    without_comments_in_python,
)
from secretproxy.detect.string_literals import EITHER, ESCAPES, STANDARD
from secretproxy.detect.templates import MOST_TEMPLATES, Templates, is_plain
from secretproxy.detect.verdict import HARMLESS, Verdict
from tests.security import test_generated as generated
from tests.security.evasion import FOLDER
from tests.support.shapes import CALL, SHAPES
from tests.unit.test_detector import PLACES

OWNER = "00000000-0000-4000-8000-00000000000b"
LEAD = Dependency("encrypted_secrets.secrets_getter(uuid,text,text)", SELECT, ("v",))
LEADS = Dependencies(
    1,
    functions={"wrapped": (Named("public", (LEAD,)),)},
    relations={"seen": (Named("public", (LEAD,)),)},
    operators={"==>": (Named("public", (LEAD,)),)},
    types={"strict_text": (Named("public", (LEAD,)),)},
)
# What a text may have in the place of another literal.
STRINGS = [
    "a", "", "it''s", "''", "--", "/*", "*/", "$1", "$q$", "secrets_getter(", "encrypted_secrets.secrets_getter('')", OWNER, "{a,b}", "{}", "gr\u00fcn",
    "E", "\n", ";", "\x01", "\x02", "\x7f", "DO $$ BEGIN PERFORM encrypted_secrets.secrets_getter(1); END $$", '"', "a" * 300, "+" * 70, "CALL_BY_NAME",
]  # fmt: skip
NUMBERS = ["0", "1", "24", "25", "53", "54", "007", "999999999", "100000"]


def other_literals(text: bytes, draw: random.Random) -> bytes | None:
    """Gives a text of the same template, or None if the text has none."""
    cut = split(text)
    if cut is None:
        return None
    made = bytearray()
    for byte in re.split(rb"([\1-\4])", cut[0]):
        if byte == STRING:
            word = draw.choice(STRINGS).replace("'", "''") if draw.random() < 0.5 else draw.choice(STRINGS[:1])
            made += b"'" + word.encode() + b"'"
        else:
            many = draw.choice([0, 1, 5])
            more = {NUMBER: draw.choice(NUMBERS), MORE_NUMBERS: ",7" * many, MORE_STRINGS: " ,\n'it''s'" * many}
            made += more[byte].encode() if byte in more else byte
    return bytes(made)


def check(text: bytes, seed: int = 0, dependencies: Dependencies | None = LEADS) -> int:
    """Learns the template of a text, and compares texts of it; gives how many it answered."""
    if split(text) is None:
        return 0
    draw = random.Random(seed)
    detector, other = Detector(), Detector()
    if dependencies is not None:
        detector.learn(dependencies)
        other.learn(dependencies)
    answered = 0
    for number in range(5):
        sent = text if number == 0 else other_literals(text, draw)
        if sent is None:
            return 0
        found = detector._templates.find(sent, "utf-8")
        if found is None:
            detector.look(sent, "utf-8")
            continue
        answered += 1
        for conforming_strings in (STANDARD, ESCAPES, EITHER):
            own = other.analyse(sent, "utf-8", conforming_strings)
            # What is too hard to parse is judged by its words; its template knows more.
            assert found == own or (not own.parsed and "+" * 70 in sent.decode()), sent
            assert found.only_reads == own.only_reads or not own.parsed
            assert [call.resolve() for call in found.calls] == [call.resolve() for call in own.calls] or not own.parsed
    return answered


def recorded() -> Iterator[bytes]:
    for path in sorted(FOLDER.rglob("*.sql")):
        for block in re.split(r"\n\s*\n", re.sub(r"^--.*$", "", path.read_text(encoding="utf-8"), flags=re.M)):
            if block.strip():
                yield block.strip().encode()
    for place in PLACES:
        yield place.replace("{}", CALL).encode()


PLAIN = [
    f"SELECT {CALL}",
    "SELECT encrypted_secrets.secrets_getter($1, $2::text), 'x', 5",
    f"SELECT secrets_verify($1, 'n', $3), 'it''s' FROM t WHERE a IN ($2, 5) AND b = '{OWNER}'",
    f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 5::text)",
    f"SELECT encrypted_secrets.secrets_getter(secret_name => 'n', secrets_owned_field => '{OWNER}'::uuid), 1, 'x'",
    f"SELECT * FROM encrypted_secrets.secrets_getter('{OWNER}', 'it''s')",
    f"SELECT encrypted_secrets.secrets_delete('{OWNER}', ARRAY['a', 'b'])",
    f"SELECT encrypted_secrets.secrets_delete('{OWNER}', '{{a,b}}')",
    f"SELECT encrypted_secrets.secrets_upsert('{OWNER}', 'n', 'value', 'crypt')",
    f"SELECT {CALL} FROM t WHERE a IN (1,2,3) AND b LIKE 'x%' ESCAPE '!' LIMIT 5 OFFSET 7",
    "INSERT INTO t (a, b) VALUES (1, 'secrets_getter'), (2, 'x') ON CONFLICT (a) DO UPDATE SET b = 'y'",
    f"UPDATE t SET a = {CALL} WHERE b = 1 RETURNING a",
    f"SELECT {CALL} WHERE 'a' IN ('x', 'y') AND 1 NOT IN (1) AND encrypted_secrets.secrets_getter('{OWNER}', 'n') in ('a')",
    f"SELECT {CALL}, position('a' IN 'b'), position((1, 2) IN (1, 2)) FROM t WHERE (a, b) IN ((1, 2), (3, 4))",
    "SELECT wrapped('a') ==> 'b', 'c'::strict_text FROM seen WHERE id = 3",
    "SELECT v::varchar(5), 'a' FROM seen, secrets_schema.secrets_table",
]


@pytest.mark.parametrize("text", PLAIN)
def test_a_third_text_of_a_template_is_not_parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(text.encode()) >= 3
    detector = Detector()
    for _ in range(2):
        detector.look(text.encode(), "utf-8")
    expected = detector.analyse(text.encode(), "utf-8")
    monkeypatch.setattr(pglast.parser, "parse_sql_json", None)
    assert detector.cached(text.encode(), "utf-8") == expected


def test_recorded_texts_have_the_verdict_of_their_analysis() -> None:
    assert sum(check(text, seed) > 0 for seed, text in enumerate(recorded())) > 50


@settings(max_examples=400, deadline=None, derandomize=True)
@given(generated.statements(), st.integers(0, 1000))
def test_generated_texts_have_the_verdict_of_their_analysis(made: generated.Made, seed: int) -> None:
    if made.encoding == "UTF8":
        check(made.text, seed)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_verdict_of_their_analysis(name: str) -> None:
    check(SHAPES[name](1500).encode())


@pytest.mark.parametrize(
    "text",
    [
        "DO 'BEGIN PERFORM 1; END'",
        "DO LANGUAGE plpgsql 'BEGIN PERFORM encrypted_secrets.secrets_getter(1); END'; SELECT 1",
        "EXECUTE p('a', 1)",
        f"PREPARE p AS SELECT {CALL}",
        f"DECLARE c CURSOR FOR SELECT {CALL}",
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS 'SELECT 1'",
        f"CREATE VIEW v AS SELECT {CALL}",
        f"COPY (SELECT {CALL}) TO '/tmp/x'",
        f"EXPLAIN ANALYZE SELECT {CALL}",
        "SET search_path = 'encrypted_secrets'",
        f"SELECT encrypted_secrets.secrets_delete('{OWNER}', '{{a,b}}'::text[])",
        f"SELECT {CALL}, 1::float(5)",
        f"SELECT {CALL}, 1::FLOAT \n(5)",
        f"SELECT {CALL}, CURRENT_TIMESTAMP(3)",
        f"SELEC {CALL}",
        f"SELECT {CALL} WHERE 1 IN (1,,2)",
    ],
)
def test_where_a_constant_may_decide_something_nothing_is_learned(text: str) -> None:
    detector = Detector()
    for _ in range(4):
        detector.look(text.encode(), "utf-8")
        assert detector._templates.find(text.encode(), "utf-8") is None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT E'a'", "SELECT e'a'", "SELECT U&'a'", "SELECT u&\"a\"", "SELECT N'a'", "SELECT b'1', x'1'", "SELECT $$a$$", "SELECT $a", "SELECT a$b", "SELECT a$1", "SELECT 1$1", "SELECT $1$2", "SELECT $1a", "SELECT $", "SELECT \"a\"$1", "SELECT 1 -- 'a'",
        "SELECT 1 /* 'a' */", "SELECT 'a'\n'b'", "SELECT 'a' \t\r\n 'b'", "SELECT 'a' 'b'", "SELECT 'a\\'", "SELECT \"a\\\"", "SELECT '", "SELECT 'a''", "SELECT '''", "SELECT \"a",
        "SELECT 1'a'", "SELECT a'b'", "SELECT 'a'b", "SELECT '\u00fc', \u00fc", "SELECT \"\u00fc\"", "SELECT \x01", "SELECT \x0b1", "SELECT \"\x02\"", "SELECT 1+/*'*/1", "SELECT 1*--'\n1",
        "'a'", "SELECT \"a\"'b'", "SELECT @-'a'",
    ],
)  # fmt: skip
def test_an_unusual_text_has_no_template(text: str) -> None:
    for way in {split, split_in_python}:
        assert way(text.encode()) is None, text


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("SELECT 1, 12,'a' ,\"b''\"\"1\" FROM t1 WHERE a='it''s'", 'SELECT \2, \2,\1 ,"b\'\'""1" FROM t1 WHERE a=\1'),
        (
            "SELECT 1.5, .5, 1e5, 1e-5, -5, 1_000, 0x1f, 1a, 5..6",
            "SELECT 1.5, .5, 1e5, 1e-5, -5, 1_000, 0x1f, 1a, 5..6",
        ),
        (f"SELECT {'9' * MOST_DIGITS}, {'9' * (MOST_DIGITS + 1)}", f"SELECT \2, {'9' * (MOST_DIGITS + 1)}"),
        ("SELECT a[1], a[1:2], '', '--/*$', f(1)::int4, 2+3", "SELECT a[\2], a[\2:2], \1, \1, f(\2)::int4, \2+3"),
        (
            "SELECT $1, $22::text, a=$3+1 FROM t WHERE b IN ($1,2) AND $1 IN (2)",
            "SELECT $1, $22::text, a=$3+1 FROM t WHERE b IN ($1,\2) AND $1 IN (\2\3)",
        ),
        ("$1", "$1"),
        ("", ""),
        ("SELECT 5", "SELECT \2"),
        (
            "SELECT a IN (1,2) OR b\nnot in( 'a' ,'b''' ) OR c IN (1)",
            "SELECT a IN (\2\3) OR b\nnot in(\1\4) OR c IN (\2\3)",
        ),
        ("SELECT x.in (1,2), x. in (1,2), a  IN (1,2)", "SELECT x.in (\2,\2), x. in (\2,\2), a  IN (\2,\2)"),
        (
            "SELECT a IN (1,'a'), b IN (1,b), c IN (-1,2), d IN ()",
            "SELECT a IN (\2,\1), b IN (\2,b), c IN (-1,\2), d IN ()",
        ),
        ("SELECT Position(a IN (1,2))", "SELECT Position(a IN (\2,\2))"),
        (
            'SELECT 1.5 IN (1,1234567890), a IN (1.5), "a" IN (5)',
            'SELECT 1.5 IN (\2,1234567890), a IN (1.5), "a" IN (\2\3)',
        ),
        ("a" + " IN(1)" * 1000, "a" + " IN(\2\3)" * 1000),
        ("SELECT a IN (1)" + " OR a IN (1)" * 50, "SELECT a IN (\2\3)" + " OR a IN (\2\3)" * 50),
    ],
)
def test_what_a_template_is(text: str, template: str) -> None:
    for way in {split, split_in_python}:
        cut = way(text.encode())
        assert cut is not None and cut[0].decode() == template


PIECES = [
    "'", "''", "'a'", "'it''s'", '"', '"a"', '""', "$a$", "$$", "/*", "*/", "--", "-", "/", "*", "\n", "\r", "\t", "\x0b", "\\", "E'", "U&'", "U&\"", "N'", "x'", "b'1'", "(", ")", "[", "]",
    ",", ";", "+", "@", "=", ":=", "::", ".", "|", "<", ">", " ", " ", "a", "e", "1", "23", "9999999999", "1.5", "1e", "_", "$1", "\u00fc", "'\u00fc'", "\x01", "\x02", " UESCAPE ", "\0",
    " IN (", "x in(", ".in (", "position(", "IN", "1,2)", "'a' , 'b')", " IN (1,'",
]  # fmt: skip


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_literals_are_found_where_postgresql_finds_them(pieces: list[str]) -> None:
    text = "SELECT " + "".join(pieces)
    cut = split_in_python(text.encode())
    assert split(text.encode()) == cut
    if cut is None:
        return
    try:
        tokens = pglast.parser.scan(text)
    except pglast.parser.ParseError:
        # An empty name, junk behind a number: no text of this template is read.
        for seed in range(3):
            with pytest.raises(pglast.parser.ParseError):
                pglast.parser.scan((other_literals(text.encode(), random.Random(seed)) or b"").decode())
        return
    raw = text.encode()
    strings = [tuple(len(raw[:at].decode()) for at in span(cut[1], number)) for number in range(cut[0].count(STRING))]
    found = [(token.start + 1, token.end) for token in tokens if token.name == "SCONST"]
    assert set(strings) <= set(found) and (MORE_STRINGS in cut[0] or strings == found)
    assert cut[0].count(NUMBER) <= sum(token.name == "ICONST" for token in tokens)
    assert not {token.name for token in tokens} & {"SQL_COMMENT", "C_COMMENT", "USCONST", "BCONST", "XCONST"}
    # The same tokens, whatever stands in the place of a literal.
    other = other_literals(raw, random.Random(len(text)))
    assert other is not None
    if MORE_STRINGS not in cut[0] and MORE_NUMBERS not in cut[0]:
        assert [token.name for token in pglast.parser.scan(other.decode())] == [token.name for token in tokens]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_any_bytes_are_cut_in_c_as_in_python(raw: bytes) -> None:
    assert split(raw) == split_in_python(raw)
    if SPLIT[0] is not split_in_python:
        with pytest.raises(TypeError):
            split(bytearray(raw))  # type: ignore[arg-type]


def test_a_text_of_very_many_strings_is_cut_in_c_as_in_python() -> None:
    text = b"SELECT ''" + b",'ab'" * 5000
    assert split(text) == split_in_python(text)
    assert split(b"SELECT " + b"1" * 200_000) is None or SPLIT[0] is split_in_python


def test_two_texts_of_one_template_have_their_own_names() -> None:
    detector = Detector()
    found = []
    for number in range(5):
        text = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'name ''{number}''')".encode()
        found.append(detector.verdict(text, "utf-8").calls[0].resolve().names)
    assert found == [(f"name '{number}'",) for number in range(5)]


def test_what_the_catalog_says_later_changes_what_templates_say() -> None:
    detector = Detector()
    detector.learn(Dependencies(1, functions=LEADS.functions))
    for number in range(3):
        assert detector.verdict(f"SELECT 'secrets_getter', {number} FROM seen".encode(), "utf-8") is HARMLESS
    detector.learn(LEADS)
    for number in range(3, 6):
        assert detector.verdict(f"SELECT 'secrets_getter', {number} FROM seen".encode(), "utf-8").calls


def test_a_text_that_does_not_decode_or_of_another_encoding_has_no_template() -> None:
    detector = Detector()
    for _ in range(4):
        for text, encoding in (
            (f"SELECT {CALL}".encode(), "cp932"),
            (f"SELECT {CALL}, '".encode() + b"\xff'", "utf-8"),
        ):
            detector.look(text, encoding)
            assert detector._templates.find(text, encoding) is None


def test_what_a_template_says_of_its_text_must_be_what_the_analysis_said() -> None:
    text = f"SELECT {CALL}".encode()
    templates, detector = Templates(), Detector()
    assert templates.marked(text, "utf-8") is None
    marked = templates.marked(text, "utf-8")
    assert marked is not None
    templates.learn(text, "utf-8", Verdict(), detector.of_marked(marked))
    assert templates.find(text, "utf-8") is None and templates.marked(text, "utf-8") is None


def test_few_templates_are_kept() -> None:
    detector = Detector()
    for number in range(MOST_TEMPLATES + 10):
        for _ in range(2):
            detector.look(f"SELECT a{number}, 'secrets_getter'".encode(), "utf-8")
    assert len(detector._templates._known) <= MOST_TEMPLATES
    assert not detector._templates._text


def test_a_tree_is_plain_only_if_each_of_its_keys_is_known() -> None:
    assert is_plain(pglast.parser.parse_sql_json("SELECT 1, 'a\":' FROM t"))
    assert not is_plain(pglast.parser.parse_sql_json("SELECT 1; DO ''"))


def test_a_tree_without_its_numbers_has_the_same_verdict() -> None:
    """A long text's tree is read without them."""
    detector, compared = Detector(), 0
    detector.learn(LEADS)
    for text in [*recorded(), *(shape(600).encode() for shape in SHAPES.values()), *(text.encode() for text in PLAIN)]:
        try:
            document = pglast.parser.parse_sql_json(text.decode())
        except pglast.parser.ParseError:
            continue
        without = _NO_STRING.sub('{"A_Const":{}}', document)
        compared += without != document
        assert detector._of_tree(without, text.decode()) == detector._of_tree(document, text.decode()), text
    assert compared > 100
    text = (
        """SELECT 1, '{"A_Const":{"ival":{"ival":1},"location":1}}', 1.5, true, -3, NULL, "{""A_Const"":{""ival"":{}"""
    )
    without = _NO_STRING.sub("", pglast.parser.parse_sql_json(text + '"'))
    assert without.count('"A_Const"') == 2 and without.count('\\"A_Const\\"') == 2


# --- comments ---

# What programs that trace their statements put into them, and what an attacker may.
COMMENTS = [
    "/*traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'*/", "/* controller='secrets_getter',route='%2Fa' */", "/**/", "/*/*x*/*/", "/* ' */", '/* " */', "/* $$ */",
    "/*--*/", "--x\n", "-- '\n", "--\r", "--/*\n", "-- */\n", "/*\n*/", "/***/", "/*\u00fc*/", "/*;*/", "/*+ hint */", "/*/ */", "/*\x0b\x0c*/", "-- encrypted_secrets.secrets_getter(1)\n",
]  # fmt: skip
# Comments that end, and what is none.
HALVES = [
    "/*",
    "*/",
    "--",
    "/",
    "*",
    "-",
    "\n",
    "\r",
    "/*\\*/",
    "-- \\\n",
    "/*x",
    "--x",
    "/*/*x*/",
    "\x0b",
    "\x0c",
    "'",
    '"',
    "$$",
    "$1",
    "E'",
]
LOCATION = re.compile(r'"(?:\w*location|stmt_len|\w+_start|\w+_end)":-?\d+,?')


def tree(text: str) -> str | None:
    """Gives what PostgreSQL's grammar makes of a text, without places; None if nothing."""
    try:
        return LOCATION.sub("", pglast.parser.parse_sql_json(text)).replace(",}", "}")
    except pglast.parser.ParseError:
        return None


def bare_of(text: str) -> str | None:
    """Gives a text without its comments; both ways must give the same."""
    found = [way(text.encode()) for way in (without_comments, without_comments_in_python)]
    assert found[0] == found[1], text
    return None if found[0] is None else found[0].decode()


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("SELECT 1 /*x*/", "SELECT 1"), ("/*x*/ SELECT 1", "SELECT 1"), ("SELECT 1 /*x*/;", "SELECT 1 ;"), ("SELECT/*x*/1", "SELECT 1"), ("SELECT 1 --x", "SELECT 1"),
        ("SELECT 1--x\n+2--y\r+3", "SELECT 1 \n+2 \r+3"), ("SELECT 1+/*'*/-/**/2", "SELECT 1+ - 2"), ("SELECT 2*--'\n1", "SELECT 2* \n1"), ("SELECT 1/*/**/'*/", "SELECT 1"),
        ("SELECT -/**/-1", "SELECT - -1"), ("SELECT '--', \"/*\", $$/*--$$, $q$ $$ -- $q$ --", "SELECT '--', \"/*\", $$/*--$$, $q$ $$ -- $q$"), ("SELECT $1--x", "SELECT $1"),
        ("SELECT 'it''s', \"a\"\"--\"--\"", "SELECT 'it''s', \"a\"\"--\""), ("SELECT E'a', U&'b' /**/UESCAPE/**/'!'", "SELECT E'a', U&'b' UESCAPE '!'"), ("/**//**/ --", ""),
        ("SELECT 'a', /**/\n'b'", "SELECT 'a', \n'b'"), ("SELECT 'a'\n'b' --", "SELECT 'a'\n'b'"), ("SELECT 'a' --x\n, 'b'", "SELECT 'a' \n, 'b'"), ("SELECT \u00fc/*\u00fc*/", "SELECT \u00fc"),
        ("SELECT 1 /*\f*/\v", "SELECT 1 \v"), ("BEGIN; /*x*/ SELECT 1; --y\nCOMMIT", "BEGIN;  SELECT 1; \nCOMMIT"), ("SELECT 1 /***/", "SELECT 1"), ("/*/*/ x */*/ SELECT 1", "SELECT 1"),
    ],
)  # fmt: skip
def test_what_a_text_is_without_its_comments(text: str, bare: str) -> None:
    assert bare_of(text) == bare
    assert tree(bare) == tree(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1", "", "SELECT 'a' --x\n'b'", "SELECT 'a' /*x*/\n'b'", "DO LANGUAGE 'plpgsql' /*x*/\n'BEGIN END'", "SELECT 'a'/**/'b'", "SELECT 'a' \v/**/\f--\n'b'", "SELECT E'a'--\n'b'",
        "SELECT 1 /*", "SELECT 1 /*/*x*/", "SELECT 1 /*/", "SELECT ' /*x*/", "SELECT \" --", "SELECT $$ --", "SELECT $a$ --$b$", "SELECT a$1 --", "SELECT 1$1--", "SELECT $ --", "SELECT $a --",
        "SELECT $\u00fc$ --$\u00fc$", "SELECT a$$ --$$", "SELECT $1$$--$$", "SELECT $$a$$$$b$$ --", "SELECT 'a'$$b$$ --", "SELECT '\\' --", "SELECT 1 --\\", "SELECT 1 --\0", "SELECT '--'",
    ],
)  # fmt: skip
def test_a_text_whose_comments_are_not_sure_is_parsed(text: str) -> None:
    assert bare_of(text) is None


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from([*PIECES, *COMMENTS, *HALVES, "1e", "E", "u&", "UESCAPE", ";", "::", "!", "SELECT "]),
        max_size=14,
    )
)
def test_a_text_without_comments_has_the_same_tokens(pieces: list[str]) -> None:
    text = "SELECT " + "".join(pieces)
    bare = bare_of(text)
    if bare is None:
        return

    def tokens(text: str) -> list[tuple[str, bytes]] | None:
        try:
            found = pglast.parser.scan(text)
        except pglast.parser.ParseError:
            return None
        raw = text.encode()
        starts = [len(text[: token.start].encode()) for token in found]
        ends = [len(text[: token.end + 1].encode()) for token in found]
        return [
            (token.name, raw[start:end])
            for token, start, end in zip(found, starts, ends, strict=True)
            if not token.name.endswith("_COMMENT")
        ]

    assert tokens(bare) == tokens(text)
    assert tree(bare) == tree(text)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(
            [b"'", b'"', b"$", b"$a$", b"--", b"/*", b"*/", b"\n", b" ", b"a", b"1", b"\xff", b"\v", b"\\"]
        ),
        max_size=40,
    )
)
def test_comments_are_cut_in_c_as_in_python(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    assert without_comments(raw) == without_comments_in_python(raw)
    if SPLIT[0] is not split_in_python:
        with pytest.raises(TypeError):
            without_comments(bytearray(raw))  # type: ignore[arg-type]


def mutated(text: str, draw: random.Random, where: str) -> str:
    """Puts comments before and behind a text, between its tokens, or anywhere."""
    places = {0, len(text)}
    if where == "between":
        with contextlib.suppress(pglast.parser.ParseError):
            places |= {token.start for token in pglast.parser.scan(text)}
    elif where == "within":
        places = set(range(len(text) + 1))
    for place in sorted(draw.sample(sorted(places), min(len(places), draw.choice([1, 2, 2, 5]))), reverse=True):
        text = text[:place] + draw.choice([*COMMENTS, *HALVES] if where == "within" else COMMENTS) + text[place:]
    return text


def check_comments(text: str, seed: int) -> tuple[int, int]:
    """Compares what is said of texts that differ in comments with their own analysis; gives how many of those with
    comments at their ends have calls, and how many of them were answered without one."""
    draw, sent, answered = random.Random(seed), 0, 0
    detector, other = Detector(), Detector()
    detector.learn(LEADS)
    other.learn(LEADS)
    detector.verdict(text.encode(), "utf-8")
    for where in ("ends", "between", "within", "between", "within", "ends"):
        made = mutated(text, draw, where).encode()
        for conforming_strings in (STANDARD, ESCAPES, EITHER) if b"\\" in made else (STANDARD,):
            own = other.analyse(made, "utf-8", conforming_strings)
            found = detector.cached(made, "utf-8", conforming_strings)
            assert found is None or found == own, made
            if where == "ends" and own.calls and own.parsed and without_comments(made) is not None:
                sent, answered = sent + 1, answered + (found is not None)
        detector.verdict(made, "utf-8")
    return sent, answered


def test_comments_in_recorded_texts_change_no_verdict() -> None:
    sent = answered = 0
    for seed, text in enumerate([*recorded(), *(text.encode() for text in PLAIN)]):
        if text.isascii() and len(text) < 3000:
            of_text = check_comments(text.decode(), seed)
            sent, answered = sent + of_text[0], answered + of_text[1]
    assert sent > 300 and answered > sent * 0.95, (sent, answered)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(generated.statements(), st.integers(0, 1000))
def test_comments_in_generated_texts_change_no_verdict(made: generated.Made, seed: int) -> None:
    if made.encoding == "UTF8":
        sent, answered = check_comments(made.text.decode(), seed)
        assert sent == answered


ANY_KIND = [
    f"SELECT {CALL}", "SELECT encrypted_secrets.secrets_getter($1, $2)", f"EXPLAIN ANALYZE SELECT {CALL}", f"PREPARE p (uuid) AS SELECT {CALL}", "EXECUTE p('a')", "DEALLOCATE p",
    f"DECLARE c CURSOR FOR SELECT {CALL}", f"COPY (SELECT {CALL}) TO STDOUT", f"BEGIN; SELECT {CALL}; COMMIT", "SELECT encrypted_secrets.secrets_delete($1, $2::text[])",
    "DO $$ BEGIN PERFORM encrypted_secrets.secrets_getter(a, b); /* x */ END $$", "SELECT 'secrets_getter'", "CREATE VIEW v AS SELECT secrets_getter(a, b) FROM t",
]  # fmt: skip


@pytest.mark.parametrize("text", ANY_KIND)
def test_a_text_that_differs_by_its_comment_is_not_parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = ["{} /*{}*/", "/*{1}*/ {0}", "{} -- {}", "{}/* {} */", "/*{1}*/{0} /*{1}*/"]
    for known in (text, f"{text} /*traceparent='a-0'*/"):
        detector = Detector()
        expected = detector.verdict(known.encode(), "utf-8", (b"p",))
        assert (expected is HARMLESS) == (text == "SELECT 'secrets_getter'")
        with monkeypatch.context() as patched:
            patched.setattr(pglast.parser, "parse_sql_json", None)
            for number, form in enumerate(forms):
                sent = form.format(text, f"traceparent='a-{number}',db_driver='secrets_getter'").encode()
                # What no comment was known with may be by the words of its text.
                if expected is not HARMLESS or known != text:
                    assert detector.cached(sent, "utf-8") == expected, sent
            assert detector.cached(text.encode(), "utf-8") == expected


def test_constants_and_comments_may_differ_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector()

    def text(number: int) -> bytes:
        return f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'n{number}') /*trace='\u00fc{number}'*/".encode()

    for number in range(2):
        detector.verdict(text(number), "utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(pglast.parser, "parse_sql_json", None)
        found = [detector.verdict(text(number), "utf-8") for number in range(5)]
    assert [verdict.calls[0].resolve().names for verdict in found] == [(f"n{number}",) for number in range(5)]
    assert found == [Detector().analyse(text(number), "utf-8") for number in range(5)]


def test_words_of_a_comment_are_judged_where_the_text_is_not_parsed() -> None:
    detector, other = Detector(), Detector()
    for text in ("SELECT 'secrets_getters' FROM", "SELECT 'secrets_getters'", "SELECT secrets_getter(1) FROM", ""):
        for comment in (
            "",
            " /*x secrets_getters*/",
            " /*secrets_getter*/",
            " /*secrets_verify*/",
            " --secrets_getters",
        ):
            sent = (text + comment).encode()
            assert detector.verdict(sent, "utf-8") == other.analyse(sent, "utf-8"), sent


def test_comments_that_differ_fill_no_cache() -> None:
    detector = Detector()
    for number in range(50):
        detector.verdict(f"SELECT {CALL} /*{number}*/ --{number}".encode(), "utf-8")
    assert len(detector._cache) == 2 and not detector._templates._known and not detector._templates._text
    for number in range(CACHE_ENTRIES):
        detector.store(f"SELECT {CALL}, a{number} /**/".encode(), "utf-8", Verdict(tables=("t",)))
    assert len(detector._cache) <= CACHE_ENTRIES
    assert detector._cached_bytes == sum(len(key[0]) for key in detector._cache)


def test_comments_in_other_encodings_or_that_do_not_decode_are_parsed() -> None:
    detector = Detector()
    for encoding, comment in (
        ("cp932", b"/*x*/"),
        ("utf-8", b"/*\xff*/"),
        ("utf-8", b"/*\xc3*/"),
        ("cp932", b"/*\x81*/"),
    ):
        detector.verdict(f"SELECT {CALL}".encode(), encoding)
        sent = f"SELECT {CALL} ".encode() + comment
        assert detector.cached(sent, encoding) is None
        assert detector.store(sent, encoding, detector.look(sent, encoding)) == Detector().analyse(sent, encoding)
        assert detector.cached(sent + b" ", encoding) is None
    assert detector.verdict(f"SELECT {CALL} /*".encode() + b"\xe9*/", "latin-1").calls


def test_a_text_that_comes_in_another_encoding_is_looked_at_anew() -> None:
    detector, text = Detector(), f"SELECT {CALL} /*\u00fc*/ ".encode()
    for encoding in ("utf-8", "cp932", "latin-1", "cp932"):
        detector.cached(text, encoding)
        expected = None if encoding == "cp932" else f"SELECT {CALL}".encode()
        assert detector._templates.bare(text, encoding) == expected


def test_what_the_catalog_says_later_changes_what_is_known_without_comments() -> None:
    detector = Detector()
    detector.learn(Dependencies(1, functions=LEADS.functions))
    assert detector.verdict(b"SELECT 'secrets_getter' FROM seen /*a*/", "utf-8") is HARMLESS
    detector.learn(LEADS)
    assert detector.verdict(b"SELECT 'secrets_getter' FROM seen /*b*/", "utf-8").calls


# Calls that words alone do not show.
UNWORDED = [
    f"""SELECT U&"encrypted!005fsecrets" UESCAPE '!' . U&"secrets!005fdelete" UESCAPE '!' ('{OWNER}', 'n')""",
    "EXECUTE p",
    "FETCH ALL FROM c",
    "DEALLOCATE p; CLOSE ALL",
    "SELECT * FROM U&\"se!0065n\" UESCAPE '!'",
]


@pytest.mark.parametrize("text", UNWORDED)
@pytest.mark.parametrize(
    "hard", ["/*" + "+" * 2100 + "*/ ", "--" + "<>" * 1100 + "\n", "/*" + "+ " * 50_001 + "*/", "/* by words */"]
)
def test_a_comment_that_is_too_hard_hides_no_call_of_another_text(text: str, hard: str) -> None:
    """The text with the comment is judged by its words, the others are not."""
    detector, other = Detector(), Detector()
    for each in (detector, other):
        each.learn(LEADS)
    commented = (hard + text).encode()
    verdict = detector.by_words(commented, "utf-8") if "words" in hard else detector.analyse(commented, "utf-8")
    detector.store(commented, "utf-8", verdict)
    assert verdict is HARMLESS
    for sent in (text, f"/*x*/{text}", f"{text} --x"):
        own = other.analyse(sent.encode(), "utf-8")
        assert own is not HARMLESS and detector.verdict(sent.encode(), "utf-8", (b"p", b"c")) == own
