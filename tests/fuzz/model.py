"""Provides a model of PostgreSQL's backend as far as the order of its answers goes: pipelines, errors, portals,
transactions, COPY, testimony.

It is fed the bytes that a session lets through and says what a backend would. Sources: src/backend/tcop/postgres.c
(PostgresMain, exec_simple_query, exec_parse_message, exec_bind_message, exec_execute_message),
src/backend/commands/copyfromparse.c (CopyGetData)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tests.unit.playbook import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_IN,
    EMPTY,
    NO_DATA,
    OWNER,
    PARSE_COMPLETE,
    ROW_DESCRIPTION,
    START,
    SUSPENDED,
    complete,
    error,
    message,
    ready,
    row,
    testified,
)

VOID = message(b"V", b"\xff\xff\xff\xff")
SECRET = f"SELECT encrypted_secrets.secrets_getter('{OWNER}', '%s')"
NAMED = "SELECT encrypted_secrets.secrets_getter($1, $2)"
VIEW = "SELECT * FROM view"
LEAVES = ("COMMIT", "ROLLBACK", "ROLLBACK TO a")
PARAMETERS = message(b"t", struct.pack("!HII", 2, 2950, 25))


@dataclass
class Portal:
    """rows: still to come; inside: made behind the savepoint."""

    text: str
    name: str = ""
    rows: int = 2
    inside: bool = False


class ModelError(Exception):
    """An ERROR of the backend's, by its SQLSTATE."""


class Backend:
    """`out`: what it says; `visible`: what of it the client must see. `told` and `hidden`: names that it testified
    to."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.visible = bytearray()
        self.ended = False
        self.told: list[str] = []
        self.hidden: list[str] = []
        # Testified to by a name prepared or declared in SQL: known as an attempt or by testimony.
        self.either: list[str] = []
        # Names of the rows of secrets that it has sent, in order.
        self.answered: list[str] = []
        self.renewals = 0
        self.transaction = "I"
        self._clock = START
        self._buffer = b""
        self._injected = False
        self._skipping = False
        self._copying = ""
        self._savepoint = False
        self._statements: dict[str, str] = {}
        self._sql: set[str] = set()
        self._portals: dict[str, Portal] = {}
        self._token: bool = True
        self._token_before = True

    @property
    def at_boundary(self) -> bool:
        return not self._buffer

    @property
    def copying(self) -> bool:
        """Tells whether it reads the data of a COPY."""
        return bool(self._copying)

    @property
    def token(self) -> bool:
        """Tells whether the session's token is set."""
        return self._token

    def feed(self, data: bytes, *, injected: bool = False) -> None:
        assert not injected or self.at_boundary, "the proxy put a message of its own into another one"
        self._buffer += data
        self._injected = injected
        while len(self._buffer) >= 5 and not self.ended:
            length = int.from_bytes(self._buffer[1:5], "big")
            if len(self._buffer) < 1 + length:
                break
            kind, body = self._buffer[:1], self._buffer[5 : 1 + length]
            self._buffer = self._buffer[1 + length :]
            self._take(kind, body)

    def _say(self, data: bytes, *, visible: bool = True) -> None:
        self.out += data
        if visible and not self._injected:
            self.visible += data

    # --- the main loop -----------------------------------------------------------------------------------------

    def _take(self, kind: bytes, body: bytes) -> None:
        if self._copying:
            self._take_copy(kind, body)
            return
        if kind == b"X":
            self.ended = True
            return
        if kind == b"S":
            self._skipping = False
            self._ready()
            return
        if self._skipping or kind in b"Hdcf":
            return
        try:
            if kind == b"Q":
                self._portals.pop("", None)
                self._statements.pop("", None)
                self._query(body[:-1].decode())
                if not self._copying:
                    self._ready()
            elif kind == b"F":
                self._function()
                self._ready()
            else:
                {b"P": self._parse, b"B": self._bind, b"D": self._describe, b"E": self._execute, b"C": self._close}[
                    kind
                ](body)
        except ModelError as failure:
            self._failed(str(failure))
            if kind in b"QF":
                self._ready()
            else:
                self._skipping = True

    def _failed(self, sqlstate: str) -> None:
        self._say(error(sqlstate))
        if self.transaction == "T":
            self.transaction = "E"
        elif self.transaction == "I":
            self._portals.clear()

    def _ready(self) -> None:
        if self.transaction == "I":
            self._portals.clear()
        self._say(ready(self.transaction))

    def _take_copy(self, kind: bytes, body: bytes) -> None:
        if kind in b"HS" or (kind == b"d" and body != b"bad"):
            return
        protocol, self._copying = self._copying, ""
        if kind == b"c":
            self._say(complete("COPY 1"))
            if protocol == "simple":
                self._ready()
            return
        if kind not in b"df":
            self._say(error("08P01", "FATAL"))
            self.ended = True
            return
        self._failed("57014" if kind == b"f" else "22P04")
        if protocol == "simple":
            self._ready()
        else:
            self._skipping = True

    # --- the messages ------------------------------------------------------------------------------------------

    def _query(self, text: str) -> None:
        if not text:
            self._say(EMPTY)
            return
        for part in text.split("; "):
            self._check(part)
            if part == NAMED:
                raise ModelError("42P02")
            if part == "COPY t FROM STDIN":
                self._say(COPY_IN)
                self._copying = "simple"
                return
            self._run(Portal(part), 0)

    def _check(self, text: str) -> None:
        """Gives what Parse and Bind refuse."""
        if text == "broken":
            raise ModelError("42601")
        if self.transaction == "E" and text not in LEAVES and text:
            raise ModelError("25P02")

    def _parse(self, body: bytes) -> None:
        name, text = (part.decode() for part in body.split(b"\0")[:2])
        if not name:
            self._statements.pop("", None)
        self._check(text)
        if name and (name in self._statements or name in self._sql):
            raise ModelError("42P05")
        self._statements[name] = text
        self._say(PARSE_COMPLETE)

    def _bind(self, body: bytes) -> None:
        portal, name = (part.decode() for part in body.split(b"\0")[:2])
        if name not in self._statements:
            raise ModelError("26000")
        text = self._statements[name]
        self._check(text)
        if portal and portal in self._portals:
            raise ModelError("42P03")
        values = body.split(b"\0", 2)[2]
        given = int.from_bytes(values[2:4], "big")
        if given != (2 if text == NAMED else 0):
            raise ModelError("08P01")
        name = ""
        if given:
            start = 4 + 4 + int.from_bytes(values[4:8], "big")
            name = values[start + 4 : start + 4 + int.from_bytes(values[start : start + 4], "big")].decode()
        self._portals[portal] = Portal(text, name, inside=self._savepoint)
        self._say(BIND_COMPLETE)

    def _describe(self, body: bytes) -> None:
        kind, name = body[:1], body[1:-1].decode()
        if kind == b"P":
            if name not in self._portals:
                raise ModelError("34000")
            self._say(NO_DATA)
        else:
            if name not in self._statements:
                raise ModelError("26000")
            self._say((PARAMETERS if self._statements[name] == NAMED else message(b"t", b"\0\0")) + ROW_DESCRIPTION)

    def _execute(self, body: bytes) -> None:
        name, limit = body[:-5].decode(), int.from_bytes(body[-4:], "big")
        portal = self._portals.get(name)
        if portal is None:
            raise ModelError("34000")
        if self.transaction == "E" and portal.text not in LEAVES:
            raise ModelError("25P02")
        if not portal.text:
            self._say(EMPTY)
            return
        if portal.text == "COPY t FROM STDIN":
            self._say(COPY_IN)
            self._copying = "extended"
            portal.text = "done"
            return
        self._run(portal, limit)
        if not portal.text.startswith("SELECT"):
            portal.text = "done"

    def _close(self, body: bytes) -> None:
        name = body[1:-1].decode()
        if body[:1] == b"P":
            self._portals.pop(name, None)
        else:
            self._statements.pop(name, None)
        self._say(CLOSE_COMPLETE)

    def _function(self) -> None:
        if self.transaction == "E":
            raise ModelError("25P02")
        if self._injected:
            self._token = True
            self.renewals += 1
        else:
            self._testify("fast", self.hidden)
        self._say(VOID)

    # --- statements --------------------------------------------------------------------------------------------

    def _testify(self, name: str, where: list[str]) -> None:
        self._clock += 1
        where.append(name)
        self._say(testified(name, clock=self._clock), visible=False)

    def _run(self, portal: Portal, limit: int) -> None:
        text = portal.text
        if text in (VIEW, NAMED) or text.startswith("SELECT encrypted"):
            name, where = (
                ("view", self.hidden)
                if text == VIEW
                else (portal.name, self.told)
                if text == NAMED
                else (text[-5:-2], self.told)
            )
            count = min(limit or portal.rows, portal.rows)
            for _ in range(count):
                self._testify(name, where)
                self.answered.append(name)
                self._say(row("value"))
            portal.rows -= count
            self._say(SUSPENDED if limit and count == limit else complete())
        elif text == "SELECT 1/0":
            raise ModelError("22012")
        elif text.startswith("SELECT"):
            self._say(row("1") + complete())
        elif text == "done":
            raise ModelError("55000")
        else:
            self._utility(text)

    def _utility(self, text: str) -> None:
        first = text.split()[0]
        if text == "BEGIN":
            if self.transaction == "I":
                self.transaction = "T"
                self._savepoint = False
                self._token_before = self._token
        elif text in ("COMMIT", "ROLLBACK"):
            if self.transaction == "E" or text == "ROLLBACK":
                first = "ROLLBACK"
                if self.transaction != "I":
                    self._token = self._token_before
            self.transaction = "I"
            self._portals.clear()
        elif text == "SAVEPOINT a":
            if self.transaction != "T":
                raise ModelError("25P01")
            self._savepoint = True
        elif text == "ROLLBACK TO a":
            if self.transaction == "I" or not self._savepoint:
                raise ModelError("25P01")
            self.transaction = "T"
            self._portals = {name: portal for name, portal in self._portals.items() if not portal.inside}
        elif text == "RESET ALL":
            self._token = False
        elif text == "DISCARD ALL":
            if self.transaction != "I":
                raise ModelError("25001")
            first = text
            self._token = False
            self._statements.clear()
            self._sql.clear()
        elif text.startswith("SET secretproxy.session"):
            self._token = True
            self.renewals += 1
        else:
            self._named(text, first)
        self._say(complete(first))

    def _named(self, text: str, first: str) -> None:
        """Runs SQL's own prepared statements and cursors, in one space of names with the protocol's."""
        name = text.split()[1]
        if first == "PREPARE":
            if name in self._sql or name in self._statements:
                raise ModelError("42P05")
            self._sql.add(name)
        elif first == "EXECUTE":
            if name not in self._sql:
                raise ModelError("26000")
            self._testify("sql", self.either)
        elif first == "DEALLOCATE":
            if name not in self._sql:
                raise ModelError("26000")
            self._sql.remove(name)
        elif first == "DECLARE":
            if self.transaction != "T" or name in self._portals:
                raise ModelError("25P01")
            self._portals[name] = Portal(VIEW + " behind a cursor", inside=self._savepoint)
        elif first in ("FETCH", "CLOSE"):
            portal = self._portals.get(name)
            if portal is None or "cursor" not in portal.text:
                raise ModelError("34000")
            if first == "CLOSE":
                del self._portals[name]
            else:
                self._testify("sql", self.either)
