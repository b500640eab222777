"""Makes texts of any length that a client can send to make detection work: one function a shape, from a size in bytes
to a statement.

Each holds a needle of the detector's, so that no cheap look lets it by. Shared by the unit test of the cost a byte, by
the test of other sessions' delay and by the benchmark."""

from __future__ import annotations

import random
from collections.abc import Callable

CALL = "encrypted_secrets.secrets_getter('00000000-0000-4000-8000-00000000000b', 'n', 'x')"
TAIL = f" SELECT {CALL}"


def _many(piece: str, before: str = f"SELECT {CALL}", after: str = "") -> Callable[[int], str]:
    """Repeats a piece until the text is long enough; `{}` in it is its number."""

    def made(size: int) -> str:
        parts, used, number = [before], len(before) + len(after), 0
        while True:
            part = piece.replace("{}", str(number))
            used += len(part)
            if used > size and number:
                break
            parts.append(part)
            number += 1
        return "".join(parts) + after

    return made


def _nested(
    opening: str, closing: str, inner: str = "1", before: str = f"SELECT {CALL}, ", after: str = ""
) -> Callable[[int], str]:
    def made(size: int) -> str:
        times = max(1, (size - len(before) - len(after) - len(inner)) // (len(opening) + len(closing)))
        return before + opening * times + inner + closing * times + after

    return made


def _mixed(seed: int) -> Callable[[int], str]:
    """Makes pieces of all kinds in an order drawn at random, the same for one seed."""
    pieces = [
        "'", "''", '"', "$a$", "$$", "/*", "*/", "--", "\n", "\\", "E'", "U&'", "U&\"", "(", ")", "[", "]", "{", "}", ",", ";", "+", "-", "@", "=", ":=",
        "::text", " a", " 1", ".", " SELECT ", " FROM t ", " WHERE ", " AND ", " NOT ", " IN (", " CASE WHEN ", " END", " execute p", "secrets_getter(", "\u00fc",
        "encrypted_secrets", "encrypted_secrets.", " DO $x$ DECLARE a t; BEGIN a := 1; END $x$;", " AS ", "x'", "b'", "$1", "e'\\'", " x t := 1;", "\t",
    ]  # fmt: skip

    def made(size: int) -> str:
        draw = random.Random(seed)
        parts = [f"SELECT {CALL} "]
        used = len(parts[0])
        while used < size:
            parts.append(draw.choice(pieces))
            used += len(parts[-1])
        return "".join(parts)[:size]

    return made


def _levels(size: int, inner: str) -> str:
    """Makes blocks in blocks, each under a tag of its own."""
    number = 0
    while len(inner) < size - 40:
        inner = f"DO $t{number}$BEGIN {inner} END$t{number}$;"
        number += 1
    return inner


_DO = "DO $d$ DECLARE "
_BODY = f" BEGIN PERFORM {CALL}; END $d$"

SHAPES: dict[str, Callable[[int], str]] = {
    # Lists and chains.
    "constants": _many(",1"),
    "strings": _many(",'a'"),
    "nulls": _many(",NULL"),
    "parameters": _many(",$1"),
    "columns": _many(",a"),
    "qualified columns": _many(",a.b.c"),
    "stars": _many(",a.*"),
    "in list of numbers": _many(",1", f"SELECT {CALL} WHERE 1 IN (1", ")"),
    "in list of strings": _many(",'a'", f"SELECT {CALL} WHERE 'b' IN ('a'", ")"),
    "values": _many(",(1)", f"INSERT INTO t SELECT {CALL} UNION ALL VALUES (1)"),
    "rows of values": _many(",('a',1,NULL)", f"INSERT INTO t VALUES ({CALL}, 1, NULL)"),
    "array": _many(",1", f"SELECT {CALL}, ARRAY[1", "]"),
    "sum": _many("+1", f"SELECT length({CALL})"),
    "minus signs": _many("- ", f"SELECT {CALL}, ", "1"),
    "and": _many(" and a", f"SELECT {CALL} WHERE a"),
    "or": _many(" or a", f"SELECT {CALL} WHERE a"),
    "not": _many(" not", f"SELECT {CALL} WHERE", " a"),
    "casts": _many("::text", f"SELECT {CALL}"),
    "concatenation": _many("||'a'"),
    "comparisons": _many(" AND a=1", f"SELECT {CALL} WHERE a=1"),
    "subscripts": _many("[1]", f"SELECT {CALL}, a"),
    "fields": _many(".a", f"SELECT {CALL}, (a)"),
    "statements": _many(";SELECT 1"),
    "empty statements": _many(";"),
    "commits": _many(";COMMIT"),
    "executes": _many(";EXECUTE p", "PREPARE p AS SELECT " + CALL),
    "executes with arguments": _many(";EXECUTE p(1,'a')", "PREPARE p AS SELECT " + CALL),
    "prepares": _many(";PREPARE p{} AS SELECT " + CALL),
    "cursors": _many(";DECLARE c{} CURSOR FOR SELECT " + CALL),
    "fetches": _many(";FETCH c", "DECLARE c CURSOR FOR SELECT " + CALL),
    "deallocates": _many(";DEALLOCATE p{}"),
    "unions": _many(" UNION SELECT 1"),
    "union all": _many(" UNION ALL SELECT 1"),
    "joins": _many(" JOIN t ON 1=1", f"SELECT {CALL} FROM t"),
    "natural joins": _many(" CROSS JOIN t", f"SELECT {CALL} FROM t"),
    "tables": _many(",t", f"SELECT {CALL} FROM t"),
    "monitored tables": _many(",secrets_schema.secrets_table", f"SELECT {CALL} FROM secrets_schema.secrets_table"),
    "common tables": _many(",c{} AS (SELECT 1)", "WITH c AS (SELECT 1)", TAIL),
    "common tables that see each other": _many(",c{} AS (SELECT * FROM c)", "WITH RECURSIVE c AS (SELECT 1)", TAIL),
    "whens": _many(" WHEN 1 THEN 1", f"SELECT CASE {CALL}", " END"),
    "function calls": _many(",f()"),
    "secret calls": _many(",secrets_getter(1,2)"),
    "calls of the schema": _many(",encrypted_secrets.a()"),
    "different calls of the schema": _many(",encrypted_secrets.a{}()"),
    "exact calls": _many("," + CALL),
    "arguments of a secret call": _many(",1", "SELECT secrets_getter(1", ")"),
    "named arguments": _many(",a{}=>1", "SELECT secrets_getter(b=>1", ")"),
    "names of a secret call": _many(",'a'", "SELECT secrets_delete(NULL, ARRAY['b'", "])"),
    "names in an array literal": _many(",a", "SELECT secrets_delete(NULL, '{b", "}'::text[])"),
    "quotes in an array literal": _many(',"\\\\a"', "SELECT secrets_delete(NULL, '{b", "}'::text[])"),
    "blanks in an array literal": _many(" ", "SELECT secrets_delete(NULL, '{b", "}'::text[])"),
    "windows": _many(",w{} AS ()", f"SELECT {CALL} WINDOW w AS ()"),
    "grouping sets": _many(",(a)", f"SELECT {CALL} GROUP BY GROUPING SETS ((a)", ")"),
    "order": _many(",1 DESC", f"SELECT {CALL} ORDER BY 1"),
    "set clauses": _many(",a=1", f"UPDATE t SET a={CALL}"),
    "multiple assignment": _many(",(a,b,c,d,e,f,g,h)=(SELECT 1)", f"UPDATE t SET z={CALL}"),
    "wide multiple assignment": _many(",a", "UPDATE t SET (a", f")=(SELECT {CALL})"),
    "columns of a table": _many(",a{} int", f"CREATE TABLE t (a text DEFAULT {CALL}", ")"),
    "options": _many(",a{} '1'", "CREATE FOREIGN TABLE secrets_table () SERVER s OPTIONS (a '1'", ")"),
    "grants": _many(",a{}", "GRANT SELECT ON secrets_schema.secrets_table TO a"),
    "drops": _many(",a{}", "DROP TABLE secrets_schema.secrets_table"),
    "functions with bodies": _many(";CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT secrets_getter(1,2)'", "SELECT 1"),
    "body of words": _many(" secrets_getter", "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '", "'"),
    "triggers": _many(",'a'", "CREATE TRIGGER a BEFORE INSERT ON secrets_schema.secrets_table EXECUTE FUNCTION secrets_getter('a'", ")"),
    # Depth.
    "parentheses": _nested("(", ")"),
    "open parentheses": _many("("),
    "nested calls": _nested("f(", ")"),
    "nested subselects": _nested("(SELECT ", ")"),
    "nested from": _nested("(SELECT * FROM ", ") a", "t", f"SELECT {CALL} FROM "),
    "nested cases": _nested("CASE WHEN ", " THEN 1 END", "true"),
    "nested arrays": _nested("ARRAY[", "]"),
    "nested with": _nested("WITH c AS (", ") SELECT 1", f"SELECT {CALL}", ""),
    "nested explain": _nested("EXPLAIN ", "", f"SELECT {CALL}", ""),
    "nested arguments": _nested("ARRAY[", "]", "1", "SELECT secrets_delete(NULL, ", ")"),
    "nested casts": _nested("CAST(", " AS text)", "'a'", "SELECT secrets_delete(NULL, ", ")"),
    "brackets": _nested("a[", "]"),
    # The scanner.
    "one word": _many("a", "SELECT secrets_getter(1) AS "),
    "one number": _many("1", f"SELECT {CALL}, "),
    "one string": _many("a", f"SELECT {CALL}, '", "'"),
    "one quoted name": _many("a", f"SELECT {CALL} AS \"", '"'),
    "doubled quotes": _many("''", f"SELECT {CALL}, '", "'"),
    "doubled double quotes": _many('""', f"SELECT {CALL} AS \"", '"'),
    "backslashes": _many("\\", f"SELECT {CALL}, '", "'"),
    "escaped quotes": _many("\\'", f"SELECT {CALL}, '", "'"),
    "open string with backslashes": _many("\\'", f"SELECT {CALL}, '"),
    "open strings": _many("'\\' ", f"SELECT {CALL}, "),
    "escape strings": _many(",E'\\x41'"),
    "unicode strings": _many(",U&'\\0041'"),
    "unicode names": _many(",U&\"\\0041\""),
    "unicode string": _many("\\0041", f"SELECT {CALL}, U&'", "'"),
    "broken unicode": _many("\\00", f"SELECT {CALL}, U&'", "'"),
    "strings over lines": _many("\n'a'", f"SELECT {CALL}, 'a'"),
    "strings over lines and comments": _many("--\n'\\\\'", f"SELECT {CALL}, 'a' "),
    "lines behind a string": _many("\n", f"SELECT {CALL}, '\\\\' ", "1"),
    "comment lines behind a string": _many("\n--", f"SELECT {CALL}, '\\\\' ", "1"),
    "blanks and lines behind strings": _many(" '\\\\' \n \n \n", f"SELECT {CALL}, "),
    "dollar tags": _many(",$a$b$a$"),
    "open dollar tags": _many("$tag$ \\"),
    "open dollar tags of their own": _many(" $t{}$ \\"),
    "dollars": _many(" $$"),
    "single dollars": _many("$", f"SELECT {CALL}, '\\' "),
    "dollar in words": _many("a$", f"SELECT {CALL}, '\\' "),
    "comments": _many("/**/"),
    "nested comments": _nested("/*", "*/", "", f"SELECT {CALL} "),
    "open comments": _many("/*", f"SELECT '\\' {CALL} "),
    "comment ends": _many("*/", f"SELECT '\\' {CALL} "),
    "slashes": _many("/", f"SELECT {CALL} "),
    "stars and slashes": _many("/*/", f"SELECT {CALL} "),
    "line comments": _many("--\n"),
    "one line comment": _many("-"),
    "operators": _many("+", f"SELECT {CALL} "),
    "operators that end in minus": _many("=-", f"SELECT {CALL} "),
    "runs of operators": _many(" " + "@+" * 31 + " 1", f"SELECT {CALL}"),
    "blanks": _many(" "),
    "lines": _many("\n"),
    "numbers": _many(" 1e"),
    "bit strings": _many(",b'1'"),
    "hex strings": _many(",x'1'"),
    "letters of two bytes": _many("\u00fc", f"SELECT {CALL}, '", "'"),
    "names of two bytes": _many(",\u00fc{}"),
    "words": _many(" secrets_getter"),
    "words of the schema": _many(" encrypted_secrets"),
    "words of the schema and dots": _many("encrypted_secrets ."),
    "words of the schema and blanks": _many("encrypted_secrets" + " " * 500),
    "qualified words": _many(" encrypted_secrets.a{}"),
    "quoted words": _many('"encrypted_secrets'),
    "keywords": _many(" select"),
    # PL/pgSQL.
    "variables": _many("a{} int;", _DO, _BODY),
    "record variables": _many("v{} record;", _DO, _BODY),
    "variables of types": _many("v{} t.t;", _DO, _BODY),
    "variables with values": _many("v{} t := 1;", _DO, _BODY),
    "variables that run into each other": _many("v{} t ", _DO, _BODY),
    "quoted variables": _many('"v{}" t;', _DO, _BODY),
    "variables of one name": _many(" v t; BEGIN END; DECLARE", _DO, _BODY),
    "used variables": _many("v{} t:=v{};", _DO, _BODY),
    "nested blocks": _nested("BEGIN ", "END;", f"PERFORM {CALL};", "DO $d$ ", " $d$"),
    "nested blocks with variables": _nested("DECLARE v t; BEGIN ", "END;", f"PERFORM {CALL};", "DO $d$ ", " $d$"),
    "nested ifs": _nested("IF a THEN ", "END IF;", f"PERFORM {CALL};", "DO $d$ BEGIN ", " END $d$"),
    "elsifs": _many("ELSIF a THEN ", f"DO $d$ BEGIN IF {CALL} THEN ", " END IF; END $d$"),
    "assignments": _many("a:=1;", f"DO $d$ DECLARE a int; BEGIN PERFORM {CALL};", "END $d$"),
    "performs": _many("PERFORM 1;", f"DO $d$ BEGIN PERFORM {CALL};", "END $d$"),
    "secret performs": _many("PERFORM secrets_getter(1);", "DO $d$ BEGIN ", "END $d$"),
    "dynamic statements": _many("EXECUTE 'a';", f"DO $d$ BEGIN PERFORM {CALL};", "END $d$"),
    "dynamic statement of constants": _many("||'SELECT 1'", f"DO $d$ BEGIN PERFORM {CALL}; EXECUTE ''", ";END $d$"),
    "loops": _many("LOOP NULL; END LOOP;", f"DO $d$ BEGIN PERFORM {CALL};", "END $d$"),
    "raises": _many("RAISE '';", f"DO $d$ BEGIN PERFORM {CALL};", "END $d$"),
    "exceptions": _many("WHEN others THEN NULL;", f"DO $d$ BEGIN PERFORM {CALL}; EXCEPTION ", "END $d$"),
    "labels": _many("<<a{}>>BEGIN END;", f"DO $d$ BEGIN PERFORM {CALL};", "END $d$"),
    "do blocks": _many(";DO 'BEGIN PERFORM secrets_getter(1); END'"),
    "do blocks in do blocks": lambda size: _levels(size, f"PERFORM {CALL};"),
    "names of variables in a comment": _many(" v", "DO $d$ /* v t", f" */ DECLARE v t; BEGIN PERFORM {CALL}; END $d$"),
    "a variable declared far behind its name": lambda size: f"DO $d$ DECLARE v t {' ' * (size - 120)} := {CALL}; BEGIN END $d$",
    "variables used as columns": _many(" v{},", "DO $d$ DECLARE v1 t; v2 t; v3 t; BEGIN SELECT 1 ", f" {CALL}; END $d$"),
    "do block that does not parse": _many("$b ", "DO 'secrets_getter $b", "'"),
    "do block of tags": _many("$b$b", "DO 'secrets_getter $b$b", "'"),
    "do block in another language": _many(" encrypted_secrets", "DO LANGUAGE plperl 'x", "'"),
    "do block of one constant": _many("a", f"DO $d$ BEGIN PERFORM {CALL}; PERFORM '", "'; END $d$"),
    "do block of a list": _many(",1", f"DO $d$ BEGIN PERFORM {CALL}", "; END $d$"),
    "do block of open comments": _many("/*", f"DO $d$ BEGIN PERFORM {CALL}; ", " END $d$"),
    "broken at the end": _many(",1", f"SELECT {CALL}", " FROM FROM"),
    **{f"mixed {seed}": _mixed(seed) for seed in range(1, 9)},
}  # fmt: skip
