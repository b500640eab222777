"""Reads the arguments of secret calls, as far as the text shows them: constants, parameters, arrays of those.

Only owners, names and encodings are ever evaluated; the place of a value is never looked at.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any, Final

from secretproxy.wire.messages import Bind

Node = dict[str, Any]

# Type OIDs of src/include/catalog/pg_type.dat that a parameter in an owner's or a name's place may have.
UNKNOWN_OID: Final = 705
TEXT_OIDS: Final = frozenset({0, 25, 1043, UNKNOWN_OID, 19})
ARRAY_OIDS: Final = frozenset({1009, 1015, 1003})
VOID_OID: Final = 2278

# Names of one call that are read: an array of more, or a longer one, stays unknown, as resolving it takes the event
# loop's time.
MOST_NAMES, MOST_ARRAY_BYTES = 1000, 16_384
# Longer text is not a uuid.
_UUID_BYTES: Final = 128

_TRANSPARENT_TYPES: Final = frozenset({"text", "varchar", "uuid", "unknown"})


# Owners by what they were read from: making a UUID takes longer than all else that an argument needs.
_KEPT_UUIDS: Final = 4096
_spelled: dict[str, uuid.UUID] = {}
_binary: dict[bytes, uuid.UUID] = {}


def spelled_uuid(text: str) -> uuid.UUID:
    """Reads a uuid's text. Raises ValueError."""
    found = _spelled.get(text)
    if found is None:
        found = uuid.UUID(text.strip())
        if len(_spelled) >= _KEPT_UUIDS:
            _spelled.clear()
        _spelled[text] = found
    return found


def read_uuid(raw: bytes) -> uuid.UUID:
    """Reads a uuid's sixteen bytes."""
    found = _binary.get(raw)
    if found is None:
        # By its text, so that one owner is one object, which is compared at once.
        found = spelled_uuid(str(uuid.UUID(bytes=raw)))
        if len(_binary) >= _KEPT_UUIDS:
            _binary.clear()
        _binary[raw] = found
    return found


class _Unknown:
    """The text does not show what the argument is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True, slots=True, repr=False)
class Constant:
    text: str | None

    def __repr__(self) -> str:
        return "Constant(<redacted>)"


@dataclass(frozen=True, slots=True)
class Parameter:
    """`$n`; `array` where the text casts it to an array, whatever type the client declared."""

    number: int
    array: bool = False


@dataclass(frozen=True, slots=True)
class Array:
    elements: tuple[Constant | Parameter | _Unknown, ...]


Argument = Constant | Parameter | Array | _Unknown


class Values:
    """The parameter values of one execution: those of a Bind, or the arguments of an SQL EXECUTE.

    `codec` is the encoding of the client's texts.
    """

    __slots__ = ("arguments", "bind", "codec", "outer", "types")

    def __init__(
        self,
        bind: Bind | None = None,
        types: tuple[int, ...] = (),
        codec: str = "utf-8",
        arguments: tuple[Argument, ...] = (),
        outer: Values | None = None,
    ) -> None:
        self.bind = bind
        self.types = types
        self.codec = codec
        self.arguments = arguments
        self.outer = outer

    def __repr__(self) -> str:
        return f"Values({len(self.types)} types)"

    def argument(self, number: int) -> tuple[Argument, Values]:
        """Gives the argument of an SQL EXECUTE, to be evaluated against what surrounds the EXECUTE."""
        if 1 <= number <= len(self.arguments):
            return self.arguments[number - 1], self.outer or NO_VALUES
        return UNKNOWN, NO_VALUES

    def oid(self, number: int) -> int:
        return self.types[number - 1] if number <= len(self.types) else 0


NO_VALUES: Final = Values()


def read(node: Node) -> Argument:
    """Reads an expression of the parse tree as an argument."""
    kind, body = next(iter(node.items()))
    if kind == "A_Const":
        return _constant(body)
    if kind == "ParamRef":
        return Parameter(body.get("number", 0))
    if kind == "TypeCast":
        return _cast(body)
    if kind in ("A_ArrayExpr", "NamedArgExpr", "CollateClause"):
        if kind != "A_ArrayExpr":
            return read(body["arg"]) if body.get("arg") else UNKNOWN
        if len(body.get("elements", ())) > MOST_NAMES:
            return UNKNOWN
        elements = tuple(read(element) for element in body.get("elements", ()))
        if any(isinstance(element, Array) for element in elements):
            return UNKNOWN
        return Array(elements)  # type: ignore[arg-type]
    return UNKNOWN


def _constant(body: Node) -> Argument:
    if body.get("isnull"):
        return Constant(None)
    if "sval" in body:
        return Constant(body["sval"].get("sval", ""))
    return UNKNOWN


def _cast(body: Node) -> Argument:
    type_name = body.get("typeName", {})
    names = [part["String"].get("sval", "") for part in type_name.get("names", ())]
    if not names or names[-1] not in _TRANSPARENT_TYPES or type_name.get("typmods"):
        return UNKNOWN
    inner = read(body["arg"])
    if type_name.get("arrayBounds"):
        if isinstance(inner, Constant) and inner.text is not None:
            return array_literal(inner.text)
        return replace(inner, array=True) if isinstance(inner, Parameter) else inner
    return UNKNOWN if isinstance(inner, Array) else inner


def array_literal(text: str) -> Argument:
    """Reads a one-dimensional array literal, `{a,"b c",NULL}` (array_in of src/backend/utils/adt/arrayfuncs.c)."""
    if len(text) > MOST_ARRAY_BYTES:
        return UNKNOWN
    text = text.strip()
    if len(text) < 2 or text[0] != "{" or text[-1] != "}":
        return UNKNOWN
    elements: list[Constant | Parameter | _Unknown] = []
    pos, end = 1, len(text) - 1
    if not text[1:-1].strip():
        return Array(())
    while True:
        found = _array_element(text, pos, end)
        if found is None:
            return UNKNOWN
        element, pos = found
        elements.append(element)
        if pos >= end:
            return Array(tuple(elements))
        pos += 1


def _array_element(text: str, pos: int, end: int) -> tuple[Constant, int] | None:
    """Reads an element from `pos` to the comma or end after it.

    Gives it and that place, or None if it is malformed.
    """
    while pos < end and text[pos].isspace():
        pos += 1
    item: list[str] = []
    quoted = False
    # Characters without the blanks behind them, which count in quotes or behind a backslash alone.
    kept = 0
    while pos < end and text[pos] != ",":
        char = text[pos]
        if char in "{}" or (quoted and not char.isspace()):
            return None
        if char == '"':
            if item:
                return None
            quoted = True
            pos = _quoted(text, pos + 1, end, item)
            kept = len(item)
        elif not quoted:
            escaped = char == "\\"
            pos += escaped
            if pos < end:
                item.append(text[pos])
            if escaped or not char.isspace():
                kept = len(item)
        if pos >= end:
            return None
        pos += 1
    word = "".join(item[:kept])
    if not quoted and not word:
        return None
    return Constant(None if not quoted and word.upper() == "NULL" else word), pos


def _quoted(text: str, pos: int, end: int, item: list[str]) -> int:
    """Takes the characters up to the closing quote; gives its place, or `end` if there is none."""
    while pos < end and text[pos] != '"':
        pos += text[pos] == "\\"
        if pos >= end:
            return end
        item.append(text[pos])
        pos += 1
    return pos


def as_text(argument: Argument, values: Values) -> tuple[bool, str | None]:
    """Gives (known, text) of a text argument."""
    if isinstance(argument, Constant):
        return True, argument.text
    if isinstance(argument, Parameter):
        if values.bind is None:
            inner, outer = values.argument(argument.number)
            return (False, None) if isinstance(inner, _Unknown) else as_text(inner, outer)
        found = _bound(argument.number, values)
        if found is None:
            return False, None
        raw, _ = found
        if raw is None:
            return True, None
        if values.oid(argument.number) not in TEXT_OIDS:
            return False, None
        return _decoded(raw, values)
    return False, None


def as_uuid(argument: Argument, values: Values) -> tuple[bool, uuid.UUID | None]:
    """Gives (known, uuid) of an owner; a text that is not a uuid is not known, because it may be anything."""
    if isinstance(argument, Parameter) and values.bind is not None:
        found = _bound(argument.number, values)
        if found is None:
            return False, None
        raw, binary = found
        if raw is None:
            return True, None
        if binary and len(raw) == 16:
            return True, read_uuid(raw)
        if len(raw) > _UUID_BYTES:
            return False, None
        known, text = _decoded(raw, values)
    elif isinstance(argument, Parameter):
        inner, outer = values.argument(argument.number)
        return (False, None) if isinstance(inner, _Unknown) else as_uuid(inner, outer)
    else:
        known, text = as_text(argument, values)
    if not known:
        return False, None
    if text is None:
        return True, None
    if len(text) > _UUID_BYTES:
        return False, None
    try:
        return True, spelled_uuid(text)
    except ValueError:
        return False, None


def as_names(argument: Argument, values: Values) -> tuple[bool, tuple[str | None, ...] | None]:
    """Gives (known, names) of an array of names."""
    if isinstance(argument, Array):
        names = []
        for element in argument.elements:
            known, text = as_text(element, values)
            if not known:
                return False, None
            names.append(text)
        return True, tuple(names)
    if isinstance(argument, Constant):
        if argument.text is None:
            return True, None
        literal = array_literal(argument.text)
        return as_names(literal, values) if isinstance(literal, Array) else (False, None)
    if isinstance(argument, Parameter):
        if values.bind is None:
            inner, outer = values.argument(argument.number)
            return (
                (False, None)
                if isinstance(inner, _Unknown | Parameter) and outer.bind is None
                else as_names(inner, outer)
            )
        found = _bound(argument.number, values)
        if found is None:
            return False, None
        raw, binary = found
        if raw is None:
            return True, None
        if len(raw) > MOST_ARRAY_BYTES:
            return False, None
        if binary:
            return _binary_array(raw, values)
        known, text = _decoded(raw, values)
        if known and text is not None:
            return as_names(array_literal(text), values)
    return False, None


def is_array(argument: Argument, values: Values) -> bool:
    """Says whether an argument is known to be an array and not one text."""
    if isinstance(argument, Array):
        return True
    if isinstance(argument, Parameter):
        if values.bind is None:
            inner, outer = values.argument(argument.number)
            return not isinstance(inner, _Unknown | Parameter) and is_array(inner, outer)
        return argument.array or values.oid(argument.number) in ARRAY_OIDS
    return False


def is_void(argument: Argument, values: Values) -> bool:
    """Says whether PostgreSQL drops the parameter.

    A parameter of type void, the place of a result in JDBC's calls (ParseFuncOrColumn of parse_func.c).
    """
    return isinstance(argument, Parameter) and values.oid(argument.number) == VOID_OID


def _bound(number: int, values: Values) -> tuple[bytes | None, bool] | None:
    bind = values.bind
    if bind is None or not 1 <= number <= len(bind.values):
        return None
    return bind.values[number - 1].reveal(), bind.formats[number - 1] == 1


def _decoded(raw: bytes, values: Values) -> tuple[bool, str | None]:
    try:
        return True, raw.decode(values.codec)
    except UnicodeDecodeError:
        return False, None


def _binary_array(raw: bytes, values: Values) -> tuple[bool, tuple[str | None, ...] | None]:
    """Decodes a one-dimensional text array in binary format (array_recv of src/backend/utils/adt/arrayfuncs.c)."""
    if len(raw) < 12:
        return False, None
    dimensions = int.from_bytes(raw[:4], "big")
    if dimensions == 0:
        return True, ()
    if dimensions != 1 or len(raw) < 20:
        return False, None
    count, pos = int.from_bytes(raw[12:16], "big"), 20
    names: list[str | None] = []
    for _ in range(count):
        if pos + 4 > len(raw):
            return False, None
        size = int.from_bytes(raw[pos : pos + 4], "big", signed=True)
        pos += 4
        if size < 0:
            names.append(None)
            continue
        if pos + size > len(raw):
            return False, None
        known, text = _decoded(raw[pos : pos + size], values)
        if not known:
            return False, None
        names.append(text)
        pos += size
    return True, tuple(names)
