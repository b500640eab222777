"""A secret call as a statement's text shows it, and the same with its parameters filled in."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from typing import Final

from secretproxy.detect import arguments
from secretproxy.detect.arguments import NO_VALUES, UNKNOWN, Argument, Values
from secretproxy.detect.functions import Function, Operation, operation_of, overloads
from secretproxy.wire.messages import Bind

__all__ = ["Call", "Operation", "ResolvedCall"]


class ResolvedCall:
    """The content of an attempt for the log.

    `exact`: function, owner and names are all known. Not a dataclass: one is made for each execution, and a dataclass
    costs ten times as much to make, compiled.
    """

    __slots__ = ("encoding", "exact", "function", "names", "operation", "owner", "via")

    def __init__(
        self,
        function: str,
        operation: Operation | None,
        owner: uuid.UUID | None,
        names: tuple[str | None, ...] | None,
        encoding: str | None,
        exact: bool,
        via: tuple[str, ...] | None = None,
    ) -> None:
        self.function = function
        self.operation: Operation | None = operation
        self.owner = owner
        self.names = names
        self.encoding = encoding
        self.exact = exact
        self.via = via

    def named(self, names: tuple[str | None, ...] | None, *, exact: bool) -> ResolvedCall:
        """Gives the same call with other names."""
        return ResolvedCall(self.function, self.operation, self.owner, names, self.encoding, exact, self.via)

    def _all(self) -> tuple[object, ...]:
        return self.function, self.operation, self.owner, self.names, self.encoding, self.exact, self.via

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResolvedCall) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return f"ResolvedCall({self.function}, exact={self.exact})"


# Stands for whatever Bind there will be, where its types alone matter.
_ANY_BIND: Final = Bind(b"", b"", (), ())


class _Found:
    """The function that a call is of, and the arguments that show its owner and names."""

    __slots__ = ("function", "operation", "owner", "secret", "signature", "takes_array", "types")

    def __init__(
        self,
        types: tuple[int, ...],
        function: Function | None,
        signature: str,
        operation: Operation | None,
        owner: Argument,
        secret: Argument,
    ) -> None:
        self.types = types
        self.function = function
        self.signature = signature
        self.operation: Operation | None = operation
        self.owner = owner
        self.secret = secret
        self.takes_array = function is not None and function.takes_array

    def __repr__(self) -> str:
        return f"_Found({self.signature})"


@dataclass(frozen=True, slots=True)
class Call:
    """One FuncCall of a secret function: the schema it is logged under, its name and its arguments by position or name.

    `opaque`: seen by name alone (in a body that has no parse tree, in text that does not parse). `via`: the objects
    that lead to it, where the statement names the first of them and not the function, whose `signature` the catalog
    tells.
    """

    schema: str
    name: str
    positional: tuple[Argument, ...] = ()
    named: tuple[tuple[str, Argument], ...] = ()
    opaque: bool = False
    signature: str | None = None
    via: tuple[str, ...] | None = None
    # What the last Bind with these parameter types found.
    _found: list[_Found] = field(default_factory=list, init=False, repr=False, compare=False)

    def resolve(self, values: Values = NO_VALUES) -> ResolvedCall:
        if arguments.VOID_OID in values.types:
            passed = tuple(argument for argument in self.positional if not arguments.is_void(argument, values))
            return replace(self, positional=passed)._resolve(values)
        return self._resolve(values)

    def _resolve(self, values: Values) -> ResolvedCall:
        kept = self._found
        if kept and kept[0].types is values.types and values.bind is not None:
            found = kept[0]
        else:
            found = self._find(values)
            if values.bind is not None:
                kept[:] = [found]
        function, signature = found.function, found.signature
        if function is None:
            return ResolvedCall(signature, found.operation, None, None, None, False, self.via)
        owner_known, owner = arguments.as_uuid(found.owner, values)
        secret = found.secret
        names: tuple[str | None, ...] | None
        if found.takes_array:
            names_known, names = arguments.as_names(secret, values)
        else:
            names_known, name = arguments.as_text(secret, values)
            names = (name,) if names_known and name is not None else None
        return ResolvedCall(
            signature,
            found.operation,
            owner if owner_known else None,
            names if names_known else None,
            self._encoding(function, values),
            owner_known and names_known,
        )

    def found(self, types: tuple[int, ...]) -> _Found | None:
        """Finds the function that a Bind with parameters of these types calls, and where its owner and names stand;
        None where a type says that parameters are not counted as they stand."""
        return None if arguments.VOID_OID in types else self._find(Values(_ANY_BIND, types))

    def _find(self, values: Values) -> _Found:
        """Finds the function that is called, and where its owner and names stand. Of a Bind's values their types alone
        matter."""
        function = self._function(values)
        if function is None:
            known = overloads(self.name)
            signature = self.signature or (
                known[0].signature(self.schema) if len(known) == 1 else f"{self.schema}.{self.name}"
            )
            return _Found(values.types, None, signature, operation_of(signature), UNKNOWN, UNKNOWN)
        owner, secret = self._argument(function, function.owner), self._argument(function, function.secret)
        return _Found(values.types, function, function.signature(self.schema), function.operation, owner, secret)

    def _function(self, values: Values) -> Function | None:
        if self.opaque:
            return None
        count = len(self.positional) + len(self.named)
        keys = {key for key, _ in self.named}
        fitting = [
            function
            for function in overloads(self.name)
            if function.required <= count <= len(function.types) and keys <= set(function.parameters)
        ]
        if len(fitting) > 1:
            array = arguments.is_array(self._argument(fitting[0], fitting[0].secret), values)
            fitting = [function for function in fitting if function.takes_array == array]
        return fitting[0] if len(fitting) == 1 else None

    def _argument(self, function: Function, position: int) -> Argument:
        if position < len(self.positional):
            return self.positional[position]
        for key, argument in self.named:
            if key == function.parameters[position]:
                return argument
        return UNKNOWN

    def _encoding(self, function: Function, values: Values) -> str | None:
        if function.encoding is None:
            return None
        given = function.encoding < len(self.positional) or any(
            key == function.parameters[function.encoding] for key, _ in self.named
        )
        if not given:
            return function.default_encoding
        known, text = arguments.as_text(self._argument(function, function.encoding), values)
        # Anything but an encoding's name in this place could be a value that slipped.
        return text if known and text in ("pgp", "crypt", "none") else None
