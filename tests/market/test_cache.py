"""What the doors see of the market, on real Valkey and a real table."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from infra.cache_client import Cache
from infra.local import ports
from infra.market import ASSETS_KEY, PRICES_KEY, READS, MarketCache
from schemas.candles import begun
from schemas.market import PriceChanged
from tests.fakes.clock import START


def _price(asset_id: str, sequence: int, price: str = "1.50") -> PriceChanged:
    return PriceChanged(asset_id, Decimal(price), sequence, START)


@contextmanager
def _reads(table: int, redis: int) -> Iterator[None]:
    """How often table and Redis are read inside."""
    before = [READS.labels(source)._value.get() for source in ("table", "redis")]
    yield
    assert [READS.labels(source)._value.get() - was for source, was in zip(("table", "redis"), before, strict=True)] == [table, redis]


@pytest.fixture
async def listed(store, assets):
    """Three assets with a price each, in the table."""
    for asset in assets[:3]:
        await store.list_asset(asset)
    await store.put_prices([begun(_price(asset.asset_id, 7, str(asset.price_usd))) for asset in assets[:3]])
    return list(assets[:3])


@pytest.fixture
def market(cache, store):
    """Without memory: every question goes to Redis."""
    return MarketCache(cache, store, memory_s=0)


async def test_an_empty_cache_is_filled_from_the_table_once(market, listed):
    """The first question goes to the table and fills Redis, the next is answered by Redis, with the same answer."""
    with _reads(table=1, redis=0):
        assert await market.assets() == listed
    with _reads(table=0, redis=3):
        assert await market.assets() == listed
        assert await market.price("BTC") == _price("BTC", 7, "50000")
        assert str((await market.prices())["BTC"].price) == "50000.00"


async def test_what_the_projector_put_first_is_not_taken_for_everything(market, listed):
    """After a loss of Redis the first events that come in do not hide what only the table has."""
    await market.put_price(_price("ETH", 9, "3500.00"))
    await market.put_asset(replace(listed[1], is_active=False))
    assert [asset.asset_id for asset in await market.assets()] == [asset.asset_id for asset in listed]
    assert len(await market.prices()) == 3
    again = await market.snapshot()
    assert again.prices["ETH"].sequence == 9
    assert not again.by_id["ETH"].is_active


@pytest.mark.parametrize("sequence", [6, 7, 8, 10**15])
async def test_a_price_is_replaced_by_a_later_one_only(market, listed, sequence):
    """The guard goes by the sequence as a number."""
    await market.assets()
    await market.put_prices([_price("BTC", 7, "1.00"), _price("BTC", sequence, "2.00")])
    assert (await market.snapshot()).prices["BTC"].sequence == max(7, sequence)
    assert (await market.price("BTC")).price == (Decimal(2) if sequence > 7 else Decimal(50000))


async def test_the_last_content_of_an_asset_wins(market, listed):
    """Assets come in the order of their topic."""
    await market.assets()
    await market.put_assets([replace(listed[0], is_active=False), replace(listed[0], name="Renamed")])
    assert await market.asset("BTC") == replace(listed[0], name="Renamed")


async def test_unknown_ids_are_none(market, listed):
    """An id that is not listed, and a price that there never was."""
    assert await market.asset("NONE") is None
    assert await market.price("NONE") is None


async def test_the_same_market_is_the_same_object(market, listed):
    """Who builds something from a snapshot sees by identity that nothing has changed."""
    await market.snapshot()
    first = await market.snapshot()
    assert await market.snapshot() is first
    await market.put_price(_price("BTC", 8))
    second = await market.snapshot()
    assert second is not first
    assert second.by_id["ETH"] is first.by_id["ETH"]


async def test_memory_answers_within_its_age(cache, store, listed):
    """Many questions of a moment cost one read."""
    market = MarketCache(cache, store, memory_s=3600)
    with _reads(table=1, redis=0):
        await asyncio.gather(*(market.asset("BTC") for _ in range(50)))
        await market.prices()


async def test_damaged_content_is_put_anew(market, cache, listed):
    """What cannot be read, an older release's perhaps, comes from the table again instead of failing for ever."""
    await market.assets()
    await cache.client.hset(ASSETS_KEY, "BTC", "{}")
    await cache.client.hset(PRICES_KEY, "BTC", "zzz")
    with _reads(table=1, redis=1):
        assert await market.assets() == listed
    with _reads(table=0, redis=1):
        assert (await market.snapshot()).prices["BTC"].sequence == 7


async def test_what_the_projector_puts_meanwhile_is_not_undone(market, cache, store, listed, monkeypatch):
    """An asset that an operator takes out of trading while everything is put anew stays out."""
    await market.assets()
    await cache.client.hset(ASSETS_KEY, "BTC", "{}")
    read = store.assets

    async def overtaken():
        found = await read()
        await market.put_asset(replace(listed[1], is_active=False))
        return found

    monkeypatch.setattr(store, "assets", overtaken)
    await market.assets()
    assert not (await market.snapshot()).by_id[listed[1].asset_id].is_active


@pytest.mark.parametrize("dropped_by", ["another reader", "a loss"])
async def test_a_fill_that_was_overtaken_by_a_drop_puts_nothing(market, cache, store, listed, dropped_by):
    """Between its look at the table and its fill an asset goes out of trading, that is put, and everything is dropped."""
    await market.assets()
    await cache.client.hset(ASSETS_KEY, "BTC", "{}")
    other, asset_id, read, go_on, looked = MarketCache(cache, store, memory_s=0), listed[1].asset_id, store.assets, asyncio.Event(), asyncio.Event()

    async def slow():
        found = await read()
        looked.set()
        await go_on.wait()
        return found

    store.assets = slow
    filling = asyncio.create_task(market.assets())
    await looked.wait()
    await market.put_asset(await store.set_active(asset_id, is_active=False))
    if dropped_by == "a loss":
        await cache.client.flushdb()
    else:
        await cache.client.hset(ASSETS_KEY, "BTC", "{}")
        looked.clear()
        dropping = asyncio.create_task(other.assets())
        await looked.wait()
    go_on.set()
    await filling
    if dropped_by != "a loss":
        await dropping
    assert not (await other.snapshot()).by_id[asset_id].is_active
    assert not (await other.snapshot()).by_id[asset_id].is_active


async def test_nothing_listed_is_not_remembered_as_everything(market, store, assets):
    """A door that starts before the market process sees the assets once they are there."""
    assert await market.assets() == []
    await store.list_asset(assets[0])
    assert await market.assets() == [assets[0]]


async def test_without_redis_the_table_answers(store, listed):
    """Redis away costs a detour, not the answer, and is not asked again for every question."""
    away = Cache(f"redis://127.0.0.1:{ports.free()}/0", client_name="test")
    market = MarketCache(away, store, memory_s=0)
    with _reads(table=2, redis=0):
        assert await market.assets() == listed
        assert await market.price("BTC") == _price("BTC", 7, "50000")
    await away.stop()
