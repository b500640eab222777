"""Checks names that are no UTF-8, in a database that takes any bytes: one call is one access, by the name that it
really had."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from tests.conftest import Backend
from tests.support.log import AccessLog
from tests.support.proxy import Proxy
from tests.support.raw import SYNC, Address, Raw, bind, execute, parse, query

from secretproxy.install import install

DATABASE, LOG = "bytes", "bytes_log"
OWNER = "00000000-0000-4000-8000-0000000000b1"
NAMES = [b"\xff", b"\xfe", b"caf\xe9", b"caf\xc3\xa9", b"\xef\xbf\xbd", b"\x83\x5c"]
WRITTEN = ["escaped:\\xff", "escaped:\\xfe", "escaped:caf\\xe9", "café", "\ufffd", "escaped:\\x83\\\\"]


@pytest.fixture(scope="module")
def bytes_proxy(postgres: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Gives a proxy with a log of its own, so that no other test reads of a database that is gone."""
    with psycopg.connect(postgres.dsn(database="postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
        admin.execute(f"CREATE DATABASE {LOG}")
        for database in (DATABASE, LOG):
            asyncio.run(install(postgres.dsn(database=database), postgres.key_file))
        proxy = Proxy(
            tmp_path_factory.mktemp("bytes"), postgres.address, postgres.dsn("journal", LOG), postgres.key_file
        )
        proxy.start()
        yield proxy
        proxy.stop()
        for database in (DATABASE, LOG):
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("bound", [False, True])
async def test_each_name_is_one_access_by_its_own_name(
    postgres: Backend, bytes_proxy: Proxy, encoding: str, bound: bool
) -> None:
    log = AccessLog(postgres.dsn(database=LOG))
    application = f"bytes-{encoding}-{bound}"
    raw = await Raw.connect(
        Address("127.0.0.1", bytes_proxy.port, DATABASE), client_encoding=encoding, application_name=application
    )
    for name in NAMES:
        if bound:
            await raw.send(
                parse(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', $1)"), bind([name]), execute(), SYNC
            )
        else:
            await raw.send(query(f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '".encode() + name + b"')"))
        refused = any(message.kind == b"E" for message in await raw.ready())
        # The server checks what a client of UTF8 says, also where it converts nothing.
        assert refused == (encoding == "UTF8" and name not in (b"caf\xc3\xa9", b"\xef\xbf\xbd"))
    await raw.terminate()
    rows = [row for row in log.settled(application) if row["event"] != "outcome"]
    assert [(row["event"], row["secret_names"]) for row in rows] == [
        ("attempt", [written]) for written in WRITTEN
    ]  # fmt: skip
