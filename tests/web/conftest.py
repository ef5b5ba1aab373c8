"""A toy door behind a real HTTP server."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.web.toy import Door, served


@pytest.fixture(scope="package")
def door() -> Door:
    return Door()


@pytest.fixture(scope="package")
async def client(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    async with served(door.app) as opened:
        yield opened
