"""Loads the same sources twice in one process: as they are installed, compiled where that could be done, and as pure
Python."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import secretproxy

_PACKAGES = ("secretproxy.wire", "secretproxy.session", "secretproxy.detect")


class _Sources(importlib.abc.MetaPathFinder):
    """Finds the .py of a module where there is a shared object next to it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_PACKAGES):
            return None
        place = Path(secretproxy.__path__[0]).joinpath(*fullname.split(".")[1:])
        if place.is_dir():
            return importlib.util.spec_from_file_location(
                fullname, place / "__init__.py", submodule_search_locations=[str(place)]
            )
        if not place.with_suffix(".py").exists():
            # In C alone: what is pure does without.
            raise ModuleNotFoundError(fullname)
        loader = importlib.machinery.SourceFileLoader(fullname, str(place.with_suffix(".py")))
        return importlib.util.spec_from_file_location(fullname, place.with_suffix(".py"), loader=loader)


def _collect() -> SimpleNamespace:
    names = {
        "session.session": ("Session", "Step", "Limits"), "session.events": ("Event", "Identity", "LogState"), "session.interpreter": ("Interpreter", "Wait"), "session.step": ("Held",), "session.testimony": ("Keys",),
        "detect": ("Detector",), "session.stream": ("Framer", "actions", "compiled"), "wire.errors": ("ProtocolViolationError",),
        "wire": ("messages",),
    }  # fmt: skip
    found = SimpleNamespace()
    importlib.import_module("secretproxy.wire.messages")
    for module, wanted in names.items():
        loaded = importlib.import_module(f"secretproxy.{module}")
        for name in wanted:
            setattr(found, name, getattr(loaded, name))
    return found


def _load_pure() -> SimpleNamespace:
    aside = {name: module for name, module in sys.modules.items() if name.startswith(_PACKAGES)}
    for name in aside:
        del sys.modules[name]
    finder = _Sources()
    sys.meta_path.insert(0, finder)
    try:
        return _collect()
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.startswith(_PACKAGES)]:
            del sys.modules[name]
        sys.modules.update(aside)


INSTALLED = _collect()
PURE = _load_pure()
