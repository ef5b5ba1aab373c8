"""The machines that the tests run on: real ones, on free ports, started when the first test asks for them."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from events import topics
from infra import dynamo
from infra.local.stack import Addresses, Stack

ACCOUNT_PARTITIONS = 4


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """Kafka, the DynamoDB engine and Valkey, empty; they end with this test run, however it ends."""
    stack = Stack(Path(tmp_path_factory.mktemp("machines")), processes=())
    addresses = stack.up(hold=True)
    credentials = {name: value for name, value in stack.environment().items() if name.startswith("AWS_")}
    before = {name: os.environ.get(name) for name in credentials}
    os.environ.update(credentials)
    yield addresses
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    stack.down()


@pytest.fixture(scope="session")
async def provisioned(machines: Addresses) -> AsyncIterator[Addresses]:
    """The machines with all topics and tables."""
    await topics.provision(machines.kafka, ACCOUNT_PARTITIONS, 1)
    await dynamo.provision(machines.dynamodb_url, "us-east-1")
    yield machines
