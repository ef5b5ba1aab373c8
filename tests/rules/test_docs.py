"""Rules on the pages: what they name is there, and what must be named stands in them."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from pydantic_settings import BaseSettings

from infra.local.config import LocalSettings
from infra.settings import Settings
from ops.main import app
from schemas.instants import rfc3339
from schemas.problems import PROBLEMS
from tests.rules.sources import ROOT, files, modules, text

DOCS = ROOT / "docs"
PREFIX = "CNOP_"
NOT_SETTINGS = {"CNOP_SIM_SEEDS", "CNOP_STACK"}
"""Read by a test, and a mark in the environment of a local system's processes."""
METHODS = {"get", "post", "put", "delete", "patch"}
MAKERS = {"Counter", "Gauge", "Histogram"}


def _pages() -> list[Path]:
    return [path for path in files() if path.suffix == ".md" and (path.parent == ROOT or DOCS in path.parents)]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _rows(page: Path, first: str) -> Iterator[list[str]]:
    """The cells of the table rows whose first cell is code of a given form."""
    for line in text(page).splitlines():
        if re.match(rf"\| `{first}` \|", line):
            yield [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]


def _without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Of each heading, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", _without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    """A relative link names a file that is there, and a heading of it."""
    broken = []
    for page in _pages():
        for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page)):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (page.parent / file).resolve() if file else page
            if not path.exists() or (anchor and anchor not in _anchors(path)):
                broken.append(f"{_name(page)}: {target}")
    assert not broken


def test_every_page_is_found_from_the_first() -> None:
    """Starting at the README, links lead to every page."""
    found, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in found or page.suffix != ".md" or not page.exists():
            continue
        found.add(page)
        todo += [(page.parent / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s:]+)\)", _without_code(page))]
    assert not [_name(page) for page in _pages() if page not in found]


def test_every_setting_is_told_with_its_default() -> None:
    """The tables of docs/configuration.md have each setting once, and nothing else."""
    told = [(cells[0], cells[1]) for cells in _rows(DOCS / "configuration.md", f"{PREFIX}[A-Z_]+")]
    assert len(dict(told)) == len(told), "a setting stands twice"
    assert dict(told) == _defaults(LocalSettings) | _defaults(Settings)


def _defaults(settings: type[BaseSettings]) -> dict[str, str]:
    return {f"{PREFIX}{name.upper()}": _spelled(field.default) for name, field in settings.model_fields.items()}


def _spelled(default: object) -> str:
    return rfc3339(default) if isinstance(default, datetime) else str(default) or "(empty)"


def test_no_page_names_a_setting_that_there_is_not() -> None:
    """Every `CNOP_…` of the pages, of compose and of the image is a setting."""
    known = _defaults(LocalSettings).keys() | _defaults(Settings).keys() | NOT_SETTINGS
    named = {(_name(page), name) for page in (*_pages(), *_containers()) for name in re.findall(rf"{PREFIX}[A-Z][A-Z_]*[A-Z]", text(page))}
    assert not sorted((page, name) for page, name in named if name not in known)


def _containers() -> list[Path]:
    return [path for path in (ROOT / "compose.yaml", ROOT / "infra/deploy/Dockerfile") if path.exists()]


def test_every_problem_is_told() -> None:
    """The table of docs/api.md is the catalogue: code, status, whether to repeat, title."""
    told = {tuple(cells) for cells in _rows(DOCS / "api.md", "[a-z-]+") if cells[1].isdigit()}
    assert told == {(kind.code, str(kind.status), "yes" if kind.retryable else "no", kind.title) for kind in PROBLEMS.values()}


def test_every_route_is_told() -> None:
    """Each route that the doors describe has a section in docs/api.md, and each section a route."""
    document = json.loads(text(ROOT / "schemas/generated/openapi.json"))
    served = {f"{method.upper()} {path.removeprefix('/api/v1')}" for path, methods in document["paths"].items() for method in methods if method in METHODS}
    told = re.findall(r"^### ([A-Z]+ /.*)$", text(DOCS / "api.md"), re.MULTILINE)
    assert sorted(told) == sorted(served)


def test_every_metric_is_told() -> None:
    """The table of docs/operations.md has each metric that the code registers, and nothing else."""
    told = [cells[0] for cells in _rows(DOCS / "operations.md", "cnop_[a-z_]+")]
    assert sorted(told) == sorted(_metrics())


def test_no_page_names_a_metric_that_there_is_not() -> None:
    """Every `cnop_…` in a page's text is the name of a metric, or begins one."""
    known = _metrics()
    named = {(_name(page), name) for page in _pages() for name in re.findall(r"`(cnop_[a-z_]+[a-z])", text(page))}
    assert not sorted((page, name) for page, name in named if name not in known)


def _metrics() -> set[str]:
    calls = (node for _, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    firsts = (call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id in MAKERS and call.args)
    return {first.value for first in firsts if isinstance(first, ast.Constant) and isinstance(first.value, str)}


def test_every_command_exists() -> None:
    """`make X` and `cnop X` of the pages are targets of the Makefile and commands of the command line."""
    targets = set(re.findall(r"^([a-z]+):", text(ROOT / "Makefile"), re.MULTILINE))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    unknown = []
    for page in _pages():
        for program, word in _commands(page):
            if word not in {"make": targets, "cnop": commands}[program]:
                unknown.append(f"{_name(page)}: {program} {word}")
    assert not unknown


def _commands(page: Path) -> Iterator[tuple[str, str]]:
    """Program and first word of each call in code, be it in a block or in a line."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", _without_code(page))
    for line in lines:
        words = [word for word in _words(line) if "=" not in word]
        program = words[0].removeprefix(".venv/bin/") if words else ""
        if program in {"make", "cnop"} and len(words) > 1 and re.fullmatch(r"[a-z][a-z-]*", words[1]):
            yield program, words[1]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # a line of a block may be anything
        return []


def test_every_test_that_a_page_names_exists() -> None:
    """`tests/…::test_…` is a function of that file, and `tests/…` is there."""
    named = {(_name(page), name) for page in _pages() for name in re.findall(r"`(tests/[^`\s]+)`", text(page))}
    missing = []
    for page, name in sorted(named):
        file, _, function = name.partition("::")
        path = ROOT / file
        if not path.exists() or (function and not re.search(rf"def {re.escape(function)}\(", text(path))):
            missing.append(f"{page}: {name}")
    assert not missing
