"""Figures out of the history of prices: what is told beside a price, from the first one on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from decimal import Decimal

import pytest

from infra.candles import CandleStore
from infra.dynamo import Dynamo
from infra.market import MarketStore
from processors.figures import past_of
from processors.market import publish_prices, renew_pasts
from processors.prices import Tick
from schemas.candles import Priced, begun
from schemas.market import Asset, PriceChanged
from tests.fakes.bus import FakeBus
from tests.fakes.candles import MemoryCandles
from tests.fakes.clock import START, FakeClock, FakeIds

HOURS = 24 * 31
"""More than 30 days of prices, one in each half of an hour; START is a full hour."""


class Counting:
    """The price is the number of half hours since the start, from 1; one unit is traded in each."""

    def tick(self, asset: Asset, latest: PriceChanged | None, at) -> Tick:
        return Tick(Decimal((at - START) // timedelta(minutes=30) + 1), Decimal(1))


class Market:
    """A market process that is told what time it is."""

    def __init__(self, store: MarketStore, hours, assets: Sequence[Asset]) -> None:
        self.store, self.hours, self.assets = store, hours, assets
        self.clock, self.pasts = FakeClock(), {}

    async def round(self, *, renew: bool = True) -> Priced:
        """One round; the first asset's price."""
        ours = {"clock": self.clock, "ids": FakeIds(), "pasts": self.pasts}
        stored = await publish_prices(self.assets, self.store, FakeBus(), source=Counting(), **ours)
        if renew:
            await renew_pasts(self.pasts, stored, self.hours, until=asyncio.get_running_loop().time() + 60)
        return stored[0]


@pytest.fixture
async def market(new_store: Callable[[], Awaitable[MarketStore]], dynamo: Dynamo, assets: Sequence[Asset]) -> AsyncIterator[Market]:
    return Market(await new_store(), CandleStore(dynamo), assets[:1])


async def test_the_first_day(market: Market) -> None:
    """High, low and volume are of what there is; changes are unknown until there is a price of a day ago, and then they go by the hour."""
    for number in range(1, 2 * 26 + 1):
        figures = (await market.round()).price.figures
        hours = (number - 1) // 2
        inside = range(1 if hours < 24 else 2 * (hours - 24) + 1, number + 1)
        assert (figures.high_24h, figures.low_24h) == (number, inside[0])
        assert figures.price_24h_ago == (None if hours < 25 else 2 * (hours - 24))
        assert (figures.price_7d_ago, figures.highest, figures.lowest, figures.lowest_at) == (None, number, 1, START)
        market.clock.advance(1800)


async def test_volume_is_that_of_the_candles(market: Market) -> None:
    """Each hour's volume at its close, summed, in the home currency."""
    for _ in range(5):
        figures = (await market.round()).price.figures
        market.clock.advance(1800)
    assert figures.volume_24h == 2 * 2 + 2 * 4 + 1 * 5


async def test_weeks_and_months_ago() -> None:
    """The price at the beginning of the hour so many days before; null where the history begins later."""
    prices = [PriceChanged("BTC", Decimal(number), number, START + timedelta(minutes=30 * (number - 1)), Decimal(1)) for number in range(1, 2 * HOURS)]
    candles = MemoryCandles(prices)
    for hours in (2 * 24, 8 * 24, HOURS - 1):
        past = await past_of(candles, "BTC", START + timedelta(hours=hours))
        assert len(past.candles) == 24
        ago = (past.day_ago, past.week_ago, past.month_ago)
        assert ago == tuple(2 * (hours - 24 * days) if hours > 24 * days else None for days in (1, 7, 30))


async def test_a_restart_goes_on_with_the_figures_that_were_told(market: Market, assets: Sequence[Asset]) -> None:
    """Until its past is read, the new process extends them; a pause of more than an hour leaves only what is of all time."""
    for _ in range(4):
        await market.round()
        market.clock.advance(1800)
    again = Market(market.store, market.hours, assets[:1])
    again.clock.advance(4 * 1800)
    figures = (await again.round(renew=False)).price.figures
    assert (figures.high_24h, figures.low_24h, figures.volume_24h, figures.lowest) == (5, 1, 2 * 2 + 2 * 4 + 5, 1)
    again.clock.advance(7200)
    figures = (await again.round(renew=False)).price.figures
    assert (figures.high_24h, figures.low_24h, figures.volume_24h, figures.lowest) == (9, 9, 9, 1)
    await again.round()
    figures = (await again.round()).price.figures
    assert (figures.high_24h, figures.low_24h) == (9, 1)


class Counted(MemoryCandles):
    """Counts who is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def recent(self, asset_id, interval, until, *, count):
        self.asked.append(asset_id)
        return await super().recent(asset_id, interval, until, count=count)


async def test_pasts_are_read_once_an_hour_and_never_hold_up_a_round(assets: Sequence[Asset]) -> None:
    """Some are read even where no time is left, the others after the next rounds, none twice in an hour."""
    stored = [begun(PriceChanged(asset.asset_id, Decimal(1), 1, START)) for asset in assets[:20]]
    hours, pasts = Counted(), {}
    late = asyncio.get_running_loop().time() - 1
    for expected in (8, 16, 20, 20):
        await renew_pasts(pasts, stored, hours, until=late)
        assert len(hours.asked) == len(set(hours.asked)) == len(pasts) == expected
    await renew_pasts(pasts, stored[:1], hours, until=late)
    assert len(hours.asked) == 20
