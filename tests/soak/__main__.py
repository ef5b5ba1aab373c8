"""`make soak MINUTES=…`: everything is killed, paused, cut and emptied under load, and in the end the books are audited from zero."""

import asyncio
import contextlib
import logging
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.live import Live

from tests.soak.faults import FULL_MINUTES, serving_faults, settling_faults, shuffled
from tests.soak.report import as_json, line, show, write
from tests.soak.run import Load, Plan, Progress, Soak, soak

LINE_S = 5.0
"""Time between two lines where the output is not a terminal,"""
LIVE_S = 0.5
"""and between two looks at it where it is one."""


def main(
    minutes: Annotated[float, typer.Option(min=0.5, help="Length of the part with faults")] = FULL_MINUTES,
    seed: Annotated[int, typer.Option(help="Of the faults and the load; 0: one of chance")] = 0,
    report: Annotated[Path | None, typer.Option(help="Where the JSON report goes; a temporary folder by default")] = None,
    callers: Annotated[int, typer.Option(min=1, help="Users who call the API")] = 12,
    per_s: Annotated[float, typer.Option(min=1, help="Records a second straight into Kafka")] = 80.0,
) -> None:
    """Run a soak. Ctrl-C ends the faults early and audits what was done. Exit status 1 where anything is wrong."""
    console = Console()
    seed = seed or secrets.randbelow(10**6)
    folder = Path(tempfile.mkdtemp(prefix="cnop-soak-"))
    target = report or folder / "report.json"
    # What the clients say of brokers that are away would drown the line.
    logging.basicConfig(filename=folder / "soak.log", level=logging.WARNING)
    console.print(f"soak of {minutes:g} minutes, seed {seed}", highlight=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(_shown(console, folder / "home", minutes, seed, Load(callers=callers, per_s=per_s)))
    show(console, done)
    write(target, as_json(done, {"minutes": minutes, "seed": seed}))
    console.print(f"{'clean' if done.clean else 'NOT CLEAN'}; report: {target}", highlight=False)
    if done.clean:
        shutil.rmtree(folder / "home", ignore_errors=True)
    else:
        console.print(f"logs: {folder / 'home' / 'logs'} and {folder / 'soak.log'}", highlight=False)
    sys.exit(0 if done.clean else 1)


async def _shown(console: Console, home: Path, minutes: float, seed: int, load: Load) -> Soak:
    progress, stop = Progress(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    share = minutes / FULL_MINUTES
    chance = Random(seed)  # noqa: S311 - a plan that can be had again
    lanes = [shuffled(settling_faults(share), chance), shuffled(serving_faults(share), chance)]
    telling = asyncio.create_task(_tell(console, progress))
    try:
        return await soak(home, Plan(lanes, minutes * 60), load, seed, progress=progress, stop=stop)
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling


async def _tell(console: Console, progress: Progress) -> None:
    if not console.is_terminal:
        while True:
            console.print(line(progress), highlight=False, soft_wrap=True)
            await asyncio.sleep(LINE_S)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(line(progress), refresh=True)
            await asyncio.sleep(LIVE_S)


if __name__ == "__main__":
    typer.run(main)
