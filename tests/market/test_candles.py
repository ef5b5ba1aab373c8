"""Candles: one suite for the ones in memory and the ones on a real table, and what holds whatever stops their writer."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Any

import pytest

from infra.candles import CANDLES_MAX, MINUTES_KEPT, BoundedCandles, CandleReads, CandleStore
from infra.dynamo import Dynamo, DynamoUnavailable, from_item
from infra.ledger_bound import TooManyReads
from infra.market import MarketStore
from processors.market import FixedPrices, publish_prices
from processors.prices import Tick
from schemas.candles import LENGTHS, Candle, Close, Interval, begin_of, begun, end_of, followed
from schemas.market import Asset, PriceChanged, price_adapter
from schemas.tables import MARKET, PRICES_PK
from tests.fakes.bus import FakeBus
from tests.fakes.candles import MemoryCandles
from tests.fakes.clock import START, FakeClock, FakeIds

MINUTE, HOUR, DAY = LENGTHS.values()
LONG_AGO, FAR_AWAY = START - timedelta(days=400), START + timedelta(days=400)
Filled = Callable[[Sequence[PriceChanged]], Awaitable[CandleReads]]


def price(sequence: int, at: datetime, amount: str, volume: str = "1") -> PriceChanged:
    return PriceChanged("BTC", Decimal(amount), sequence, at, Decimal(volume))


def walk(seed: int, count: int = 300) -> list[PriceChanged]:
    """Prices with pauses from nothing to two days between them."""
    chance, at, prices = random.Random(seed), START, []  # noqa: S311 - a seeded test
    for sequence in range(1, count + 1):
        prices.append(price(sequence, at, f"{chance.randint(1, 10**7)}.{chance.randint(0, 99):02}", f"{chance.randint(0, 10**9)}.{chance.randint(0, 10**8)}"))
        at += chance.choice((timedelta(0), timedelta(seconds=7), timedelta(seconds=60), timedelta(minutes=13), timedelta(hours=5), timedelta(days=2)))
    return prices


def plainly(prices: Sequence[PriceChanged], interval: Interval) -> list[Candle]:
    """The candles of prices, by nothing but their definition."""
    candles = []
    for at, group in groupby(prices, key=lambda price: begin_of(interval, price.at)):
        inside = list(group)
        amounts = [price.price for price in inside]
        candles.append(Candle(at, amounts[0], max(amounts), min(amounts), amounts[-1], sum(price.volume for price in inside)))
    return candles


@pytest.fixture(params=["memory", "table"])
def filled(request: pytest.FixtureRequest, new_store: Callable[[], Awaitable[MarketStore]], dynamo: Dynamo) -> Filled:
    """Makes candles out of an asset's prices."""

    async def memory(prices: Sequence[PriceChanged]) -> CandleReads:
        return MemoryCandles(prices)

    async def table(prices: Sequence[PriceChanged]) -> CandleReads:
        store, before = await new_store(), None
        for price in prices:
            before = followed(before, price) if before else begun(price)
            assert await store.put_prices([before]) == [before]
        return CandleStore(dynamo)

    return {"memory": memory, "table": table}[request.param]


@pytest.mark.parametrize("seed", [1, 2])
async def test_candles_are_what_prices_did(filled: Filled, seed: int) -> None:
    """Every candle of every interval, the running ones too, is what a plain recomputation gives; a span has those that begin in it."""
    prices = walk(seed)
    candles = await filled(prices)
    for interval in LENGTHS:
        expected = plainly(prices, interval)
        assert await candles.candles("BTC", interval, LONG_AGO, FAR_AWAY, limit=CANDLES_MAX) == expected
        middle = expected[len(expected) // 2].at
        assert await candles.candles("BTC", interval, middle, FAR_AWAY, limit=3) == expected[len(expected) // 2 :][:3]
        assert await candles.candles("BTC", interval, LONG_AGO, middle, limit=CANDLES_MAX) == expected[: len(expected) // 2]
    assert await candles.candles("ETH", "1m", LONG_AGO, FAR_AWAY, limit=9) == []


@pytest.mark.parametrize("interval", LENGTHS)
async def test_closes_tell_the_price_at_any_moment(filled: Filled, interval: Interval) -> None:
    """At any moment of a span the last close at or before it is that of the last candle that had ended; before the first price there is none."""
    prices = walk(3, count=60)
    candles, expected = await filled(prices), plainly(prices, interval)
    for start, span in ((START - DAY, 3 * MINUTE), (START - HOUR, DAY), (START + 9 * HOUR + MINUTE / 7, 30 * HOUR), (START + 90 * DAY, HOUR)):
        closes = await candles.closes("BTC", interval, start, start + span)
        assert closes == sorted(closes)
        for moment in (start + span * part / 13 for part in range(14)):
            before = [Close(end_of(interval, candle), candle.close) for candle in expected if end_of(interval, candle) <= moment]
            assert [close for close in closes if close.at <= moment][-1:] == before[-1:]


async def test_the_last_price_before_the_end_is_the_close(filled: Filled) -> None:
    """A price at the end of a minute is the next one's first; a running candle whose time is over has ended, without another price."""
    end = begin_of("1m", START) + MINUTE
    candles = await filled([price(1, end - timedelta(milliseconds=1), "5"), price(2, end, "6")])
    assert await candles.closes("BTC", "1m", end, end) == [Close(end, Decimal(5))]
    assert await candles.closes("BTC", "1m", end, end + MINUTE) == [Close(end, Decimal(5)), Close(end + MINUTE, Decimal(6))]
    assert await candles.closes("BTC", "1m", end + DAY, end + DAY) == [Close(end + MINUTE, Decimal(6))]


async def test_time_does_not_run_back(filled: Filled) -> None:
    """A price that is earlier than the running candle goes into it: a clock that is set back makes no candle of the past anew."""
    candles = await filled([price(1, START, "5"), price(2, START + HOUR, "6"), price(3, START + MINUTE, "7"), price(4, START + HOUR + MINUTE, "8")])
    minutes = await candles.candles("BTC", "1m", LONG_AGO, FAR_AWAY, limit=9)
    assert [(candle.at, candle.open, candle.close) for candle in minutes] == [(START, 5, 5), (START + HOUR, 6, 7), (START + HOUR + MINUTE, 8, 8)]


class Interrupted:
    """A store's client: after its first answer something else happens before the next call."""

    def __init__(self, dynamo: Dynamo, happens: Callable[[], Awaitable[object]]) -> None:
        self._dynamo = dynamo
        self._happens: list[Callable[[], Awaitable[object]]] = [happens]

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer = await self._dynamo.call(operation, **arguments)
        for happens in self._happens[:]:
            self._happens.clear()
            await happens()
        return answer


async def test_a_candle_that_ends_while_it_is_read(store: MarketStore, dynamo: Dynamo) -> None:
    """It is neither missing nor there twice, and it is whole: the price that came meanwhile is in it."""
    first = begun(price(1, START, "5"))
    second = followed(first, price(2, START + MINUTE / 2, "6"))
    third = followed(second, price(3, START + MINUTE, "7"))
    await store.put_prices([first])

    async def end() -> None:
        await store.put_prices([second])
        await store.put_prices([third])

    minutes = await CandleStore(Interrupted(dynamo, end)).candles("BTC", "1m", LONG_AGO, FAR_AWAY, limit=9)
    assert [(candle.at, candle.close) for candle in minutes] == [(START, 6)]
    assert len(await CandleStore(dynamo).candles("BTC", "1m", LONG_AGO, FAR_AWAY, limit=9)) == 2


async def test_too_much_at_once_is_refused(dynamo: Dynamo) -> None:
    """A caller that asks for more than the bound has a bug; readers beyond the bound are told to come again."""
    store = CandleStore(dynamo)
    with pytest.raises(ValueError, match=str(CANDLES_MAX)):
        await store.candles("BTC", "1m", LONG_AGO, FAR_AWAY, limit=CANDLES_MAX + 1)
    with pytest.raises(ValueError, match=str(CANDLES_MAX)):
        await store.closes("BTC", "1m", LONG_AGO, FAR_AWAY)
    bounded = BoundedCandles(store, at_once=1, waiting_max=1)
    answers = await asyncio.gather(*(bounded.candles("BTC", "1m", START, FAR_AWAY, limit=1) for _ in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers].count(TooManyReads) == 2


async def test_candles_of_minutes_expire(store: MarketStore, dynamo: Dynamo) -> None:
    """Those of hours and days stay."""
    first = begun(price(1, START, "5"))
    await store.put_prices([first])
    await store.put_prices([followed(first, price(2, START + DAY, "6"))])
    items = (await dynamo.call("scan", TableName=MARKET.name))["Items"]
    expiry = {item["pk"]["S"]: item["ttl"]["N"] for item in items if "ttl" in item}
    assert {item["pk"]["S"] for item in items} == {"PRICES", "CANDLES#BTC#1m", "CANDLES#BTC#1h", "CANDLES#BTC#1d"}
    assert expiry == {"CANDLES#BTC#1m": str(int((START + MINUTES_KEPT).timestamp()))}
    told = await dynamo.call("describe_time_to_live", TableName=MARKET.name)
    assert told["TimeToLiveDescription"]["TimeToLiveStatus"] == "ENABLED"


class Faulty:
    """A store's client that loses transactions: before they are carried out, or after. It keeps the prices of those that were carried out."""

    def __init__(self, dynamo: Dynamo, chance: random.Random) -> None:
        self._dynamo = dynamo
        self._chance = chance
        self.lost = 0
        self.taken: list[PriceChanged] = []

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        if operation != "transact_write_items":
            return await self._dynamo.call(operation, **arguments)
        lost, before = self._chance.random() > 0.5, self._chance.random() > 0.5
        answer: dict[str, Any] = {}
        if not (lost and before):
            answer = await self._dynamo.call(operation, **arguments)
            items = [from_item(action["Put"]["Item"]) for action in arguments["TransactItems"]]
            self.taken += [price_adapter().validate_python(item) for item in items if item["pk"] == PRICES_PK]
        if lost:
            self.lost += 1
            raise DynamoUnavailable("lost")
        return answer


class Wandering:
    """A price and a volume of each step, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def tick(self, asset: Asset, latest: PriceChanged | None, at: datetime) -> Tick:
        return Tick(Decimal(self._chance.randint(1, 10**6)), Decimal(self._chance.randint(0, 100)))


@pytest.mark.parametrize("seed", [11, 12, 13])
async def test_no_death_loses_a_figure(store: MarketStore, dynamo: Dynamo, assets: Sequence[Asset], seed: int) -> None:
    """Processes die before and after the writing of prices, two at a time write, with different clocks: candles are of exactly the prices that were taken."""
    chance = random.Random(seed)  # noqa: S311 - a seeded test
    source, faulty, at = Wandering(chance), Faulty(dynamo, chance), START
    for _ in range(60):
        at += timedelta(seconds=chance.choice((1, 9, 31, 60, 1_000, 4_000)))
        clocks = (at, at - timedelta(seconds=chance.choice((0, 0, 70))))
        await asyncio.gather(*(_dying_round(MarketStore(faulty), assets[:3], source, clock) for clock in clocks))
    assert faulty.lost > 10
    candles = CandleStore(dynamo)
    for asset in assets[:3]:
        taken = sorted((price for price in faulty.taken if price.asset_id == asset.asset_id), key=attrgetter("sequence"))
        assert [price.sequence for price in taken] == list(range(1, len(taken) + 1))
        assert len(taken) > 30
        latest = accumulate((price.at for price in taken), max)
        in_order = [replace(price, at=at) for price, at in zip(taken, latest, strict=True)]
        for interval in LENGTHS:
            assert await candles.candles(asset.asset_id, interval, LONG_AGO, FAR_AWAY, limit=CANDLES_MAX) == plainly(in_order, interval)


async def _dying_round(store: MarketStore, assets: Sequence[Asset], source: Wandering, at: datetime) -> None:
    """One round of a process that a lost answer kills: it does not try again, its successor goes on from the table."""
    latest = await store.latest()
    await asyncio.sleep(0)
    prices = []
    for asset in assets:
        before = latest.get(asset.asset_id)
        tick = source.tick(asset, None, at)
        price = PriceChanged(asset.asset_id, tick.price, before.price.sequence + 1 if before else 1, at, tick.volume)
        prices.append(followed(before, price) if before else begun(price))
    try:
        await store.put_prices(prices)
    except DynamoUnavailable:
        return


async def test_a_restart_in_the_middle_of_a_minute_goes_on(store: MarketStore, dynamo: Dynamo, assets: Sequence[Asset]) -> None:
    """Nothing is kept in a process: the next one's prices go into the same candle, and its figures go on."""
    clock, source = FakeClock(), Wandering(random.Random(5))  # noqa: S311 - a seeded test
    rounds = []
    for _ in range(3):
        rounds.append((await publish_prices(assets[:1], MarketStore(dynamo), FakeBus(), source=source, clock=clock, ids=FakeIds()))[0].price)
        clock.advance(5)
    (minute,) = await CandleStore(dynamo).candles("BTC", "1m", LONG_AGO, FAR_AWAY, limit=9)
    assert minute == plainly(rounds, "1m")[0]
    assert (rounds[-1].figures.high_24h, rounds[-1].figures.low_24h) == (minute.high, minute.low)


async def test_a_price_of_an_earlier_release_begins_candles(store: MarketStore, dynamo: Dynamo, assets: Sequence[Asset]) -> None:
    """An item without volume, figures and candles is read; the next price finds it in its candle."""
    item = {"asset_id": {"S": "BTC"}, "price": {"N": "70000"}, "sequence": {"N": "9"}, "at": {"S": "2026-11-25T08:00:00.000Z"}}
    await dynamo.call("put_item", TableName=MARKET.name, Item={"pk": {"S": "PRICES"}, "sk": {"S": "BTC"}, **item})
    assert await store.prices() == {"BTC": PriceChanged("BTC", Decimal(70000), 9, START)}
    assert await CandleStore(dynamo).candles("BTC", "1m", LONG_AGO, FAR_AWAY, limit=9) == []
    clock = FakeClock()
    clock.advance(1)
    cheaper = replace(assets[0], price_usd=Decimal(1))
    (next_price,) = await publish_prices([cheaper], store, FakeBus(), source=FixedPrices(), clock=clock, ids=FakeIds())
    assert next_price.price.sequence == 10
    assert await CandleStore(dynamo).candles("BTC", "1d", LONG_AGO, FAR_AWAY, limit=9) == [Candle(begin_of("1d", START), *[Decimal(70000)] * 4)]
