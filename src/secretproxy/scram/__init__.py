"""SCRAM-SHA-256 in both roles, on stored verifiers and recovered client keys: bytes in, bytes out, no password
anywhere."""

from secretproxy.scram.client import ClientExchange, NotTheBackendError, OtherVerifierError
from secretproxy.scram.server import MECHANISM, MECHANISM_PLUS, ServerExchange, WrongPasswordError
from secretproxy.scram.verifier import LoginKeys, NotAVerifierError, Verifier, mock

__all__ = [
    "MECHANISM",
    "MECHANISM_PLUS",
    "ClientExchange",
    "LoginKeys",
    "NotAVerifierError",
    "NotTheBackendError",
    "OtherVerifierError",
    "ServerExchange",
    "Verifier",
    "WrongPasswordError",
    "mock",
]
