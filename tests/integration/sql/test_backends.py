"""Checks processes that are nobody's session: autovacuum, an apply worker of logical replication, a parallel worker, a
walsender. None gets a value.

What calls swallows the error, and writes down what came of it: nothing did.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.integration.sql.conftest import Database

OWNER = uuid.UUID("0b0f5e0a-3f3d-4c5e-9b8e-0d3f7c1b2a81")
VALUE = "the backend's value"
# Calls by dynamic SQL where this is no client's session, and swallows what comes of it; with `undo`, what the call
# wrote as well.
CALLER = f"""
CREATE TABLE public.loot (backend text, outcome text, place text);
GRANT ALL ON public.loot TO PUBLIC;
CREATE FUNCTION public.kind() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT backend_type FROM pg_stat_get_activity(pg_backend_pid()) $$;
CREATE FUNCTION public.steal(undo boolean, place text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_kind text := public.kind();
    v_got text;
BEGIN
    IF v_kind = 'client backend' THEN
        RETURN;
    END IF;
    BEGIN
        EXECUTE 'SELECT encrypted_' || 'secrets.secrets_' || 'getter($1, $2)' INTO v_got USING '{OWNER}'::uuid, 'a'::text;
        IF undo THEN
            RAISE EXCEPTION 'undone' USING ERRCODE = 'P0001';
        END IF;
    EXCEPTION WHEN OTHERS THEN
        v_got := coalesce(v_got, SQLSTATE);
    END;
    INSERT INTO public.loot VALUES (v_kind, v_got, place);
END $$;
CREATE FUNCTION public.pure(i int, place text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN PERFORM public.steal(true, place); RETURN i; END $$;
CREATE FUNCTION public.on_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM public.steal(true, 'row'); RETURN NEW; END $$;
"""


def wait_for(what: str, found: Callable[[], Any], seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = found()
        if got:
            return got
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come")


@pytest.fixture(params=["log", "refuse"])
def stored(request: pytest.FixtureRequest, empty: Database) -> Iterator[Database]:
    empty.install(direct_calls="log")
    with empty.connect() as admin:
        admin.execute(CALLER)
        admin.execute("SELECT encrypted_secrets.secrets_upsert(%s, 'a', %s)", (OWNER, VALUE))
        admin.execute("UPDATE secretproxy.settings SET direct_calls = %s", (request.param,))
    yield empty
    with empty.connect() as admin:
        admin.execute("DROP OWNED BY app_user CASCADE; GRANT authenticated TO app_user")


@pytest.fixture
def busy_autovacuum(postgres: Any) -> Iterator[None]:
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
        admin.execute("SELECT pg_reload_conf()")
        yield
        admin.execute("ALTER SYSTEM RESET autovacuum_naptime")
        admin.execute("SELECT pg_reload_conf()")


def direct(admin: psycopg.Connection[Any]) -> int:
    row = admin.execute("SELECT count(*) FROM secretproxy.access_log WHERE event = 'direct'").fetchone()
    assert row is not None
    return int(row[0])


# Where autovacuum evaluates an expression of a table's owner.
BAITS = {
    "index": "CREATE INDEX ON public.bait_index (public.pure(i, 'index'))",
    "predicate": "CREATE INDEX ON public.bait_predicate (i) WHERE public.pure(i, 'predicate') > 0",
    "statistics": "CREATE STATISTICS public.pure_bait ON (public.pure(i, 'statistics')), (i % 7) FROM public.bait_statistics",
}
LOOTED = "SELECT DISTINCT backend, outcome, place FROM public.loot"


def bait(admin: psycopg.Connection[Any], app: psycopg.Connection[Any], *kinds: str) -> None:
    admin.execute("GRANT CREATE ON SCHEMA public TO app_user")
    for kind in kinds:
        app.execute(
            f"CREATE TABLE public.bait_{kind} (i int) WITH (autovacuum_analyze_threshold = 1, autovacuum_analyze_scale_factor = 0, "
            "autovacuum_vacuum_insert_threshold = 1, autovacuum_vacuum_threshold = 1)"
        )
        app.execute(BAITS[kind])
        app.execute(f"INSERT INTO public.bait_{kind} SELECT generate_series(1, 300)")


def test_autovacuum_gets_nothing(stored: Database, busy_autovacuum: None) -> None:
    del busy_autovacuum
    with stored.connect() as admin, stored.connect("app_user") as app:
        before = direct(admin)
        bait(admin, app, *BAITS)

        def everywhere() -> Any:
            found = admin.execute(LOOTED).fetchall()
            return found if {place for _, _, place in found} == set(BAITS) else None

        found = wait_for("autovacuum in each place", everywhere)
        assert {backend for backend, _, _ in found} == {"autovacuum worker"}
        assert {outcome for _, outcome, _ in found} == {"25000"}
        assert direct(admin) == before


def test_a_process_that_the_settings_name_is_let_through_and_logged(stored: Database, busy_autovacuum: None) -> None:
    """This holds also where other direct calls are refused; and no other kind of process is. What it undoes itself
    leaves no row."""
    del busy_autovacuum
    with stored.connect() as admin, stored.connect("app_user") as app:
        admin.execute("CREATE OR REPLACE FUNCTION public.pure(i int, place text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
                      "$$ BEGIN PERFORM public.steal(i % 2 = 0, place); RETURN i; END $$")  # fmt: skip
        admin.execute("UPDATE secretproxy.settings SET backend_types = '{autovacuum worker}'")
        before = direct(admin)
        bait(admin, app, "index")
        found = wait_for(
            "autovacuum", lambda: admin.execute("SELECT DISTINCT backend, outcome FROM public.loot").fetchall()
        )
        assert set(found) == {("autovacuum worker", VALUE)}
        assert direct(admin) > before
        admin.execute("UPDATE secretproxy.settings SET backend_types = '{pg_cron}'")
        admin.execute("TRUNCATE public.loot")
        app.execute("INSERT INTO public.bait_index SELECT generate_series(1, 300)")
        found = wait_for(
            "autovacuum", lambda: admin.execute("SELECT DISTINCT backend, outcome FROM public.loot").fetchall()
        )
        assert ("autovacuum worker", "25000") in found


def test_an_apply_worker_of_logical_replication_gets_nothing(stored: Database) -> None:
    name = f"{stored.name}_feed"
    with psycopg.connect(stored.backend.dsn(database="postgres"), autocommit=True) as server, stored.connect() as admin:
        server.execute(f"CREATE DATABASE {name}")
        source = Database(stored.backend, name)
        before = direct(admin)
        try:
            with source.connect() as feed:
                feed.execute(
                    "CREATE TABLE public.feed (i int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE public.feed"
                )
                feed.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
                admin.execute("CREATE TABLE public.feed (i int PRIMARY KEY)")
                admin.execute(
                    "CREATE TRIGGER steal BEFORE INSERT ON public.feed FOR EACH ROW EXECUTE FUNCTION public.on_row()"
                )
                admin.execute("ALTER TABLE public.feed ENABLE ALWAYS TRIGGER steal")
                admin.execute(
                    f"CREATE SUBSCRIPTION {name} CONNECTION 'host={stored.backend.host} port={stored.backend.port} user=postgres "
                    f"dbname={name}' PUBLICATION feed WITH (create_slot = false, slot_name = '{name}', copy_data = false)"
                )
                feed.execute("INSERT INTO public.feed SELECT generate_series(1, 5)")
            found = wait_for("the worker", lambda: admin.execute("SELECT backend, outcome FROM public.loot").fetchall())
            assert {outcome for _, outcome in found} == {"25000"}
            assert all(backend.startswith("logical replication") for backend, _ in found)
            assert direct(admin) == before
            wait_for("every row", lambda: admin.execute("SELECT count(*) = 5 FROM public.feed").fetchone() == (True,))
        finally:
            if admin.execute("SELECT FROM pg_subscription WHERE subname = %s", (name,)).fetchone() is not None:
                admin.execute(f"ALTER SUBSCRIPTION {name} DISABLE")
                admin.execute(f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)")
                admin.execute(f"DROP SUBSCRIPTION {name}")
            slot = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
            wait_for("the slot's end", lambda: server.execute(slot, (name,)).fetchone() != (True,))
            server.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (name,)
            )
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_parallel_worker_gets_nothing_though_the_error_is_swallowed(stored: Database) -> None:
    with stored.connect() as admin, stored.connect("app_user") as app:
        version = app.info.server_version
        before = direct(admin)
        admin.execute(
            "CREATE FUNCTION public.quiet(i int) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$ BEGIN "
            f"RETURN encrypted_secrets.secrets_getter('{OWNER}', 'a'); END $$;"
            "CREATE TABLE public.many AS SELECT i FROM generate_series(1, 3000) i; GRANT SELECT ON public.many TO PUBLIC; ANALYZE public.many"
        )
        for setting in (
            f"{'debug_parallel_query' if version >= 160000 else 'force_parallel_mode'} = on", "parallel_setup_cost = 0", "parallel_tuple_cost = 0",
            "min_parallel_table_scan_size = 0", "parallel_leader_participation = off",
        ):  # fmt: skip
            app.execute(f"SET {setting}")
        # Not even by its name in the settings: nobody could tell its testimony from a forgery.
        admin.execute("UPDATE secretproxy.settings SET backend_types = '{parallel worker}'")
        for _ in range(2):
            app.execute("DO $$ BEGIN PERFORM count(public.quiet(i)) FROM public.many WHERE i < 4; RAISE EXCEPTION 'a value came'; "
                        "EXCEPTION WHEN invalid_transaction_state THEN NULL; END $$")  # fmt: skip
        assert direct(admin) == before


def test_a_walsender_gets_nothing(stored: Database) -> None:
    with stored.connect() as admin:
        before = direct(admin)
        session = psycopg.pq.PGconn.connect((stored.dsn() + "?replication=database").encode())
        for _ in range(2):
            result = session.exec_(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', 'a')".encode())
            assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"25000"
            assert b"walsender" in (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
        session.finish()
        assert direct(admin) == before


def test_nothing_is_told_where_the_kind_of_process_cannot_be_seen(empty: Database) -> None:
    empty.install(direct_calls="log")
    with empty.connect() as admin:
        admin.execute("BEGIN")
        admin.execute("REVOKE pg_read_all_stats FROM secretproxy_keys")
        with pytest.raises(psycopg.errors.InvalidTransactionState, match="what kind of process"):
            admin.execute(
                "SET LOCAL ROLE authenticated; SELECT encrypted_secrets.secrets_getter(gen_random_uuid(), 'a')"
            )
        admin.execute("ROLLBACK")


def test_a_new_installation_refuses_direct_calls(empty: Database) -> None:
    """A row of a direct call goes away with a block that is undone, and nothing in the database reaches out of a
    rollback: so none is made."""
    swallowing = f"DO $$ BEGIN PERFORM set_config('x.y', encrypted_secrets.secrets_getter('{OWNER}', 'a'), false); RAISE EXCEPTION 'undone'; EXCEPTION WHEN OTHERS THEN PERFORM set_config('x.state', SQLSTATE, false); END $$"
    told: dict[str, str] = {}
    import asyncio

    from secretproxy.install import install

    asyncio.run(install(empty.dsn(), empty.backend.key_file, lambda what, state: told.__setitem__(what, state)))
    assert told["direct_calls"] == "refuse"
    with empty.connect() as admin, empty.connect("app_user") as app:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="through secretproxy"):
            app.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a', 'default')", (OWNER,))
        app.execute(swallowing)
        assert app.execute(
            "SELECT current_setting('x.state'), coalesce(current_setting('x.y', true), '')"
        ).fetchone() == (
            "42501",
            "",
        )
        empty.install(direct_calls=None)
        assert admin.execute("SELECT direct_calls FROM secretproxy.settings").fetchone() == ("refuse",)
        empty.install(direct_calls="log")
        empty.install(direct_calls=None)
        assert admin.execute("SELECT direct_calls FROM secretproxy.settings").fetchone() == ("log",), (
            "what is there stays"
        )
        before = direct(admin)
        app.execute("SELECT encrypted_secrets.secrets_getter(%s, 'a', 'default')", (OWNER,))
        app.execute(swallowing)
        assert direct(admin) == before + 1, "docs/what-it-does-not-see.md says that the undone one leaves none"


@pytest.mark.parametrize(
    ("source", "user_id", "claims", "user"),
    [
        ("off", None, '{"sub": "%s"}', False),
        ("on", None, '{"sub": "%s"}', True),
        ("on", "", ' { "role" : "a\\"b", "n" : [1, -2.5e3, {"x": [true, false, null, []]}, {}], "sub":"%s" } ', True),
        ("on", None, '{"user_metadata": {"sub": "%s"}}', False),
        ("on", None, '{"sub": null, "x": "%s"}', False),
        ("on", None, '{"x": "\\", \\"sub\\": \\"%s"}', False),
        ("on", "no uuid", '{"sub": "%s"}', False),
        ("on", None, '{"sub": "%s"', False),
        ("on", None, '["sub", "%s"]', False),
        ("on", None, '{"sub": "%s",}', False),
        ("on", None, '{"sub": "%s"} x', False),
        ("on", None, '{"sub": "%s", "x": "\\u0000"}', False),
        ("on", None, '{"sub": "%s", "x": 01}', False),
        ("on", None, "{'sub': '%s'}", False),
        ("on", None, "%s", False),
        ("on", None, "[" * 200 + '{"sub": "%s"}' + "]" * 200, False),
    ],
)
def test_the_user_of_request_jwt_claims(
    installed: Database, source: str, user_id: str | None, claims: str, user: bool
) -> None:
    asked = "SELECT jwt_public.current_user_id()"
    with installed.connect() as admin, installed.connect("app_user") as app:
        admin.execute(
            "UPDATE secretproxy.settings SET jwt_source = %s",
            ("request.jwt.claims" if source == "on" else "jwt.claims.user_id",),
        )
        try:
            if user_id is not None:
                app.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (user_id,))
            app.execute("SELECT set_config('request.jwt.claims', %s, false)", (claims.replace("%s", str(OWNER)),))
            assert app.execute(asked).fetchone() == (OWNER if user else None,)
            app.execute("SELECT encrypted_secrets.secrets_getter(%s, 'claims')", (OWNER,))
            logged = "SELECT accessed_by FROM secretproxy.access_log WHERE event = 'direct' ORDER BY at DESC LIMIT 1"
            assert admin.execute(logged).fetchone() == (OWNER if user else None,)
            app.execute("SELECT set_config('jwt.claims.user_id', %s, false)", (str(uuid.UUID(int=7)),))
            assert app.execute(asked).fetchone() == (uuid.UUID(int=7),)
        finally:
            admin.execute("UPDATE secretproxy.settings SET jwt_source = DEFAULT")
