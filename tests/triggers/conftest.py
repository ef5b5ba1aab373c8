"""The index of open orders, on a real DynamoDB engine of this session."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from infra.dynamo import Dynamo, provision
from infra.local import dynamodb
from infra.open_orders import OpenOrders
from tests.triggers.parts import Ledger, Process
from tests.valkey import free_port

STOP_S = 5.0
REGION = "us-east-1"


@pytest.fixture(scope="session")
async def dynamo(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dynamo]:
    engine, program = await asyncio.to_thread(dynamodb.ensure, "auto", lambda *_: None)
    assert engine == "dynoxide", "the tests of the index want the engine that a local system has"
    port, file = free_port(), tmp_path_factory.mktemp("dynamodb") / "data.sqlite"
    argv = (str(program), "serve", "--host", "127.0.0.1", "--port", str(port), "--db-path", str(file))
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            await provision(url, REGION)
            async with Dynamo(url, REGION) as connected:
                yield connected
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), STOP_S)


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
