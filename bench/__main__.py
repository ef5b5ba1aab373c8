"""`make bench`: settlement in bulk beside the store's raw limit, and callers who wait for their outcome.

It starts a stack in a temporary folder, measures, prints a table, writes `bench/results/latest.json`, and leaves nothing running.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench.bulk import bulk, raw_limit
from bench.callers import callers
from infra.local.stack import Stack

RESULTS: Final = Path(__file__).parent / "results" / "latest.json"
app = typer.Typer(add_completion=False)


@app.command()
def main(
    requests: Annotated[int, typer.Option(help="Requests of the bulk run")] = 20_000,
    accounts: Annotated[int, typer.Option(help="Accounts that they are spread over")] = 2_000,
    calls: Annotated[int, typer.Option(help="Calls of each interactive run")] = 1_000,
) -> None:
    """Measure throughput and latency on this machine."""
    with tempfile.TemporaryDirectory(prefix="cnop-bench-") as folder:
        stack = Stack(Path(folder), env={"CNOP_PORT": "0"}, say=lambda part, text: print(f"{part:10} {text}", file=sys.stderr, flush=True))
        addresses = stack.up(hold=True)
        os.environ.update(stack.environment())
        try:
            figures = uvloop.run(_measure(addresses.origin_url, requests, accounts, calls))
        finally:
            stack.down()
    _tell(figures)


async def _measure(url: str, requests: int, accounts: int, calls: int) -> dict[str, Any]:
    kafka, store = os.environ["CNOP_KAFKA"], os.environ["CNOP_DYNAMODB_URL"]
    raw_per_s = await raw_limit(store, requests, accounts)
    bulk_per_s = await bulk(kafka, requests, accounts)
    one = await callers(url, calls=calls // 4, at_once=1)
    many = await callers(url, calls=calls, at_once=32)
    return {
        "bulk_per_s": round(bulk_per_s),
        "bulk_raw_per_s": round(raw_per_s),
        "bulk_ratio": round(bulk_per_s / raw_per_s, 3),
        "single_p50_ms": one.p50_ms,
        "single_p99_ms": one.p99_ms,
        "interactive_per_s": many.per_s,
        "interactive_p50_ms": many.p50_ms,
        "interactive_p99_ms": many.p99_ms,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "commit": _commit(),
    }


def _commit() -> str:
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)  # noqa: S607 - git of whoever measures
    return told.stdout.strip()


def _tell(figures: dict[str, Any]) -> None:
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, str(value))
    Console().print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    app()
