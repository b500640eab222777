"""Reads a notice's CONTEXT: the functions on the way to a call of which no attempt told."""

from __future__ import annotations

import re
from typing import Final

# What the context lines of PL/pgSQL and of SQL functions name (plpgsql_exec_error_callback() of
# src/pl/plpgsql/src/pl_exec.c, sql_exec_error_callback() of src/backend/executor/functions.c). A PL/pgSQL function's
# is what format_procedure() makes of it, names quoted where they need it; an SQL function's bare name stands in
# quotes as it is, whatever it holds.
_NAME: Final = r'(?:[a-z_][a-z0-9_]*|"(?:[^"]|"")++")'
_SIGNATURE: Final = rf'{_NAME}(?:\.{_NAME})?\((?:[^()"\n]|"(?:[^"]|"")++")*+\)'
_FRAME: Final = re.compile(rf"PL/pgSQL[ -]\w+ (inline_code_block|{_SIGNATURE})(?: [^\"\n]*)?(?:\n|\Z)")
_SQL_FRAME: Final = re.compile(r'SQL function "([^"\n]{1,130})" (?:statement \d+|during \w+)(?:\n|\Z)')
# The function that testifies. What stands before it is our own functions' text, the same for every call.
_API: Final = re.compile(
    r"^PL/pgSQL[ -]\w+ (?:encrypted_secrets\.)?secrets_[a-z]+\([^()\"\n]*\)(?: [^\"\n]*)?(?:\n|\Z)", re.MULTILINE
)
MOST_CALLERS: Final = 20
# Bytes of a CONTEXT that are read: the calls next to the secret function stand first.
MOST_CONTEXT: Final = 16_384
# Stands for the callers that are not known.
UNKNOWN_CALLERS: Final = "..."


def call_path(context: str) -> tuple[str, ...] | None:
    """Reads the functions on the way to the call, the outermost first, out of a notice's CONTEXT.

    It ignores the texts of statements, and everything behind the first of them: they are a client's, with
    newlines where it likes, and nothing says where they end. "..." stands for what is not known for that.
    """
    api = _API.search(context)
    if api is None:
        return (UNKNOWN_CALLERS,) if context else None
    callers: list[str] = []
    pos = api.end()
    while pos < len(context) and len(callers) < MOST_CALLERS:
        frame = _FRAME.match(context, pos)
        if frame is None:
            break
        callers.append(frame[1])
        pos = frame.end()
    if pos < len(context):
        # A name that anybody may give a function can hold such lines too.
        frame = _SQL_FRAME.match(context, pos)
        if frame is not None and len(callers) < MOST_CALLERS:
            callers.append(frame[1])
            pos = frame.end()
    if pos < len(context):
        callers.append(UNKNOWN_CALLERS)
    return tuple(reversed(callers)) or None
