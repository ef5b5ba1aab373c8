"""The repository's own files, as the rules look at them."""

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("command_api", "query_api", "processors", "events", "schemas", "infra", "ops")
MADE = {"schemas/generated"}
"""Folders whose files are written by programs."""
FOREIGN = {
    ".git",
    ".venv",
    ".local",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".import_linter_cache",
    "__pycache__",
    "node_modules",
    "dist",
    "build",
}
TEXT = {".py", ".md", ".toml", ".txt", ".lock", ".in", ".yaml", ".yml", ".json", ".cfg", ".ini", ".sh", ".conf", ".html", ".ts", ".js", ".css", ""}
TEXT_BYTES_MAX = 4_000_000


@cache
def files() -> tuple[Path, ...]:
    """Every text file that a clone would have, and new ones."""
    return tuple(_walk())


def _walk() -> Iterator[Path]:
    for folder, names, leaves in os.walk(ROOT):
        names[:] = sorted(name for name in names if name not in FOREIGN and not name.endswith(".egg-info"))
        for leaf in sorted(leaves):
            path = Path(folder, leaf)
            if path.suffix in TEXT and not path.is_symlink() and path.stat().st_size <= TEXT_BYTES_MAX:
                yield path


@cache
def modules(*folders: str) -> tuple[tuple[str, ast.Module], ...]:
    """Path from the root and syntax tree of each of our modules under some folders; of all packages where none is named."""
    wanted = folders or PACKAGES
    found = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".py" and name.startswith(tuple(f"{folder}/" for folder in wanted)) and not name.startswith(tuple(MADE)):
            found.append((name, ast.parse(path.read_text(encoding="utf-8"))))
    return tuple(found)


def text(path: Path) -> str:
    """A file's text; signs that are not UTF-8 are replaced."""
    return path.read_text(encoding="utf-8", errors="replace")
