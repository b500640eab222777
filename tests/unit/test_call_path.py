"""What the CONTEXT of a testimony gives away: functions, and never a statement's text."""

from __future__ import annotations

from secretproxy.session.testimony import call_path

OWN = "PL/pgSQL function encrypted_secrets.secrets_getter(uuid,text,text) line 37 at RAISE"


def test_callers_stand_outermost_first() -> None:
    context = f"""{OWN}
PL/pgSQL function inner_one(text) line 3 at RETURN
SQL statement "SELECT inner_one('secret(1)')"
SQL function "wrapped" statement 1"""
    assert call_path(context) == ("wrapped", "inner_one(text)")


def test_a_block_and_another_language_of_messages() -> None:
    assert call_path(f"{OWN}\nPL/pgSQL function inline_code_block line 1 at PERFORM") == ("inline_code_block",)
    assert call_path("PL/pgSQL-Funktion aussen(text) Zeile 3 bei RETURN") == ("aussen(text)",)


def test_nothing_but_own_functions_and_statements_is_nothing() -> None:
    assert call_path(OWN) is None
    assert call_path('SQL statement "SELECT 1"\nSQL statement "SELECT \'PL/pgSQL function x(y) \'"') is None
    assert call_path("") is None
