"""A topic read by nobody's group: all its committed records from given places on, up to its end. For operators' tools and the upkeep of views."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

import events.connections  # noqa: F401 - see there
from events.envelope import Inbound, Unreadable
from events.records import inbound

POLL_MS: Final = 500
RECORDS_MAX: Final = 500
"""Of one batch."""


@asynccontextmanager
async def reading(bootstrap: str, *, client_id: str, topic: str) -> AsyncIterator["Reader"]:
    """A connected reader. KafkaError where no broker answers, or not any more."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, client_id=client_id, isolation_level="read_committed", enable_auto_commit=False)
    try:
        await consumer.start()
        yield Reader(consumer, await _partitions(consumer, topic))
    finally:
        with suppress(KafkaError, OSError):
            await consumer.stop()


class Reader:
    """See `reading`."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions
        consumer.assign(partitions)

    async def ends(self) -> dict[int, int]:
        """By partition, the offset behind the last committed record."""
        return {tp.partition: offset for tp, offset in (await self._consumer.end_offsets(self._partitions)).items()}

    async def batches(self, places: Mapping[int, int], until: Mapping[int, int]) -> AsyncIterator[tuple[list[Inbound], dict[int, int]]]:
        """Records from each partition's place on, the beginning where none is given, each batch with the places behind it; all that lie before `until`.

        Records that cannot be read are passed over: every reader passes them over.
        """
        for tp, first in (await self._consumer.beginning_offsets(self._partitions)).items():
            self._consumer.seek(tp, max(first, places.get(tp.partition, first)))
        places = await self._places()
        while any(places[partition] < end for partition, end in until.items()):
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            records = [record for some in fetched.values() for record in some]
            places = await self._places()
            if records:
                yield [read for record in records if (read := _readable(record)) is not None], places

    async def _places(self) -> dict[int, int]:
        """Markers of transactions are passed over without a record: the position stands behind them."""
        return {tp.partition: await self._consumer.position(tp) for tp in self._partitions}


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - the consumer has no public look at the cluster
    partitions = [TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())]
    if not partitions:
        raise UnknownTopicOrPartitionError(topic)
    return partitions


def _readable(record: object) -> Inbound | None:
    try:
        return inbound(record)
    except Unreadable:
        return None
