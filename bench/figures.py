"""What comes out: percentiles, the machine they were taken on, the goals beside them, a table, and `bench/results/latest.json`."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from infra.local import interpreter

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
CPU_INFO: Final = Path("/proc/cpuinfo")
GIB: Final = 2**30
ONLY_IN_FILE: Final = {"settings"}


@dataclass(frozen=True, slots=True)
class Goal:
    """Where a figure should be."""

    least: float = -math.inf
    most: float = math.inf

    def met(self, value: float) -> bool:
        """Whether the figure is there."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"≥ {self.least:g}" if self.least > -math.inf else f"≤ {self.most:g}"


GOALS: Final[Mapping[str, Goal]] = {
    "bulk_per_s": Goal(least=4_000),
    "bulk_ratio": Goal(least=0.5),
    "hot_bulk_per_s": Goal(least=3_000),
    "interactive_per_s": Goal(least=450),
    "interactive_p50_ms": Goal(),
    "interactive_p99_ms": Goal(most=150),
    "single_p50_ms": Goal(most=15),
    "recovery_s": Goal(most=5),
    "takeover_s": Goal(most=15),
    "growth_accounts_ratio": Goal(most=1.2),
    "growth_entries_ratio": Goal(most=1.2),
    "growth_single_ratio": Goal(most=1.2),
    "growth_history_ratio": Goal(most=1.2),
    "portfolio_per_s": Goal(least=2_000),
    "portfolio_p99_ms": Goal(most=40),
    "read_ratio": Goal(least=0.7),
    "history_100k_ratio": Goal(least=0.9),
    "stream_listeners": Goal(least=2_000),
}
"""The figures of a whole run that every results file has. A ratio of growth is the cost with much history over the cost with little."""


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest value that at least that part (0 to 1) of the sorted values is not above; ValueError for none."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def in_ms(ordered_s: Sequence[float], name: str) -> dict[str, float]:
    """p50, p95 and p99 of sorted seconds, in milliseconds; their names begin with `name`, if any."""
    prefix = f"{name}_" if name else ""
    return {f"{prefix}p{part}_ms": round(percentile(ordered_s, part / 100) * 1000, 2) for part in (50, 95, 99)}


def around() -> dict[str, Any]:
    """The machine, and the commit that was measured."""
    load = os.getloadavg()[0]
    return {
        "machine": {
            "cores": os.cpu_count(),
            "cpu": _cpu_model(),
            "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
            "os": platform.platform(),
            "python": platform.python_version(),
            "python_is_optimised": interpreter.is_optimised(),
            "load_average_before": round(load, 2),
        },
        "commit": _commit(),
    }


def write(figures: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Write a whole run's figures."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    new.replace(path)  # whole or not at all


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Print figures as a table, those with a goal first."""
    table = Table("figure", "value", "goal")
    figures = {name: value for name, value in _rows(figures) if name not in ONLY_IN_FILE}
    for name in sorted(figures, key=lambda name: list(GOALS).index(name) if name in GOALS else len(GOALS)):
        goal = GOALS.get(name, Goal())
        value = figures[name]
        met = "" if goal == Goal() else f"{goal}  {'[green]met' if goal.met(value) else '[red]missed'}"
        table.add_row(name, _text(value), met)
    console.print(table)


def _rows(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A row for each figure; of groups of groups a row for each group."""
    for name, value in figures.items():
        if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
            yield from _rows(value, f"{prefix}{name} ")
        else:
            yield prefix + name, value


def _text(value: object) -> str:
    match value:
        case dict():
            return "  ".join(f"{name} {_text(part)}" for name, part in value.items())
        case list():
            return "  ".join(_text(part) for part in value)
        case bool():
            return str(value).lower()
        case float() | int():
            return f"{value:,}"
        case _:
            return str(value)


def _cpu_model() -> str:
    if CPU_INFO.exists():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Short hash; a plus sign where files were changed after it."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+", "--exclude=*"], capture_output=True, text=True, check=False, cwd=RESULTS.parents[1])  # noqa: S607
    return told.stdout.strip() or "unknown"
