"""The public inventory over HTTP, on a real table and Valkey."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import httpx
import pytest
from litestar.di import Provide

from infra.cache_client import Cache
from infra.http import API, Health, build_app
from infra.market import ASSETS_KEY, PRICES_KEY, MarketCache
from processors.market import FixedPrices, list_assets, publish_prices
from query_api.assets import ROUTES, Inventory
from schemas.market import Figures
from schemas.views import AssetAnswer, AssetDetail, AssetPage, AssetView
from tests.fakes.clock import START, FakeClock, FakeIds


class Nowhere:
    async def publish(self, topic, envelope):
        pass


def _door(market: MarketCache) -> httpx.AsyncClient:
    inventory = Inventory(market)

    async def provided() -> Inventory:
        return inventory

    app = build_app("query-api", ROUTES, ids=FakeIds(), health=Health(), dependencies={"inventory": Provide(provided)})
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://door{API}")


@pytest.fixture(scope="module")
async def market(redis_url, new_store, assets) -> AsyncIterator[MarketCache]:
    """All assets with a price each, but for the last, which has none yet."""
    store, cache = await new_store(), Cache(redis_url, client_name="test")
    await cache.client.delete(ASSETS_KEY, PRICES_KEY)
    ours = {"clock": FakeClock(), "ids": FakeIds()}
    listed = await list_assets(assets, store, Nowhere(), **ours)
    await publish_prices(listed[:-1], store, Nowhere(), source=FixedPrices(), **ours)
    yield MarketCache(cache, store, memory_s=0)
    await cache.stop()


@pytest.fixture
async def door(market) -> AsyncIterator[httpx.AsyncClient]:
    async with _door(market) as client:
        yield client


@pytest.mark.parametrize("path", ["/inventory/assets", "/assets"])
async def test_the_list_comes_by_rank(door, path):
    """50 rows by default, bitcoin first, every key there, figures as numbers, the counts of all."""
    answer = await door.get(path)
    assert answer.status_code == 200
    body = answer.json()
    assert [row["market_cap_rank"] for row in body["data"]] == list(range(1, 51))
    assert (body["total_count"], body["active_count"]) == (250, 247)
    assert list(body["data"][0]) == list(AssetView.model_fields)
    assert body["data"][0] == body["data"][0] | {
        "asset_id": "BTC",
        "price_usd": 50000.0,
        "market_cap": 50000.0 * 19_950_000,
        "price_change_percentage_24h": None,
        "total_volume_24h": 0.0,
        "image": None,
    }


@pytest.mark.parametrize(
    ("query", "status", "rows"),
    [
        ("limit=1", 200, 1),
        ("limit=250", 200, 250),
        ("limit=250&active_only=true", 200, 247),
        ("limit=250&active_only=false", 200, 250),
        ("colour=red&page=7", 200, 50),
        ("limit=0", 422, None),
        ("limit=251", 422, None),
        ("limit=many", 422, None),
        ("active_only=perhaps", 422, None),
        ("search=" + "x" * 101, 422, None),
    ],
)
async def test_parameters(door, query, status, rows):
    """Bounds are 422 with a pointer; what is not known is ignored."""
    answer = await door.get(f"/inventory/assets?{query}")
    assert answer.status_code == status
    if rows is None:
        assert answer.json()["errors"][0]["pointer"] == f"#/query/{query.split('=', maxsplit=1)[0]}"
    else:
        assert len(answer.json()["data"]) == rows


@pytest.mark.parametrize(("search", "found"), [("bitcoin", "BTC"), ("BiTcOiN", "BTC"), ("btc", "BTC"), (" eth ", "ETH"), ("", "BTC"), ("   ", "BTC")])
async def test_search_by_name_or_symbol(door, search, found):
    """In any case, anywhere in the name or symbol; blank finds all."""
    body = (await door.get("/inventory/assets", params={"search": search})).json()
    assert body["data"][0]["asset_id"] == found
    assert body["total_count"] == 250 if not search.strip() else 0 < body["total_count"] < 50


async def test_a_search_without_hits_is_empty(door):
    """An empty list, not an error."""
    assert (await door.get("/inventory/assets?search=nothing-of-this-name")).json() == {"data": [], "total_count": 0, "active_count": 0}


@pytest.mark.parametrize("path", ["/inventory/assets/btc", "/assets/BTC", "/inventory/assets/bTc"])
async def test_one_asset_in_any_case(door, path):
    """Every key is there; what is not known is null."""
    data = (await door.get(path)).json()["data"]
    assert set(data) == set(AssetDetail.model_fields)
    assert data == data | {
        "asset_id": "BTC",
        "availability_status": "available",
        "price_usd": 50000.0,
        "ath": 126080.0,
        "ath_change_percentage": -60.3427,
        "atl": 67.81,
        "circulating_supply": 19950000.0,
        "high_24h": 50000.0,
        "price_change_24h": None,
        "last_updated": "2026-11-25T08:00:00.000Z",
    }


async def test_figures_come_with_the_price(door, market, assets):
    """Changes are from the older prices to this one; the file's extremes give way to higher and lower ones, with their day."""
    sol = next(asset for asset in assets if asset.asset_id == "SOL")
    before, later = await market.price("SOL"), START + timedelta(days=1)
    amounts = [Decimal(text) for text in ("120", "80", "5000.25", "999", "0.01")]
    high, low, volume, highest, lowest = amounts
    figures = Figures(high, low, volume, highest, later, lowest, START, Decimal(80), Decimal(200))
    await market.put_price(replace(before, price=Decimal(100), sequence=before.sequence + 1, at=later, figures=figures))
    data = (await door.get("/assets/SOL")).json()["data"]
    assert data == data | {
        "price_usd": 100.0,
        "price_change_24h": 20.0,
        "price_change_percentage_24h": 25.0,
        "price_change_percentage_7d": -50.0,
        "price_change_percentage_30d": None,
        "high_24h": 120.0,
        "low_24h": 80.0,
        "total_volume_24h": 5000.25,
        "ath": 999.0,
        "ath_date": "2026-11-26",
        "ath_change_percentage": -89.99,
        "atl": 0.01,
        "atl_date": "2026-11-25",
        "atl_change_percentage": 999900.0,
        "last_updated": "2026-11-26T08:00:00.000Z",
    }
    assert sol.ath is None or sol.ath < 999
    rows = (await door.get("/assets?search=sol")).json()["data"]
    assert next(row for row in rows if row["asset_id"] == "SOL")["price_change_percentage_24h"] == 25.0


async def test_an_asset_without_a_price_is_shown_without_it(door, assets):
    """Null, never a 500."""
    data = (await door.get(f"/assets/{assets[-1].asset_id}")).json()["data"]
    assert (data["price_usd"], data["market_cap"], data["last_updated"], data["ath_change_percentage"]) == (None, None, None, None)


async def test_an_asset_that_is_not_traded(door, assets):
    """Shown as unavailable."""
    inactive = next(asset for asset in assets if not asset.is_active)
    data = (await door.get(f"/inventory/assets/{inactive.asset_id}")).json()["data"]
    assert (data["is_active"], data["availability_status"]) == (False, "unavailable")


@pytest.mark.parametrize(
    ("asset_id", "status", "code"),
    [
        ("NOSUCH", 404, "not-found"),
        ("ABCDEFGHIJKLM", 422, "validation-failed"),
        ("%20", 422, "validation-failed"),
        ("BTC!", 422, "validation-failed"),
        ("BTC%0A", 422, "validation-failed"),
        ("%E2%82%BF", 422, "validation-failed"),
    ],
)
@pytest.mark.parametrize("root", ["/inventory/assets", "/assets"])
async def test_unknown_and_malformed_ids(door, root, asset_id, status, code):
    """404 for what is not listed, 422 with a pointer for what cannot be an id."""
    answer = await door.get(f"{root}/{asset_id}")
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert [error["pointer"] for error in answer.json()["errors"]] == (["#/path/asset_id"] if status == 422 else [])


async def test_a_bad_token_is_ignored(door):
    """The inventory is public."""
    assert (await door.get("/assets/BTC", headers={"Authorization": "Bearer nonsense"})).status_code == 200


async def test_a_body_the_caller_has_is_not_sent_again(door, market):
    """304 until something changes, then the new body."""
    first = await door.get("/inventory/assets")
    again = await door.get("/inventory/assets", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    price = await market.price("USDT")
    await market.put_price(replace(price, price=Decimal("1.01"), sequence=price.sequence + 1))
    changed = await door.get("/inventory/assets", headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.json()["data"][2]["price_usd"]) == (200, 1.01)


async def test_the_description_names_the_models(door):
    """OpenAPI tells the body's fields although it is sent as bytes."""
    document = (await door.get("http://door/docs/openapi.json")).json()
    for path, model in (("/api/v1/inventory/assets", AssetPage), ("/api/v1/assets/{asset_id}", AssetAnswer)):
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith(model.__name__)
