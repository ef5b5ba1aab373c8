"""The market table on a real engine."""

import json
from dataclasses import MISSING, fields, replace
from datetime import timedelta
from decimal import Decimal

import pytest

from infra.dynamo import Dynamo, DynamoUnavailable
from infra.local import ports
from infra.market import ACTIONS_MAX, MarketStore
from processors.market import list_assets
from schemas.candles import Priced, begun, followed
from schemas.market import VOLATILITY, Asset, PriceChanged, asset_adapter, decode_asset
from schemas.tables import ASSETS_PK, MARKET
from tests.fakes.bus import FakeBus
from tests.fakes.clock import START, FakeClock, FakeIds

COLOUR = {"ExpressionAttributeValues": {":c": {"S": "red"}}}
"""A field of a later release, which this one passes over."""


def _price(asset_id: str, sequence: int, price: str = "1.5") -> Priced:
    return begun(PriceChanged(asset_id, Decimal(price), sequence, START))


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
    assert await store.latest() == {priced.price.asset_id: priced for priced in prices}
    assert await store.prices() == {priced.price.asset_id: priced.price for priced in prices}


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


async def test_prices_with_the_candles_they_end_fit_too(store):
    """A transaction takes fewer prices then; those that are behind are left out with all their candles, and only those."""
    names = [f"A{number}" for number in range(60)]
    first = await store.put_prices([_price(name, 1) for name in names])
    await store.put_prices([_price("A7", 2, "7")])
    tomorrow = START + timedelta(days=1)
    later = [followed(before, PriceChanged(before.price.asset_id, Decimal(9), 2, tomorrow)) for before in first]
    assert sum(len(priced.ended) for priced in later) + len(later) > 2 * ACTIONS_MAX
    assert [priced.price.asset_id for priced in await store.put_prices(later)] == [name for name in names if name != "A7"]
    assert (await store.latest())["A7"] == _price("A7", 2, "7")


FIRST_RELEASE = {"asset_id", "name", "description", "category", "symbol", "market_cap_rank", "price_usd", "quantity_scale", "price_scale", "minimum_quantity"}


def test_a_field_that_is_added_to_an_asset_has_a_default():
    """Items and records of an earlier release do not have it."""
    needed = {field.name for field in fields(Asset) if field.default is MISSING}
    assert needed == FIRST_RELEASE | {"is_active"}


async def test_an_asset_of_an_earlier_release_is_read_and_brought_up_to_date(store, dynamo, assets):
    """Without a field that it did not know it has that field's default, in the table and on the topic; the next start writes what the file has.

    What an operator decided stays. An asset that has left the file stays readable.
    """
    for asset in assets[:2]:
        await store.list_asset(asset)
        await store.set_active(asset.asset_id, is_active=False)
        key = {"pk": {"S": ASSETS_PK}, "sk": {"S": asset.asset_id}}
        await dynamo.call("update_item", TableName=MARKET.name, Key=key, UpdateExpression="REMOVE volatility, atl, atl_date SET colour = :c", **COLOUR)
    old = replace(assets[0], volatility=VOLATILITY, atl=None, atl_date=None, is_active=False)
    assert (await store.assets())["BTC"] == old != assets[0]
    record = {name: value for name, value in json.loads(asset_adapter().dump_json(old)).items() if name not in ("volatility", "atl", "atl_date")}
    assert decode_asset(json.dumps(record).encode()) == old
    bus = FakeBus()
    listed = await list_assets(assets[:1], store, bus, clock=FakeClock(), ids=FakeIds())
    assert {asset.asset_id: asset for asset in listed} == await store.assets()
    assert (await store.assets())["BTC"] == replace(assets[0], is_active=False)
    assert (await store.assets())["ETH"].volatility == VOLATILITY
    assert {envelope.subject: decode_asset(envelope.value) for _, envelope in bus.log} == await store.assets()


async def test_a_store_that_is_away_is_told_as_such():
    """Not an answer, and not an error of the caller's."""
    async with Dynamo(f"http://127.0.0.1:{ports.free()}", "us-east-1") as away:
        with pytest.raises(DynamoUnavailable):
            await MarketStore(away).assets()
