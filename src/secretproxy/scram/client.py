"""The client's half of a SCRAM exchange, held with keys that another exchange left behind in place of a password.

The proof needs ClientKey and StoredKey, checking the server needs ServerKey: no salt is ever stretched here, so the
backend must hold the verifier that the keys were recovered under. As in libpq (fe-auth-scram.c), the server's signature
is checked."""

from __future__ import annotations

import base64
import hmac

from secretproxy.scram.attributes import Reader, malformed
from secretproxy.scram.server import GS2_BOUND, MECHANISM, MECHANISM_PLUS, new_nonce
from secretproxy.scram.verifier import LoginKeys, decode


class OtherVerifierError(Exception):
    """The backend holds another verifier for this user than the one that the client was authenticated with."""


class NotTheBackendError(Exception):
    """The server does not know the user's verifier: it is not the one that it says it is."""


class ClientExchange:
    """One exchange: `first`, `final`, `finish`. `binding`: the hash of the server's certificate, None outside TLS."""

    def __init__(
        self, keys: LoginKeys, offered: list[bytes], *, secured: bool, binding: bytes | None, nonce: bytes | None = None
    ) -> None:
        """Takes `secured`: whether the connection uses TLS. A certificate without a defined hash still has no
        binding."""
        self._keys = keys
        self.mechanism = MECHANISM_PLUS if binding is not None and MECHANISM_PLUS in offered else MECHANISM
        if self.mechanism not in offered:
            raise malformed(None, "the server offers no SCRAM-SHA-256")
        if self.mechanism == MECHANISM_PLUS:
            assert binding is not None
            self._gs2, self._binding = GS2_BOUND, binding
        else:
            # `y`: we could, had it been offered. It is how a server learns that somebody struck its offer out.
            self._gs2, self._binding = b"y,," if secured and binding is not None else b"n,,", b""
        self._own_nonce = nonce or new_nonce()
        self._bare = b"n=,r=" + self._own_nonce
        self._signature = b""

    def __repr__(self) -> str:
        return f"ClientExchange({self.mechanism.decode()})"

    def first(self) -> bytes:
        """Makes the client-first-message."""
        return self._gs2 + self._bare

    def final(self, server_first: bytes) -> bytes:
        """Makes the client-final-message. Raises OtherVerifierError, ProtocolViolationError."""
        verifier = self._keys.verifier
        reader = Reader(server_first)
        nonce, salt, iterations = reader.value(b"r"), decode(reader.value(b"s")), reader.value(b"i")
        if not nonce.startswith(self._own_nonce) or nonce == self._own_nonce:
            raise malformed("Nonce does not match.")
        if salt != verifier.salt or iterations != b"%d" % verifier.iterations:
            raise OtherVerifierError
        without_proof = b"c=" + base64.b64encode(self._gs2 + self._binding) + b",r=" + nonce
        auth_message = b",".join((self._bare, server_first, without_proof))
        self._signature = hmac.digest(verifier.server_key, auth_message, "sha256")
        return without_proof + b",p=" + base64.b64encode(self._keys.proof(auth_message))

    def finish(self, server_final: bytes) -> None:
        """Checks the server-final-message. Raises NotTheBackendError, ProtocolViolationError."""
        signature = decode(Reader(server_final).value(b"v"))
        if signature is None or not self._signature or not hmac.compare_digest(signature, self._signature):
            raise NotTheBackendError
