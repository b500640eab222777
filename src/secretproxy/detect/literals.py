"""Cuts comments and literals out of a text: what is left is the same in all texts that differ only in these.

Two lexers read what PostgreSQL's (src/backend/parser/scan.l) reads in the same way whatever the session's settings.
split() gives no answer where anything is unusual: where a byte stands outside of strings that is not ASCII, a
backslash, a `$` that begins no parameter, a comment, a string with a prefix (E, U&, B, X, N), a string that a second
one may continue. Strings and whole numbers become a sign that no text has, as do all numbers or strings behind the
first one of `IN (...)`, however many; everything else stays as it is, byte for byte.

without_comments() gives a text of the same tokens. A comment ends the token before it, as a blank does, also within
an operator. Where no backslash is, each kind of string ends in the same way. A comment decides something only between
two strings: whether the second continues the first. There it gives no answer either. Where the package was compiled,
_literals.c does both. Pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Final

# What stands for a string and for a whole number in a template.
STRING, NUMBER = b"\1", b"\2"
# What stands for those behind the first one of a list, if there are any or not.
MORE_NUMBERS, MORE_STRINGS = b"\3", b"\4"
# Bytes of a text: so many are cut in a fraction of a millisecond, in C and here.
MOST_IN_C, MOST_IN_PYTHON = 131_072, 4096
# A number of more digits may be one that does not fit into an integer, which the grammar knows as another kind.
MOST_DIGITS: Final = 9
# Begin and end of each string, inside its marks.
_SPAN: Final = struct.Struct("=II")
# Template and spans.
Split = tuple[bytes, bytes]

_SLASH: Final = ord("/")
_BLANKS: Final = rb"[ \t\n\r]*+"
_STRING: Final = rb"'[^'\\\0]*+(?:''[^'\\\0]*+)*+'"
_NUMBER: Final = rb"[0-9]{1,%d}+" % MOST_DIGITS
_IN_LIST: Final = rb"(?=[ \t\n\r,)])"


def _all_of(item: bytes) -> bytes:
    return item + _IN_LIST + rb"(?:" + _BLANKS + b"," + _BLANKS + item + _IN_LIST + rb")*+"


# Behind a point, IN is a name. Behind two blanks there may be one: that list stays as it is.
_LIST: Final = (
    rb"(?P<list>(?<=[^ \t\n\r.][ \t\n\r])[iI][nN]" + _BLANKS + rb"\((?P<items>" + _BLANKS + rb"(?:"
    rb"(?P<numbers>" + _all_of(_NUMBER) + rb")|(?P<first>(?=(?P<span>" + _STRING + rb"))" + _all_of(_STRING) + rb"))"
    + _BLANKS + rb")\))|"
)  # fmt: skip
_REST: Final = (
    rb"(?P<string>(?<=[ \t\n\r(,=<>|\[])" + _STRING + rb"(?=[ \t\n\r),:;\]=<>|]|\Z))"
    rb"|(?P<number>(?<=[ \t\n\r(,=<>\[])" + _NUMBER + rb"(?=[ \t\n\r),:;\]=<>|+\-*/%]|\Z))"
    rb'|(?P<name>(?<=[ \t\n\r(,.=<>\[])"[^"\0-\x1f\x7f-\xff\\$]*+(?:""[^"\0-\x1f\x7f-\xff\\$]*+)*+")'
    rb"|(?P<parameter>(?<![A-Za-z0-9_'\"])\$[0-9]++(?![A-Za-z_]))"
    rb"|--|/\*|['\"\0-\x08\x0b\x0c\x0e-\x1f\x7f-\xff\\$]"
)
_TOKEN, _TOKEN_OR_LIST = re.compile(_REST), re.compile(_LIST + _REST)
# In `position(a IN b)`, what stands behind IN is no list.
_POSITION: Final = re.compile(rb"position", re.IGNORECASE)


def split_in_python(text: bytes) -> Split | None:
    """Cuts the literals out of a text; None where the text has no template."""
    parts: list[bytes] = []
    spans: list[bytes] = []
    pos, string_end = 0, -1
    for found in (_TOKEN if _POSITION.search(text) else _TOKEN_OR_LIST).finditer(text):
        kind = found.lastgroup
        if kind is None:
            return None
        start, end = found.span()
        if kind == "list":
            parts.append(text[pos : found.start("items")])
            if found["numbers"] is None:
                begin, behind = found.span("span")
                spans.append(_SPAN.pack(begin + 1, behind - 1))
                parts.append(STRING + MORE_STRINGS)
            else:
                parts.append(NUMBER + MORE_NUMBERS)
            pos = found.end("items")
            continue
        if kind == "string":
            # Behind a new line PostgreSQL reads a second string as the first one's continuation.
            if string_end >= 0 and not text[string_end:start].strip(b" \t\n\r"):
                return None
            string_end = end
            spans.append(_SPAN.pack(start + 1, end - 1))
        if kind in ("string", "number"):
            parts.append(text[pos:start])
            parts.append(STRING if kind == "string" else NUMBER)
            pos = end
    parts.append(text[pos:])
    return b"".join(parts), b"".join(spans)


_BLANK: Final = b" \t\n\r"
# A string or a quoted name may go on behind a doubled mark, as another one that begins there.
_OUTSIDE: Final = re.compile(
    rb"""(?P<string>'[^']*+')|"[^"]*+"|(?P<comment>--[^\n\r]*+|/\*)"""
    rb"""|(?<![\w$'"\x80-\xff])\$(?:[0-9]|(?P<tag>(?:[A-Za-z_][A-Za-z0-9_]*+)?)\$(?s:.*?)\$(?P=tag)\$)"""
    rb"""|(?P<doubtful>['"$])""",
    re.ASCII,
)
_NESTED: Final = re.compile(rb"/\*|\*/")


def without_comments_in_python(text: bytes) -> bytes | None:
    """Gives a text without its comments; None where it has none, or where they are not sure to be comments."""
    if (b"--" not in text and b"/*" not in text) or b"\\" in text or b"\0" in text:
        return None
    made = bytearray()
    pos, commented = 0, False
    # Where a string ended, or the last of the comments behind it.
    behind_string, commented_behind = -1, False
    found = _OUTSIDE.search(text)
    while found is not None:
        start, end = found.span()
        if found["doubtful"] is not None:
            return None
        if behind_string >= 0 and text[behind_string:start].strip(b" \t\n\r\f\v"):
            behind_string, commented_behind = -1, False
        if found["string"] is not None:
            if commented_behind:
                return None
            behind_string = end
        elif found["comment"] is not None:
            if text[start] == _SLASH:
                end = _comment_end(text, end)
                if end < 0:
                    return None
            made += text[pos:start]
            if made and made[-1] not in _BLANK:
                made += b" "
            pos, commented = end, True
            if behind_string >= 0:
                behind_string, commented_behind = end, True
        found = _OUTSIDE.search(text, end)
    if not commented:
        return None
    made += text[pos:]
    return bytes(made.strip(_BLANK))


def _comment_end(text: bytes, pos: int) -> int:
    """Finds the end of a comment whose beginning has been read, -1 where it has none; comments nest."""
    depth = 1
    for found in _NESTED.finditer(text, pos):
        depth += 1 if found[0] == b"/*" else -1
        if depth == 0:
            return found.end()
    return -1


def span(spans: bytes, number: int) -> tuple[int, int]:
    """Gives where a string begins and ends in its text, inside its marks."""
    begin, end = _SPAN.unpack_from(spans, number * _SPAN.size)
    return begin, end


def _in_c() -> tuple[Callable[[bytes], Split | None], Callable[[bytes], bytes | None], int]:
    try:
        from secretproxy.detect import _literals
    except ImportError:
        return split_in_python, without_comments_in_python, MOST_IN_PYTHON
    return _literals.split, _literals.without_comments, MOST_IN_C


SPLIT: Final = _in_c()
split: Final[Callable[[bytes], Split | None]] = SPLIT[0]
without_comments: Final[Callable[[bytes], bytes | None]] = SPLIT[1]
MOST: Final[int] = SPLIT[2]
