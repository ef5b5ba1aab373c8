"""One whole system for all tests of this folder: started when the first one asks for it, gone with the test run."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from redis.asyncio import Redis

from infra.dynamo import Dynamo
from tests.system.running import ANSWER_S, REGION, System, credentials, start

CALLERS_MAX = 100
TURNS = {"test_projections": -1, "test_faults": 1, "test_books": 2}
"""Files that do not run with the others: views are built anew while there are few, and the books are audited when everything has happened to them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: TURNS.get(item.path.stem, 0) if item.path.parent.name == "system" else 0)


@pytest.fixture(scope="session")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    stack = await asyncio.to_thread(start, tmp_path_factory.mktemp("system"))
    try:
        addresses = stack.addresses
        limits = httpx.Limits(max_connections=CALLERS_MAX)
        with credentials(stack):
            async with (
                Dynamo(addresses.dynamodb_url, REGION) as dynamo,
                httpx.AsyncClient(base_url=addresses.origin_url, timeout=ANSWER_S, limits=limits) as http,
                Redis.from_url(addresses.redis_url) as redis,
            ):
                yield System(stack, addresses, http, dynamo, redis)
    finally:
        await asyncio.to_thread(stack.down)
