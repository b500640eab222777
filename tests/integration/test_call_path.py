"""Checks that a call that only testimony shows is logged with the functions that led to it, and with no text of
theirs."""

from __future__ import annotations

import uuid

import psycopg
from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.proxy import Proxy

SETUP = """
CREATE OR REPLACE FUNCTION public.path_inner(owner uuid) RETURNS text LANGUAGE plpgsql AS
$$ BEGIN RETURN encrypted_secrets.secrets_getter(owner, 'path', 'a value of its own'); END $$;
CREATE OR REPLACE FUNCTION public.path_outer(owner uuid) RETURNS text LANGUAGE plpgsql AS
$$ DECLARE v text; BEGIN EXECUTE 'SELECT public.path_inner($1), ''a value in a text'';' INTO v USING owner; RETURN v; END $$
"""


def test_the_functions_on_the_way_are_recorded(postgres: Backend, proxy: Proxy, log: AccessLog) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(SETUP)
    owner = uuid.uuid4()
    with psycopg.connect(proxy.dsn(), autocommit=True) as sql:
        sql.execute("SELECT public.path_outer(%s)", (owner,))
        sql.execute(f"DO $$ BEGIN PERFORM public.path_inner('{owner}'); END $$")
        sql.execute("SELECT encrypted_secrets.secrets_getter(%s, lower('PATH'))", (owner,))
    rows = [row for row in log.settled() if row["owner_id"] == owner and row["event"] == "call"]
    assert [row["via"] for row in rows] == [
        ["...", "path_inner(uuid)"],
        ["...", "path_inner(uuid)"],
        None,
    ]
    assert "a value" not in str(rows)
