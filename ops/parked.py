"""`cnop parked`: which accounts are parked and why, and `cnop parked drain USERNAME`: let settlement decide what waits in one of them.

The command decides nothing and writes nothing into the ledger. It publishes a request into the account's own log and watches what settlement makes
of it: interrupted, the draining goes on by itself.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

import typer
from rich.table import Table

from events.bus import OutcomeUnknown, Unavailable
from events.envelope import Envelope
from events.topics import REQUESTS, BrokerError
from infra.clock import Clock, Ids, SystemClock, SystemIds
from infra.dynamo import DynamoUnavailable
from infra.parked import HeadUnreadable, ParkingLedger, Unreadable
from ops.operator import err, out, print_rows, publisher, stopped, store
from ops.progress import Bar
from ops.target import HomeDir, NoTarget, Target, Url, find
from schemas.instants import rfc3339
from schemas.ledger import Account, Entry, Parked
from schemas.requests import USERNAME_PATTERN, DrainRequested, encode_request, next_drain_id, request_type

SOURCE: Final = "urn:cnop:operator"
POLL_S: Final = 0.2
PATIENCE_S: Final = 60.0
"""How long no step may be seen before the command gives up watching."""

app = typer.Typer(help="Parked accounts: list them, and drain them once what was wrong is mended.", add_completion=False, pretty_exceptions_show_locals=False)


class Watched(Protocol):
    """What is looked at: `infra.parked.ParkingLedger`, or a fake."""

    async def load(self, usernames: list[str]) -> dict[str, Account | Unreadable]:
        """The accounts, or what is known of those that cannot be read."""
        ...

    async def entry(self, username: str, request_id: str) -> Entry | None:
        """The entry of a request, if it was decided."""
        ...

    async def waiting_count(self, username: str, parked: Parked) -> int:
        """How many requests wait."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """A parked account: since when, why, where in the log its waiting requests begin, and how many there are."""

    username: str
    since: str
    cause: str
    partition: int
    offset: int
    waiting: int
    is_readable: bool


@dataclass(frozen=True, slots=True)
class Drained:
    """How a draining ended: `drained` requests were decided. `end`: done, stopped (at a request that fails again: `cause`), not-parked, or no-answer."""

    drained: int
    end: str
    cause: str | None = None


@app.callback(invoke_without_command=True)
def parked(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each account.")] = False,
    url: Url = "",
    home: HomeDir = None,
) -> None:
    """List the parked accounts with since when, why, and how many requests wait."""
    if context.invoked_subcommand:
        return
    rows = _run(url, home, _rows)
    print_rows(rows, _show, as_json=as_json)


@app.command()
def drain(
    username: Annotated[str, typer.Argument(help="The account.")],
    url: Url = "",
    home: HomeDir = None,
) -> None:
    """Let settlement decide what waits in an account, in its order, and follow it. Status 1 where it stops at a request that fails again."""
    if not re.fullmatch(USERNAME_PATTERN, username):
        raise typer.BadParameter("a username has 6 to 30 lower-case letters, digits or _", param_hint="USERNAME")
    told = _run(url, home, lambda machines: _drain(machines, username, SystemIds(), SystemClock()))
    err.print(_sentence(username, told), markup=False)
    raise typer.Exit(0 if told.end in ("done", "not-parked") else 1)


@dataclass(frozen=True, slots=True)
class _Machines:
    ledger: ParkingLedger
    kafka: str


def _run(url: str, home: Any, work: Callable[[_Machines], Awaitable[Any]]) -> Any:
    try:
        return asyncio.run(_connected(find(url, home), work))
    except (NoTarget, HeadUnreadable) as error:
        raise stopped(str(error)) from None
    except DynamoUnavailable as error:
        raise stopped(f"The ledger cannot be read ({error}). Where `cnop up` did not start the system, name its engine with CNOP_DYNAMODB_URL.") from None
    except (BrokerError, Unavailable) as error:
        raise stopped(f"The log cannot be reached ({error}), nothing was sent. Where `cnop up` did not start the system, name it with CNOP_KAFKA.") from None
    except OutcomeUnknown as error:
        raise stopped(f"The log did not acknowledge the request ({error}); it may come all the same. Draining twice does no harm: try again.") from None
    except KeyboardInterrupt:
        err.print("Interrupted. A draining that was asked for goes on by itself: `cnop parked` shows where it is.")
        raise typer.Exit(130) from None


async def _connected(target: Target, work: Callable[[_Machines], Awaitable[Any]]) -> Any:
    async with store(target) as dynamo:
        return await work(_Machines(ParkingLedger(dynamo), target.kafka))


async def _rows(machines: _Machines) -> list[Row]:
    names = await machines.ledger.parked_accounts()
    accounts = await machines.ledger.load(names)
    return [await row(machines.ledger, name, facts, accounts[name]) for name in names if (facts := accounts[name].parked)]


async def row(ledger: Watched, username: str, facts: Parked, account: Account | Unreadable) -> Row:
    """What is told of a parked account."""
    waiting = await ledger.waiting_count(username, facts)
    return Row(username, rfc3339(facts.at), facts.cause, facts.partition, facts.before + 1, waiting, isinstance(account, Account))


async def _drain(machines: _Machines, username: str, ids: Ids, clock: Clock) -> Drained:
    facts = (await machines.ledger.load([username]))[username].parked
    if facts is None:
        return Drained(0, "not-parked")
    total = await machines.ledger.waiting_count(username, facts)
    envelope = request_of(username, ids.new(), clock)
    async with publisher(machines.kafka) as bus:
        await bus.publish(REQUESTS, envelope)
    with Bar(f"drain {username}", total, console=err) as bar:
        return await follow(machines.ledger, username, envelope.id, bar.step)


def request_of(username: str, request_id: str, clock: Clock) -> Envelope:
    """The request to drain an account."""
    request = DrainRequested(username)
    return Envelope(
        id=request_id,
        source=SOURCE,
        type=request_type(request),
        subject=username,
        time=clock.now(),
        value=encode_request(request),
        correlation_id=request_id,
        trace_id=request_id,
    )


async def follow(ledger: Watched, username: str, drain_id: str, step: Callable[[], None], *, patience_s: float = PATIENCE_S, poll_s: float = POLL_S) -> Drained:
    """Watch a draining, from step to step, until it is done or stops; `step` is called for each request that was decided."""
    drained, loop = 0, asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while loop.time() < deadline:
        entry = await ledger.entry(username, drain_id)
        if entry is None or entry.parking is None:
            if (await ledger.load([username]))[username].parked is None and await ledger.entry(username, drain_id) is None:
                return Drained(drained, "done")  # another draining did the rest
            await asyncio.sleep(poll_s)
            continue
        drained += len(entry.parking.drained)
        for _ in entry.parking.drained:
            step()
        if not entry.parking.goes_on:
            return Drained(drained, "stopped" if entry.parking.cause else "done", entry.parking.cause)
        drain_id, deadline = next_drain_id(drain_id), loop.time() + patience_s
    return Drained(drained, "no-answer")


def _show(rows: Sequence[Row]) -> None:
    if not rows:
        err.print("No account is parked.")
        return
    table = Table("account", "since", "cause", "waits from", "requests", "item")
    for one in rows:
        table.add_row(one.username, one.since, one.cause, f"{one.partition}/{one.offset}", str(one.waiting), "readable" if one.is_readable else "unreadable")
    out.print(table)


def _sentence(username: str, told: Drained) -> str:
    match told.end:
        case "done":
            return f"{username}: {told.drained} requests were decided, the account is active again."
        case "not-parked":
            return f"{username} is not parked."
        case "stopped":
            return f"{username}: {told.drained} requests were decided, the next one fails again ({told.cause}). The account stays parked."
        case _:
            return f"{username}: no step was seen for {PATIENCE_S:.0f} s. Does settlement run? The request is in the log and will be taken up."
