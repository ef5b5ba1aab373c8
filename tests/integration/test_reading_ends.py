"""The Kafka client's task that fetches records may end when a connection is reset; it tells nobody, and would be missed only half a minute later."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from events.stalls import Stuck
from infra.local.stack import Addresses
from tests.integration.loops import Log, running
from tests.integration.test_subscriber import Reader
from tests.waiting import eventually

AT_ONCE_S = 5.0
"""Long before a partition that does not move is noticed."""


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


def fails(client: AIOKafkaConsumer) -> None:
    """One of its fetches raises what the client did not reckon with."""

    async def fetch() -> bool:
        raise ZeroDivisionError

    fetcher: Any = client._fetcher
    fetcher._pending_tasks.add(asyncio.get_running_loop().create_task(fetch()))
    fetcher._notify(fetcher._wait_consume_future)


def ends(client: AIOKafkaConsumer) -> None:
    """It takes the cancellation of one of its fetches for its own, and returns."""
    client._fetcher.error_future.cancel()


@pytest.mark.parametrize("how", [fails, ends])
async def test_settlement_ends_at_once(log: Log, how: Any) -> None:
    """▲ The process ends, and its successor reads on."""
    await log.publish("r0")
    async with running(log.loop()) as (consumer, task):
        await eventually(lambda: "r0" in log.stored, AT_ONCE_S * 2)
        how(consumer._joined)
        with pytest.raises((KafkaError, Stuck)):
            await asyncio.wait_for(task, AT_ONCE_S)


async def test_a_light_subscriber_ends_at_once(log: Log) -> None:
    """▲ The same holds for projections."""
    await log.publish("r0")
    reader = Reader(log)
    async with reader as task:
        await eventually(lambda: reader.handled == ["r0"], AT_ONCE_S * 2)
        client = reader.subscriber._client
        assert client is not None
        ends(client)
        with pytest.raises(Stuck):
            await asyncio.wait_for(task, AT_ONCE_S)


async def test_a_stop_is_no_such_end(log: Log) -> None:
    """Who stops in good order is not told of it."""
    async with running(log.loop()) as (consumer, task):
        await eventually(lambda: bool(consumer.assigned), AT_ONCE_S * 2)
        await consumer.stop(1.0)
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done


async def test_a_stop_between_two_tries(log: Log) -> None:
    """A broker is away and a fetch waits for its next try: who stops then is not cancelled by that, and leaves no connection."""
    async with running(log.loop()) as (consumer, _):
        await eventually(lambda: bool(consumer.assigned), AT_ONCE_S * 2)
        client = consumer._joined
        client._fetcher._pending_tasks.add(asyncio.create_task(asyncio.sleep(AT_ONCE_S * 2)))
        await consumer.stop(1.0)
        assert not any(connection.connected() for connection in client._client._conns.values())
