"""The requests topic from outside: fill it fast, and see how far settlement has come. No part of the system is used but its names and its envelope."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import murmur2

from events.envelope import Envelope
from events.topics import REQUEST_BYTES_MAX, REQUESTS, SETTLEMENT
from schemas.requests import AccountRequest, encode_request, request_id, request_type

SOURCE: Final = "urn:cnop:bench"
LINGER_MS: Final = 20
BATCH_BYTES: Final = REQUEST_BYTES_MAX * 3 // 4
"""A batch counts as one message for the topic's bound."""
UNACKNOWLEDGED_MAX: Final = 5_000


def partition_of(username: str, partitions: int) -> int:
    """Where the records of an account go: as every Kafka client places a key."""
    return int((murmur2(username.encode()) & 0x7FFFFFFF) % partitions)


def envelopes(requests: Iterable[AccountRequest], at: datetime, series: str = "") -> Iterator[Envelope]:
    """The requests as a door would publish them. The key of each is its number in the series: again the same series is again the same requests."""
    for number, request in enumerate(requests):
        rid = request_id(request.username, f"{series}{number}")
        yield Envelope(rid, SOURCE, request_type(request), request.username, at, encode_request(request), rid, rid)


async def publish(kafka: str, events: Iterable[Envelope]) -> int:
    """Publish in order, acknowledged; returns how many."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, client_id="bench", acks="all", linger_ms=LINGER_MS, max_batch_size=BATCH_BYTES)
    await producer.start()
    try:
        sent, open_ones = 0, []
        for event in events:
            open_ones.append(await producer.send(REQUESTS, value=event.value, key=event.key, headers=event.headers()))
            sent += 1
            if len(open_ones) == UNACKNOWLEDGED_MAX:
                await asyncio.gather(*open_ones)
                open_ones = []
        await asyncio.gather(*open_ones)
    finally:
        await producer.stop()
    return sent


class Progress:
    """Settlement's place in the log."""

    def __init__(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer) -> None:
        self._admin = admin
        self._consumer = consumer

    async def committed(self) -> int:
        """Records that are settled: the sum of the committed offsets."""
        offsets = await self._admin.list_consumer_group_offsets(SETTLEMENT)
        return sum(max(0, told.offset) for partition, told in offsets.items() if partition.topic == REQUESTS)

    async def behind(self, group: str, topic: str) -> int:
        """Records of a topic that a group has not committed yet; a transaction's marker at the end of a partition counts for none."""
        places = [TopicPartition(topic, number) for number in range(await self.partitions())]
        ends = await self._consumer.end_offsets(places)
        read = await self._admin.list_consumer_group_offsets(group)
        return sum(max(0, ends[place] - 1 - (read[place].offset if place in read else 0)) for place in places)

    async def partitions(self) -> int:
        """Partitions of the requests topic."""
        (told,) = await self._admin.describe_topics([REQUESTS])
        return len(told["partitions"])


@asynccontextmanager
async def progress(kafka: str) -> AsyncIterator[Progress]:
    """Connected to a broker for as long as the block runs."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka, client_id="bench-progress")
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, client_id="bench-progress")
    await admin.start()
    try:
        await consumer.start()
        try:
            yield Progress(admin, consumer)
        finally:
            await consumer.stop()
    finally:
        await admin.close()
