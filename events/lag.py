"""How far a consumer group is behind, as seen from a process outside of it: the write door sheds load by this before queues grow.

What counts is the lag of one partition, the one that a caller's account is in: it is how long *he* would wait. Other partitions may be served by
another process, at another speed. Where the lag cannot be measured nobody is turned away by it.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.partitioner import DefaultPartitioner
from prometheus_client import Counter, Gauge

log = structlog.get_logger()

LOOK_INTERVAL_S: Final = 1.0
LOOK_S: Final = 5.0
"""Bound of one look, and of the connecting before the first. Where there is load enough to be shed a broker takes its time."""
STALE_S: Final = 15.0
"""A figure older than this counts for nothing: nobody is turned away by what may be over."""
RESUME_SHARE: Final = 0.5
"""A partition that was closed at the bound is open again at this share of it: near the bound it would else open and close with each look."""
RATE_WEIGHT: Final = 0.3
"""Weight of the last look in the measured speed."""
RETRY_AFTER_S_MIN: Final = 1
RETRY_AFTER_S_MAX: Final = 30

BEHIND: Final = Gauge("cnop_settlement_behind_records", "Records that settlement has not taken yet, as the door sees it", ["partition"])
CLOSED: Final = Gauge("cnop_settlement_behind_closed", "1 while writes of a partition's accounts are refused because of its lag", ["partition"])
UNMEASURED: Final = Counter("cnop_settlement_behind_unmeasured_total", "Looks at settlement's lag that failed: nobody is refused by lag then")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group stands in a partition: the next offset that it will take, and the next one that will be written."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        """Records between; marks of transactions count too."""
        return max(0, self.end - self.committed)


def partition_of(key: str, partitions: Sequence[int]) -> int:
    """The partition of a key, of all that a topic has, in their order: as the publisher's client chooses it."""
    partition: int = DefaultPartitioner()(key.encode(), list(partitions), [])
    return partition


class Gate:
    """Whether one partition takes more: it closes over a lag, and opens again well below it. `records_max` as given to `Lag`."""

    def __init__(self, records_max: int) -> None:
        self._records_max = records_max
        self._opens_at = int(records_max * RESUME_SHARE)
        self._place: Place | None = None
        self._at = 0.0
        self._per_s: float | None = None
        self.closed = False

    def note(self, place: Place, at: float) -> None:
        """A new figure, of a monotonic time in seconds."""
        if self._place is not None and self._place.lag and at > self._at:  # who has nothing to do shows no speed
            per_s = max(0, place.committed - self._place.committed) / (at - self._at)
            self._per_s = per_s if self._per_s is None else self._per_s + RATE_WEIGHT * (per_s - self._per_s)
        self._place, self._at = place, at
        self.closed = place.lag > (self._opens_at if self.closed else self._records_max)

    def retry_after_s(self, now: float) -> int | None:
        """None where it is open, or nobody knows. Else whole seconds until it should be open, by the measured speed, within bounds."""
        if not self.closed or self._place is None or now - self._at > STALE_S:
            return None
        over = self._place.lag - self._opens_at
        wait_s = over / self._per_s if self._per_s else math.inf
        return math.ceil(min(max(wait_s, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX))


class Lag:
    """The lag of a group on a topic, by partition, with a gate for each. `watch` must run as a held task; it waits for brokers by itself.

    A partition's gate closes once more than `records_max` records wait there. Between two looks `LOOK_INTERVAL_S` goes by: so much may come
    in above the bound.
    """

    def __init__(self, bootstrap: str, *, client_id: str, group: str, topic: str, records_max: int) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._group = group
        self._topic = topic
        self._records_max = records_max
        self._gates: dict[int, Gate] = {}
        self._fails = False

    def retry_after_s(self, key: str) -> int | None:
        """None where the partition of a key takes more, or nobody knows; else the whole seconds after which to try again."""
        if not any(gate.closed for gate in self._gates.values()):
            return None
        return self._gates[self._partition(key)].retry_after_s(asyncio.get_running_loop().time())

    async def watch(self) -> None:
        """Look again and again until cancelled. Whatever fails is told, counted, and tried anew on new connections."""
        while True:
            try:
                await self._look_again_and_again()
            except Exception as error:  # noqa: BLE001 - the client tells some answers of a broker by other errors than its own; none may end a door
                self._failed(error)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _look_again_and_again(self) -> None:
        async with _Looks(self._bootstrap, self._client_id, self._group, self._topic) as looks:
            while True:
                async with asyncio.timeout(LOOK_S):
                    self._note(await looks.places())
                await asyncio.sleep(LOOK_INTERVAL_S)

    def _failed(self, error: Exception) -> None:
        UNMEASURED.inc()
        if not self._fails:
            log.warning("settlement's lag cannot be measured, nobody is refused because of it", error=str(error) or type(error).__name__)
        self._fails = True

    def _note(self, places: Mapping[int, Place]) -> None:
        now = asyncio.get_running_loop().time()
        if self._fails:
            log.info("settlement's lag is measured again")
            self._fails = False
        for partition, place in places.items():
            gate = self._gates.setdefault(partition, Gate(self._records_max))
            was_closed = gate.closed
            gate.note(place, now)
            BEHIND.labels(partition).set(place.lag)
            CLOSED.labels(partition).set(gate.closed)
            if gate.closed != was_closed:
                log.warning("writes refused: settlement is behind" if gate.closed else "writes taken again", partition=partition, lag=place.lag)

    def _partition(self, key: str) -> int:
        return partition_of(key, sorted(self._gates))


class _Looks:
    """Connections that ask where a group stands. It joins no group and reads no record."""

    def __init__(self, bootstrap: str, client_id: str, group: str, topic: str) -> None:
        self._group = group
        self._topic = topic
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, client_id=client_id, request_timeout_ms=int(LOOK_S * 1000))
        self._consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, client_id=client_id, request_timeout_ms=int(LOOK_S * 1000))
        self._partitions: list[TopicPartition] = []

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(LOOK_S):
                await self._connect()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()

    async def places(self) -> dict[int, Place]:
        """By partition. Committed first: the end, asked later, is never before it. Where nothing was committed the group begins at the beginning."""
        committed = await self._admin.list_consumer_group_offsets(self._group, partitions=self._partitions)
        known = {tp: committed[tp].offset for tp in self._partitions if tp in committed and committed[tp].offset >= 0}
        known |= await self._consumer.beginning_offsets([tp for tp in self._partitions if tp not in known]) if len(known) < len(self._partitions) else {}
        ends = await self._consumer.end_offsets(self._partitions)
        return {tp.partition: Place(known[tp], ends[tp]) for tp in self._partitions}

    async def _connect(self) -> None:
        await self._admin.start()
        await self._consumer.start()
        topic = (await self._admin.describe_topics([self._topic]))[0]
        self._partitions = [TopicPartition(self._topic, row["partition"]) for row in topic["partitions"]]
        if not self._partitions:
            raise UnknownTopicOrPartitionError(self._topic)

    async def _close(self) -> None:
        with suppress(KafkaError, OSError):  # TimeoutError is an OSError
            await self._consumer.stop()
        with suppress(KafkaError, OSError):
            await self._admin.close()
