"""Checks that what mypyc compiles follows its rules where breaking them shows only when the compiled code runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILED = re.findall(r'"(src/[^"]+\.py)"', (ROOT / "setup.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", COMPILED)
def test_a_name_of_an_except_has_one_type_in_a_function(path: str) -> None:
    # A second `except Other as error` fails with a TypeError in place of what it should do: the name keeps its first
    # type.
    for function in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            types: dict[str, set[str]] = {}
            for handler in ast.walk(function):
                if isinstance(handler, ast.ExceptHandler) and handler.name is not None and handler.type is not None:
                    types.setdefault(handler.name, set()).add(ast.unparse(handler.type))
            assert all(len(each) == 1 for each in types.values()), (function.name, types)


def test_all_that_is_compiled_is_watched_by_make() -> None:
    line = next(
        line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if line.startswith("COMPILED :=")
    )
    watched = {
        str(found.relative_to(ROOT)) for pattern in re.findall(r"src/[^\s)]+", line) for found in ROOT.glob(pattern)
    }
    assert set(COMPILED) <= watched
