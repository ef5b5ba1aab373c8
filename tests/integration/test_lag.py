"""The lag of a group as a door measures it, on a real broker: by the partition of the caller, and never a reason to refuse where it is not known."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from events.lag import UNMEASURED, Lag
from infra.local import ports
from infra.local.stack import Addresses
from tests.waiting import eventually

WITHIN_S = 15.0
BOUND = 10


class Case:
    """A topic of two partitions, a group that commits on it, and a key of each partition."""

    def __init__(self, kafka: str, name: str, producer: AIOKafkaProducer) -> None:
        self.kafka, self.name, self.keys = kafka, name, [""] * 2
        self._producer = producer

    async def write(self, count: int, partition: int) -> None:
        """Records under the partition's key, put there by the client's own choice."""
        for _ in range(count):
            told = await self._producer.send_and_wait(self.name, key=self.keys[partition].encode(), value=b"{}")
            assert told.partition == partition

    async def find_keys(self) -> None:
        while not all(self.keys):
            key = f"user_{uuid4().hex[:8]}"
            self.keys[(await self._producer.send_and_wait(self.name, key=key.encode(), value=b"{}")).partition] = key

    async def commit(self, partition: int, offset: int | None = None) -> None:
        """As far as the end, or up to an offset."""
        place = TopicPartition(self.name, partition)
        async with AIOKafkaConsumer(bootstrap_servers=self.kafka, group_id=self.name, enable_auto_commit=False) as group:
            group.assign([place])
            await group.commit({place: offset if offset is not None else (await group.end_offsets([place]))[place]})

    def lag(self, kafka: str | None = None) -> Lag:
        return Lag(kafka or self.kafka, client_id="test-lag", group=self.name, topic=self.name, records_max=BOUND)


@pytest.fixture
async def case(machines: Addresses) -> AsyncIterator[Case]:
    name = f"lag-{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=machines.kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=machines.kafka) as producer:
        made = Case(machines.kafka, name, producer)
        await made.find_keys()
        yield made


@asynccontextmanager
async def watched(lag: Lag) -> AsyncIterator[Lag]:
    task = asyncio.create_task(lag.watch())
    try:
        yield lag
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def closed(lag: Lag, key: str) -> Callable[[], bool]:
    return lambda: lag.retry_after_s(key) is not None


async def test_the_partition_of_the_caller_counts(case: Case) -> None:
    """Over the bound the accounts of that partition are refused and no others; when the group has caught up to half of it, they are taken again."""
    await case.commit(0)
    await case.commit(1)
    async with watched(case.lag()) as lag:
        await case.write(BOUND + 1, partition=1)
        await eventually(closed(lag, case.keys[1]), WITHIN_S)
        assert lag.retry_after_s(case.keys[0]) is None
        assert 1 <= (lag.retry_after_s(case.keys[1]) or 0) <= 30
        await case.commit(1)
        await eventually(lambda: not closed(lag, case.keys[1])(), WITHIN_S)


async def test_a_group_that_never_was(case: Case) -> None:
    """All records count for a group that has not committed anything yet: it will begin with the first one."""
    await case.write(BOUND + 1, partition=0)
    async with watched(case.lag()) as lag:
        await eventually(closed(lag, case.keys[0]), WITHIN_S)


async def test_no_broker_no_refusal(case: Case) -> None:
    """Where the lag cannot be measured nobody is refused by it; it is counted, and tried for ever."""
    before = UNMEASURED._value.get()
    async with watched(case.lag(f"127.0.0.1:{ports.free()}")) as lag:
        await eventually(lambda: UNMEASURED._value.get() >= before + 2, WITHIN_S)
        assert lag.retry_after_s(case.keys[0]) is None


async def test_no_topic_no_refusal(case: Case) -> None:
    """A topic that is not there is waited for."""
    before = UNMEASURED._value.get()
    lag = Lag(case.kafka, client_id="test-lag", group=case.name, topic=f"{case.name}-none", records_max=BOUND)
    async with watched(lag):
        await eventually(lambda: UNMEASURED._value.get() >= before + 2, WITHIN_S)
        assert lag.retry_after_s(case.keys[0]) is None
