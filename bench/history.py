"""`python -m bench.history BTCUSD.csv`: a price history that happened is replayed, an account trades on it, and its portfolio's history is recomputed.

It starts a system of its own in a temporary folder, on free ports, lets the file pass in some minutes, and asks for the portfolio's history at every
interval. Each point is then compared with a plain recomputation that knows the account's entries and the published prices, and nothing else: no candle, no
day, no balance. It ends with status 1 where one figure differs, and leaves nothing running.
"""

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.table import Table

from bench.stage import SETTINGS
from events.topics import PRICES
from infra.dynamo import Dynamo
from infra.ledger import Ledger
from infra.local.home import PROCESSES, LocalError
from infra.local.machines import Addresses
from infra.local.stack import Stack
from infra.price_files import PriceFileInvalid, load_price_file
from ops.books import all_entries
from ops.client import Client, NewUser, Outcome, Session
from schemas.instants import parse_rfc3339, rfc3339
from schemas.ledger import Entry
from schemas.market import PriceChanged, decode_price
from schemas.money import HOME_CURRENCY

ASSET: Final = "BTC"
BESIDE: Final = "ETH"
"""Traded too; its price is not replayed and stays."""
INTERVAL_S: Final = 1.0
WARM_UP_S: Final = 30.0
"""The file begins so long after the start of the system is asked for."""
SETTLED_S: Final = 5.0
"""After the end of a minute, until the last price before it is on the topic and in its candle."""
STEP_S: Final = 0.5
READ_MS: Final = 500
ASKED: Final = (("1h", "1m"), ("1d", "1h"), ("1w", "1h"), ("1m", "1d"), ("1m", "1h"), ("1y", "1d"), ("1y", "1w"), ("all", "1h"))
"""Periods and intervals of the answers that are recomputed."""
PASSWORD: Final = "Replayed-History-1"  # noqa: S105 - of a system that is thrown away

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, help="Rows of time, open, high, low and close.")],
    minutes: Annotated[float, typer.Option(min=0.5, help="Time in which the file passes.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Which trades.")] = 1,
) -> None:
    """Replay, trade, ask, recompute."""
    try:
        bars = load_price_file(file)
        with tempfile.TemporaryDirectory(prefix="cnop-history-") as folder:
            found = _on_a_system(Path(folder), file, (bars[-1].at - bars[0].at) / timedelta(minutes=minutes), seed, minutes * 60)
    except (LocalError, PriceFileInvalid) as error:
        err.print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    _show(found)
    if found.differences:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Found:
    """What there was to compare, the answers by period and interval with the seconds that each took, and what differs."""

    entries: Sequence[Entry]
    prices: Sequence[PriceChanged]
    answers: dict[tuple[str, str], tuple[dict[str, Any], float]]
    differences: list[str]


def recomputed(entries: Sequence[Entry], prices: Sequence[PriceChanged], before: datetime) -> tuple[Decimal, Decimal, list[str]]:
    """Cash, value of the holdings in whole cents (rounded down once), and the assets without a price: all of what came before a time."""
    had: dict[str, Fraction] = {}
    for posting in (posting for entry in entries if entry.at < before for posting in entry.postings if posting.account in {"customer", "held"}):
        had[posting.unit] = had.get(posting.unit, Fraction(0)) + Fraction(posting.amount)
    latest: dict[str, PriceChanged] = {}
    for price in prices:
        if price.at < before and (price.asset_id not in latest or price.sequence > latest[price.asset_id].sequence):
            latest[price.asset_id] = price
    cash = had.pop(HOME_CURRENCY, Fraction(0))
    worth = sum((quantity * Fraction(latest[asset_id].price) for asset_id, quantity in had.items() if asset_id in latest), Fraction(0))
    unpriced = sorted(asset_id for asset_id, quantity in had.items() if quantity and asset_id not in latest)
    return Decimal(floor(cash * 100)) / 100, Decimal(floor(worth * 100)) / 100, unpriced


def compared(answer: dict[str, Any], entries: Sequence[Entry], prices: Sequence[PriceChanged]) -> list[str]:
    """What of an answer is not what the recomputation gives. The last point is that of now: all that there is comes before it."""
    told = []
    for point in answer["data"]:
        before = parse_rfc3339(point["at"]) if point is not answer["data"][-1] else datetime.max.replace(tzinfo=UTC)
        cash, worth, unpriced = recomputed(entries, prices, before)
        expected = {"at": point["at"], "value": f"{cash + worth:.2f}", "cash": f"{cash:.2f}", "asset_value": f"{worth:.2f}", "unpriced_assets": unpriced}
        if point != expected:
            told.append(f"{answer['period']} by {answer['interval']}: {point} is told, {expected} is recomputed")
    return told


def _on_a_system(folder: Path, file: Path, speed: float, seed: int, seconds: float) -> Found:
    (folder / "prices").mkdir()
    shutil.copy(file, folder / "prices" / f"{ASSET}.csv")
    replayed = {
        "CNOP_MARKET_SOURCE": "replayed",
        "CNOP_MARKET_REPLAY_DIR": str(folder / "prices"),
        "CNOP_MARKET_REPLAY_STARTS": rfc3339(datetime.now(UTC) + timedelta(seconds=WARM_UP_S)),
        "CNOP_MARKET_REPLAY_SPEED": str(speed),
        "CNOP_MARKET_INTERVAL_S": str(INTERVAL_S),
        "CNOP_FEE_BPS": "10",
    }
    ends = time.monotonic() + WARM_UP_S + seconds
    stack = Stack(folder / "home", PROCESSES, env={**SETTINGS, **replayed}, say=lambda part, text: _say(f"{part}: {text}"))
    try:
        addresses = stack.up(hold=True)
        os.environ.update({name: value for name, value in stack.environment().items() if name.startswith("AWS_")})
        return asyncio.run(_traded(addresses, ends, random.Random(seed)))  # noqa: S311 - the same trades again for the same seed
    finally:
        stack.down()


async def _traded(addresses: Addresses, ends: float, chance: random.Random) -> Found:
    async with Client(addresses.origin_url, connections_max=1) as client, Dynamo(addresses.dynamodb_url, "us-east-1") as dynamo:
        trader = Trader(client, Session("replay_trader", PASSWORD), chance)
        await trader.run(ends)
        _say(f"the file has passed: {dict(trader.told)}")
        now = time.time()
        await asyncio.sleep(60 - now % 60 + SETTLED_S)
        answers = {}
        for period, interval in ASKED:
            started = time.perf_counter()
            answer = await client.read("/portfolio/history", trader.session, {"period": period, "interval": interval})
            answers[period, interval] = (answer, time.perf_counter() - started)
        entries, prices = await all_entries(Ledger(dynamo), trader.session.username), await _prices(addresses.kafka)
    differences = [line for answer, _ in answers.values() for line in compared(answer, entries, prices)]
    return Found(entries, prices, answers, differences)


@dataclass
class Trader:
    """Deposits, withdraws, buys and sells at the market, and places limit orders, of which some are filled by the market and some cancelled."""

    client: Client
    session: Session
    chance: random.Random

    def __post_init__(self) -> None:
        self.told: Counter[str] = Counter()
        self.asked = 0
        self.open: list[str] = []

    async def run(self, ends: float) -> None:
        """Trade until then."""
        name = self.session.username
        await self.client.register(NewUser(name, PASSWORD, f"{name}@example.com", "Ann", "Lee"))
        await self.client.log_in(self.session)
        await self._ask("deposit", "/balance/deposit", {"amount": "50000.00"})
        while time.monotonic() < ends:
            await self._step()
            await asyncio.sleep(STEP_S)

    async def _step(self) -> None:
        price: Decimal = (await self.client.read(f"/inventory/assets/{ASSET}"))["data"]["price_usd"]
        some = Decimal(self.chance.randint(500, 5_000))
        quantity = f"{some / Decimal(price):.8f}"
        match self.chance.choice(("deposit", "withdraw", "market_buy", "market_buy", "market_sell", "limit_buy", "limit_sell", "cancel", "beside")):
            case "deposit":
                await self._ask("deposit", "/balance/deposit", {"amount": f"{some / 7:.2f}"})
            case "withdraw":
                await self._ask("withdraw", "/balance/withdraw", {"amount": f"{some / 11:.2f}"})
            case "cancel" if self.open:
                await self._ask("cancel", f"/orders/{self.open.pop(self.chance.randrange(len(self.open)))}/cancel", {})
            case "limit_buy":
                await self._order("limit_buy", ASSET, quantity, price=f"{price * Decimal('0.9'):.2f}")
            case "limit_sell":
                await self._order("limit_sell", ASSET, quantity, price=f"{price * Decimal('1.1'):.2f}")
            case "beside":
                await self._order("market_buy", BESIDE, f"{some / 70_000:.8f}")
            case kind:
                await self._order("market_buy" if kind == "cancel" else kind, ASSET, quantity)

    async def _order(self, kind: str, asset_id: str, quantity: str, **more: str) -> None:
        outcome = await self._ask(kind, "/orders", {"order_type": kind, "asset_id": asset_id, "quantity": quantity, **more})
        if outcome.state == "settled" and outcome.body["data"]["status"] == "open":
            self.open.append(outcome.body["data"]["order_id"])

    async def _ask(self, name: str, path: str, body: dict[str, str]) -> Outcome:
        self.asked += 1
        outcome = await self.client.write(self.session, path, body, f"replay-{self.asked}")
        self.told[f"{name} {outcome.state if outcome.state == 'settled' else outcome.code}"] += 1
        return outcome


async def _prices(kafka: str) -> list[PriceChanged]:
    """All prices on the topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    try:
        known = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - there is no public way to ask for a topic that is not subscribed
        partitions = [TopicPartition(PRICES, number) for number in known.partitions_for_topic(PRICES)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        prices: list[PriceChanged] = []
        while [partition for partition in partitions if await consumer.position(partition) < ends[partition]]:
            for records in (await consumer.getmany(timeout_ms=READ_MS)).values():
                prices += [decode_price(record.value) for record in records]
    finally:
        await consumer.stop()
    return prices


def _show(found: Found) -> None:
    kinds = Counter(f"{entry.kind}{' refused' if entry.refusal else ''}" for entry in found.entries)
    replayed = [price.price for price in found.prices if price.asset_id == ASSET]
    out.print(
        f"{len(found.entries)} entries that moved something {dict(kinds)}; {len(found.prices)} published prices, {len(set(replayed))} of {ASSET}", markup=False
    )
    minutes = found.answers["1h", "1m"][0]["data"]
    shown = Table("at", "value", "cash", "holdings")
    for point in minutes:
        if point["value"] != "0.00":
            shown.add_row(point["at"], point["value"], point["cash"], point["asset_value"])
    out.print(shown)
    answers = Table("period", "asked", "told", "points", "not zero", "seconds")
    for (period, interval), (answer, seconds) in found.answers.items():
        points = answer["data"]
        answers.add_row(period, interval, answer["interval"], str(len(points)), str(sum(point["value"] != "0.00" for point in points)), f"{seconds:.3f}")
    out.print(answers)
    for line in found.differences:
        out.print(line, markup=False, style="red")
    out.print(f"{sum(len(answer['data']) for answer, _ in found.answers.values())} points compared, {len(found.differences)} differ")


def _say(text: str) -> None:
    """Progress, for whoever waits."""
    err.print(text, style="dim", markup=False)


if __name__ == "__main__":
    sys.argv[0] = "bench.history"
    typer.run(main)
