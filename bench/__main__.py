"""`make bench`: every measurement, or one of them. What each figure is and how it is taken: docs/performance.md.

It starts systems in temporary folders, measures, prints a table, writes `bench/results/latest.json`, and leaves nothing running.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from bench import bulk as bulk_runs
from bench import growth as growths
from bench import listeners as streams
from bench import reads as views
from bench import rebuild as rebuilds
from bench import recovery as recoveries
from bench.callers import CALLERS, Callers, told
from bench.figures import around, show, write
from bench.generator import NotMeasured, ensure
from bench.mix import WEIGHTS
from bench.profiling import NO_PROFILER
from bench.stage import SETTINGS, SETTLEMENT, Stage, stage
from infra.local.home import LocalError

FUNCTIONS: Final = 40
STARTED: Final = time.monotonic()

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Measure the running system of this home instead of one of its own.")]
Requests = Annotated[int, typer.Option(help="Requests of a bulk run.", min=1_000)]
Accounts = Annotated[int, typer.Option(help="Accounts that they are spread over.", min=1)]
Slots = Annotated[int, typer.Option(help="Settlement processes, and raw writers.", min=1, max=2)]
Seconds = Annotated[float, typer.Option(help="Length of each run with callers.", min=1)]
Kills = Annotated[int, typer.Option(help="Kills of each kind.", min=1)]


@app.command()
def bulk(requests: Requests = 100_000, accounts: Accounts = 2_000, slots: Slots = 1, home: Home = None) -> None:
    """Settlement of a backlog, beside the raw limit of the same run."""
    with stage(home, say, processes=(SETTLEMENT,), slots=slots) as at:
        show(bulk_runs.compared(at, requests, accounts, slots, say), out)


@app.command()
def callers(seconds: Seconds = 10, home: Home = None) -> None:
    """One caller, many callers, many writers of one account, readers."""
    with stage(home, say) as at:
        show(_callers(at, seconds), out)


@app.command()
def recovery(kills: Kills = recoveries.KILLS, home: Home = None) -> None:
    """Time without results after kill -9 of settlement: same slot, other slot."""
    with stage(home, say) as at:
        show(_recovery(at, kills), out)


@app.command()
def growth(requests: Requests = 100_000, home: Home = None) -> None:
    """Cost with much stored over cost with little: accounts, and entries of one account."""
    with stage(home, say) as at:
        show({**_entries(at, requests), **growths.accounts(at, requests, 1, say)}, out)


@app.command()
def reads(seconds: Seconds = 10, entries: Annotated[int, typer.Option(help="Entries of the long history.", min=1_000)] = 100_000, home: Home = None) -> None:
    """Reads beside a bare handler, cold and warm, and with a long history."""
    with stage(home, say) as at:
        show(_reads(at, seconds, entries), out)


@app.command()
def rebuild(accounts: Annotated[int, typer.Option(help="Accounts.", min=1_000)] = rebuilds.ACCOUNTS, home: Home = None) -> None:
    """A generation of views built under load: interrupted, resumed, switched, rolled back."""
    with stage(home, say) as at:
        show(rebuilds.rebuilt(at, Callers(at, ensure(say)), say, accounts), out)


@app.command()
def listeners(count: Annotated[int, typer.Option(help="Streams.", min=1)] = streams.LISTENERS, home: Home = None) -> None:
    """Thousands of open streams, idle and through a kill -9 of the projector."""
    with stage(home, say) as at:
        show(streams.listeners(at, Callers(at, ensure(say)), say, count), out)


@app.command()
def profile(
    requests: Requests = 40_000, accounts: Accounts = 2_000, top: Annotated[int, typer.Option(help="Functions to list.")] = FUNCTIONS, home: Home = None
) -> None:
    """Where the CPU of a bulk run goes: by process, and by function of settlement."""
    with stage(home, say, processes=(SETTLEMENT, "projector")) as at:
        measured, samples = bulk_runs.profiled(at, requests, accounts)
    show({"cpu_s_per_1000": measured.cpu_per_thousand}, out)
    for title, rows in (("in itself", samples.own), ("with all it called", samples.whole)):
        out.print(f"\n{title}")
        for name, part in rows[:top]:
            out.print(f"{part:6.1%}  {name}", markup=False)
    if not samples.own:
        say(NO_PROFILER)


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything.")] = False,
    slots: Slots = 1,
) -> None:
    """Measure throughput and latency on this machine. Without a command: everything, written to bench/results/latest.json as well."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an end in good order, like Ctrl-C
    if context.invoked_subcommand is None:
        figures: dict[str, Any] = {}
        try:
            for part in _everything(quick=quick, slots=slots):
                figures |= part
        finally:
            show(figures, out)  # also of a run that was broken off
        write(figures)


def _everything(*, quick: bool, slots: int) -> Iterator[dict[str, Any]]:
    requests, work, seconds, kills = (20_000, 10_000, 3.0, 1) if quick else (100_000, growths.WORK_REQUESTS, 10.0, recoveries.KILLS)
    yield {**around(), "quick": quick, "slots": slots, "mix_percent": dict(WEIGHTS), "requests": requests, "settings": dict(SETTINGS)}
    with stage(None, say, processes=(SETTLEMENT,), slots=slots) as at:
        yield bulk_runs.compared(at, requests, 2_000, slots, say)
        yield growths.accounts(at, requests, slots, say, work=work)
    with stage(None, say) as at:
        yield _callers(at, seconds)
        yield _recovery(at, kills)
        yield _entries(at, requests)
        yield _reads(at, seconds, requests)
        yield streams.listeners(at, Callers(at, ensure(say)), say)
    with stage(None, say) as at:
        yield rebuilds.rebuilt(at, Callers(at, ensure(say)), say, rebuilds.ACCOUNTS // 10 if quick else rebuilds.ACCOUNTS)
    with stage(None, say, processes=(SETTLEMENT, "projector")) as at:
        yield bulk_runs.with_projector(at, 2 * work, 2_000, 1)


def _callers(at: Stage, seconds: float) -> dict[str, Any]:
    people = Callers(at, ensure(say))
    say(f"one caller, then {CALLERS}, then writers of one account, then readers; load by {people.generator.name}")
    return {
        "generator": people.generator.name,
        **told(people.deposits(1, seconds), "single"),
        **told(people.trading(seconds), "interactive"),
        **told(people.on_one_account(seconds), "hot_interactive"),
        "reads": people.reads(seconds / 3),
    }


def _reads(at: Stage, seconds: float, entries: int) -> dict[str, Any]:
    people = Callers(at, ensure(say))
    return {**views.reads(at, people, seconds, say), **views.long_history(at, people, entries, seconds, say)}


def _recovery(at: Stage, kills: int) -> dict[str, Any]:
    return {**recoveries.recovery(at, kills, say), **recoveries.takeover(at, kills, say)}


def _entries(at: Stage, requests: int) -> dict[str, Any]:
    return growths.entries(at, Callers(at, ensure(say)), requests, say)


def say(text: str) -> None:
    """Progress, for whoever waits."""
    err.print(f"{time.monotonic() - STARTED:6.1f} s  {text}", style="dim", markup=False)


def main() -> None:
    """Run; what a user can act on is a message and no traceback."""
    try:
        app()
    except (LocalError, NotMeasured) as error:
        err.print(str(error), style="red", markup=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
