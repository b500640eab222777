"""Checks how a session is put together: small parts, each the only one that touches what is its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import secretproxy

PARTS = sorted(Path(secretproxy.__path__[0], "session").glob("*.py"))
MOST_FIELDS = 20


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _fields(made: ast.ClassDef) -> set[str]:
    """Gives the attributes that a class sets on itself."""
    return {
        node.attr
        for node in ast.walk(made)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value)
    }


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_no_part_touches_what_is_anothers(part: Path) -> None:
    private = [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(part.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not _is_self(node.value)
    ]
    assert not private


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.stem)
def test_no_part_has_more_than_can_be_kept_in_mind(part: Path) -> None:
    classes = [node for node in ast.parse(part.read_text()).body if isinstance(node, ast.ClassDef)]
    assert {made.name: len(_fields(made)) for made in classes if len(_fields(made)) > MOST_FIELDS} == {}


def test_parts_are_looked_at() -> None:
    assert {"session", "pipeline", "names"} <= {part.stem for part in PARTS}
    session = next(part for part in PARTS if part.stem == "session")
    made = next(node for node in ast.parse(session.read_text()).body if isinstance(node, ast.ClassDef))
    assert {"answered", "pipeline", "_client"} <= _fields(made)
