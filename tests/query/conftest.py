"""A Valkey for these tests, and a read door over it for each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.query.door import ReadDoor, read_door
from tests.valkey import Valkey, valkey


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as started:
        yield started


@pytest.fixture
async def door(server: Valkey, tmp_path: Path) -> AsyncIterator[ReadDoor]:
    async with read_door(server.url, tmp_path) as door:
        yield door
