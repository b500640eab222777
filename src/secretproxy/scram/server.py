"""The server's half of a SCRAM exchange, message for message as PostgreSQL holds it (src/backend/libpq/auth-scram.c).

It works from a stored verifier. Where the client proves its password, the proof gives away the ClientKey (proof XOR
ClientSignature, RFC 5802 section 3), with which the proxy logs in at the backend. An exchange that is `doomed` (an
unknown user's, on a mock verifier) goes the same way and fails at its end."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from secretproxy.scram.attributes import Reader, malformed
from secretproxy.scram.verifier import KEY_BYTES, LoginKeys, Verifier, decode, xor
from secretproxy.wire.types import SqlState

MECHANISM = b"SCRAM-SHA-256"
MECHANISM_PLUS = b"SCRAM-SHA-256-PLUS"
BINDING_TYPE = b"tls-server-end-point"
GS2_BOUND = b"p=" + BINDING_TYPE + b",,"
NONCE_BYTES = 18


class WrongPasswordError(Exception):
    """The proof does not fit, or the user is unknown; whoever sees it cannot tell which."""


def new_nonce() -> bytes:
    return base64.b64encode(secrets.token_bytes(NONCE_BYTES))


class ServerExchange:
    """One exchange: `first`, then `final`. `binding`: the hash of our certificate, None if no binding is offered."""

    def __init__(self, mechanism: bytes, binding: bytes | None, nonce: bytes | None = None) -> None:
        if mechanism not in (MECHANISM, MECHANISM_PLUS) or (mechanism == MECHANISM_PLUS and binding is None):
            raise malformed(None, "client selected an invalid SASL authentication mechanism")
        self._bound = mechanism == MECHANISM_PLUS
        self._binding = binding
        self._own_nonce = nonce or new_nonce()
        self._flag = b""
        self._client_first = b""
        self._server_first = b""
        self._nonce = b""
        self._verifier: Verifier | None = None
        self._doomed = True

    def __repr__(self) -> str:
        return f"ServerExchange(bound={self._bound})"

    def first(self, message: bytes) -> None:
        """Reads the client-first-message. Raises ProtocolViolationError."""
        reader = self._reader(message)
        self._read_flag(reader)
        reader.skip(b",", "Comma expected, but found something else.")
        if reader.peek() == b"a":
            raise malformed(
                None, "client uses authorization identity, but it is not supported", SqlState.FEATURE_NOT_SUPPORTED
            )
        reader.skip(b",", "Unexpected attribute in client-first-message.")
        self._client_first = message[reader.pos :]
        if reader.peek() == b"m":
            raise malformed(None, "client requires an unsupported SCRAM extension", SqlState.FEATURE_NOT_SUPPORTED)
        # The user is the startup packet's.
        reader.value(b"n")
        nonce = reader.value(b"r")
        if not nonce or any(not 0x21 <= byte <= 0x7E for byte in nonce):
            raise malformed(None, "non-printable characters in SCRAM nonce")
        while not reader.at_end:
            reader.attribute()
        self._nonce = nonce + self._own_nonce

    @staticmethod
    def _reader(message: bytes) -> Reader:
        if not message:
            raise malformed("The message is empty.")
        if b"\0" in message:
            raise malformed("Message length does not match input length.")
        return Reader(message)

    def _read_flag(self, reader: Reader) -> None:
        flag = self._flag = reader.peek()
        if flag in (b"n", b"y"):
            if self._bound:
                raise malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding "
                    "data."
                )
            if flag == b"y" and self._binding is not None:
                raise malformed(
                    "The client supports SCRAM channel binding but thinks the server does not.  However, this server "
                    "does support "
                    "channel binding.",
                    "SCRAM channel binding negotiation error",
                    SqlState.INVALID_AUTHORIZATION_SPECIFICATION,
                )
            reader.pos += 1
        elif flag == b"p":
            if not self._bound:
                raise malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes "
                    "channel binding data."
                )
            if reader.value(b"p") != BINDING_TYPE:
                raise malformed(None, "unsupported SCRAM channel-binding type")
            reader.pos -= 1
        else:
            raise malformed("Unexpected channel-binding flag.")

    def challenge(self, verifier: Verifier, *, doomed: bool) -> bytes:
        """Makes the server-first-message."""
        self._verifier, self._doomed = verifier, doomed
        salt = base64.b64encode(verifier.salt)
        self._server_first = b"r=" + self._nonce + b",s=" + salt + b",i=%d" % verifier.iterations
        return self._server_first

    def final(self, message: bytes) -> tuple[bytes, LoginKeys]:
        """Reads the client-final-message; gives the server-final-message and the keys. Raises ProtocolViolationError,
        WrongPasswordError."""
        verifier = self._verifier
        assert verifier is not None
        reader = self._reader(message)
        self._check_binding(reader.value(b"c"))
        nonce = reader.value(b"r")
        without_proof, name, value = b"", b"", b""
        while name != b"p":
            without_proof = message[: reader.pos - 1]
            name, value = reader.attribute()
        proof = decode(value)
        if proof is None or len(proof) != KEY_BYTES:
            raise malformed("MalformedError proof in client-final-message.")
        if not reader.at_end:
            raise malformed("Garbage found at the end of client-final-message.")
        if not hmac.compare_digest(nonce, self._nonce):
            raise malformed("Nonce does not match.", "invalid SCRAM response")
        auth_message = b",".join((self._client_first, self._server_first, without_proof))
        client_key = xor(hmac.digest(verifier.stored_key, auth_message, "sha256"), proof)
        fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key)
        signature = hmac.digest(verifier.server_key, auth_message, "sha256")
        if not fits or self._doomed:
            raise WrongPasswordError
        return b"v=" + base64.b64encode(signature), LoginKeys(client_key, verifier)

    def _check_binding(self, sent: bytes) -> None:
        if self._bound:
            assert self._binding is not None
            if not hmac.compare_digest(sent, base64.b64encode(GS2_BOUND + self._binding)):
                raise malformed(
                    None, "SCRAM channel binding check failed", SqlState.INVALID_AUTHORIZATION_SPECIFICATION
                )
        elif sent != base64.b64encode(self._flag + b",,"):
            raise malformed(None, "unexpected SCRAM channel-binding attribute in client-final-message")
