"""Checks psycopg 3: pipelines with errors in the middle, its pool, cursors on the server, COPY, notifications,
cancelling, two-phase commit."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool
from tests.support.both import Both, Way, told


def connect(way: Way, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(way.dsn(), **options)


def test_pipelines(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        with connect(way, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (a int PRIMARY KEY)")
            with connection.pipeline() as pipeline:
                cursors = [connection.execute("INSERT INTO t VALUES (%s) RETURNING a", (n,)) for n in range(20)]
                pipeline.sync()
                found.append([cursor.fetchone() for cursor in cursors])
            for bad in ("INSERT INTO t VALUES (1)", "SELECT nothing", "SELECT 1/0"):
                try:
                    with connection.pipeline() as pipeline:
                        connection.execute("INSERT INTO t VALUES (100)")
                        pipeline.sync()
                        connection.execute("DELETE FROM t WHERE a = 100")
                        connection.execute(bad)  # type: ignore[arg-type]
                        connection.execute("INSERT INTO t VALUES (200)")
                        pipeline.sync()
                        found.append(connection.execute("SELECT count(*) FROM t").fetchone())
                except psycopg.Error as error:
                    found.append(told(error))
                found.append(connection.execute("DELETE FROM t WHERE a >= 100 RETURNING a").fetchall())
            with connection.pipeline(), connection.transaction():
                found.append(connection.execute("SELECT %s::text", ("in a transaction",)).fetchone())
            with connection.pipeline():
                connection.cursor().executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(300, 400)])
            found.append(connection.execute("SELECT count(*), sum(a) FROM t").fetchone())
        return found

    assert both.same(scenario)


def test_prepared_after_a_few_executions_and_formats(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        with connect(way, prepare_threshold=2) as connection:
            for n in range(8):
                found.append(connection.execute("SELECT %s::int8, %s::text, %s::bytea", (n, "x", b"\0\xff")).fetchone())
            cursor = connection.cursor(binary=True)
            found.append(
                cursor.execute("SELECT %b::int4, %t::numeric, now() - now(), ARRAY[1, NULL]", (7, 1.5)).fetchone()
            )
            found.append([column.type_code for column in cursor.description or []])
            found.append(connection.execute("SELECT name FROM pg_prepared_statements ORDER BY name").fetchall())
            connection.execute("DISCARD ALL") if connection.autocommit else connection.commit()
            connection.autocommit = True
            connection.execute("DEALLOCATE ALL")
            found.append(connection.execute("SELECT %s::int8", (1,)).fetchone())
            client = psycopg.ClientCursor(connection)
            found.append(client.execute("SELECT %s; SELECT %s", (1, "two")).fetchall())
            found.append((client.nextset(), client.fetchall()))
            for level in ("notice", "warning"):
                connection.add_notice_handler(
                    lambda diagnostic: found.append((diagnostic.severity, diagnostic.message_primary))
                )
                connection.execute(sql.SQL("DO $$ BEGIN RAISE {} 'said'; END $$").format(sql.SQL(level)))
        return found

    assert both.same(scenario)


def test_server_cursors_copy_and_streams(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        with connect(way) as connection:
            connection.execute("CREATE TABLE t (a int, b text)")
            with connection.cursor().copy("COPY t FROM STDIN (FORMAT binary)") as copy:
                copy.set_types(["int4", "text"])
                for n in range(3000):
                    copy.write_row((n, f"row {n}"))
            with connection.cursor("named", scrollable=True) as cursor:
                cursor.itersize = 7
                cursor.execute("SELECT a FROM t ORDER BY a")
                found += [
                    cursor.fetchmany(5),
                    cursor.scroll(100),
                    cursor.fetchone(),
                    cursor.scroll(2, "absolute"),
                    cursor.fetchone(),
                ]
                found.append(sum(row[0] for row in cursor))
            with connection.cursor().copy("COPY (SELECT * FROM t ORDER BY a LIMIT 50) TO STDOUT") as copy:
                found.append(list(copy.rows()))
            found.append(list(connection.cursor().stream("SELECT a FROM t WHERE a < %s ORDER BY a", (10,))))
            try:
                with connection.cursor().copy("COPY t FROM STDIN") as copy:
                    copy.write("x\ty\n")
            except psycopg.Error as error:
                found.append(told(error))
        return found

    assert both.same(scenario)


def test_cancelling_and_notifications(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        with connect(way, autocommit=True) as connection, connect(way, autocommit=True) as other:
            for cancel in (connection.cancel, connection.cancel_safe):
                asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

                def once_asleep(cancel: Any = cancel, asleep: str = asleep) -> None:
                    while other.execute(asleep, (connection.info.backend_pid,)).fetchone() != (1,):  # type: ignore[arg-type]
                        pass
                    cancel()

                thread = threading.Thread(target=once_asleep)
                thread.start()
                try:
                    connection.execute("SELECT pg_sleep(60)")
                except psycopg.errors.QueryCanceled as error:
                    found.append(told(error))
                thread.join()
            connection.execute("LISTEN news")
            for n in range(5):
                other.execute("SELECT pg_notify('news', %s)", (str(n),))
            found.append([note.payload for note in connection.notifies(timeout=60, stop_after=5)])
        return found

    assert len(both.same(scenario)) == 3


def test_pool_and_async(both: Both) -> None:
    def pooled(way: Way) -> Any:
        with ConnectionPool(
            way.dsn(), min_size=2, max_size=3, reset=lambda c: c.execute("RESET ALL") and c.commit()
        ) as pool:
            found: list[Any] = []
            for n in range(8):
                with pool.connection() as connection:
                    found.append(connection.execute("SELECT %s::int, current_setting('work_mem')", (n,)).fetchone())
                    connection.execute("SET work_mem = '2MB'")
            pool.check()
        return found

    async def asynchronous(way: Way) -> Any:
        async with await psycopg.AsyncConnection.connect(way.dsn()) as connection:
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT %s::int", (n,)) for n in range(5)]
                found: list[Any] = [await cursor.fetchone() for cursor in cursors]
            async with connection.cursor("named") as cursor:
                await cursor.execute("SELECT generate_series(1, 5)")
                found.append([row async for row in cursor])
        return found

    assert both.same(pooled)
    assert both.same(asynchronous)


def test_two_phase_commit(both: Both) -> None:
    def scenario(way: Way) -> Any:
        found: list[Any] = []
        with connect(way) as connection:
            connection.execute("CREATE TABLE t (a int)")
            connection.commit()
            xid = connection.xid(1, "global", "branch")
            connection.tpc_begin(xid)
            connection.execute("INSERT INTO t VALUES (1)")
            connection.tpc_prepare()
            connection.tpc_commit()
            found.append(connection.tpc_recover())
            connection.commit()
            connection.tpc_begin(connection.xid(1, "other", "branch"))
            connection.execute("INSERT INTO t VALUES (2)")
            connection.tpc_rollback()
            found.append(connection.execute("TABLE t").fetchall())
        return found

    assert both.same(scenario)
