"""Reads and makes SCRAM verifiers: PostgreSQL's stored ones, the keys of a login, and mock ones for unknown users.

The stored form is that of pg_authid.rolpassword: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the last
three in base64 (parse_scram_secret() of src/backend/libpq/auth-scram.c). Nothing here may show a key in its repr or in
an error."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import final

KEY_BYTES = 32
SALT_BYTES = 16
# Default of the server setting scram_iterations.
ITERATIONS = 4096
_STORED = re.compile(r"SCRAM-SHA-256\$([0-9]{1,10}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


class NotAVerifierError(ValueError):
    """The text is no SCRAM-SHA-256 verifier. Its own text never quotes it."""


def decode(text: bytes | str) -> bytes | None:
    """Decodes Base64 as PostgreSQL does; None if it is not valid."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


@final
class Verifier:
    """A user's salt, iterations, StoredKey and ServerKey."""

    __slots__ = ("iterations", "salt", "server_key", "stored_key")

    def __init__(self, iterations: int, salt: bytes, stored_key: bytes, server_key: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored_key = stored_key
        self.server_key = server_key

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Raises NotAVerifierError."""
        match = _STORED.fullmatch(text)
        if match is None:
            raise NotAVerifierError("not a SCRAM-SHA-256 verifier")
        salt, stored_key, server_key = (decode(part) for part in match.groups()[1:])
        if not salt or stored_key is None or server_key is None or {len(stored_key), len(server_key)} != {KEY_BYTES}:
            raise NotAVerifierError("a damaged SCRAM-SHA-256 verifier")
        iterations = int(match[1])
        if not 1 <= iterations <= 0x7FFFFFFF:
            raise NotAVerifierError("a SCRAM-SHA-256 verifier with an impossible number of iterations")
        return cls(iterations, salt, stored_key, server_key)

    def __repr__(self) -> str:
        return "<redacted>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a verifier is not pickled")


def mock(key: bytes, user: bytes, iterations: int = ITERATIONS) -> Verifier:
    """Makes the verifier for an unknown user's exchange: the same at every try, and no password matches it."""
    return Verifier(
        iterations,
        hmac.digest(key, b"salt\0" + user, "sha256")[:SALT_BYTES],
        hmac.digest(key, b"stored key\0" + user, "sha256"),
        hmac.digest(key, b"server key\0" + user, "sha256"),
    )


@final
class LoginKeys:
    """The ClientKey that a client's proof gave away, with the verifier that it belongs to: enough to log in once
    more."""

    __slots__ = ("_client_key", "verifier")

    def __init__(self, client_key: bytes, verifier: Verifier) -> None:
        self._client_key = bytearray(client_key)
        self.verifier = verifier

    def proof(self, auth_message: bytes) -> bytes:
        """Computes ClientKey XOR ClientSignature."""
        return xor(self._client_key, hmac.digest(self.verifier.stored_key, auth_message, "sha256"))

    def wipe(self) -> None:
        """Overwrites the key. Whoever is through with the login calls it."""
        self._client_key[:] = bytes(len(self._client_key))

    def __repr__(self) -> str:
        return "<redacted>"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("login keys are not pickled")


def xor(one: bytes | bytearray, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(other), "big")
