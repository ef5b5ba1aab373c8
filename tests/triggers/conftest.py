"""The index of open orders, on a real DynamoDB engine of this session."""

from collections.abc import AsyncIterator

import pytest

from infra.dynamo import Dynamo
from infra.open_orders import OpenOrders
from tests.engine import engine
from tests.triggers.parts import Ledger, Process


@pytest.fixture(scope="session")
async def dynamo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dynamo]:
    async with engine(tmp_path_factory.mktemp("dynamodb")) as dynamo:
        yield dynamo


@pytest.fixture
async def ledger(dynamo: Dynamo) -> Ledger:
    """With no order in it."""
    ledger = Ledger(dynamo)
    await ledger.clear()
    return ledger


@pytest.fixture
def orders(dynamo: Dynamo) -> OpenOrders:
    return OpenOrders(dynamo)


@pytest.fixture
def process(orders: OpenOrders, ledger: Ledger) -> Process:
    return Process(orders)
