"""`cnop demo`: drives the running system as real clients would, then proves from the ledger that the books add up."""

import asyncio
import json
import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra.clock import Ids, SystemIds
from infra.dynamo import Dynamo, DynamoUnavailable
from infra.ledger import Ledger
from infra.settings import Settings
from ops.books import Books, Owned, audit, total, units
from ops.client import Client, ClientError, NewUser, Outcome, Session
from ops.demo_plan import SETTLED, Listed, Step, plan
from ops.progress import Bar
from ops.target import HomeDir, NoTarget, Target, Url, find, use_embedded_credentials
from schemas.ledger import House
from schemas.money import CURRENCY_SCALES, EXACT, in_currency, plain
from schemas.requests import request_id

USERS, ORDERS, CONCURRENCY, SEED = 20, 2_000, 32, 1
USERS_MAX, CONCURRENCY_MAX = 500, 256
ORDERS_EACH_MAX: Final = 2_000
"""Orders of one user: with more of them the users' deposits would meet the daily limit."""
FOLLOW_S: Final = 30.0
"""The deadline by which every request must have its outcome, counted from its sending."""
RETRY_S: Final = 90.0
LOGINS_AT_ONCE: Final = 4
"""Passwords are made costly to check; more at once would only queue."""
FAULTS_SHOWN: Final = 20
LIMIT_MAX: Final = 250

err = Console(stderr=True, highlight=False)


def demo(
    *,
    users: Annotated[int, typer.Option(min=1, max=USERS_MAX, help="Users to register.")] = USERS,
    orders: Annotated[int, typer.Option(min=0, help="Orders to place, of all users together.")] = ORDERS,
    concurrency: Annotated[int, typer.Option(min=1, max=CONCURRENCY_MAX, help="Requests under way at once; each user waits for its last one.")] = CONCURRENCY,
    seed: Annotated[int, typer.Option(help="The same seed plans the same requests.")] = SEED,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    url: Url = "",
    home: HomeDir = None,
) -> None:
    """Register users, deposit, trade, cancel and withdraw over HTTP; show what settled, what was refused and why; prove that the books add up.

    Some requests are meant to be refused. Exit status 1 where the books do not add up, a request got no outcome, or one got another outcome
    than it should.
    """
    if orders > users * ORDERS_EACH_MAX:
        raise typer.BadParameter(f"at most {ORDERS_EACH_MAX} orders for each user", param_hint="--orders")
    try:
        target = find(url, home)
        result = asyncio.run(_run(target, Size(users, orders, concurrency, seed), SystemIds()))
    except (NoTarget, ClientError) as error:
        raise _stopped(str(error)) from None
    except DynamoUnavailable as error:
        raise _stopped(f"The ledger cannot be read ({error}). For a system that `cnop up` did not start here name its engine with CNOP_DYNAMODB_URL.") from None
    except KeyboardInterrupt:
        err.print("Interrupted.")
        raise typer.Exit(130) from None
    _report(result, as_json=as_json)
    raise typer.Exit(0 if result.is_good else 1)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    users: int
    orders: int
    concurrency: int
    seed: int


@dataclass(slots=True)
class Result:
    """What became of all steps: (username, step, outcome)."""

    done: list[tuple[str, Step, Outcome]] = field(default_factory=list)
    repeats_differing: int = 0
    repeats: int = 0
    refused_in_ledger: int = 0
    seconds: float = 0.0
    books: Books = field(default_factory=Books)

    def of(self, *states: str) -> list[tuple[str, Step, Outcome]]:
        """The steps that ended so."""
        return [row for row in self.done if row[2].state in states]

    @property
    def unexpected(self) -> list[tuple[str, Step, Outcome]]:
        """Decided steps that ended otherwise than planned."""
        return [row for row in self.of("settled", "refused") if _ended(row[2]) != row[1].expected]

    @property
    def is_good(self) -> bool:
        """Whether everything has the outcome it should have, and the books add up."""
        return self.books.balanced and not self.of("unknown", "failed") and not self.unexpected and not self.repeats_differing

    def as_dict(self) -> dict[str, Any]:
        """For `--json`. Every request sent is settled, refused, unanswered or failed; `accepted` are those that the system took up: all but the failed."""
        settled, refused, unanswered, failed = (len(self.of(state)) for state in ("settled", "refused", "unknown", "failed"))
        times = sorted(outcome.seconds * 1000 for _, _, outcome in self.of("settled", "refused"))
        return {
            "sent": len(self.done),
            "accepted": settled + refused + unanswered,
            "settled": settled,
            "refused": refused,
            "unanswered": unanswered,
            "failed": failed,
            "p50_ms": _percentile(times, 50),
            "p95_ms": _percentile(times, 95),
            "p99_ms": _percentile(times, 99),
            "books_balanced": self.books.balanced,
            "seconds": round(self.seconds, 3),
            "per_second": round(len(self.done) / self.seconds, 1) if self.seconds else 0.0,
            "settled_by_kind": dict(Counter(step.kind for _, step, _ in self.of("settled")).most_common()),
            "orders_by_status": dict(Counter(_ended(outcome) for _, step, outcome in self.of("settled") if step.path == "/orders").most_common()),
            "refused_by_code": dict(Counter(outcome.code for _, _, outcome in self.of("refused")).most_common()),
            "refused_by_settlement": self.refused_in_ledger,
            "unexpected": len(self.unexpected),
            "repeats": self.repeats,
            "repeats_answered_differently": self.repeats_differing,
            "ledger_entries": self.books.entries,
            "units": len(self.books.legs),
            "faults": self.books.faults,
        }


async def _run(target: Target, size: Size, ids: Ids) -> Result:
    if target.is_embedded:
        use_embedded_credentials()
    async with AsyncExitStack() as stack:
        dynamo = await stack.enter_async_context(Dynamo(target.dynamodb_url, Settings().aws_region))
        await dynamo.ping()  # before anything is sent: without the ledger there is no proof
        client = await stack.enter_async_context(Client(target.origin_url, connections_max=size.concurrency, retry_s=RETRY_S))
        market = await _market(client)
        suffix = ids.new()[-8:]
        sessions = await _users(client, [Session(f"demo_{suffix}_{number}", f"{ids.new()}_Aa") for number in range(size.users)])
        result = Result()
        steps = plan(market, users=size.users, orders=size.orders, seed=size.seed)
        await _drive(client, list(zip(sessions, steps, strict=True)), size.concurrency, result)
        await _prove(client, Ledger(dynamo), sessions, result)
    return result


async def _market(client: Client) -> list[Listed]:
    rows = (await client.read("/inventory/assets", params={"limit": LIMIT_MAX}))["data"]
    market = [Listed(row["asset_id"], Decimal(row["price_usd"]), row["is_active"]) for row in rows if row["price_usd"]]
    if not any(listed.is_active for listed in market):
        raise ClientError("no asset has a price: does the market process run?")
    return market


async def _users(client: Client, sessions: Sequence[Session]) -> Sequence[Session]:
    """The same, registered and logged in."""
    slots = asyncio.Semaphore(LOGINS_AT_ONCE)

    async def one(session: Session, bar: Bar) -> None:
        async with slots:
            await client.register(NewUser(session.username, session.password, f"{session.username}@example.com", "Demo", "Trader"))
            await client.log_in(session)
        bar.step()

    with Bar("users", len(sessions), console=err) as bar:
        await asyncio.gather(*(one(session, bar) for session in sessions))
    return sessions


async def _drive(client: Client, lanes: Sequence[tuple[Session, list[Step]]], concurrency: int, result: Result) -> None:
    """Every user's steps, one after another; users side by side. Then one settled request of each user once more, under its key."""
    slots = asyncio.Semaphore(concurrency)
    started = time.perf_counter()

    async def lane(session: Session, steps: list[Step], bar: Bar) -> None:
        for number, step in enumerate(steps):
            async with slots:
                outcome = await client.write(session, step.path_of(session.username), step.body, _key(session, number), follow_s=FOLLOW_S)
            result.done.append((session.username, step, outcome))
            bar.step(f"{len(result.of('refused'))} refused" if number % 50 == 0 else "")

    with Bar("requests", sum(len(steps) for _, steps in lanes), console=err) as bar:
        await asyncio.gather(*(lane(session, steps, bar) for session, steps in lanes))
    result.seconds = time.perf_counter() - started
    first = {username: outcome for username, _, outcome in reversed(result.of("settled"))}
    for session, steps in lanes:
        if steps and session.username in first:
            await _repeat(client, session, steps, first[session.username], result)


def _key(session: Session, number: int) -> str:
    return f"demo-{session.username}-{number}"


async def _repeat(client: Client, session: Session, steps: Sequence[Step], first: Outcome, result: Result) -> None:
    """The user's first request again: it must answer the same, and the audit must not find it twice."""
    again = await client.write(session, steps[0].path_of(session.username), steps[0].body, _key(session, 0), follow_s=FOLLOW_S)
    result.repeats += 1
    result.repeats_differing += again.body != first.body


async def _prove(client: Client, ledger: Ledger, sessions: Sequence[Session], result: Result) -> None:
    moved: Counter[str] = Counter(username for username, step, _ in result.of("settled") if step.moves)
    with Bar("books", 2 * len(sessions), console=err) as bar:
        shown = {}
        for session in sessions:
            shown[session.username] = await _shown(client, session)
            bar.step()
        known = None if result.of("unknown") else {session.username: moved[session.username] for session in sessions}
        result.books = await audit(ledger, shown, known, bar.step)
    result.refused_in_ledger = await _refused_in_ledger(ledger, result)


async def _shown(client: Client, session: Session) -> Owned:
    """What the API says that the user owns, free and held."""
    cash, assets = await client.read("/balance", session), await client.read("/assets/balances", session)
    lines = {cash["currency"]: (cash["total_balance"], cash["held_balance"])} | {
        row["asset_id"]: (row["quantity"], row["held_quantity"]) for row in assets["data"]
    }
    free: dict[tuple[House, str], Decimal] = {("customer", unit): EXACT.subtract(Decimal(whole), Decimal(held)) for unit, (whole, held) in lines.items()}
    return free | {("held", unit): Decimal(held) for unit, (_, held) in lines.items()}


async def _refused_in_ledger(ledger: Ledger, result: Result) -> int:
    """Refusals that settlement decided and that stand in the journal for ever; the others were refused at the door."""
    numbers: dict[str, int] = defaultdict(int)
    count = 0
    for username, _, outcome in result.done:
        number = numbers[username]
        numbers[username] += 1
        if outcome.state == "refused":
            entry = await ledger.entry(username, request_id(username, f"demo-{username}-{number}"))
            count += entry is not None and entry.refusal is not None
    return count


def _ended(outcome: Outcome) -> str:
    """The code of a refusal, or the status of an order, or `settled`."""
    return outcome.code or str(outcome.body.get("data", {}).get("status", SETTLED))


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Nearest rank; None of nothing."""
    return round(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)], 1) if ordered else None


def _stopped(why: str) -> typer.Exit:
    err.print(f"[bold red]Error:[/] {escape(why)}", soft_wrap=True)
    return typer.Exit(1)


def _report(result: Result, *, as_json: bool) -> None:
    told = result.as_dict()
    if as_json:
        print(json.dumps(told))
    else:
        out = Console(file=sys.stdout, highlight=False)
        out.print(_outcomes(told))
        out.print(f"\nLatency: p50 {told['p50_ms']} ms, p95 {told['p95_ms']} ms, p99 {told['p99_ms']} ms; {told['per_second']} requests/s\n")
        out.print(_legs(result.books))
        out.print(_verdict(told))
    for username, step, outcome in [*result.unexpected, *result.of("unknown", "failed")][:FAULTS_SHOWN]:
        told_as = f"{outcome.state} {outcome.code} {outcome.detail}".rstrip()
        err.print(f"{username}: {step.kind} {json.dumps(step.body)} should be {step.expected}, was {told_as}", markup=False, soft_wrap=True)
    for fault in result.books.faults[:FAULTS_SHOWN]:
        err.print(f"books: {fault}", markup=False, soft_wrap=True)


def _outcomes(told: dict[str, Any]) -> Table:
    table = Table("outcome", "requests", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name in ("sent", "accepted", "settled", "refused", "unanswered", "failed"):
        if told[name] or name != "failed":
            table.add_row(name, str(told[name]))
        for part, count in told.get({"settled": "settled_by_kind", "refused": "refused_by_code"}.get(name, ""), {}).items():
            table.add_row(f"  {part}", str(count), style="dim")
    for status, count in told["orders_by_status"].items():
        table.add_row(f"orders {status}", str(count))
    return table


def _legs(books: Books) -> Table:
    """Per unit: what customers have, free and held, is what came from outside."""
    accounts = ("customer", "held", "world", "market", "fees")
    table = Table("unit", *accounts, "sum", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    moved = units(books)
    for unit in moved[:FAULTS_SHOWN]:
        legs = books.legs[unit]
        table.add_row(unit, *(_written(legs.get(account, Decimal(0)), unit) for account in accounts), _written(total(legs.values()), unit))
    if len(moved) > FAULTS_SHOWN:
        table.caption = f"and {len(moved) - FAULTS_SHOWN} more, each with the sum 0" if books.balanced else f"and {len(moved) - FAULTS_SHOWN} more"
    return table


def _written(amount: Decimal, unit: str) -> str:
    return in_currency(amount, unit) if unit in CURRENCY_SCALES else plain(amount.normalize(EXACT))


def _verdict(told: dict[str, Any]) -> str:
    read = f"{told['ledger_entries']} journal entries in {told['units']} currencies and assets"
    if not told["books_balanced"]:
        return f"\n[bold red]The books do NOT add up[/] ({read}): {len(told['faults'])} faults."
    proof = "every entry's legs sum to zero, their fold is what each account item has and what the API shows, what is held is what open orders hold"
    return f"\n[bold green]The books add up[/]: {read}; {proof}. {told['repeats'] - told['repeats_answered_differently']} repeated requests changed nothing."
