"""The settlement loop on a real broker: each result once, in order, through crashes, a second owner, and records that nobody can read.

The handler here stores into a plain dict, as the ledger does by entry: what was stored before is found again, and its result made again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from events import topics
from events.consumer import Consumer, Fenced, Loop, inbound
from events.dead_letters import IN_ROW_MAX, TooManyUnreadable
from events.envelope import Envelope, Inbound, Unreadable
from schemas.instants import EPOCH
from tests.waiting import eventually

WITHIN_S = 20.0


@dataclass
class Log:
    """One pair of topics of its own, and what a test asks of them."""

    kafka: str
    name: str = field(default_factory=lambda: f"loop-{uuid4().hex[:8]}")
    stored: dict[str, int] = field(default_factory=dict)

    @property
    def requests(self) -> str:
        return f"{self.name}-requests"

    @property
    def results(self) -> str:
        return f"{self.name}-results"

    def loop(self, handle=None, *, slot: str = "0", batch_records_max: int = 50) -> Loop[Inbound]:
        return Loop(self.kafka, self.name, slot, self.requests, self.results, batch_records_max, readable, handle or self.settle)

    async def settle(self, batch: Sequence[Inbound]) -> list[Envelope]:
        for record in batch:
            self.stored.setdefault(record.envelope.id, record.offset)
        return [result(record) for record in batch if self.stored[record.envelope.id] == record.offset]

    async def publish(self, *names: str, partition: int = 0) -> None:
        async with producer(self.kafka) as client:
            for name in names:
                await client.send_and_wait(self.requests, key=b"alice_1", value=b"{}", partition=partition, headers=request(name).headers())

    async def publish_raw(self, value: bytes | None, headers: list[tuple[str, bytes]], count: int = 1) -> None:
        async with producer(self.kafka) as client:
            for _ in range(count):
                await client.send_and_wait(self.requests, key=b"alice_1", value=value, partition=0, headers=headers)

    async def read_results(self) -> list[str]:
        return [dict(record.headers)["ce_causationid"].decode() for record in await everything(self.kafka, self.results)]

    async def committed(self) -> int | None:
        client = AIOKafkaConsumer(bootstrap_servers=self.kafka, group_id=self.name, enable_auto_commit=False)
        await client.start()
        try:
            return await client.committed(TopicPartition(self.requests, 0))
        finally:
            await client.stop()


def request(name: str) -> Envelope:
    return Envelope(name, "urn:test", "test.Asked.v1", "alice_1", EPOCH, b"{}", name, name)


def result(record: Inbound) -> Envelope:
    name = record.envelope.id
    return Envelope(f"result-{name}", "urn:test", "test.Answered.v1", record.envelope.subject, record.at, b"{}", name, name, causation_id=name)


def readable(record: Inbound) -> Inbound:
    if record.envelope.value != b"{}":
        raise Unreadable("not an empty object")
    return record


@asynccontextmanager
async def producer(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=kafka, acks="all")
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def everything(kafka: str, topic: str) -> list:
    """All that a read_committed reader sees now."""
    client = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest")
    await client.start()
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(client.partitions_for_topic(topic) or await _partitions(client, topic))]
        client.assign(partitions)
        ends = await client.end_offsets(partitions)
        records = []
        while [tp for tp in partitions if await client.position(tp) < ends[tp]]:
            for found in (await client.getmany(timeout_ms=200)).values():
                records += found
        return records
    finally:
        await client.stop()


async def _partitions(client: AIOKafkaConsumer, topic: str) -> set[int]:
    await client._client._wait_on_metadata(topic)
    return client.partitions_for_topic(topic)


@asynccontextmanager
async def running(loop: Loop[Inbound]) -> AsyncIterator[tuple[Consumer[Inbound], "asyncio.Task[None]"]]:
    consumer = Consumer(loop)
    await consumer.start()
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer, task
    finally:
        await consumer.stop(5.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def log(provisioned) -> Log:
    log = Log(provisioned.kafka)
    admin = AIOKafkaAdminClient(bootstrap_servers=log.kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 2, 1, topic_configs={"message.timestamp.type": "LogAppendTime"}) for name in (log.requests, log.results)])
    await admin.close()
    return log


async def test_each_request_gives_one_result_in_the_order_of_the_log_and_the_offset_moves_with_them(log: Log) -> None:
    names = [f"r{index}" for index in range(120)]
    await log.publish(*names)
    async with running(log.loop()):
        await eventually(lambda: len(log.stored) == 120, WITHIN_S)
    assert await log.read_results() == names
    assert await log.committed() == 120


async def test_a_result_goes_to_the_partition_with_its_requests_number(log: Log) -> None:
    await log.publish("one", partition=1)
    async with running(log.loop()):
        await eventually(lambda: "one" in log.stored, WITHIN_S)
    (record,) = await everything(log.kafka, log.results)
    assert record.partition == 1


async def test_what_was_stored_before_a_crash_and_never_told_is_told_once_after_it(log: Log) -> None:
    await log.publish("r0", "r1", "r2")

    async def crash_after_storing(batch: Sequence[Inbound]) -> list[Envelope]:
        await log.settle(batch)
        raise ConnectionResetError("between store and topic")

    async with running(log.loop(crash_after_storing)) as (_, task):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(task, WITHIN_S)
    assert len(log.stored) == 3
    assert await log.read_results() == []
    assert await log.committed() in (None, 0)
    async with running(log.loop()):
        await eventually(log.read_results, WITHIN_S)
    assert await log.read_results() == ["r0", "r1", "r2"]


async def test_a_repeated_request_id_gives_no_second_result(log: Log) -> None:
    await log.publish("r0", "r1", "r0", "r2")
    async with running(log.loop()):
        await eventually(lambda: "r2" in log.stored, WITHIN_S)
    assert await log.read_results() == ["r0", "r1", "r2"]


async def test_a_second_owner_of_a_partition_fences_the_first_whose_batch_then_leaves_no_trace(log: Log) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def paused(batch: Sequence[Inbound]) -> list[Envelope]:
        results = await log.settle(batch)
        entered.set()
        await go_on.wait()
        return results

    await log.publish("r0", "r1")
    zombie = Consumer(log.loop(paused))
    await zombie.start()
    zombie_task = asyncio.create_task(zombie.run())
    await asyncio.wait_for(entered.wait(), WITHIN_S)
    # The same slot started anew while the old process hangs: it takes over, settles and commits.
    async with running(log.loop()):
        await eventually(log.read_results, WITHIN_S)
        await log.publish("r2", "r3")
        await eventually(lambda: len(log.stored) == 4, WITHIN_S)
        committed_before = await eventually(lambda: _is(log.committed(), 4), WITHIN_S)
        go_on.set()
        with pytest.raises(Fenced):
            await asyncio.wait_for(zombie_task, WITHIN_S)
        await zombie.stop(1.0)
        assert committed_before
    assert await log.read_results() == ["r0", "r1", "r2", "r3"]
    assert await log.committed() == 4


async def _is(value, expected) -> bool:
    return await value == expected


async def test_an_unreadable_record_goes_to_the_dead_letters_as_it_came_and_the_others_go_on(log: Log) -> None:
    await log.publish("r0")
    await log.publish_raw(b"\xff not json", request("poison").headers())
    await log.publish_raw(b"{}", [("ce_id", b"headless")])
    await log.publish_raw(None, request("tombstone").headers())
    await log.publish("r1")
    async with running(log.loop()):
        await eventually(lambda: "r1" in log.stored, WITHIN_S)
    letters = [record for record in await everything(log.kafka, topics.DEAD_LETTERS) if dict(record.headers)["dlq_topic"] == log.requests.encode()]
    assert [letter.value for letter in letters] == [b"\xff not json", b"{}", None]
    first = dict(letters[0].headers)
    assert letters[0].key == b"alice_1"
    assert first["ce_id"] == b"poison"
    assert (first["dlq_offset"], first["dlq_reason"]) == (b"1", b"not an empty object")
    assert await log.read_results() == ["r0", "r1"]
    assert await log.committed() == 5


async def test_too_many_unreadable_records_in_a_row_stop_the_reader_with_its_offset_unmoved(log: Log) -> None:
    await log.publish("r0")
    await log.publish_raw(b"junk", request("junk").headers(), count=IN_ROW_MAX + 1)
    async with running(log.loop(batch_records_max=1000)) as (_, task):
        with pytest.raises(TooManyUnreadable):
            await asyncio.wait_for(task, WITHIN_S)
    assert (await log.committed() or 0) <= IN_ROW_MAX + 1
    assert await log.committed() != IN_ROW_MAX + 2


async def test_a_stop_finishes_the_batch_in_hand(log: Log) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(batch: Sequence[Inbound]) -> list[Envelope]:
        entered.set()
        await go_on.wait()
        return await log.settle(batch)

    await log.publish("r0", "r1")
    async with running(log.loop(slow)) as (consumer, _):
        await asyncio.wait_for(entered.wait(), WITHIN_S)
        stopping = asyncio.create_task(consumer.stop(5.0))
        go_on.set()
        await stopping
    told = await log.read_results()
    assert told in (["r0"], ["r0", "r1"])
    assert await log.committed() == len(told)


async def test_a_backlog_larger_than_the_buffer_is_settled_whole_and_in_order(log: Log) -> None:
    names = [f"r{index}" for index in range(300)]
    await log.publish(*names)
    async with running(log.loop(batch_records_max=10)) as (consumer, _):
        await eventually(lambda: len(log.stored) == 300, WITHIN_S)
        await eventually(lambda: consumer.lag() == {0: 0, 1: 0}, WITHIN_S)
    assert await log.read_results() == names


def test_a_record_with_two_names_for_its_user_is_unreadable() -> None:
    class Record:
        topic, partition, offset, timestamp = "t", 0, 0, 0
        key, value = b"bob_001", b"{}"
        headers = tuple(request("r").headers())

    with pytest.raises(Unreadable, match="ce_subject"):
        inbound(Record())
