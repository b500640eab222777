"""Defines an evasion: what a file of tests/security/evasions says, how it is run, and what the log must show
afterwards.

A `.sql` file begins with comment lines `-- key: value`:

    mechanism   the heading it is counted under
    expect      `nothing`, or one line an access: function=, owner=, names= (joined by |, * is a wildcard), operation=,
                calls= (executions, 1 if unsaid; + as many as the planner likes; 0: an attempt that never runs),
    how=direct (came by no proxy: a row of its own) also        other events that must be there (definition, table,
    forgery) and, for a look-alike, attempt protocol    simple, extended (both if unsaid) encoding    the client's, in
    PostgreSQL's and after a comma in Python's name: the text is sent in it needs       an extension that the server
    must have, or `server N` role        the login of the run (app_user if unsaid) known       why it still succeeds:
    reported as a strict xfail; `known-simple`, `known-extended` for one protocol

then sections `-- @setup` (run by the superuser, past the proxy) and `-- @run` (run by the role, a message a block of
lines). Blank lines part the blocks. A `.py` file has MECHANISM, EXPECT (a list of expect lines), `async def run(raw)`
and may have ALSO, SETUP, PARAMETERS (of the startup packet), NEEDS, ROLE, KNOWN."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.raw import SYNC, Raw, extended, query

FOLDER = Path(__file__).parent / "evasions"
# Every value that the battery stores or sends holds this.
CANARY = "CANARYVALUE"

Key = tuple[str, str | None, tuple[str | None, ...] | None]


@dataclass(frozen=True, slots=True)
class Expect:
    """One access that the log must show."""

    function: str
    owner: str | None
    names: tuple[str | None, ...] | None
    operation: str | None
    calls: int | None = 1
    direct: bool = False

    @classmethod
    def read(cls, line: str) -> Expect:
        found = dict(re.findall(r"(\w+)=(.*?)(?:,\s+(?=\w+=)|$)", line))
        names = found.get("names", "-")
        owner = found.get("owner", "-")
        return cls(
            found["function"],
            None if owner == "-" else owner,
            None if names == "-" else tuple(None if name == "~" else name for name in names.split("|")),
            found.get("operation"),
            None if found.get("calls") == "+" else int(found.get("calls", 1)),
            found.get("how") == "direct",
        )

    @property
    def key(self) -> Key:
        return self.function, self.owner, self.names

    def fits(self, function: str | None, owner: object, names: Sequence[str | None] | None) -> bool:
        if function != self.function or (None if owner is None else str(owner)) != self.owner:
            return False
        if names is None or self.names is None:
            return names is None and self.names is None
        return len(names) == len(self.names) and all(
            found == wanted if found is None or wanted is None or "*" not in wanted else fnmatchcase(found, wanted)
            for found, wanted in zip(names, self.names, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Evasion:
    """One file."""

    name: str
    mechanism: str
    expects: tuple[Expect, ...]
    also: frozenset[str]
    protocols: tuple[str, ...]
    setup: tuple[str, ...]
    run: Callable[[Raw, str], Awaitable[None]]
    parameters: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None
    role: str = "app_user"
    known: Mapping[str, str] = field(default_factory=dict)


def load(path: Path) -> Evasion:
    return _load_python(path) if path.suffix == ".py" else _load_sql(path)


def load_all() -> list[Evasion]:
    paths = sorted(
        path for path in FOLDER.rglob("*") if path.suffix in (".sql", ".py") and not path.name.startswith("_")
    )
    return [load(path) for path in paths]


def _name(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def _load_sql(path: Path) -> Evasion:
    head, _, rest = path.read_text(encoding="utf-8").partition("-- @")
    headers: dict[str, list[str]] = {}
    for line in head.splitlines():
        if line.strip():
            found = re.fullmatch(r"-- ([\w-]+): (.*)", line.rstrip())
            assert found, f"{path.name}: not a header: {line}"
            headers.setdefault(found[1], []).append(found[2].strip())
    sections = {"setup": (), "run": ()} | {
        title: tuple(block.strip("\n") for block in re.split(r"\n\s*\n", body.strip("\n")) if block.strip())
        for title, _, body in (part.partition("\n") for part in re.split(r"^-- @", rest, flags=re.MULTILINE))
    }
    encoding = (headers.get("encoding") or ["UTF8, utf-8"])[0]
    client_encoding, _, codec = (part.strip() for part in encoding.partition(","))
    blocks = [block.encode(codec) for block in sections["run"]]
    assert blocks, f"{path.name}: nothing to run"

    async def run(raw: Raw, protocol: str) -> None:
        for block in blocks:
            await raw.send(query(block) if protocol == "simple" else extended(block) + SYNC)
            if (await raw.ready())[-1].kind == b"":
                return

    protocols = tuple(part.strip() for part in (headers.get("protocol") or ["simple, extended"])[0].split(","))
    known = dict.fromkeys(protocols, headers["known"][0]) if "known" in headers else {}
    known |= {protocol: headers[f"known-{protocol}"][0] for protocol in protocols if f"known-{protocol}" in headers}
    return Evasion(
        _name(path),
        headers["mechanism"][0],
        _expects(headers.get("expect", [])),
        frozenset(word.strip() for line in headers.get("also", []) for word in line.split(",")),
        protocols,
        sections["setup"],
        run,
        {"client_encoding": client_encoding},
        (headers.get("needs") or [None])[0],
        (headers.get("role") or ["app_user"])[0],
        known,
    )


def _expects(lines: Sequence[str]) -> tuple[Expect, ...]:
    assert lines, "an evasion expects something, or says `nothing`"
    return () if list(lines) == ["nothing"] else tuple(Expect.read(line) for line in lines)


def _load_python(path: Path) -> Evasion:
    spec = importlib.util.spec_from_file_location(f"evasion_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def run(raw: Raw, protocol: str) -> None:
        await module.run(raw)

    def given(name: str, default: Any = None) -> Any:
        return getattr(module, name, default)

    known = given("KNOWN")
    return Evasion(
        _name(path),
        module.MECHANISM,
        _expects(module.EXPECT),
        frozenset(given("ALSO", ())),
        ("raw",),
        tuple(block for block in re.split(r"\n\s*\n", given("SETUP", "").strip()) if block.strip()),
        run,
        given("PARAMETERS", {}),
        given("NEEDS"),
        given("ROLE", "app_user"),
        {"raw": known} if known else {},
    )
