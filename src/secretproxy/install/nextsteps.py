"""Says what is still missing between an installation and a proxy that runs: a configuration and logins, each with the
command that makes it.

Reads the catalog alone, and needs no right for it. Shows no password.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from secretproxy.connections import Conninfo, ConninfoError, Place, read
from secretproxy.install.runner import session

# Who can use a role's rights: by inheriting them, or by becoming it. From PostgreSQL 16 on a member may be allowed
# neither. The function is found by its oid, because who installs may have no right on its schema.
_LOGINS = """
SELECT r.rolname::pg_catalog.text AS name, r.rolcanlogin AS can_login, r.rolsuper AS is_superuser,
       pg_catalog.pg_has_role(r.oid, w.oid, 'USAGE') OR pg_catalog.pg_has_role(r.oid, w.oid, $1) AS writes,
       pg_catalog.pg_has_role(r.oid, v.oid, 'USAGE') OR pg_catalog.pg_has_role(r.oid, v.oid, $1) AS reviews,
       pg_catalog.pg_has_role(r.oid, u.oid, 'USAGE') OR pg_catalog.pg_has_role(r.oid, u.oid, $1)
       OR EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n
       ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
                   WHERE n.nspname OPERATOR(pg_catalog.=) 'encrypted_secrets'::pg_catalog.name
                     AND p.proname OPERATOR(pg_catalog.=) 'secrets_getter'::pg_catalog.name
                     AND pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE')) AS calls
  FROM pg_catalog.pg_roles r, pg_catalog.pg_roles w, pg_catalog.pg_roles v, pg_catalog.pg_roles u
 WHERE w.rolname OPERATOR(pg_catalog.=) 'secretproxy_writer'::pg_catalog.name
   AND v.rolname OPERATOR(pg_catalog.=) 'secretproxy_auditor'::pg_catalog.name
   AND u.rolname OPERATOR(pg_catalog.=) 'authenticated'::pg_catalog.name
   AND (r.rolcanlogin OR r.rolname OPERATOR(pg_catalog.=) ANY ($2::pg_catalog.name[]))
   AND r.rolname OPERATOR(pg_catalog.<>) session_user
"""
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of the configuration; None is unset, and `file` is None if there is no file.

    `environment`: settings come from there. Another process may have more of them, so that those that are missing are
    not told."""

    file: str | None
    audit_dsn: str | None
    review_dsn: str | None
    # A key file that this installation made, for the machine of the proxy.
    new_key_file: Path | None = None
    environment: bool = False


@dataclass(frozen=True, slots=True)
class _Login:
    """A login of the log: the setting that names it, a name to begin with, the role that it must be a member of."""

    setting: str
    dsn: str | None
    example: str
    role: str
    column: str
    purpose: str


async def next_steps(dsn: str | None, setup: Setup) -> list[str]:
    """Lists what is missing and the command for it, a line each; nothing if nothing is missing. Raises InstallError.

    If the configuration puts the log into another database, only an installation there checks the log's logins.
    """
    async with session(dsn, lock=False) as connection:
        here = _Cluster(read(dsn))
        needs = [
            _Login("audit.dsn", setup.audit_dsn, "journal", "secretproxy_writer", "writes", "writes the log"),
            _Login("audit.review_dsn", setup.review_dsn, "auditor", "secretproxy_auditor", "reviews", "reads the log"),
        ]
        named = [name for need in needs if (name := here.login(need.dsn)) is not None]
        member = "SET" if connection.get_server_version() >= (16,) else "MEMBER"
        known = {row["name"]: row for row in await connection.fetch(_LOGINS, member, named)}
    steps = []
    if setup.file is None and not setup.environment:
        init = (
            "init",
            "--backend",
            here.backend,
            "--audit-dsn",
            here.dsn("journal"),
            "--review-dsn",
            here.dsn("auditor"),
        )
        steps.append(f"a configuration: {shlex.join(('secretproxy', *init))}")
    if setup.new_key_file is not None:
        steps.append(
            f"the key file where the proxy runs, if that is another machine: copy {setup.new_key_file} there, mode 0600"
        )
    if not any(row["can_login"] and row["calls"] and not row["is_superuser"] for row in known.values()):
        steps.append("a login that may call the functions, such as your application's: GRANT authenticated TO app;")
    for need in needs:
        steps += _of_login(need, here, known)
        if need.dsn is None and setup.file is not None:
            steps.append(f'the login that {need.purpose}, in {setup.file}: {need.setting} = "{here.dsn(need.example)}"')
    return steps


def _of_login(need: _Login, here: _Cluster, known: dict[str, Any]) -> list[str]:
    """Says what the login of a setting lacks."""
    name = here.login(need.dsn)
    if name is None:
        if need.dsn is not None or any(
            row["can_login"] and row[need.column] and not row["is_superuser"] for row in known.values()
        ):
            return []
        name = need.example
    found = known.get(name)
    what = f"a login that {need.purpose} ({need.setting})"
    quoted = name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'
    if found is None:
        return [f"{what}: CREATE ROLE {quoted} LOGIN PASSWORD '...' IN ROLE {need.role};"]
    steps = [] if found["can_login"] else [f"{what}: ALTER ROLE {quoted} LOGIN PASSWORD '...';"]
    return steps if found[need.column] else [*steps, f"{what}: GRANT {need.role} TO {quoted};"]


class _Cluster:
    """The database that was installed into."""

    def __init__(self, conninfo: Conninfo) -> None:
        self._user = conninfo.user
        self._database = conninfo.database
        self._place = _reached(conninfo.places)

    @property
    def backend(self) -> str:
        return f"{self._place.host}:{self._place.port}" if self._place.host.startswith("/") else str(self._place)

    def dsn(self, user: str) -> str:
        """Gives a connection string with a placeholder for the password."""
        place, database = self._place, quote(self._database, safe="")
        if place.host.startswith("/"):
            return f"postgresql://{user}:PASSWORD@/{database}?host={quote(place.host)}&port={place.port}"
        return f"postgresql://{user}:PASSWORD@{place}/{database}"

    def login(self, dsn: str | None) -> str | None:
        """Gives the user of a connection string to this database; None if it is unset or leads elsewhere.

        Servers have several names, so that the port and the database tell whether it is the same one.
        """
        if dsn is None:
            return None
        try:
            other = read(dsn)
        except ConninfoError:
            return None  # `check` tells what is wrong with it
        same = other.database == self._database and self._place.port in {place.port for place in other.places}
        # Whoever installed can do everything.
        return other.user if same and other.user != self._user else None


def _reached(places: list[Place]) -> Place:
    return next((place for place in places if not place.host.startswith("/") or Path(str(place)).exists()), places[0])
