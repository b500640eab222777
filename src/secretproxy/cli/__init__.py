"""The `secretproxy` command: one module a command, registered here.

May import everything below it; must never print a value, a DSN's password or a traceback.
"""

from __future__ import annotations

from secretproxy.cli.app import main

__all__ = ["main"]
