"""Checks how the proxy is put together: no circle, no part that touches what is another's, none that cannot be kept in
mind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import secretproxy
from tests.unit.test_session_parts import MOST_FIELDS, _fields, _is_self

ROOT = Path(secretproxy.__path__[0], "proxy")
PARTS = sorted(ROOT.rglob("*.py"))
# Python has no other way to it: a handshake whose first bytes have been read already, and OpenSSL's buffers.
OF_PYTHON = {"between._app_transport", "made._outgoing", "super()._create", "os._exit"}


def name(part: Path) -> str:
    return str(part.relative_to(ROOT))


@pytest.mark.parametrize("part", PARTS, ids=name)
def test_no_import_hides_a_circle(part: Path) -> None:
    assert "TYPE_CHECKING" not in part.read_text()


@pytest.mark.parametrize("part", PARTS, ids=name)
def test_no_part_touches_what_is_anothers(part: Path) -> None:
    private = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(part.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not _is_self(node.value)
    }
    assert private <= OF_PYTHON


@pytest.mark.parametrize("part", PARTS, ids=name)
def test_no_part_has_more_than_can_be_kept_in_mind(part: Path) -> None:
    classes = [node for node in ast.parse(part.read_text()).body if isinstance(node, ast.ClassDef)]
    assert {made.name: len(_fields(made)) for made in classes if len(_fields(made)) > MOST_FIELDS} == {}


def test_parts_are_looked_at() -> None:
    assert {"client/relay.py", "client/endpoint.py", "runtime.py", "listeners/server.py"} <= set(map(name, PARTS))
    relay = next(part for part in PARTS if name(part) == "client/relay.py")
    made = next(
        node for node in ast.parse(relay.read_text()).body if isinstance(node, ast.ClassDef) and node.name == "Relay"
    )
    assert {"life", "interpreter", "_login_timer"} <= _fields(made)
