"""Ledgers that must all do the same. A module that wants others has fixtures of its own."""

from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from infra.cache_client import Cache
from infra.dynamo import Dynamo
from infra.parked import ParkingLedger, ParkingStore
from tests.fakes.ledger import MemoryLedger
from tests.valkey import Valkey, valkey

REGION = "us-east-1"
NUMBERS = count(1)


@pytest.fixture(scope="module", params=["memory", "dynamodb"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ParkingStore]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    async with Dynamo(request.getfixturevalue("provisioned").dynamodb_url, REGION) as dynamo:
        yield ParkingLedger(dynamo)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Valkey]:
    """One that a test may stop."""
    async with valkey(tmp_path) as started:
        yield started


@pytest.fixture
async def cache(server: Valkey) -> AsyncIterator[Cache]:
    connected = Cache(server.url, client_name="test")
    yield connected
    await connected.stop()


@pytest.fixture
def user() -> str:
    return f"user_{next(NUMBERS):06d}"
