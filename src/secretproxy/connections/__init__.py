"""Service connections: those that secretproxy opens for itself, for the log, the catalog, questions to servers and every command.

`connect` is the one place that opens them, with every setting pinned that could change what a statement means. All layers may import this
package; it imports none of them.
"""

from secretproxy.connections.conninfo import Conninfo, ConninfoError, Place, has_password, read
from secretproxy.connections.opening import FAILURES, ConnectError, connect, trouble, words
from secretproxy.connections.pinned import READING

__all__ = [
    "FAILURES",
    "READING",
    "ConnectError",
    "Conninfo",
    "ConninfoError",
    "Place",
    "connect",
    "has_password",
    "read",
    "trouble",
    "words",
]
