"""Looks at a running system past its doors, while it is disturbed: results as they come, committed offsets, lag, and open transactions."""

import asyncio
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.soak.evidence import REQUESTS, RESULTS, committed_reader
from tests.soak.gaps import Gaps

GROUP: Final = "cnop-settlement"
LOOK_S: Final = 0.5
ANSWER_S: Final = 5.0
READ_MS: Final = 200
DESCRIBE_TRANSACTIONS: Final = 65
_PASSING: Final = (KafkaError, OSError, TimeoutError, AssertionError)


class Watch:
    """`run` until cancelled. `settled` has the moments of results by partition; `committed` every look at settlement's offsets that differs from the last."""

    def __init__(self, kafka: str, partitions: int) -> None:
        self._kafka = kafka
        self.settled: dict[int, Gaps] = {number: Gaps() for number in range(partitions)}
        self.committed: list[Mapping[int, int]] = []
        self.looks = 0
        self._ends: dict[int, int] = {}

    @property
    def results(self) -> int:
        """Results seen so far."""
        return sum(gaps.count for gaps in self.settled.values())

    @property
    def lag(self) -> int:
        """Records in the requests topic that were not settled at the last look."""
        committed = self.committed[-1] if self.committed else {}
        return sum(max(0, end - committed.get(partition, 0)) for partition, end in self._ends.items())

    def recovered(self, since: float) -> bool:
        """Whether every partition has settled something since that moment."""
        return all(gaps.came_since(since) for gaps in self.settled.values())

    def silence_s(self, since: float) -> float:
        """The longest silence of any partition since that moment."""
        return max(gaps.longest_s(since) for gaps in self.settled.values())

    async def run(self) -> None:
        """Watch, whatever happens to the broker."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._results())
            group.create_task(self._offsets())

    async def _results(self) -> None:
        positions: dict[TopicPartition, int] = {}
        while True:
            with suppress(*_PASSING):
                async with committed_reader(self._kafka, RESULTS) as reader:
                    for tp in reader.assignment():
                        reader.seek(tp, positions.get(tp, 0))
                    while True:
                        for tp, records in (await reader.getmany(timeout_ms=READ_MS)).items():
                            self.settled[tp.partition].note(len(records))
                            positions[tp] = records[-1].offset + 1
            await asyncio.sleep(LOOK_S)

    async def _offsets(self) -> None:
        while True:
            with suppress(*_PASSING):
                admin = AIOKafkaAdminClient(bootstrap_servers=self._kafka)
                try:
                    async with asyncio.timeout(ANSWER_S):
                        await admin.start()
                    async with committed_reader(self._kafka, REQUESTS) as reader:
                        while True:
                            async with asyncio.timeout(ANSWER_S):
                                await self._look(admin, await reader.end_offsets(reader.assignment()))
                            await asyncio.sleep(LOOK_S)
                finally:
                    await admin.close()
            await asyncio.sleep(LOOK_S)

    async def _look(self, admin: AIOKafkaAdminClient, ends: Mapping[TopicPartition, int]) -> None:
        found = await admin.list_consumer_group_offsets(GROUP)
        committed = {tp.partition: known.offset for tp, known in found.items() if tp.topic == REQUESTS and known.offset >= 0}
        self._ends = {tp.partition: end for tp, end in ends.items()}
        self.looks += 1
        if not self.committed or committed != self.committed[-1]:
            self.committed.append(committed)


async def transaction_states(kafka: str, transactional_ids: Sequence[str]) -> dict[str, str]:
    """The broker's word on each transaction: Empty, Ongoing, PrepareCommit, CompleteCommit … OSError or TimeoutError where it does not answer.

    Kafka's DescribeTransactions (KIP-664), version 0, spelled out, since the client library has no call for it.
    """
    host, _, port = kafka.partition(":")
    names = b"".join(_compact(name) for name in transactional_ids)
    body = struct.pack(">hhih", DESCRIBE_TRANSACTIONS, 0, 1, -1) + b"\0" + _varint(len(transactional_ids) + 1) + names + b"\0"
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(struct.pack(">i", len(body)) + body)
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            return _states(_Bytes(await reader.readexactly(size)))
        finally:
            writer.close()


def _states(answer: "_Bytes") -> dict[str, str]:
    answer.take(4 + 1 + 4)  # correlation id, no tags, throttle time
    states: dict[str, str] = {}
    for _ in range(answer.varint() - 1):
        answer.take(2)
        name = answer.text()
        states[name] = answer.text()
        answer.take(4 + 8 + 8 + 2)  # timeout, start, producer id and epoch
        for _topic in range(answer.varint() - 1):
            answer.text()
            answer.take(4 * (answer.varint() - 1))
            answer.take(1)
        answer.take(1)
    return states


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str:
        return self.take(self.varint() - 1).decode()


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _compact(text: str) -> bytes:
    return _varint(len(text) + 1) + text.encode()
