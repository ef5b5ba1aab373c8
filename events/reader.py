"""A topic read by nobody's group: all its committed records from given places on, up to its end. For operators' tools and for warming."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

import events.connections  # noqa: F401 - see there
from events.envelope import Inbound, Unreadable
from events.records import inbound

POLL_MS: Final = 500
RECORDS_MAX: Final = 500
"""Of one batch."""


class Reader:
    """`async with` connects it. KafkaError where no broker answers, or not any more."""

    def __init__(self, bootstrap: str, *, client_id: str, topic: str) -> None:
        self._topic = topic
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, client_id=client_id, isolation_level="read_committed", enable_auto_commit=False)
        self._partitions: list[TopicPartition] = []

    async def __aenter__(self) -> Self:
        try:
            await self._consumer.start()
            await self._find()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def beginnings(self) -> dict[int, int]:
        """By partition, the first offset that there still is."""
        return {tp.partition: offset for tp, offset in (await self._consumer.beginning_offsets(self._partitions)).items()}

    async def ends(self) -> dict[int, int]:
        """By partition, the offset behind the last committed record."""
        return {tp.partition: offset for tp, offset in (await self._consumer.end_offsets(self._partitions)).items()}

    async def batches(self, places: Mapping[int, int], until: Mapping[int, int]) -> AsyncIterator[tuple[list[Inbound], dict[int, int]]]:
        """Records from each partition's place on, the beginning where none is given, each batch with the places behind it; all that lie before `until`.

        Records that cannot be read are passed over: every reader passes them over.
        """
        for tp, first in (await self._consumer.beginning_offsets(self._partitions)).items():
            self._consumer.seek(tp, max(first, places.get(tp.partition, first)))
        while True:
            # Markers of transactions are passed over without a record: the position stands behind them.
            places = {tp.partition: await self._consumer.position(tp) for tp in self._partitions}
            if all(places[partition] >= end for partition, end in until.items()):
                return
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            records = [record for some in fetched.values() for record in some]
            places = {tp.partition: await self._consumer.position(tp) for tp in self._partitions}
            if records:
                yield [read for record in records if (read := _readable(record)) is not None], dict(places)

    async def _find(self) -> None:
        cluster = await self._consumer._client.fetch_all_metadata()  # noqa: SLF001 - the consumer has no public look at the cluster
        self._partitions = [TopicPartition(self._topic, number) for number in sorted(cluster.partitions_for_topic(self._topic) or ())]
        if not self._partitions:
            raise UnknownTopicOrPartitionError(self._topic)
        self._consumer.assign(self._partitions)

    async def _close(self) -> None:
        with suppress(KafkaError, OSError):
            await self._consumer.stop()


def _readable(record: object) -> Inbound | None:
    try:
        return inbound(record)
    except Unreadable:
        return None
