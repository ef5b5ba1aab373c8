"""The triggers process on a real broker: what a death in the middle leaves for its successor."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from events.bus import Bus
from events.subscriber import Subscriber
from events.topics import PRICES
from infra.local.stack import Addresses
from infra.open_orders import OpenOrders
from processors.triggers import BATCH_RECORDS_MAX, Triggers
from schemas.requests import trigger_id
from tests.fakes.clock import FakeClock, FakeIds
from tests.triggers.parts import Assets, Ledger, Log, price
from tests.waiting import eventually

WITHIN_S = 30.0
REASK_S = 0.2


@pytest.fixture
def group() -> str:
    return f"triggers-{uuid4().hex[:8]}"


@asynccontextmanager
async def process(kafka: str, group: str, orders: OpenOrders, log: Log) -> AsyncIterator["asyncio.Future[None]"]:
    """As the composition root makes one, but that its log is a list; the future is done when a part of it has failed."""
    timer = asyncio.get_running_loop().time
    handler = Triggers(orders, Assets(), log, clock=FakeClock(), ids=FakeIds(), timer=timer, reask_s=REASK_S, page_orders=4)
    subscriber = Subscriber(
        kafka, group=group, slot="0", topics=[PRICES], handler=handler.handle, batch_records_max=BATCH_RECORDS_MAX, unfinished=handler.unfinished
    )
    await subscriber.start()
    parts = asyncio.gather(subscriber.run(), handler.run(lambda: False))
    try:
        yield parts
    finally:
        parts.cancel()
        with suppress(asyncio.CancelledError, BaseExceptionGroup):
            await parts
        await subscriber.stop()


async def test_a_death_in_the_middle(provisioned: Addresses, orders: OpenOrders, ledger: Ledger, group: str) -> None:
    """▲ The successor reads the dip again, though the price is up by then, and asks for the rest: none is lost, and the ids are the same."""
    asset = f"T{uuid4().hex[:8]}".upper()
    opened = await ledger.open_all(["100"] * 30, asset=asset)
    bus = Bus(provisioned.kafka, client_id="test-prices", acknowledge_s=WITHIN_S)
    await bus.start()
    for value, sequence in (("110", 1), ("95", 2), ("120", 3)):
        await bus.publish(PRICES, price(value, sequence, asset).envelope)
    await bus.stop(WITHIN_S)
    first, second = Log(dies_after=11), Log()
    async with process(provisioned.kafka, group, orders, first) as parts:
        with pytest.raises(BaseExceptionGroup):
            await asyncio.wait_for(asyncio.shield(parts), WITHIN_S)
    end = await _end(provisioned.kafka)
    assert (await _committed(provisioned.kafka, group) or 0) < end
    async with process(provisioned.kafka, group, orders, second):
        await eventually(lambda: len(second.envelopes) >= len(opened), WITHIN_S)
        await eventually(lambda: _stands(provisioned.kafka, group, end), WITHIN_S)
    assert len(first.envelopes) == 11
    assert {envelope.id for envelope in second.envelopes} == {trigger_id(order_id, 2) for order_id in opened}
    assert {envelope.id for envelope in first.envelopes} < {envelope.id for envelope in second.envelopes}


async def _stands(kafka: str, group: str, offset: int) -> bool:
    return await _committed(kafka, group) == offset


async def _committed(kafka: str, group: str) -> int | None:
    async with _consumer(kafka, group) as client:
        offset: int | None = await client.committed(TopicPartition(PRICES, 0))
        return offset


async def _end(kafka: str) -> int:
    async with _consumer(kafka, "test-ends") as client:
        return int((await client.end_offsets([TopicPartition(PRICES, 0)]))[TopicPartition(PRICES, 0)])


@asynccontextmanager
async def _consumer(kafka: str, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(bootstrap_servers=kafka, group_id=group, enable_auto_commit=False)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()
