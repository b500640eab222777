"""The secret functions that are known by name: their signatures, parameter names and what they do to a secret.

A function of a monitored schema that is not listed here is still a secret function; nothing is known of its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operation = Literal["read", "write", "verify", "delete"]


@dataclass(frozen=True, slots=True)
class Function:
    """One overload. `parameters` are its names in order; the positions say where owner, name and encoding stand."""

    name: str
    types: tuple[str, ...]
    parameters: tuple[str, ...]
    operation: Operation
    required: int
    owner: int = 0
    secret: int = 1
    encoding: int | None = None
    default_encoding: str | None = None

    def signature(self, schema: str) -> str:
        return f"{schema}.{self.name}({','.join(self.types)})"

    @property
    def takes_array(self) -> bool:
        return self.types[self.secret].endswith("[]")


FUNCTIONS: tuple[Function, ...] = (
    Function(
        "secrets_upsert",
        ("uuid", "text", "text", "text"),
        ("v_secrets_owned_field", "secret_name", "secret_value", "field_encoding"),
        "write",
        3,
        encoding=3,
        default_encoding="pgp",
    ),
    Function(
        "secrets_getter",
        ("uuid", "text", "text"),
        ("secrets_owned_field", "secret_name", "default_value"),
        "read",
        2,
    ),
    Function(
        "secrets_verify",
        ("uuid", "text", "text"),
        ("secrets_owned_field", "secret_name", "secret_value"),
        "verify",
        3,
    ),
    Function("secrets_delete", ("uuid", "text"), ("secrets_owned_field", "secret_name"), "delete", 2),
    Function("secrets_delete", ("uuid", "text[]"), ("secrets_owned_field", "secret_names"), "delete", 2),
)

# The original module's helpers that touch a secret. Where owner and name stand, only they themselves know.
HELPERS: dict[str, Operation] = {
    "encrypt_field_pgp_get": "read",
    "encrypt_field_pgp_getter": "read",
    "encrypt_field_crypt_verify": "verify",
    "secrets_table_upsert": "write",
}
NAMES: frozenset[str] = frozenset(function.name for function in FUNCTIONS)


_OVERLOADS: dict[str, tuple[Function, ...]] = {
    name: tuple(function for function in FUNCTIONS if function.name == name) for name in NAMES
}


def overloads(name: str) -> tuple[Function, ...]:
    return _OVERLOADS.get(name, ())


def operation_of(signature: str) -> Operation | None:
    """Gives the operation of a signature such as `encrypted_secrets.secrets_getter(uuid,text,text)`."""
    name = signature.partition("(")[0].rpartition(".")[2]
    known = overloads(name)
    return known[0].operation if known else HELPERS.get(name)
