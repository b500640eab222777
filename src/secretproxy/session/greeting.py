"""The backend until it is ready, and the session's token: login as it is relayed, the proxy's own questions before the first
ReadyForQuery, and a new token wherever the backend may have lost it.

What the backend answers to the proxy's own never reaches the client: the way of its bytes, let go, dropped or replaced, is here too.
"""

from __future__ import annotations

from dataclasses import replace

from secretproxy.session.client import Client
from secretproxy.session.connection import FROM_BACKEND, FROM_BACKEND_OWN
from secretproxy.session.encodings import decoded, session_codec
from secretproxy.session.statements import INJECTED
from secretproxy.session.states import Phase
from secretproxy.wire import messages
from secretproxy.wire.errors import ProtocolViolation
from secretproxy.wire.types import SqlState

_SET_CONFIG = 2078  # OID of pg_catalog.set_config(text, text, boolean), src/include/catalog/pg_proc.dat
# Nothing in these can be resolved to what is the client's, whatever its startup packet says: each name, operator and cast is qualified,
# and the path that it has chosen is not in force. SET LOCAL lasts for this message; no ParameterStatus tells of it.
_ASK = (
    "SET LOCAL search_path = pg_catalog, pg_temp;"
    " SELECT pg_catalog.pg_backend_pid(), {start}, pg_catalog.current_setting('secretproxy.session', true),"
    " (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n"
    " ON n.oid OPERATOR(pg_catalog.=) p.pronamespace WHERE n.nspname OPERATOR(pg_catalog.=) 'secretproxy'::pg_catalog.name"
    " AND p.proname OPERATOR(pg_catalog.=) 'backend_start'::pg_catalog.name)"
)
_ASK_START = _ASK.format(
    start="(SELECT (pg_catalog.extract('epoch'::pg_catalog.text, a.backend_start) OPERATOR(pg_catalog.*) 1000000::pg_catalog.numeric)"
    "::pg_catalog.int8 FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a)"
)
_ASK_START_AS_OWNER = _ASK.format(start="secretproxy.backend_start()")
# The texts above and that of `setting`: all SQL that a session says of its own accord.
OWN_SQL = (_ASK_START, _ASK_START_AS_OWNER, "SET secretproxy.session TO 'token'")
_POOLER = ProtocolViolation(
    "a connection pooler between secretproxy and PostgreSQL gives each transaction another session",
    SqlState.FEATURE_NOT_SUPPORTED,
    "Calls cannot be told apart so. Set pool_mode = session for this database in the pooler, or put the pooler in front of secretproxy.",
)

_SASL_FINAL = b"\0\0\0\x0c"  # the one that asks for nothing


class Greeting(Client):
    """A session that lets its backend in, and shows it whom it belongs to."""

    def _release(self, upto: int) -> None:
        """Lets what stands in the buffer up to here go on: at once, or behind what waits."""
        self._let_on(self._backend.buffer[self._kept_from : upto])
        self._kept_from = upto

    def _drop(self) -> None:
        """The message does not reach the client, nor what of it has not come yet."""
        framer = self._backend
        self._release(framer.start)
        self._kept_from = min(framer.end, len(framer.buffer))
        self._dropping = not framer.complete

    def _replace(self, message: bytes) -> None:
        self._drop()
        self._let_on(message)

    def backend_authentication(self) -> None:
        framer = self._backend
        code = framer.buffer[framer.start + 5 : framer.start + 9]
        if code == b"\0\0\0\0":
            self.authenticated = True
        elif self._early and code != _SASL_FINAL:
            # It asks for a password and gets what the client has said instead: the backend's to refuse.
            self._stepped().inject += b"".join(self._early)
            self._early = []
            self.phase = Phase.CLOSED
        elif code == b"\0\0\0\n" and framer.complete and not self.identity.tls:
            # AuthenticationSASL of a backend that is reached in TLS by a client that is not: channel binding is not the client's to do,
            # and libpq takes its offer for an attack.
            offered = framer.buffer[framer.start + 9 : framer.end].split(b"\0")
            if b"SCRAM-SHA-256-PLUS" in offered:
                self._replace(messages.authentication_sasl([name for name in offered if name and not name.endswith(b"-PLUS")]))

    def backend_key_data(self) -> None:
        framer = self._backend
        self.cancel_key = framer.buffer[framer.start + 5 : framer.end]
        self.backend_pid = int.from_bytes(self.cancel_key[:4], "big")

    def backend_parameter_status(self) -> None:
        framer = self._backend
        if not framer.complete:
            return
        name, pos = messages.cstring(framer.buffer, framer.start + 5, framer.end)
        raw, _ = messages.cstring(framer.buffer, pos, framer.end)
        key, value = name.decode("ascii", "replace"), decoded(raw, self._codec)
        self.parameters[key] = value
        if key in ("client_encoding", "server_encoding"):
            server = self.parameters.get("server_encoding", "")
            self._raw = server.upper() == "SQL_ASCII"
            self._codec = session_codec(self.parameters.get("client_encoding", ""), server)
        elif key == "application_name" and value != self.identity.application_name:
            self.identity = replace(self.identity, application_name=value or None)

    def backend_logged_in(self) -> None:
        """The first ReadyForQuery waits until the session has its token."""
        framer = self._backend
        if self.physical:
            self._ready()
            return
        self.phase = Phase.GREETING
        self._greeting = "start"
        framer.actions = FROM_BACKEND_OWN
        self._greeting_z = framer.buffer[framer.start : framer.end]
        self._drop()
        self._stepped().inject += messages.query(_ASK_START)

    def backend_greeted(self) -> None:
        """An own query of the greeting has ended."""
        self._drop()
        token = self.token
        if self._greeting == "start" and token is None:
            self._greeting = "owner"
            self._stepped().inject += messages.query(_ASK_START_AS_OWNER)
        elif self._greeting in ("start", "owner") and token is not None:
            self._greeting = "token"
            self._stepped().inject += self._token_message(token)
        elif self._greeting == "token" and self.pooled:
            # What answers is not who said its process id first. Is it the same a message later, and does it remember?
            self._greeting = "again"
            self._kept_token = False
            self._stepped().inject += messages.query(_ASK_START)
        elif self._greeting == "again" and not self._kept_token:
            self.refuse_pooler()
        else:
            self._let_on(self._greeting_z)
            self._ready()

    def backend_greeting_row(self) -> None:
        """The answer to the question when this backend process began."""
        framer = self._backend
        self._drop()
        if not framer.complete or self._greeting == "token":
            return
        row = messages.data_row(framer.buffer, framer.start, framer.end)
        if len(row) != 4:
            return
        pid, start, session, found = row
        if pid is None or not pid.isdigit():
            return
        if self._greeting == "again":
            # The start may be hidden from this user; its token, made of process id and start, is not.
            token = self.token
            self._kept_token = int(pid) == self.backend_pid and token is not None and session == token.encode()
            return
        if int(pid) != self.backend_pid:
            # BackendKeyData was a pooler's: it is for cancelling, and says nothing of who testifies.
            self.pooled = self.backend_pid != 0
            self.backend_pid = int(pid)
        if start is not None and start.isdigit():
            self.backend_start = int(start)
        self._testifies = found not in (None, b"0")

    @property
    def pooler(self) -> ProtocolViolation:
        """What ends a session whose backend is not its own."""
        return _POOLER

    def refuse_pooler(self) -> None:
        """The session ends: what its backend does, another session may see, and what another's does, this one."""
        self.phase = Phase.CLOSED
        self._stepped().violation = self.pooler

    def backend_dropped(self) -> None:
        """Part of the answer to an own query."""
        self._drop()

    def _ready(self) -> None:
        self.phase = Phase.READY
        self._backend.actions = FROM_BACKEND
        self._stepped().ready = True

    def _token_message(self, token: str) -> bytes:
        self._token_version = self._keys.version
        setting = f"SET secretproxy.session TO '{token}'"
        if self._logical:
            return messages.query(setting)
        if self.transaction_status != "I":
            # The client may still choose its transaction's isolation or snapshot: nothing may take one before that.
            return messages.aside(setting, "secretproxy token")
        # A FunctionCall leaves the unnamed statement and portal alone, and no text of it is logged.
        return messages.function_call(_SET_CONFIG, ["secretproxy.session", token, "f"])

    def _renew_token(self) -> None:
        self._token_lost = False
        token = self.token
        if token is None or self.physical:
            return
        self._token_inside = self.transaction_status == "T"
        self._pending.append(INJECTED)
        self._backend.actions = FROM_BACKEND_OWN
        self._stepped().inject += self._token_message(token)
