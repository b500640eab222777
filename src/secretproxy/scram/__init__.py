"""SCRAM-SHA-256 in both roles, on stored verifiers and recovered client keys: bytes in, bytes out, no password anywhere."""

from secretproxy.scram.client import ClientExchange, NotTheBackend, OtherVerifier
from secretproxy.scram.server import MECHANISM, MECHANISM_PLUS, ServerExchange, WrongPassword
from secretproxy.scram.verifier import LoginKeys, NotAVerifier, Verifier, mock

__all__ = [
    "MECHANISM",
    "MECHANISM_PLUS",
    "ClientExchange",
    "LoginKeys",
    "NotAVerifier",
    "NotTheBackend",
    "OtherVerifier",
    "ServerExchange",
    "Verifier",
    "WrongPassword",
    "mock",
]
