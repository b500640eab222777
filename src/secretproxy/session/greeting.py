"""The backend until it is ready: the login as it is relayed, and the proxy's own questions before the first
ReadyForQuery.

What the backend answers to the proxy's own never reaches the client.
"""

from __future__ import annotations

from typing import Final

from secretproxy.session.states import GreetingPhase, Phase, State
from secretproxy.session.step import Output
from secretproxy.session.stream import BackendStream, ClientStream, Framer
from secretproxy.session.testimony import OWN_SQL as TOKEN_SQL
from secretproxy.session.testimony import Token
from secretproxy.wire import messages

# Nothing in these can be resolved to what is the client's, whatever its startup packet says: each name, operator and
# cast is qualified, and the path that it has chosen is not in force. SET LOCAL lasts for this message; no
# ParameterStatus tells of it.
_ASK: Final = (
    "SET LOCAL search_path = pg_catalog, pg_temp;"
    " SELECT pg_catalog.pg_backend_pid(), {start}, pg_catalog.current_setting('secretproxy.session', true),"
    " (SELECT pg_catalog.count(*) FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n"
    " ON n.oid OPERATOR(pg_catalog.=) p.pronamespace WHERE n.nspname OPERATOR(pg_catalog.=) "
    "'secretproxy'::pg_catalog.name"
    " AND p.proname OPERATOR(pg_catalog.=) 'backend_start'::pg_catalog.name)"
)
_ASK_START: Final = _ASK.format(
    start="(SELECT (pg_catalog.extract('epoch'::pg_catalog.text, a.backend_start) OPERATOR(pg_catalog.*) "
    "1000000::pg_catalog.numeric)"
    "::pg_catalog.int8 FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS a)"
)
_ASK_START_AS_OWNER: Final = _ASK.format(start="secretproxy.backend_start()")
# All SQL that a session says of its own accord.
OWN_SQL: Final = (_ASK_START, _ASK_START_AS_OWNER, *TOKEN_SQL)

_OK: Final = messages.AUTHENTICATION_OK.to_bytes(4, "big")
_SASL: Final = messages.AUTHENTICATION_SASL.to_bytes(4, "big")
# The one that asks for nothing.
_SASL_FINAL: Final = messages.AUTHENTICATION_SASL_FINAL.to_bytes(4, "big")
_MECHANISM_PLUS: Final = b"SCRAM-SHA-256-PLUS"


class Greeting:
    """Lets the backend in, and shows it whom it belongs to."""

    def __init__(self, state: State, output: Output, client: ClientStream, stream: BackendStream, token: Token) -> None:
        self._state: Final = state
        self._output: Final = output
        self._client: Final = client
        self._stream: Final = stream
        self._token: Final = token
        self._phase = GreetingPhase.START
        # The first ReadyForQuery, which waits until the session has its token.
        self._ready_for_query = b""
        # Behind a pooler: whether the process asked again is the one that has the token.
        self._kept_token = False
        self.authenticated = False
        # The SQLSTATE by which the backend refuses the login.
        self.refusal = ""
        # What a CancelRequest for this session carries: process id and secret key.
        self.cancel_key = b""

    # --- the login ---

    def authentication(self, message: Framer) -> None:
        code = message.buffer[message.start + 5 : message.start + 9]
        if code == _OK:
            self.authenticated = True
        elif self._client.waits and code != _SASL_FINAL:
            # It asks for a password and gets what the client has said instead: the backend's to refuse.
            self._output.made().inject += self._client.take_waiting()
            self._state.enter(Phase.CLOSED)
        elif code == _SASL and message.complete and not self._state.identity.tls:
            # AuthenticationSASL of a backend that is reached in TLS by a client that is not: channel binding is not
            # the client's to do, and libpq takes its offer for an attack.
            offered = message.buffer[message.start + 9 : message.end].split(b"\0")
            if _MECHANISM_PLUS in offered:
                self._stream.replace(
                    messages.authentication_sasl([name for name in offered if name and not name.endswith(b"-PLUS")])
                )

    def key_data(self, message: Framer) -> None:
        self.cancel_key = message.buffer[message.start + 5 : message.end]
        self._token.promised(int.from_bytes(self.cancel_key[:4], "big"))

    def refused(self, message: Framer) -> None:
        """Takes an error of the login."""
        self.refusal, _ = messages.read_error(message.buffer, message.start, message.end)

    def logged_in(self, message: Framer) -> None:
        """Takes the first ReadyForQuery."""
        if self._state.physical:
            self._enter_ready()
            return
        self._state.enter(Phase.GREETING)
        self._stream.report_rows(True)
        self._ready_for_query = message.buffer[message.start : message.end]
        self._stream.drop()
        self._ask(GreetingPhase.START, messages.query(_ASK_START))

    # --- the proxy's own questions ---

    def _ask(self, phase: GreetingPhase, message: bytes) -> None:
        self._phase = phase
        self._output.made().inject += message

    def greeted(self, message: Framer) -> None:
        """Takes the end of the answer to a question of the proxy's own."""
        self._stream.drop()
        phase, token = self._phase, self._token.value
        if phase is GreetingPhase.START and token is None:
            self._ask(GreetingPhase.START_AS_OWNER, messages.query(_ASK_START_AS_OWNER))
        elif phase in (GreetingPhase.START, GreetingPhase.START_AS_OWNER) and token is not None:
            self._ask(GreetingPhase.TOKEN, self._token.message(token))
        elif phase is GreetingPhase.TOKEN and self._token.pooled:
            # What answers is not who said its process id first. Is it the same a message later, and does it remember?
            self._kept_token = False
            self._ask(GreetingPhase.STILL_THERE, messages.query(_ASK_START))
        elif phase is GreetingPhase.STILL_THERE and not self._kept_token:
            self._token.refuse_pooler()
        else:
            self._stream.forward_data(self._ready_for_query)
            self._enter_ready()

    def row(self, message: Framer) -> None:
        """Takes the answer to the question when this backend process began."""
        self._stream.drop()
        if not message.complete or self._phase is GreetingPhase.TOKEN:
            return
        row = messages.data_row(message.buffer, message.start, message.end)
        if len(row) != 4:
            return
        pid, start, session, found = row
        if pid is None or not pid.isdigit():
            return
        token = self._token
        if self._phase is GreetingPhase.STILL_THERE:
            # The start may be hidden from this user; its token, made of process id and start, is not.
            value = token.value
            self._kept_token = int(pid) == token.pid and value is not None and session == value.encode()
            return
        token.answered(int(pid), int(start) if start is not None and start.isdigit() else None)
        self._state.testifies = found not in (None, b"0")

    def dropped(self, message: Framer) -> None:
        """Takes a part of the answer to a question of the proxy's own."""
        self._stream.drop()

    def failed(self, message: Framer) -> None:
        """Takes an error of a question of the proxy's own, or the end of the backend."""
        _, fatal = messages.read_error(message.buffer, message.start, message.end)
        if fatal:
            self._stream.release(message.start)
            self._stream.forward_data(self._ready_for_query)
            self._state.enter(Phase.CLOSED)
            return
        self._stream.drop()
        if self._phase is GreetingPhase.TOKEN:
            self._token.lose()

    def _enter_ready(self) -> None:
        self._state.enter(Phase.READY)
        self._stream.report_rows(False)
        self._output.made().ready = True
