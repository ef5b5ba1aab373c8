"""A cancel against a fill, many times on a running system: exactly one of both wins, and the loser is told what the winner made of the order.

`python -m tests.soak.races --races 1000` starts a system of its own, lets them race, and prints what came of it. The fill is an `OrderTriggered` that is
put into the log as the process that watches prices does it; the cancel is a user's call. Both are sent at about the same moment, in either order.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Annotated, Any, Final

import httpx
import typer
from redis.asyncio import Redis
from rich.console import Console

from events.bus import Bus
from events.envelope import Envelope
from events.topics import REQUESTS
from infra.dynamo import Dynamo
from ops.books import Owned, audit
from schemas.ledger import Entry
from schemas.money import EXACT
from schemas.requests import OrderTriggered, encode_request, request_type, trigger_id
from schemas.rows import order_view
from tests.system.running import ANSWER_S, REGION, System, User, answered, credentials, start

LIMIT: Final = Decimal(40_000)
FILL: Final = Decimal(39_000)
QUANTITY: Final = "0.01"
CASH: Final = "1000000.00"
LEADS_S: Final = (-0.002, 0.010)
"""The cancel begins so much earlier than the fill, or later. It has the longer way."""
SOURCE: Final = "urn:cnop:triggers"


@dataclass(frozen=True, slots=True)
class Told:
    """What the caller of a cancel was told: the status, and the order in the answer."""

    order_id: str
    status: int
    order: dict[str, Any]


@dataclass(slots=True)
class Figures:
    """What came of all races. `faults` are those that are not consistent, in words."""

    races: int = 0
    won: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    entries: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        won = ", ".join(f"{count} won by {name}" for name, count in sorted(self.won.items()))
        return f"{self.races} races in {self.seconds:.1f} s: {won}; {self.entries} entries, {len(self.faults)} faults"


async def races(system: System, chance: Random, *, users: int, each: int) -> Figures:
    """Let `each` orders of each of some new users be cancelled and filled at once, users side by side.

    Then what callers were told, the entries, what reads show and the books are held against each other.
    """
    figures = Figures(users * each)
    people = [await system.user(CASH) for _ in range(users)]
    started = time.perf_counter()
    async with _bus(system) as bus:
        told = await asyncio.gather(*(_all(bus, user, Random(chance.random()), each) for user in people))  # noqa: S311 - a plan that can be had again
    figures.seconds = time.perf_counter() - started
    for user, answers in zip(people, told, strict=True):
        # Whatever was in the log before this is decided when it is: a fill that found nothing leaves nothing to wait for.
        answered(await user.deposit("1.00"), 201)
        await _judge(system, user, answers, figures)
    shown = {user.username: await _owned(user) for user in people}
    books = await audit(system.ledger, shown, None, lambda: None)
    figures.faults += books.faults
    figures.entries = books.entries
    return figures


async def _all(bus: Bus, user: User, chance: Random, count: int) -> list[Told]:
    return [await _race(bus, user, chance.uniform(*LEADS_S)) for _ in range(count)]


async def _race(bus: Bus, user: User, lead_s: float) -> Told:
    """Place an order, then cancel and fill it; with a lead above zero the cancel begins first."""
    body = {"asset_id": "BTC", "order_type": "limit_buy", "quantity": QUANTITY, "price": str(LIMIT)}
    order_id = answered(await user.post("/orders", body), 201)["data"]["order_id"]
    order = await user.system.ledger.order(user.username, order_id)
    if order is None:
        raise LookupError(order_id)
    request = OrderTriggered(user.username, order_id, FILL, order.quote_sequence + 1, order.created_at)

    async def cancel() -> httpx.Response:
        await asyncio.sleep(max(0.0, -lead_s))
        return await user.call("DELETE", f"/orders/{order_id}", headers={"Prefer": "wait=30"})

    async def fill() -> None:
        await asyncio.sleep(max(0.0, lead_s))
        await bus.publish(REQUESTS, _envelope(request))

    answer, _ = await asyncio.gather(cancel(), fill())
    told = answer.json()
    return Told(order_id, answer.status_code, told.get("data") or told.get("order") or {})


async def _judge(system: System, user: User, answers: list[Told], figures: Figures) -> None:
    """Exactly one entry closed each order; the caller was told what it made of it, reads show the same, and nothing is held any more."""
    closed: dict[str, list[Entry]] = {told.order_id: [] for told in answers}
    for entry in await system.entries(user.username):
        if entry.lines.order and entry.lines.order.status != "open":
            closed[entry.lines.order.order_id].append(entry)
    for told in answers:
        kinds = [entry.kind for entry in closed[told.order_id]]
        figures.won[kinds[0] if kinds else "nobody"] += 1
        if len(kinds) != 1:
            figures.faults.append(f"{told.order_id}: closed by {kinds}")
            continue
        order = closed[told.order_id][0].lines.order
        final = order_view(order).model_dump(mode="json") if order else {}
        expected = Told(told.order_id, 200 if kinds == ["OrderCancelRequested"] else 409, final)
        if told != expected:
            figures.faults.append(f"{told.order_id}: closed by {kinds}, its caller was told {told}")
        shown = (await user.read(f"/orders/{told.order_id}"))["data"]
        if {name: shown[name] for name in final} != final:
            figures.faults.append(f"{told.order_id}: {final} is shown as {shown}")
    held = (await user.read("/balance"))["held_balance"]
    if held != "0.00":
        figures.faults.append(f"{user.username}: {held} is held for no order")


async def _owned(user: User) -> Owned:
    """What the API says that a user owns, free and held."""
    cash, assets = await user.read("/balance"), await user.read("/assets/balances")
    rows = [(row["asset_id"], row["quantity"], row["held_quantity"]) for row in assets["data"]]
    lines = [(unit, Decimal(whole), Decimal(held)) for unit, whole, held in (("USD", cash["total_balance"], cash["held_balance"]), *rows)]
    return {("customer", unit): EXACT.subtract(whole, held) for unit, whole, held in lines} | {("held", unit): held for unit, _, held in lines}


def _envelope(request: OrderTriggered) -> Envelope:
    rid = trigger_id(request.order_id, request.sequence)
    return Envelope(rid, SOURCE, request_type(request), request.username, datetime.now(UTC), encode_request(request), rid, rid)


@asynccontextmanager
async def _bus(system: System) -> AsyncIterator[Bus]:
    bus = Bus(system.addresses.kafka, client_id="races", acknowledge_s=ANSWER_S)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop(ANSWER_S)


async def _alone(home: Path, seed: int, users: int, each: int) -> Figures:
    """On a system of its own."""
    stack = await asyncio.to_thread(start, home)
    try:
        at = stack.addresses
        with credentials(stack):
            async with (
                Dynamo(at.dynamodb_url, REGION) as dynamo,
                httpx.AsyncClient(base_url=at.origin_url, timeout=2 * ANSWER_S) as http,
                Redis.from_url(at.redis_url) as redis,
            ):
                return await races(System(stack, at, http, dynamo, redis), Random(seed), users=users, each=each)  # noqa: S311 - see there
    finally:
        await asyncio.to_thread(stack.down)


def main(
    races_: Annotated[int, typer.Option("--races", min=1, help="How many, of all users together")] = 1_000,
    users: Annotated[int, typer.Option(min=1, help="Users side by side")] = 8,
    seed: Annotated[int, typer.Option(help="Of the leads")] = 1,
) -> None:
    """Let a cancel and a fill race for many orders. Exit status 1 where one was not consistent."""
    folder = Path(tempfile.mkdtemp(prefix="cnop-races-"))
    figures = asyncio.run(_alone(folder / "home", seed, users, -(-races_ // users)))
    console = Console(highlight=False, soft_wrap=True)
    for text in (str(figures), *figures.faults):
        console.print(text, markup=False)
    if not figures.faults:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if figures.faults else 0)


if __name__ == "__main__":
    typer.run(main)
