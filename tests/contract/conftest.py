"""Ledgers that must all do the same. A module that wants others has fixtures of its own."""

from collections.abc import AsyncIterator
from itertools import count

import pytest

from infra.dynamo import Dynamo
from infra.parked import ParkingLedger, ParkingStore
from tests.fakes.ledger import MemoryLedger

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
def user() -> str:
    return f"user_{next(NUMBERS):06d}"
