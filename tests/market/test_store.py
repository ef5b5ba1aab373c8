"""The market table on a real engine."""

from dataclasses import replace
from decimal import Decimal

import pytest

from infra.dynamo import Dynamo, DynamoUnavailable
from infra.market import ACTIONS_MAX, MarketStore
from schemas.market import PriceChanged
from tests.fakes.clock import START
from tests.valkey import free_port


def _price(asset_id: str, sequence: int, price: str = "1.5") -> PriceChanged:
    return PriceChanged(asset_id, Decimal(price), sequence, START)


async def test_what_was_listed_is_read_again(store, assets):
    """Every fact comes back as it was in the file, nulls and decimals included."""
    for asset in assets[:5]:
        assert await store.list_asset(asset) == asset
    found = await store.assets()
    assert found == {asset.asset_id: asset for asset in assets[:5]}
    assert str(found["BTC"].price_usd) == "50000.00"


async def test_the_whole_file_fits(store, assets):
    """250 assets and prices are stored and read in full."""
    for asset in assets:
        await store.list_asset(asset)
    prices = [_price(asset.asset_id, 1, str(asset.price_usd)) for asset in assets]
    assert len(prices) > 2 * ACTIONS_MAX
    assert await store.put_prices(prices) == prices
    assert len(await store.assets()) == 250
    assert await store.prices() == {price.asset_id: price for price in prices}


async def test_an_operators_deactivation_outlives_the_file(store, assets):
    """Listing again brings facts up to date and drops those that went, but leaves is_active alone."""
    bitcoin = assets[0]
    await store.list_asset(replace(bitcoin, is_active=False))
    changed = replace(bitcoin, description="Changed.", max_supply=None, is_active=True)
    assert await store.list_asset(changed) == replace(changed, is_active=False)


async def test_a_price_is_replaced_by_a_later_one_only(store):
    """An older sequence, and the same sequence with another price, are not stored and not returned; their neighbours are."""
    await store.put_prices([_price("AAA", 5), _price("BBB", 5)])
    later = [_price("AAA", 4, "9"), _price("BBB", 6, "2"), _price("CCC", 1)]
    assert await store.put_prices(later) == later[1:]
    assert await store.put_prices([_price("AAA", 5, "9")]) == []
    assert {price.asset_id: (price.sequence, price.price) for price in (await store.prices()).values()} == {
        "AAA": (5, Decimal("1.5")),
        "BBB": (6, Decimal(2)),
        "CCC": (1, Decimal("1.5")),
    }


async def test_a_repeated_put_counts_as_stored(store):
    """After an unknown outcome the same prices are put again: they are returned, so they get published."""
    prices = [_price("AAA", 1), _price("BBB", 1)]
    assert await store.put_prices(prices) == prices
    assert await store.put_prices(prices) == prices


async def test_an_asset_of_an_older_release_is_still_read(store, dynamo, assets):
    """Fields that an item does not have are null where they may be."""
    await store.list_asset(assets[0])
    stored = (await store.assets())["BTC"]
    assert stored.image is None


async def test_a_store_that_is_away_is_told_as_such():
    """Not an answer, and not an error of the caller's."""
    async with Dynamo(f"http://127.0.0.1:{free_port()}", "us-east-1") as away:
        with pytest.raises(DynamoUnavailable):
            await MarketStore(away).assets()
