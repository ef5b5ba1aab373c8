"""What comes out of a run."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.figures import GOALS, Goal, around, in_ms, percentile, show, write

PROMISED = {
    "bulk_per_s",
    "bulk_ratio",
    "hot_bulk_per_s",
    "interactive_per_s",
    "interactive_p50_ms",
    "interactive_p99_ms",
    "single_p50_ms",
    "recovery_s",
    "takeover_s",
}


@pytest.mark.parametrize(("part", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.501, 51.0)])
def test_a_percentile_is_a_value_that_was_measured(part: float, expected: float) -> None:
    """The smallest value that at least that part of the values does not exceed."""
    assert percentile([float(number) for number in range(1, 101)], part) == expected


def test_one_value_is_every_percentile() -> None:
    """A short run has percentiles too; none at all has none."""
    assert in_ms([0.0123], "single") == {"single_p50_ms": 12.3, "single_p95_ms": 12.3, "single_p99_ms": 12.3}
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_results_file_says_on_what_it_was_measured(tmp_path: Path) -> None:
    """A figure without its machine and its commit is worth nothing."""
    write({**around(), **dict.fromkeys(GOALS, 1.5)}, tmp_path / "latest.json")
    figures = json.loads((tmp_path / "latest.json").read_text())
    assert figures.keys() >= PROMISED
    assert figures["commit"]
    assert {"cores", "cpu", "memory_gib", "os", "python", "python_is_optimised"} <= figures["machine"].keys()


def test_a_goal_is_met_or_missed() -> None:
    """Bounds of either side, and none."""
    assert Goal(least=4).met(4)
    assert not Goal(least=4).met(3.9)
    assert Goal(most=4).met(4)
    assert not Goal(most=4).met(4.1)
    assert Goal().met(0)


def test_the_table_tells_goals_first() -> None:
    """A reader sees what was promised before everything else, and whether it holds."""
    console = Console(record=True, width=200)
    show({"generator": "hey", "bulk_per_s": 4_100, "bulk_ratio": 0.3, "reads": {"orders": {"per_s": 900}}}, console)
    text = console.export_text()
    lines = [line for line in text.splitlines() if "bulk" in line or "generator" in line]
    assert "met" in lines[0]
    assert "missed" in lines[1]
    assert "generator" in lines[2]
    assert "reads orders" in text
