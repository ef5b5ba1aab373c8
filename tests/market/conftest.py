"""The market's machines, real ones of this session: a DynamoDB engine with our tables, and Valkey."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from infra.asset_file import load_asset_file
from infra.cache_client import Cache
from infra.dynamo import Dynamo
from infra.market import ASSETS_KEY, PRICES_KEY, MarketStore
from schemas.market import Asset
from schemas.tables import MARKET
from tests.engine import engine
from tests.valkey import valkey


@pytest.fixture(scope="session")
async def dynamo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dynamo]:
    async with engine(tmp_path_factory.mktemp("dynamodb")) as dynamo:
        yield dynamo


@pytest.fixture(scope="session")
def new_store(dynamo: Dynamo) -> Callable[[], Awaitable[MarketStore]]:
    """Makes a store on an emptied table."""

    async def make() -> MarketStore:
        items = (await dynamo.call("scan", TableName=MARKET.name))["Items"]
        await asyncio.gather(*(dynamo.call("delete_item", TableName=MARKET.name, Key={"pk": item["pk"], "sk": item["sk"]}) for item in items))
        return MarketStore(dynamo)

    return make


@pytest.fixture
async def store(new_store: Callable[[], Awaitable[MarketStore]]) -> MarketStore:
    return await new_store()


@pytest.fixture(scope="session")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
async def cache(redis_url: str) -> AsyncIterator[Cache]:
    """With nothing of the market in it."""
    cache = Cache(redis_url, client_name="test")
    await cache.client.delete(ASSETS_KEY, PRICES_KEY)
    yield cache
    await cache.stop()


@pytest.fixture(scope="session")
def assets() -> tuple[Asset, ...]:
    return load_asset_file(None)
