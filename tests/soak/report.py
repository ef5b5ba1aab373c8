"""What a soak tells: a line while it runs, a table at its end, and the same as JSON."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.soak.run import Progress, Soak, Tried

SURPRISES_MAX: Final = 10


def line(progress: Progress) -> str:
    """Where the run is now."""
    watch = progress.watch
    settled, lag = (watch.results, watch.lag) if watch else (0, 0)
    last = progress.tried[-1] if progress.tried else None
    now = f"{last.name}{'' if last.ended else ' …'}" if last else "none yet"
    failed = sum(bool(tried.error) for tried in progress.tried)
    minutes, seconds = divmod(int(progress.elapsed_s), 60)
    return (
        f"{minutes:02d}:{seconds:02d} {progress.phase:9} acknowledged {progress.acknowledged:7,} settled {settled:7,} lag {lag:6,} "
        f"faults {len(progress.tried):3} ({failed} not recovered) last: {now}"
    )


def show(console: Console, soak: Soak) -> None:
    """The fault table, the figures of the audit, and whatever is wrong."""
    table = Table(title="Faults; longest recovery in seconds, alone and while another fault was on", title_justify="left")
    table.add_column("fault", no_wrap=True)
    for name in ("tried", "alone", "others on"):
        table.add_column(name, justify="right")
    table.add_column("until", no_wrap=True)
    for row in rows(soak.progress.tried):
        table.add_row(row["fault"], str(row["tried"]), _seconds(row["recovery_s"]), _seconds(row["recovery_with_others_s"]), row["measure"])
    console.print(table)
    for name, figure in soak.findings.figures.items():
        console.print(f"  {name.replace('_', ' '):14} {figure:9,}", highlight=False)
    for rule, count in soak.findings.violations.most_common():
        console.print(f"[red]violated[/] {rule}: {count}")
        for example in soak.findings.examples[rule]:
            console.print(f"    {example}", highlight=False, markup=False)
    for tried in soak.progress.tried:
        if tried.error:
            console.print(f"[red]not recovered[/] {tried.name} at {tried.started:.0f} s: {tried.error}")
    for surprise in soak.surprises[:SURPRISES_MAX]:
        console.print(f"[red]no client should be told[/] {surprise}", highlight=False)


def as_json(soak: Soak, more: Mapping[str, Any]) -> dict[str, Any]:
    """All of it."""
    return {
        **more,
        "clean": soak.clean,
        "seconds": round(soak.progress.elapsed_s, 1),
        "figures": soak.findings.figures,
        "faults": rows(soak.progress.tried),
        "violations": {rule: {"count": count, "examples": soak.findings.examples[rule]} for rule, count in soak.findings.violations.items()},
        "not_recovered": [f"{tried.name} at {tried.started:.0f} s: {tried.error}" for tried in soak.progress.tried if tried.error],
        "surprises": list(soak.surprises),
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Put it into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def rows(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    """One row for each kind of fault."""
    kinds: dict[str, list[Tried]] = defaultdict(list)
    for one in tried:
        kinds[one.name].append(one)
    return [
        {
            "fault": name,
            "tried": len(those),
            "recovery_s": _longest(one for one in those if one.alone),
            "recovery_with_others_s": _longest(one for one in those if not one.alone),
            "measure": those[0].measure,
        }
        for name, those in sorted(kinds.items())
    ]


def _longest(tried: Any) -> float | None:
    found = [one.recovery_s for one in tried if one.recovery_s is not None]
    return round(max(found), 2) if found else None


def _seconds(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.1f}"
