"""A door for these tests, over real machines."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import pytest

from infra.cache import Cache
from infra.dynamo import Dynamo
from infra.local.stack import Addresses
from tests.command.system import REGION, System, running

T = TypeVar("T")


@pytest.fixture(scope="session")
async def dynamo(provisioned: Addresses) -> AsyncIterator[Dynamo]:
    async with Dynamo(provisioned.dynamodb_url, REGION) as connected:
        yield connected


@pytest.fixture
async def cache(provisioned: Addresses) -> AsyncIterator[Cache]:
    connected = Cache(provisioned.redis_url, client_name="test")
    yield connected
    await connected.stop()


@pytest.fixture(scope="session")
async def system(provisioned: Addresses, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with in_own_task(running(provisioned, tmp_path_factory.mktemp("door"))) as started:
        yield started


@asynccontextmanager
async def in_own_task(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Hold a context in a task of its own: a fixture may end in another task than it began in, which an app's lifespan does not bear."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def hold() -> None:
        async with context as thing:
            entered.set_result(thing)
            await over.wait()

    task = asyncio.create_task(hold())
    await asyncio.wait([task, entered], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    try:
        yield entered.result()
    finally:
        over.set()
        await task
