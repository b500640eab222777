"""Values with a unique marker, and the search for them everywhere the proxy could have left one."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.support.log import AccessLog
from tests.support.proxy import Proxy


class Canary:
    """Makes values that share one marker."""

    def __init__(self) -> None:
        self.marker = f"canary{secrets.token_hex(8)}"
        self._made = 0

    def value(self) -> str:
        self._made += 1
        return f"{self.marker}-{self._made}-\\'\""

    def spellings(self) -> list[bytes]:
        plain = self.marker.encode()
        return [plain, plain.hex().encode(), plain.upper()]


def found_in(canary: Canary, log: AccessLog, proxy: Proxy) -> list[str]:
    """Where the marker stands: tables of the log's schema, the proxy's files, its process."""
    places = []
    spellings = canary.spellings()
    tables = log.query(
        "SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'secretproxy' AND c.relkind IN ('r', 'v') AND c.relname NOT IN ('keyring', 'testimony_key')"
    )
    for table in tables:
        for spelling in spellings:
            hits = log.query(
                f"SELECT count(*) AS n FROM {table['name']} t WHERE t::text LIKE '%%' || %s || '%%'", spelling.decode()
            )
            if hits[0]["n"]:
                places.append(table["name"])
    files = [path for path in proxy.directory.rglob("*") if path.is_file()]
    files += [Path(f"/proc/{proxy.pid}/{name}") for name in ("cmdline", "environ", "comm")] if proxy.running else []
    for path in files:
        content = path.read_bytes()
        if any(spelling in content for spelling in spellings):
            places.append(str(path))
    return places
