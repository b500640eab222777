"""Checks what the CONTEXT of a testimony gives away: functions, as far as no text of a client's could say so, and never
a statement's text."""

from __future__ import annotations

import pytest

from secretproxy.session.call_path import MOST_CONTEXT, call_path

OWN = "PL/pgSQL function encrypted_secrets.secrets_getter(uuid,text,text) line 37 at RAISE"
FORGED = "PL/pgSQL function payroll.monthly_run(integer) line 3 at RETURN"


def test_callers_stand_outermost_first() -> None:
    context = f"""{OWN}
PL/pgSQL function inner_one(text) line 3 at RETURN
PL/pgSQL function outer_one(text,integer[]) line 4 at assignment
SQL function "wrapped" statement 1"""
    assert call_path(context) == ("wrapped", "outer_one(text,integer[])", "inner_one(text)")


def test_our_own_functions_stand_before_the_first_caller() -> None:
    own = f"""PL/pgSQL function secretproxy.testify(secretproxy.context,text,text,uuid,text[],text) line 49 at RAISE
SQL statement "SELECT secretproxy.testify(
        v_context, 'encrypted_secrets.secrets_upsert(uuid,text,text,text)', 'write', v_secrets_owned_field, ARRAY[secret_name])"
PL/pgSQL function encrypted_secrets.secrets_upsert(uuid,text,text,text) line 6 at PERFORM
{FORGED}"""
    assert call_path(own) == ("payroll.monthly_run(integer)",)


def test_a_block_and_another_language_of_messages() -> None:
    assert call_path(f"{OWN}\nPL/pgSQL function inline_code_block line 1 at PERFORM") == ("inline_code_block",)
    german = OWN.replace("PL/pgSQL function", "PL/pgSQL-Funktion").replace("line", "Zeile")
    assert call_path(f"{german}\nPL/pgSQL-Funktion aussen(text) Zeile 3 bei RETURN") == ("aussen(text)",)


def test_nothing_but_own_functions_is_nothing() -> None:
    assert call_path(OWN) is None
    assert call_path("") is None


@pytest.mark.parametrize(
    "text",
    [
        f'SQL statement "select f() --\n{FORGED}"',
        f'SQL statement "select f() --"\n{FORGED}\n"',
        f'PL/pgSQL assignment "x := f() /*"\n{FORGED}\n*/"',
        f'SQL expression "f() --\n{FORGED}"',
        f'unnamed portal with parameters: $1 = \'\n{FORGED}\'',
        f'COPY t, line 1, column a: "\n{FORGED}"',
        f"while inserting index tuple (0,1) in relation \"x\n{FORGED}\"",
        f'remote SQL command: select 1\n{FORGED}',
    ],
)  # fmt: skip
def test_what_stands_behind_a_text_of_the_clients_is_not_believed(text: str) -> None:
    assert call_path(f"{OWN}\nPL/pgSQL function own(text) line 1 at EXECUTE\n{text}") == ("...", "own(text)")
    assert call_path(f"{OWN}\n{text}\nPL/pgSQL function real() line 1 at EXECUTE") == ("...",)


def test_a_name_of_an_sql_function_may_be_a_text_too() -> None:
    name = f'harmless" statement 1\n{FORGED}\nx'
    assert call_path(f'{OWN}\nSQL function "{name}" statement 1') == ("...", "harmless")


@pytest.mark.parametrize(
    "name",
    ['"Run"', '"a ""b"""', f'"x\n{FORGED}\n"', '"Ünïcode $"', 'public."f(x)"', '"S"."T"'],
)  # fmt: skip
def test_names_in_quotes_are_names(name: str) -> None:
    assert call_path(f'{OWN}\nPL/pgSQL function {name}(integer,"My Type"[],double precision) line 3 at RETURN') == (
        f'{name}(integer,"My Type"[],double precision)',
    )


def test_a_line_that_pretends_to_be_ours_is_a_callers() -> None:
    pretended = f'SQL statement "select 1 --\n{OWN}\n{FORGED}"'
    assert call_path(f"{OWN}\n{pretended}") == ("...",)


def test_no_text_takes_long_to_be_read() -> None:
    for part in ('"a""b', '""', "f(", '"', "a.b(", "(", 'PL/pgSQL function "', "\n"):
        context = f"{OWN}\nPL/pgSQL function " + part * MOST_CONTEXT
        assert call_path(context[:MOST_CONTEXT]) == ("...",)
