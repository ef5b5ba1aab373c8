"""Rules on the code that no linter has: money without float, a pure core, one door for time, chance and environment, one spelling for names."""

import ast
from collections import defaultdict

import pytest

from events import topics
from schemas.tables import TABLES
from tests.rules.sources import modules

LINES_MAX = 400

CLOCKS = {
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "gmtime"),
    ("time", "localtime"),
}
CHANCE = {"random", "secrets"}
ENVIRONMENT = {("os", "environ"), ("os", "getenv"), ("os", "putenv"), ("os", "environb")}
UUIDS = {"uuid1", "uuid4", "uuid6", "uuid7", "uuid8"}

TIME_AND_CHANCE = {
    "infra/clock.py": "it is the door",
    "command_api/main.py": "hands the maker of refresh tokens over as an argument",
    "events/tracing.py": "ids of spans: nothing is decided with them",
    "infra/telemetry.py": "the time of a log line: nothing is decided with it",
    "infra/http_limits.py": "compares with the time that the limiter's library took itself",
}
"""Modules that may ask for the wall clock or for chance, and why."""
READS_ENVIRONMENT = {
    "infra/settings.py": "it is the door",
    "ops/target.py": "gives the SDK the credentials that a local engine takes",
}
LOCAL = "infra/local/"
"""Starts programs for a person at a terminal: no part of what is stored or sent."""
OUTSIDE = (LOCAL, "ops/")
"""Drives the system from outside, as its users and operators do."""


def _places(found: dict[str, list[int]]) -> str:
    return "\n".join(f"{name}:{','.join(map(str, lines))}" for name, lines in sorted(found.items()))


def test_money_knows_no_float() -> None:
    """Neither a float literal nor the name `float`, `math` or true division stands in the nouns or the rules; the one exception is the display type."""
    found = defaultdict(list)
    for name, tree in modules("schemas", "processors/domain"):
        for node in ast.walk(tree):
            is_literal = isinstance(node, ast.Constant) and isinstance(node.value, float)
            is_name = isinstance(node, ast.Name) and node.id in ("float", "round")
            is_math = isinstance(node, ast.Import | ast.ImportFrom) and "math" in [alias.name for alias in node.names] + [getattr(node, "module", None)]
            is_division = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
            if is_literal or is_name or is_math or is_division:
                found[name].append(node.lineno)
    display = found.pop("schemas/views.py", [])
    assert not found, _places(found)
    assert len(display) <= 2, f"only Display may name float: schemas/views.py:{display}"


def test_nothing_relies_on_assert() -> None:
    """`assert` vanishes under -O: no package has one."""
    found = defaultdict(list)
    for name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found[name].append(node.lineno)
    assert not found, _places(found)


def test_the_core_is_synchronous_and_imports_data_only() -> None:
    """No coroutine and nothing but schemas, itself and data-only standard library in the rules."""
    allowed = ("schemas", "processors.domain", "collections", "dataclasses", "datetime", "decimal", "typing", "enum", "functools", "itertools", "uuid", "math")
    for name, tree in modules("processors/domain"):
        for node in ast.walk(tree):
            assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Global), f"{name}:{node.lineno}"
            imported = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all((module or "").startswith(allowed) for module in imported), f"{name}:{node.lineno} imports {imported}"


def test_time_and_chance_come_in_as_arguments() -> None:
    """Only the clock's module asks for the wall clock, for chance or for a random id."""
    found = defaultdict(list)
    for name, tree in modules():
        if name in TIME_AND_CHANCE or name.startswith(OUTSIDE):
            continue
        for node in ast.walk(tree):
            if (isinstance(node, ast.Attribute) and _dotted(node) in CLOCKS) or _brings_chance(node):
                found[name].append(node.lineno)
    assert not found, _places(found)


def test_the_environment_is_read_in_one_place() -> None:
    """Only the settings read environment variables."""
    found = defaultdict(list)
    for name, tree in modules():
        if name in READS_ENVIRONMENT or name.startswith(LOCAL):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _dotted(node) in ENVIRONMENT:
                found[name].append(node.lineno)
    assert not found, _places(found)


@pytest.mark.parametrize(
    ("words", "home"),
    [
        ([topic.name for topic in topics.declared(1)], "events/topics.py"),
        ([table.name for table in TABLES] + [index.name for table in TABLES for index in (*table.indexes, *table.global_indexes)], "schemas/tables.py"),
    ],
    ids=["topics", "tables and indexes"],
)
def test_a_name_is_spelled_in_one_file(words: list[str], home: str) -> None:
    """Names of topics, tables and indexes are constants of one module; every other place imports them."""
    found = defaultdict(list)
    for name, tree in modules():
        for node in ast.walk(tree):
            if name != home and isinstance(node, ast.Constant) and node.value in words:
                found[name].append(node.lineno)
    assert not found, _places(found)


def test_modules_are_small() -> None:
    """A module that one can read in a sitting: under four hundred lines."""
    sizes = {name: max((node.end_lineno or 0) for node in tree.body) for name, tree in modules() if tree.body}
    assert not {name: size for name, size in sizes.items() if size > LINES_MAX}


def _dotted(node: ast.Attribute) -> tuple[str, str]:
    value = node.value
    owner = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
    return owner, node.attr


def _brings_chance(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name in CHANCE for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module in CHANCE or (node.module in ("uuid", "uuid_utils") and any(alias.name in UUIDS for alias in node.names))
    return isinstance(node, ast.Attribute) and _dotted(node) in {("os", "urandom"), *(("uuid", name) for name in UUIDS)}
