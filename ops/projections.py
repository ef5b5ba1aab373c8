"""`cnop projections`: the account views that the read door answers from; look at them, build them anew while they serve, switch, go back."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.table import Table

from events.envelope import Inbound
from events.reader import reading
from events.topics import RESULTS, BrokerError
from infra.build_state import Build, BuildState, Busy
from infra.cache import Arrived, Cache, CacheUnavailable, Views
from infra.cache_guard import Layout
from infra.clock import SystemIds
from infra.dynamo import Dynamo, DynamoUnavailable
from infra.generations import Conflict, Generations, KeptPointer, Live, NotKept
from infra.ledger_accounts import Page, Place, account_pages, items_about
from infra.parked import ParkingLedger
from infra.settings import Settings
from infra.view_check import Compared, Found, ViewCheck
from ops import rebuild as rebuilding
from ops.operator import err, out, print_rows, stopped, store
from ops.progress import Bar
from ops.rebuild import NotNow, Parts
from ops.target import HomeDir, NoTarget, Target, Url, find
from schemas.ledger import Account
from schemas.requests import USERNAME_PATTERN
from schemas.results import UnreadableResult, decode_result

T = TypeVar("T")

RATE: Final = 1_000
EXAMPLES_MAX: Final = 10
DIFFERENT: Final = 3
"""Exit status of a rebuild that is complete and shows other figures than what is read now."""
INTERRUPTED: Final = 130
CANCEL_S: Final = 0.5
"""How long what is under way may take to end."""

app = typer.Typer(help="The account views in Redis: look at them, build them anew, switch.", add_completion=False, pretty_exceptions_show_locals=False)

Source = Annotated[str, typer.Option(help="`ledger`: load every account. `results`: show the results topic again from its beginning.")]
Rate = Annotated[float, typer.Option("--rate", help="Accounts loaded a second, at most.", min=1)]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@dataclass(frozen=True, slots=True)
class Row:
    """A generation. `state`: serving, or what the other one is: building, built, kept, dropping."""

    generation: int
    state: str


@dataclass(frozen=True, slots=True)
class ViewRow:
    """An account's view in one generation. `differs`: in what, from the ledger's version or from the generation that serves."""

    generation: int
    version: int | None
    ledger_version: int
    bytes: int
    ttl_s: int | None
    differs: str


@app.command()
def status(url: Url = "", home: HomeDir = None, *, as_json: AsJson = False) -> None:
    """Show the generations that live, how far a building is, and Redis' memory."""

    async def work(parts: Parts, cache: Cache) -> tuple[Live, Build | None, dict[str, Any]]:
        info = await cache.run("info", cache.client.info)
        return await parts.generations.read(), await parts.state.read(), dict(info)

    live, build, info = _run(url, home, work)
    rows = [Row(live.serving, "serving")] + ([Row(live.standby, live.state or "")] if live.standby is not None else [])
    print_rows(rows, _show_generations, as_json=as_json)
    if as_json:
        return
    if build and build.generation == live.standby and live.state != "dropping":
        out.print(_progress(build), markup=False)
    bound = info.get("maxmemory") or 0
    hits, misses = info.get("keyspace_hits", 0), info.get("keyspace_misses", 0)
    out.print(
        f"Redis: {info['used_memory'] / 2**20:.1f} MiB of {f'{bound / 2**20:.0f} MiB' if bound else 'no bound'}, policy {info.get('maxmemory_policy')}, "
        f"{info.get('evicted_keys', 0)} keys evicted, {hits / max(1, hits + misses):.1%} of look-ups found their key since it started.",
        markup=False,
    )


@app.command()
def show(username: str, url: Url = "", home: HomeDir = None, *, as_json: AsJson = False) -> None:
    """Show what Redis has of one account, beside the ledger's version."""
    name = _username(username)

    async def work(parts: Parts, _cache: Cache) -> list[ViewRow]:
        live = await parts.generations.read()
        account = await parts.account(name)
        found = [(generation, await parts.check.look(name, generation)) for generation in live.all]
        same = (await parts.check.compare([name], live.serving, live.standby or live.serving))[0]
        return [_view_row(generation, one, account, same if generation == live.standby else None) for generation, one in found]

    print_rows(_run(url, home, work), _show_views, as_json=as_json)


@app.command()
def rebuild(
    url: Url = "",
    home: HomeDir = None,
    *,
    source: Source = rebuilding.LEDGER,
    rate: Rate = RATE,
    anew: Annotated[bool, typer.Option("--anew", help="Do not go on with a building that was interrupted: begin again.")] = False,
    and_switch: Annotated[bool, typer.Option("--switch", help="Read it from then on, if it shows the same as what is read now.")] = False,
    account: Annotated[str, typer.Option(metavar="USERNAME", help="Only this account's view, in its place.")] = "",
) -> None:
    """Build all views anew beside those that serve. Interrupted (Ctrl-C), it goes on when called again; `drop` gives it up."""
    if source not in {rebuilding.LEDGER, rebuilding.RESULTS}:
        raise typer.BadParameter("must be ledger or results", param_hint="--source")
    if account:
        _one_account(_username(account), url, home)
        return

    async def work(parts: Parts, _cache: Cache) -> Build:
        return await rebuilding.rebuild(parts, source=source, per_s=rate, anew=anew)

    build: Build = _run(url, home, work)
    err.print(f"Generation {build.generation} is complete. {_progress(build)}", markup=False)
    for name, differs in list(build.differ.items())[:EXAMPLES_MAX]:
        err.print(f"  {name}: {', '.join(differs)}", markup=False)
    if build.differ or build.failed:
        err.print("`cnop projections show USERNAME` shows one account; `switch` reads the new generation, `drop` gives it up.", markup=False)
        raise typer.Exit(DIFFERENT)
    if and_switch:
        switch(url, home)
    else:
        err.print("`cnop projections switch` reads it from then on.", markup=False)


@app.command()
def switch(url: Url = "", home: HomeDir = None) -> None:
    """Read the generation that was built. The other one is kept up to date, for `rollback`, until `drop`."""
    live: Live = _run(url, home, lambda parts, _: rebuilding.switch(parts, back=False))
    err.print(f"Generation {live.serving} is read. {live.standby} is kept: `cnop projections rollback` goes back, `drop` gives it up.", markup=False)


@app.command()
def rollback(url: Url = "", home: HomeDir = None) -> None:
    """Read the generation that was read before."""
    live: Live = _run(url, home, lambda parts, _: rebuilding.switch(parts, back=True))
    err.print(f"Generation {live.serving} is read again. {live.standby} is kept.", markup=False)


@app.command()
def drop(url: Url = "", home: HomeDir = None) -> None:
    """Give up the generation that is not read: a building, a finished one, or the one that is kept for going back."""
    generation, keys = _run(url, home, lambda parts, _: rebuilding.drop(parts))
    err.print(f"Generation {generation} is given up, {keys} keys are gone.", markup=False)


class _Bars:
    """The progress, a bar for each phase."""

    def __init__(self) -> None:
        self._bar: Bar | None = None

    def phase(self, text: str, *, items: int | None = None) -> None:
        self.end()
        err.print(f"{text[0].upper()}{text[1:]}.", markup=False)
        if items is not None:
            self._bar = Bar("items", items, console=err)
            self._bar.__enter__()

    def step(self, build: Build, items: int) -> None:
        if self._bar:
            self._bar.step(f"{build.checked if build.is_read else build.accounts} accounts", by=items)

    def end(self) -> None:
        bar, self._bar = self._bar, None
        if bar:
            bar.__exit__(None, None, None)


def _one_account(username: str, url: str, home: Any) -> None:
    async def work(parts: Parts, _cache: Cache) -> bool:
        return await parts.views.refill(username, anew=True)

    if not _run(url, home, work):
        raise stopped(f"The view of {username} could not be put: the account changes all the time. Repeat the command.")
    err.print(f"The view of {username} is that of the ledger.", markup=False)


def _run(url: str, home: Any, work: Callable[[Parts, Cache], Awaitable[T]]) -> T:
    try:
        return asyncio.run(_interruptible(_connected(url, home, work)))
    except (NoTarget, NotNow, Busy, Conflict, NotKept) as error:
        raise stopped(str(error)) from None
    except (CacheUnavailable, DynamoUnavailable, BrokerError) as error:
        raise stopped(f"A machine does not answer: {error}. What was done stays; repeat the command. Elsewhere: CNOP_REDIS_URL, CNOP_DYNAMODB_URL.") from None
    except asyncio.CancelledError:
        err.print("Interrupted. What was done stays: the same command goes on.", markup=False)
        raise typer.Exit(INTERRUPTED) from None


async def _interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Ended in good order by Ctrl-C and SIGTERM."""
    task = asyncio.create_task(work)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    while not task.done() and told.is_set():
        task.cancel()  # again and again: a library that cancels its own waits may take one cancel for its own
        await asyncio.wait({task}, timeout=CANCEL_S)
    waiting.cancel()
    return await task


async def _connected(url: str, home: Any, work: Callable[[Parts, Cache], Awaitable[T]]) -> T:
    target = find(url, home)
    cache = Cache(target.redis_url, client_name="cnop-operator")
    bars = _Bars()
    try:
        async with store(target) as dynamo:
            return await work(parts_of(target, cache, dynamo, bars), cache)
    finally:
        bars.end()
        await cache.stop()


def parts_of(target: Target, cache: Cache, dynamo: Dynamo, watcher: rebuilding.Watcher) -> Parts:
    """What the commands work with, of a system."""
    ttl_s = Settings().view_ttl_s
    generations, ledger = Generations(cache, KeptPointer(dynamo)), ParkingLedger(dynamo)
    views = Views(cache, ledger, generations, ttl_s=ttl_s)
    return Parts(
        generations=generations,
        views=views,
        check=ViewCheck(cache, Layout(ttl_s)),
        state=BuildState(cache, SystemIds().new()),
        account=ledger.account,
        accounts=partial(account_pages, dynamo),
        replay=partial(_replay, target.kafka, views),
        items_about=partial(items_about, dynamo),
        watcher=watcher,
        timer=time.monotonic,
        pause=asyncio.sleep,
    )


async def _replay(kafka: str, views: Views, place: Place | None) -> AsyncIterator[Page]:
    """Results from their places on are shown in every generation: the one that serves has them already.

    Twice up to the end, as it is then. The first time every account comes into the new generation: from then on the projector puts each result into it.
    What it could not put before lies before the second end.
    """
    places = {int(partition): int(offset) for partition, offset in (place or {}).items()}
    async with reading(kafka, client_id="cnop-operator", topic=RESULTS) as reader:
        for _ in range(2):
            async for records, behind in reader.batches(places, await reader.ends()):
                arrived = [one for record in records if (one := _arrived(record)) is not None]
                await views.put(arrived, again=True)
                places = behind
                yield Page([], {str(partition): str(offset) for partition, offset in places.items()}, len(records))
    yield Page([], None, 0)


def _arrived(record: Inbound) -> Arrived | None:
    """None where it is not to be read: it is among the dead letters then, and in no view."""
    try:
        return Arrived(decode_result(record.envelope.value), record.envelope.value)
    except UnreadableResult:
        return None


def _username(text: str) -> str:
    if not re.fullmatch(USERNAME_PATTERN, text.lower()):
        raise typer.BadParameter("is no username", param_hint="USERNAME")
    return text.lower()


def _progress(build: Build) -> str:
    read = f"{build.shown} results shown again" if build.source == rebuilding.RESULTS else f"{build.accounts} accounts loaded"
    done = f"{read}; {build.checked} accounts compared, {build.filled} of them filled in then, {len(build.differ)} differ"
    return done + (f", {len(build.failed)} could not be made: {', '.join(build.failed[:EXAMPLES_MAX])}." if build.failed else ".")


def _view_row(generation: int, found: Found, account: Account, same: Compared | None) -> ViewRow:
    lifetimes = list(found.ttl_s.values())
    differs = ", ".join(same.differs) if same and None not in {same.one, same.other} else ""
    return ViewRow(generation, found.version, account.version, sum(found.bytes.values()), min(lifetimes) if lifetimes else None, differs)


def _show_generations(rows: Sequence[Row]) -> None:
    table = Table("generation", "state")
    for row in rows:
        table.add_row(str(row.generation), row.state)
    out.print(table)


def _show_views(rows: Sequence[ViewRow]) -> None:
    table = Table("generation", "version", "ledger's version", "bytes", "lifetime", "differs from the one that serves in")
    for row in rows:
        ttl = "-" if row.ttl_s is None else f"{row.ttl_s} s"
        table.add_row(str(row.generation), "-" if row.version is None else str(row.version), str(row.ledger_version), str(row.bytes), ttl, row.differs or "-")
    out.print(table)
