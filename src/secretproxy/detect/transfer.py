"""Verdicts as bytes, for the process that finds them and the one that asked.

JSON: what is read makes no object of any other kind.
"""

from __future__ import annotations

import json
from typing import Any

from secretproxy.detect.arguments import UNKNOWN, Argument, Array, Constant, Parameter
from secretproxy.detect.calls import Call
from secretproxy.detect.verdict import HARMLESS, SqlExecute, Verdict


def pack(verdict: Verdict) -> bytes:
    if verdict is HARMLESS:
        return b""
    return json.dumps(
        [
            [_call(call) for call in verdict.calls],
            verdict.definitions,
            verdict.tables,
            [[name, [_call(call) for call in calls]] for name, calls in verdict.prepares],
            [[name, [_call(call) for call in calls]] for name, calls in verdict.cursors],
            [[execute.name, [_argument(argument) for argument in execute.arguments]] for execute in verdict.executes],
            verdict.fetches,
            verdict.deallocates,
            verdict.closes,
            verdict.fingerprint,
            verdict.parsed,
            verdict.only_reads,
        ]
    ).encode()


def unpack(data: bytes) -> Verdict:
    if not data:
        return HARMLESS
    (
        calls,
        definitions,
        tables,
        prepares,
        cursors,
        executes,
        fetches,
        deallocates,
        closes,
        fingerprint,
        parsed,
        only_reads,
    ) = json.loads(data)
    return Verdict(
        _calls(calls),
        tuple(definitions),
        tuple(tables),
        tuple((name, _calls(made)) for name, made in prepares),
        tuple((name, _calls(made)) for name, made in cursors),
        tuple(SqlExecute(name, tuple(_read(argument) for argument in arguments)) for name, arguments in executes),
        tuple(fetches),
        tuple(deallocates),
        tuple(closes),
        fingerprint,
        parsed,
        only_reads,
    )


def _call(call: Call) -> list[Any]:
    named = [[name, _argument(argument)] for name, argument in call.named]
    return [
        call.schema,
        call.name,
        [_argument(each) for each in call.positional],
        named,
        call.opaque,
        call.signature,
        call.via,
    ]


def _calls(calls: list[Any]) -> tuple[Call, ...]:
    return tuple(
        Call(
            schema,
            name,
            tuple(_read(argument) for argument in positional),
            tuple((key, _read(argument)) for key, argument in named),
            opaque,
            signature,
            None if via is None else tuple(via),
        )
        for schema, name, positional, named, opaque, signature, via in calls
    )


def _argument(argument: Argument) -> Any:
    """Encodes an argument. 0: not known; [text]: a constant; [number, array]: a parameter; {"": elements}: an array."""
    if isinstance(argument, Constant):
        return [argument.text]
    if isinstance(argument, Parameter):
        return [argument.number, argument.array]
    if isinstance(argument, Array):
        return {"": [_argument(element) for element in argument.elements]}
    return 0


def _read(packed: Any) -> Any:
    if packed == 0:
        return UNKNOWN
    if isinstance(packed, dict):
        return Array(tuple(_read(element) for element in packed[""]))
    return Constant(packed[0]) if len(packed) == 1 else Parameter(packed[0], packed[1])
