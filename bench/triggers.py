"""`python -m bench.triggers`: very many open orders of one asset, one jump of its price, and the time until all of them are filled.

Beside it, in the same run and counted in the same way, as many market orders that are published all at once: what settlement does with them is the limit
of what it can do with triggered ones. Then once more, with the triggers process killed in the middle (kill -9): every order must be filled, and none
twice. It starts a system of its own in a temporary folder, or measures a running one (`--home`), with an asset that nobody else has. Ends with status 1
where an order was lost or filled twice.
"""

import asyncio
import os
import secrets
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console

from bench.backlog import SOURCE, envelopes, progress, publish
from bench.figures import show
from bench.stage import SETTLEMENT, Stage, stage
from bench.usage import cpu_s, per_thousand, spent
from bench.waiting import until
from events.envelope import Envelope
from events.topics import PRICES, REQUESTS, RESULTS, TRIGGERS
from infra.clock import SystemClock
from infra.dynamo import Dynamo
from infra.ledger import Ledger
from infra.local.home import LocalError
from schemas.market import PRICE_CHANGED, AssetFacts, PriceChanged, Quote, encode_price
from schemas.requests import AccountRequest, Deposit, LimitStamp, OrderPlaced, OrderStamp, OrderType

TRIGGERS_PROCESS: Final = TRIGGERS.removeprefix("cnop-")
ORDERS_PER_ACCOUNT: Final = 500
DEPOSIT: Final = Decimal(10**9)
QUOTE: Final = Decimal(50_000)
QUANTITY: Final = Decimal("0.001")
QUOTE_AGE_MAX: Final = timedelta(hours=6)
KILLED_AT: Final = 0.3
"""The part of the orders that are triggered when the triggers are killed."""
WITHIN_S: Final = 300.0
POLL_MS: Final = 100
POLL_S: Final = 0.05
TRIGGERED: Final = "cnop.account.OrderTriggered.v1"
OPEN: Final = "cnop.account.OrderAccepted.v1"
FILLED: Final = "cnop.account.OrderFilled.v1"
_FACTS: Final = AssetFacts(quantity_scale=8, minimum_quantity=Decimal("0.00000001"), is_active=True, fee_bps=10)
STARTED: Final = time.monotonic()

err = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Told:
    """How often each order of one asset was opened, triggered and filled, as the topics tell it, and when the last trigger and the last fill were seen."""

    opened: Counter[str] = field(default_factory=Counter)
    triggered: Counter[str] = field(default_factory=Counter)
    filled: Counter[str] = field(default_factory=Counter)
    triggered_at: float = 0.0
    filled_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Market:
    """An asset of this run, its accounts, and the sequence of its prices."""

    asset_id: str
    accounts: tuple[str, ...]

    def orders(self, count: int, kind: OrderType, sequence: int) -> Iterator[AccountRequest]:
        """So many orders, the accounts in turn. A limit lies 1 to 2,000 below the quote."""
        now = SystemClock().now()
        stamp = OrderStamp(Quote(QUOTE, sequence, now, now + QUOTE_AGE_MAX), _FACTS, DEPOSIT)
        for number in range(count):
            limit = QUOTE - 1 - number % 2_000 if kind == "limit_buy" else None
            yield OrderPlaced(self.accounts[number % len(self.accounts)], self.asset_id, kind, QUANTITY, stamp, price=limit)

    def price(self, price: Decimal, sequence: int) -> Envelope:
        """As the market process would publish it."""
        now = SystemClock().now()
        value = encode_price(PriceChanged(self.asset_id, price, sequence, now))
        return Envelope(secrets.token_hex(16), SOURCE, PRICE_CHANGED, self.asset_id, now, value, "bench", "bench", sequence=sequence)


def main(
    orders: Annotated[int, typer.Option(help="Open orders of the asset.", min=100)] = 10_000,
    home: Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Measure the running system of this home instead of one of its own.")] = None,
) -> None:
    """Trigger very many orders by one price, and once more with a kill in the middle."""
    with stage(home, say, processes=(SETTLEMENT, TRIGGERS_PROCESS)) as at, at.only(SETTLEMENT, TRIGGERS_PROCESS):
        figures = asyncio.run(_measured(at, orders))
    show(figures, Console(highlight=False, soft_wrap=True))
    if any(figures[f"{run}_{fault}"] for run in ("jump", "killed") for fault in ("lost", "twice")):
        sys.exit(1)


async def _measured(at: Stage, count: int) -> dict[str, Any]:
    accounts = tuple(f"bench_{secrets.token_hex(4)}_{number}" for number in range(-(-count // ORDERS_PER_ACCOUNT)))
    market = Market(f"B{secrets.token_hex(4)}".upper(), accounts)
    async with results(at.addresses.kafka, market.asset_id) as told:
        say(f"{len(accounts)} accounts, and {count} market orders of {market.asset_id} at once")
        await publish(at.addresses.kafka, envelopes((Deposit(name, DEPOSIT, LimitStamp(DEPOSIT)) for name in accounts), SystemClock().now(), "deposit"))
        raw_s = await _market_orders(at, market, count, told)
        figures: dict[str, Any] = {"orders": count, "raw_s": round(raw_s, 2), "raw_per_s": round(count / raw_s)}
        for run, base in (("jump", 10), ("killed", 20)):
            figures |= {f"{run}_{name}": value for name, value in (await _jump(at, market, count, told, base, kill=run == "killed")).items()}
            say(f"{run}: {figures[f'{run}_s']} s")
    return {**figures, "jump_ratio": round(raw_s / figures["jump_s"], 3)}


async def _market_orders(at: Stage, market: Market, count: int, told: Told) -> float:
    """Seconds from the first of them being published until the last is told as filled."""
    events = list(envelopes(market.orders(count, "market_buy", 1), SystemClock().now(), "raw"))
    started = time.monotonic()
    await publish(at.addresses.kafka, events)
    await _until(lambda: len(told.filled) == count, "market orders are filled")
    return told.filled_at - started


async def _jump(at: Stage, market: Market, count: int, told: Told, base: int, *, kill: bool) -> dict[str, Any]:
    """Open the orders, then let the price fall below all of them."""
    told.opened.clear()
    told.triggered.clear()
    told.filled.clear()
    await _publish_price(at, market.price(QUOTE, base))
    say(f"{count} limit orders are opened")
    await publish(at.addresses.kafka, envelopes(market.orders(count, "limit_buy", base), SystemClock().now(), f"open-{base}-"))
    await _until(lambda: len(told.opened) == count, "limit orders are open")
    before, started = cpu_s(at.pids()), time.monotonic()
    await _publish_price(at, market.price(QUOTE / 2, base + 1))
    if kill:
        await _until(lambda: len(told.triggered) >= count * KILLED_AT, "some are triggered")
        os.kill(at.pids()[TRIGGERS_PROCESS], signal.SIGKILL)
        say(f"triggers killed with {len(told.triggered)} triggered and {len(told.filled)} filled")
    await _until(lambda: len(told.filled) == count, "all are filled")
    cpu = per_thousand({name: used for name, used in spent(before, cpu_s(at.pids())).items() if used > 0}, count)
    unfilled = await _unfilled(at, market)
    return {
        "s": round(told.filled_at - started, 2),
        "per_s": round(count / (told.filled_at - started)),
        "published_s": round(told.triggered_at - started, 2),
        "published_again": told.triggered.total() - count,
        "lost": unfilled + sum(1 for order in told.opened if order not in told.filled),
        "twice": sum(1 for times in told.filled.values() if times > 1),
        "cpu_s_per_1000": cpu,
    }


async def _unfilled(at: Stage, market: Market) -> int:
    """Open orders, by the counters of the accounts."""
    async with Dynamo(at.addresses.dynamodb_url, "us-east-1") as dynamo:
        accounts = await asyncio.gather(*(Ledger(dynamo).account(name) for name in market.accounts))
    return sum(account.counters.open_orders for account in accounts)


async def _publish_price(at: Stage, event: Envelope) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=at.addresses.kafka, client_id="bench-prices", acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(PRICES, value=event.value, key=event.key, headers=event.headers())
    finally:
        await producer.stop()


@asynccontextmanager
async def results(kafka: str, asset_id: str) -> AsyncIterator[Told]:
    """Counts the orders of an asset as they are told, for as long as the block runs."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, client_id="bench-results", isolation_level="read_committed", enable_auto_commit=False)
    await consumer.start()
    reading: asyncio.Task[None] | None = None
    try:
        async with progress(kafka) as log:
            places = [TopicPartition(topic, number) for topic in (REQUESTS, RESULTS) for number in range(await log.partitions())]
        consumer.assign(places)
        await consumer.seek_to_end(*places)
        for place in places:
            await consumer.position(place)
        told = Told()
        reading = asyncio.create_task(_count(consumer, asset_id, told))
        yield told
    finally:
        if reading:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await consumer.stop()


async def _count(consumer: AIOKafkaConsumer, asset_id: str, told: Told) -> None:
    while True:
        for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            for record in records:
                _note(told, asset_id, dict(record.headers)["ce_type"].decode(), record.value)


def _note(told: Told, asset_id: str, kind: str, value: bytes) -> None:
    if kind == TRIGGERED:
        order_id = orjson.loads(value)["order_id"]
        if order_id in told.opened:
            told.triggered[order_id] += 1
            told.triggered_at = time.monotonic()
    elif kind in (OPEN, FILLED):
        order = orjson.loads(value)["lines"]["order"]
        if order["asset_id"] == asset_id:
            (told.opened if kind == OPEN else told.filled)[order["order_id"]] += 1
            told.filled_at = time.monotonic()


async def _until(holds: Callable[[], bool], what: str) -> None:
    async def look() -> bool:
        return holds()

    try:
        await until(look, every_s=POLL_S, within_s=WITHIN_S)
    except TimeoutError:
        raise LocalError(f"not within {WITHIN_S:g} s: {what}") from None


def say(text: str) -> None:
    """Progress, for whoever waits."""
    err.print(f"{time.monotonic() - STARTED:6.1f} s  {text}", style="dim", markup=False)


if __name__ == "__main__":
    typer.run(main)
