"""Service connections: those that secretproxy opens for itself, for the log, the catalog, questions to servers and
every command.

`connect` is the one place that opens them, with every setting pinned that could change what a statement means. All
layers may import this package; it imports none of them."""

from secretproxy.connections.conninfo import Conninfo, ConninfoError, Place, has_password, read
from secretproxy.connections.held import broke, broken, close, held, refusal, unkept
from secretproxy.connections.opening import (
    FAILURES,
    ConnectError,
    ServiceConnection,
    cause_of,
    connect,
    login_refused,
    words,
)
from secretproxy.connections.patience import run
from secretproxy.connections.pinned import READING

__all__ = [
    "FAILURES",
    "READING",
    "ConnectError",
    "Conninfo",
    "ConninfoError",
    "Place",
    "ServiceConnection",
    "broke",
    "broken",
    "cause_of",
    "close",
    "connect",
    "has_password",
    "held",
    "login_refused",
    "read",
    "refusal",
    "run",
    "unkept",
    "words",
]
