r"""String constants as `standard_conforming_strings = off` has them, rewritten so that a parser with the setting on
reads the same.

A plain '...' becomes E'...', as in it a backslash escapes; everything else stays (src/backend/parser/scan.l). Pure.
"""

from __future__ import annotations

import re

# How a session may read the strings of a text: one way, the other, or either, where the setting may have changed
# meanwhile.
STANDARD, ESCAPES, EITHER = 1, 2, 3

_START = "A-Za-z_\u0080-\U0010ffff"
# Nothing is given back that has been read: what does not end has been read to the end of the text once.
_ESCAPED = r"'(?:[^'\\]+|\\.|'')*+'"
# Behind a new line a string goes on.
_GOES_ON = rf"(?:[ \t\f\v]*+(?:--[^\n\r]*+)?[\n\r](?:\s|--[^\n\r]*+[\n\r])*+{_ESCAPED})*+"
_TOKEN = re.compile(
    rf"(?P<plain>(?:(?P<national>[nN])|(?=')){_ESCAPED}{_GOES_ON})"
    rf"|[eE]{_ESCAPED}{_GOES_ON}|[bBxX]'[^']*+'|(?:[uU]&)?\"(?:[^\"]|\"\")*+\"|--[^\n\r]*+|(?P<comment>/\*)"
    rf"|(?P<tag>\$(?:[{_START}][{_START}0-9]*)?\$)|(?P<open>['\"])|[{_START}][{_START}0-9$]*|[^'\"$/{_START}-]+|.",
    re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


def as_standard(sql: str) -> str:
    """Rewrites the plain strings of a text as escape strings.

    From an unterminated string on, the text stays as it is: no parser accepts it.
    """
    parts: list[str] = []
    pos = 0
    while pos < len(sql):
        found = _TOKEN.match(sql, pos)
        if found is None or found["open"] is not None:
            break
        end = found.end()
        tag = found["tag"]
        if tag is not None:
            closing = sql.find(tag, end)
            if closing < 0:
                break
            end = closing + len(tag)
            parts.append(sql[pos:end])
        elif found["comment"] is not None:
            end = _comment_end(sql, end)
            parts.append(sql[pos:end])
        elif found["plain"] is not None:
            parts.append(" E" + found[0][len(found["national"] or "") :])
        else:
            parts.append(found[0])
        pos = end
    return "".join(parts) + sql[pos:]


def _comment_end(sql: str, pos: int) -> int:
    """Finds the end of a comment whose beginning has been read; comments nest."""
    depth = 1
    for found in _COMMENT.finditer(sql, pos):
        depth += 1 if found[0] == "/*" else -1
        if depth == 0:
            return found.end()
    return len(sql)
