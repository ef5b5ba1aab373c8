"""What the simulation takes Kafka for: each of these is asked of the broker in memory and of a real one, through the same client calls."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, ProducerFenced

from tests.fakes.kafka_broker import Broker
from tests.fakes.kafka_consumer import FakeConsumer
from tests.fakes.kafka_producer import DirectWire, FakeProducer
from tests.waiting import eventually

WITHIN_S = 20.0
TIMEOUT_MS = 2_000
PARTITIONS = 2


@dataclass
class Kafka:
    """One kind of Kafka, with a topic of its own."""

    address: Any
    producer: Callable[..., Any]
    consumer: Callable[..., Any]
    topic: str

    @property
    def tp(self) -> TopicPartition:
        return TopicPartition(self.topic, 0)

    async def open(self, name: str, timeout_ms: int = 10_000) -> Any:
        """A producer with a transactional id, started."""
        producer = self.producer(
            bootstrap_servers=self.address, transactional_id=f"{self.topic}-{name}", transaction_timeout_ms=timeout_ms, retry_backoff_ms=5, acks="all"
        )
        await producer.start()
        return producer

    async def member(self, slot: str = "0", group: str | None = None, listener: Any = None) -> Any:
        """A static member of the topic's group, started."""
        consumer = self.consumer(
            bootstrap_servers=self.address,
            group_id=group or f"{self.topic}-group",
            group_instance_id=slot,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=6_000,
            heartbeat_interval_ms=300,
            fetch_max_wait_ms=100,
        )
        consumer.subscribe([self.topic], listener=listener)
        await consumer.start()
        return consumer


@pytest.fixture(params=["fake", "kafka"])
async def kafka(request: pytest.FixtureRequest) -> AsyncIterator[Kafka]:
    topic = f"contract-{uuid4().hex[:8]}"
    if request.param == "fake":
        loop = asyncio.get_running_loop()
        broker = Broker(loop, PARTITIONS, wall_ms=lambda: int(loop.time() * 1000), marker_delay=lambda: 0.005)
        yield Kafka(DirectWire(broker), FakeProducer, FakeConsumer, topic)
        return
    address = request.getfixturevalue("provisioned").kafka
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
    await admin.close()
    yield Kafka(address, AIOKafkaProducer, AIOKafkaConsumer, topic)


async def send(kafka: Kafka, producer: Any, *values: bytes) -> None:
    batch = producer.create_batch()
    for value in values:
        batch.append(timestamp=None, key=b"k", value=value, headers=[])
    await (await producer.send_batch(batch, kafka.topic, partition=0))


async def whole(kafka: Kafka, producer: Any, *values: bytes, offset: int | None = None) -> None:
    """One transaction, committed."""
    await producer.begin_transaction()
    await send(kafka, producer, *values)
    if offset is not None:
        await producer.send_offsets_to_transaction({kafka.tp: offset}, f"{kafka.topic}-group")
    await producer.commit_transaction()


async def values(consumer: Any, kafka: Kafka, count: int) -> list[bytes]:
    """The next so many values of the partition."""
    found: list[bytes] = []

    async def read() -> bool:
        found.extend(record.value for record in (await consumer.getmany(kafka.tp, timeout_ms=100)).get(kafka.tp, []))
        return len(found) >= count

    await eventually(read, WITHIN_S)
    return found


async def gone(*clients: Any) -> None:
    for client in clients:
        with contextlib.suppress(KafkaError, AssertionError, TimeoutError):
            await asyncio.wait_for(client.stop(), 5.0)


async def test_a_committed_reader_sees_whole_transactions_only(kafka: Kafka) -> None:
    """What is open is not seen, and holds back what comes after it; what was cut off is never seen."""
    first, second, reader = await kafka.open("a"), await kafka.open("b"), await kafka.member()
    reader.seek(kafka.tp, 0)
    await first.begin_transaction()
    await send(kafka, first, b"open")
    await whole(kafka, second, b"later")
    assert (await reader.getmany(kafka.tp, timeout_ms=300)) == {}
    assert (await reader.end_offsets([kafka.tp]))[kafka.tp] == 0
    await first.abort_transaction()
    assert await values(reader, kafka, 1) == [b"later"]
    await gone(first, second, reader)


async def test_a_marker_takes_an_offset_and_is_no_record(kafka: Kafka) -> None:
    """After a transaction of one record the next one has the offset 2, and a reader's position passes the marker."""
    producer, reader = await kafka.open("a"), await kafka.member()
    reader.seek(kafka.tp, 0)
    await whole(kafka, producer, b"one")
    await whole(kafka, producer, b"two")
    assert await values(reader, kafka, 2) == [b"one", b"two"]

    async def past() -> bool:
        await reader.getmany(kafka.tp, timeout_ms=100)
        return bool(await reader.position(kafka.tp) == 4)

    await eventually(past, WITHIN_S)
    await gone(producer, reader)


async def test_the_last_who_opened_an_id_has_it(kafka: Kafka) -> None:
    """An earlier producer of the id is sent away at its next word, and what it had open is undone."""
    earlier, reader = await kafka.open("a"), await kafka.member()
    reader.seek(kafka.tp, 0)
    await earlier.begin_transaction()
    await send(kafka, earlier, b"hung")
    later = await kafka.open("a")
    with pytest.raises(ProducerFenced):
        await earlier.commit_transaction()
    with pytest.raises((AssertionError, KafkaError)):
        await earlier.abort_transaction()
    await whole(kafka, later, b"mine")
    assert await values(reader, kafka, 1) == [b"mine"]
    await gone(later, reader, earlier)


async def test_a_transaction_that_outlives_its_time_is_undone(kafka: Kafka) -> None:
    """The broker ends it, and its producer is sent away."""
    producer, other, reader = await kafka.open("a", TIMEOUT_MS), await kafka.open("b"), await kafka.member()
    reader.seek(kafka.tp, 0)
    await producer.begin_transaction()
    await send(kafka, producer, b"too late")
    await whole(kafka, other, b"in time")
    assert await values(reader, kafka, 1) == [b"in time"]
    with pytest.raises(KafkaError):
        await producer.commit_transaction()
    await gone(other, reader, producer)


async def test_offsets_in_a_transaction_count_with_it(kafka: Kafka) -> None:
    """Pending ones are not seen by a fetch of offsets, which answers at once; committed ones are; nobody asks whether the sender is a member."""
    producer, reader = await kafka.open("a"), await kafka.member()
    await producer.begin_transaction()
    await send(kafka, producer, b"one", b"two")
    await producer.send_offsets_to_transaction({kafka.tp: 2}, f"{kafka.topic}-group")
    assert await asyncio.wait_for(reader.committed(kafka.tp), 5.0) is None
    await producer.commit_transaction()

    async def seen() -> bool:
        return bool(await reader.committed(kafka.tp) == 2)

    await eventually(seen, WITHIN_S)
    await gone(producer, reader)


async def test_an_opened_id_has_no_open_past(kafka: Kafka) -> None:
    """After the start of a producer the committed offset is final: what an earlier one committed is seen, what it left open never will be."""
    earlier, reader = await kafka.open("a"), await kafka.member()
    await whole(kafka, earlier, b"one", offset=1)
    await earlier.begin_transaction()
    await send(kafka, earlier, b"two")
    await earlier.send_offsets_to_transaction({kafka.tp: 2}, f"{kafka.topic}-group")
    later = await kafka.open("a")
    assert await reader.committed(kafka.tp) == 1
    await gone(later, reader, earlier)


async def test_one_transaction_after_the_other(kafka: Kafka) -> None:
    """One begun while the markers of the last are being written waits for them, unseen by the caller."""
    producer, reader = await kafka.open("a"), await kafka.member()
    reader.seek(kafka.tp, 0)
    for number in range(20):
        await whole(kafka, producer, b"%d" % number, offset=number)
    assert await values(reader, kafka, 20) == [b"%d" % number for number in range(20)]
    await gone(producer, reader)


async def test_a_slot_that_comes_again_has_its_partitions(kafka: Kafka) -> None:
    """A static member that left without a word, or still is there, is replaced by the next one of its name, who has the same partitions at once."""
    first = await kafka.member("s")
    assert first.assignment() == {TopicPartition(kafka.topic, number) for number in range(PARTITIONS)}
    second = await asyncio.wait_for(kafka.member("s"), 5.0)
    assert second.assignment() == first.assignment()
    await gone(second, first)


async def test_members_share_the_partitions(kafka: Kafka) -> None:
    """A second member gets half, after the first has given everything back; one that is gone for a session leaves its half to the other."""
    told: list[tuple[str, int]] = []

    class Listener:
        async def on_partitions_revoked(self, revoked: Any) -> None:
            told.append(("revoked", len(revoked)))

        async def on_partitions_assigned(self, assigned: Any) -> None:
            told.append(("assigned", len(assigned)))

    first = await kafka.member("one", listener=_Listening(Listener()))
    second = await kafka.member("two")
    await eventually(lambda: len(first.assignment()) == len(second.assignment()) == 1, WITHIN_S)
    await eventually(lambda: told == [("revoked", 0), ("assigned", 2), ("revoked", 2), ("assigned", 1)], WITHIN_S)
    await second.stop()
    await eventually(lambda: len(first.assignment()) == PARTITIONS, WITHIN_S)
    await gone(first)


def _Listening(listener: Any) -> Any:  # noqa: N802 - a class in all but name: the client takes no other kind of listener
    from aiokafka import ConsumerRebalanceListener  # noqa: PLC0415

    class Adapted(ConsumerRebalanceListener):  # type: ignore[misc] # the client has no types
        on_partitions_revoked = staticmethod(listener.on_partitions_revoked)
        on_partitions_assigned = staticmethod(listener.on_partitions_assigned)

    return Adapted()
