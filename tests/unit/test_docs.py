"""Checks that what the documents say has a test that exists, and their links lead somewhere. Nothing here runs those
tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = [ROOT / "docs" / name for name in ("threat-model.md", "what-it-does-not-see.md")]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])

_TEST = re.compile(r"`(tests/(?:[\w/]+/)?(?:test_\w+\.py|evasions/\w+))(?:::(\w+))?`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@cache
def functions(path: Path) -> frozenset[str]:
    """Names the test functions of a module, those of its classes too."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def missing(text: str) -> list[str]:
    """Lists the tests that a text names and that are not there."""
    wrong = []
    for place, function in _TEST.findall(text):
        path = ROOT / place
        if path.is_dir():
            if function or not any(case.suffix in {".sql", ".py"} for case in path.iterdir()):
                wrong.append(f"{place}: no cases")
        elif not path.is_file() or (
            path.name.startswith("test_") and not any(name.startswith("test_") for name in functions(path))
        ):
            wrong.append(f"{place}: no tests")
        elif function and function not in functions(path):
            wrong.append(f"{place}::{function}: no such function")
    return wrong


def rows(text: str) -> list[str]:
    """Gives the rows of all tables, without their heads."""
    lines = text.splitlines()
    under = [*lines[1:], ""]
    return [
        line
        for line, after in zip(lines, under, strict=True)
        if line.startswith("|") and not (line + after).count("| --- |")
    ]


def items(text: str) -> list[str]:
    """Gives the items of all lists, each with the lines that go on with it."""
    return [re.sub(r"\n\s+", " ", item) for item in re.findall(r"^\* .*(?:\n  .*)*", text, re.MULTILINE)]


def prose(text: str) -> list[tuple[int, str]]:
    """Gives the numbered lines that are neither table nor code nor heading."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("|", "    ", "#")):
            found.append((number, line))
    return found


def anchors(path: Path) -> set[str]:
    """Names the headings of a page as GitHub makes anchors of them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", CLAIMS, ids=lambda page: page.name)
def test_each_claim_names_a_test(page: Path) -> None:
    text = page.read_text()
    claims = rows(text) + items(text)
    assert len(claims) > 25, "the page is read as it is written"
    assert [claim for claim in claims if not _TEST.search(claim)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tests_that_are_named_exist(page: Path) -> None:
    assert missing(page.read_text()) == []


def test_a_test_that_is_none_is_found() -> None:
    named = "`tests/unit/test_docs.py::test_nothing`, `tests/unit/test_none.py`, `tests/security/evasions/none`, `tests/bounds/test_none.py`"
    assert len(missing(named)) == 4
    assert missing("`tests/unit/test_docs.py::test_a_test_that_is_none_is_found`, `tests/security/evasions/do`") == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in _LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", [*CLAIMS, ROOT / "docs/how-it-sees-every-call.md"], ids=lambda page: page.name)
def test_prose_is_narrow(page: Path) -> None:
    """A line may be longer where it is one name that cannot be broken."""
    wide = [(number, line) for number, line in prose(page.read_text()) if len(line) > 100 and " " in line.strip()]
    assert wide == []


def test_the_page_of_doctor_has_every_finding() -> None:
    sources = [path.read_text() for path in (ROOT / "src/secretproxy/ops/doctor").glob("*.py")]
    names = {name for source in sources for name in re.findall(r'Finding\(\s*"([a-z_]+)"', source)}
    assert len(names) > 20
    page = (ROOT / "docs/doctor.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_is_closed(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.startswith("|") and line.count("`") % 2
    ]
    assert lines == []


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_files_that_the_architecture_names_exist() -> None:
    named = set(re.findall(r"`((?:[\w.]+/)+[\w.]*|[\w]+\.py)`", ARCHITECTURE))
    assert len(named) > 40
    lost = [path for path in named if not (ROOT / path).exists() and not (ROOT / "src" / "secretproxy" / path).exists()]
    assert lost == []


def test_the_places_that_the_architecture_names_are_in_their_files() -> None:
    """Gives the names with their files: those written `name` (`file`), `name` in `file`, `name` of `file` and `file`,
    `name`."""
    places = [
        *re.findall(r"`([\w.]+)` (?:\(|in |of )`([\w/]+\.py)`", ARCHITECTURE),
        *((name, path) for path, name in re.findall(r"`([\w/]+\.py)`,\s+`([\w.]+)`", ARCHITECTURE)),
    ]
    assert len(places) >= 8
    lost = []
    for name, path in places:
        file = ROOT / "src" / "secretproxy" / path
        text = (file if file.exists() else ROOT / path).read_text()
        lost += [(path, part) for part in name.split(".") if not re.search(rf"\b{re.escape(part)}\b", text)]
    assert lost == []
