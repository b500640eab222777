"""Checks asyncpg and its pool."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import asyncpg
from tests.support.both import Both, Way, told


async def _connect(way: Way, **options: Any) -> Any:
    return await asyncpg.connect(way.dsn(), **options)


def test_types_statements_and_introspection(both: Both) -> None:
    async def scenario(way: Way) -> Any:
        connection = await _connect(way)
        await connection.execute(
            "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a int, b text); CREATE DOMAIN small AS int CHECK (VALUE < 10)"
        )
        found: list[Any] = [
            await connection.fetch(
                "SELECT 'glad'::mood, ROW(1, 'x')::pair, 3::small, ARRAY['sad']::mood[], $1::jsonb", '{"a": 1}'
            )
        ]
        found.append(
            await connection.fetchrow(
                "SELECT $1::int8, $2::numeric, $3::timestamptz, $4::bytea, $5::inet",
                2**40,
                1,
                None,
                b"\0\xff",
                "10.0.0.1",
            )
        )
        statement = await connection.prepare("SELECT n, $1::text || n FROM generate_series(1, $2::int) n")
        found += [
            await statement.fetch("x", 3),
            [a.name for a in statement.get_attributes()],
            [p.name for p in statement.get_parameters()],
        ]
        await connection.executemany("SELECT $1::int", [(n,) for n in range(20)])
        for text in ("SELECT nothing", "SELECT 1/0", "SELECT $1::int"):
            try:
                await connection.fetch(text, *(["x"] if "$1" in text else []))
            except (asyncpg.PostgresError, asyncpg.DataError) as error:
                found.append(told(error))
        found += [
            connection.get_server_version(),
            connection.get_settings().server_encoding,
            connection.get_reset_query(),
        ]
        await connection.close()
        return found

    assert both.same(scenario)


def test_pool_resets_every_session_it_gets_back(both: Both) -> None:
    async def scenario(way: Way) -> Any:
        async with asyncpg.create_pool(way.dsn(), min_size=2, max_size=4) as pool:

            async def one(n: int) -> Any:
                async with pool.acquire() as connection:
                    before = await connection.fetchval("SHOW work_mem")
                    await connection.execute("SET work_mem = '1MB'; DO $$ BEGIN RAISE NOTICE 'noted'; END $$")
                    async with connection.transaction(isolation="serializable", readonly=True):
                        return before, await connection.fetchval("SELECT $1::int", n)

            rounds = [await asyncio.gather(*(one(n) for n in range(10))) for _ in range(3)]
            async with pool.acquire() as connection:
                connection.terminate()
            after = await pool.fetchval("SELECT current_setting('search_path')")
        return rounds, after

    assert both.same(scenario)


def test_the_statement_cache_survives_changes_of_the_schema(both: Both) -> None:
    async def scenario(way: Way) -> Any:
        one, other = await _connect(way), await _connect(way)
        await one.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        found = [await one.fetch("SELECT * FROM t")]
        await other.execute("ALTER TABLE t ADD b text DEFAULT 'new'")
        found.append(await one.fetch("SELECT * FROM t"))
        await other.execute("ALTER TABLE t ALTER a TYPE text")
        async with one.transaction():
            try:
                found.append(await one.fetch("SELECT * FROM t"))
            except asyncpg.PostgresError as error:
                found.append(told(error))
        found.append(await one.fetch("SELECT * FROM t"))
        await one.close()
        await other.close()
        return found

    both.same(scenario)


def test_copy_and_cursors(both: Both) -> None:
    async def scenario(way: Way) -> Any:
        connection = await _connect(way)
        await connection.execute("CREATE TABLE t (a int, b text)")
        found: list[Any] = [await connection.copy_records_to_table("t", records=[(n, f"row {n}") for n in range(2000)])]
        out = io.BytesIO()
        found += [
            await connection.copy_from_query("SELECT * FROM t WHERE a < $1", 500, output=out, format="csv"),
            out.getvalue(),
        ]
        out.seek(0)
        found.append(await connection.copy_to_table("t", source=out, format="csv"))
        try:
            await connection.copy_to_table("t", source=io.BytesIO(b"x\ty\n"))
        except asyncpg.PostgresError as error:
            found.append(told(error))
        async with connection.transaction():
            found.append([row["a"] async for row in connection.cursor("SELECT a FROM t ORDER BY a", prefetch=7)][:50])
            cursor = await connection.cursor("SELECT a FROM t ORDER BY a")
            found += [await cursor.forward(10), await cursor.fetch(3)]
        await connection.close()
        return found

    both.same(scenario)


def test_listeners_cancellation_and_timeouts(both: Both) -> None:
    async def scenario(way: Way) -> Any:
        connection, other = await _connect(way), await _connect(way)
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        await connection.add_listener("news", lambda _, pid, channel, payload: heard.put_nowait((channel, payload)))
        await other.execute("NOTIFY news, 'one'")
        found: list[Any] = [await heard.get()]
        try:
            await connection.execute("SELECT pg_sleep(60)", timeout=0.3)
        except TimeoutError as error:
            found.append(type(error).__name__)
        task = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0.2)
        task.cancel()
        found.append(str(await asyncio.gather(task, return_exceptions=True)))
        found.append(await connection.fetchval("SELECT 'still there'"))
        await other.execute("NOTIFY news, 'two'")
        found.append(await heard.get())
        other.terminate()
        await connection.close()
        return found

    both.same(scenario)
