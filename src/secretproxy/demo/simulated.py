"""A few days of simulated life for the demonstration's log, so that its pages are not empty: a chain of its own, marked
in every row.

The rows are made as the journal makes them, at times that are past. `application_name` says that they are simulated.
"""

from __future__ import annotations

import ipaddress
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from secretproxy.audit.checkpoints import END, Signer
from secretproxy.audit.housekeeping import CHECKPOINT_INSERT
from secretproxy.audit.masking import NameMask
from secretproxy.audit.rows import INSERT, Line, Lines
from secretproxy.session.events import Event, Identity

MARK = "simulated"
DAYS = 14
_GROUP = 512
_FUNCTIONS = {
    "read": "encrypted_secrets.secrets_getter(uuid,text,text)",
    "write": "encrypted_secrets.secrets_upsert(uuid,text,text,text)",
    "verify": "encrypted_secrets.secrets_verify(uuid,text,text)",
}
_OWNERS = tuple(uuid.UUID(int=0x5F0C1E527D0B4B6E9A570D6B1C2F0000 + number) for number in range(6))
_NAMES = (
    "stripe_key", "smtp_password", "s3_access_key", "oauth_client_secret", "webhook_token", "ldap_bind", "sentry_dsn",
        "maps_key",
)  # fmt: skip


@dataclass(slots=True)
class _Session:
    who: Identity
    statements: int = 0


@dataclass(slots=True)
class _Access:
    at: datetime
    user: str
    operation: str
    owner: uuid.UUID
    name: str
    outcome: str = "ok"


@dataclass(slots=True)
class Life:
    """The simulated activity: a web server by day, a nightly job, a deploy that rotates, and one unplanned night."""

    now: datetime
    dice: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311 - a story, not a secret

    def accesses(self) -> list[_Access]:
        """Gives every access of the story, in the order of time."""
        today = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        found: list[_Access] = []
        for day in range(DAYS, -1, -1):
            found += self._day(today - timedelta(days=day), weekday=(today - timedelta(days=day)).weekday() < 5)
        night = today - timedelta(days=1) + timedelta(hours=3, minutes=12)
        for number in range(30):
            at = night + timedelta(seconds=number * 1.4)
            found.append(_Access(at, "demo_reporting", "read", _OWNERS[number % 6], _NAMES[number // 6 % 8]))
        return sorted((one for one in found if one.at < self.now - timedelta(minutes=1)), key=lambda one: one.at)

    def _day(self, day: datetime, *, weekday: bool) -> Iterator[_Access]:
        dice = self.dice
        for _ in range(160 if weekday else 40):
            at = day + timedelta(hours=min(23.9, max(0.1, dice.gauss(13, 3))), seconds=dice.random() * 60)
            operation = dice.choices(("read", "verify"), (9, 1))[0]
            failed = dice.random() < 0.01
            yield _Access(
                at,
                "demo_web",
                operation,
                dice.choice(_OWNERS[:4]),
                dice.choice(_NAMES[:4]),
                "error" if failed else "ok",
            )
        for owner in _OWNERS:
            for place, name in enumerate(_NAMES[4:]):
                yield _Access(
                    day + timedelta(hours=2, minutes=10, seconds=place * 3), "demo_nightly", "read", owner, name
                )
        if weekday:
            for _ in range(12):
                at = day + timedelta(hours=9 + dice.random() * 7)
                yield _Access(at, "demo_reporting", "read", dice.choice(_OWNERS[:2]), dice.choice(_NAMES[:2]))
        if day.weekday() == 1:
            yield _Access(day + timedelta(hours=10, minutes=5), "demo_deploy", "write", _OWNERS[0], "stripe_key")
            yield _Access(day + timedelta(hours=10, minutes=6), "demo_deploy", "write", _OWNERS[1], "smtp_password")

    def events(self) -> list[tuple[int, Event, float | None]]:
        """Gives the events of the story with their time and duration: of each access an attempt and an outcome, in a
        session a login and day."""
        sessions: dict[tuple[str, Any], _Session] = {}
        found: list[tuple[int, Event, float | None]] = []
        for access in self.accesses():
            session = sessions.setdefault((access.user, access.at.date()), _Session(self._identity(access.user)))
            session.statements += 1
            at, took = int(access.at.timestamp() * 1_000_000), 0.001 + self.dice.random() * 0.004
            attempt = Event(
                "attempt", session.who, statement_no=session.statements, function=_FUNCTIONS[access.operation],
                operation=access.operation, owner_id=access.owner, secret_names=(access.name,), protocol="extended",
            )  # fmt: skip
            ended = access.outcome == "ok"
            outcome = Event(
                "outcome", session.who, statement_no=session.statements, role=access.user, outcome="ok" if ended else
                    "error",
                sqlstate=None if ended else "57014", calls=1 if ended else 0,
            )  # fmt: skip
            found += [(at, attempt, None), (at + int(took * 1_000_000), outcome, took)]
        return sorted(found, key=lambda one: one[0])

    def lines(self, instance: uuid.UUID) -> Iterator[Line]:
        """Gives the rows of the story."""
        chain = Lines(NameMask(200, (), bytes(32)), instance)
        for at, event, took in self.events():
            yield chain.add(event, at, took)

    def _identity(self, user: str) -> Identity:
        address = ipaddress.ip_address(
            f"10.20.0.{10 + sorted(('demo_deploy', 'demo_nightly', 'demo_reporting', 'demo_web')).index(user)}"
        )
        application = f"{MARK}: {user.removeprefix('demo_')}"
        session_id = uuid.UUID(int=self.dice.getrandbits(128), version=4)
        return Identity(session_id, user, "postgres", application, address, self.dice.randrange(32768, 60999), tls=True)


async def simulate(connection: Any, signer: Signer) -> int:
    """Writes the story to the log, as its writer, and signs where its chain ends. Gives the number of rows."""
    instance = uuid.uuid4()
    rows = list(Life(datetime.now(UTC)).lines(instance))
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE secretproxy_writer")
        for start in range(0, len(rows), _GROUP):
            group = [row.plain() for row in rows[start : start + _GROUP]]
            await connection.execute(INSERT, b"\n".join([row for row in group if row is not None]).decode())
        end = signer.sign(instance, rows[-1].seq, rows[-1].row_hash, END)
        await connection.execute(
            CHECKPOINT_INSERT, end.instance, end.seq, end.row_hash, end.at, end.signature, end.kind
        )
    return len(rows)
