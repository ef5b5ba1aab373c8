"""The settlement loop: read a batch, let it be settled, then put results, dead letters and offsets into one Kafka transaction.

The transactional id belongs to a partition, not to a process. A new owner's producer fences every earlier one of that partition and ends
its hung transaction; only then does it ask where to begin. With an id per process, a process that was paused and resumed would commit
offsets of its past over those of its successor.

The order for a partition that was just assigned is therefore: open the producer, read the committed offset, seek, and only then let records in.
The client hands out records before an assignment is complete, so what was fetched before the seek is dropped.

Whatever fails past the bounds given here ends the process with its offsets unmoved: `run` raises.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import ConsumerStoppedError, KafkaError, ProducerFenced, UnknownError
from aiokafka.structs import ConsumerRecord
from prometheus_client import Counter, Gauge, Histogram

from events.dead_letters import DEAD_LETTERED, DeadLetter, Streak
from events.envelope import Envelope, Inbound, Unreadable, read
from events.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTERS, RESULT_BYTES_MAX
from schemas.instants import from_millis

T = TypeVar("T")
log = structlog.get_logger()

SESSION_MS: Final = 10_000
HEARTBEAT_MS: Final = 1_000
POLL_INTERVAL_MS_MAX: Final = 300_000
TRANSACTION_MS: Final = 10_000
RETRY_BACKOFF_MS: Final = 5
"""A transaction begun while the last one's markers are being written is refused for a moment: the client's default of 100 ms is felt by callers."""
PUMP_WAIT_MS: Final = 500
FETCH_WAIT_MS: Final = 250
BUFFERED_BATCHES_MAX: Final = 2
COMMIT_ATTEMPTS_MAX: Final = 5
COMMIT_BACKOFF_S: Final = 0.2
REVOKE_S: Final = 8.0
OPEN_S: Final = 60.0

BATCH_RECORDS: Final = Histogram("cnop_settlement_batch_records", "Records settled together", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000))
TRANSACTION_S: Final = Histogram(
    "cnop_settlement_kafka_transaction_seconds", "Results and offsets into Kafka", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
)
LAG: Final = Gauge("cnop_consumer_lag_records", "Records in the log that are not settled yet", ["group", "topic", "partition"])
RETRIES: Final = Counter("cnop_retries_total", "Tries that were repeated, by cause", ["cause"])


class Fenced(RuntimeError):
    """Another process owns this partition now: stop at once, without an abort, which is not ours to do any more."""


@dataclass(frozen=True, slots=True)
class Loop(Generic[T]):
    """What the loop is given.

    `decode` turns a record into a request or raises `Unreadable`. `handle` stores a batch of one partition, in log order, and returns the
    results to publish; it retries passing faults itself, within bounds under `POLL_INTERVAL_MS_MAX`, and raises where the process should end.
    """

    bootstrap: str
    group: str
    slot: str
    topic: str
    results_topic: str
    batch_records_max: int
    decode: Callable[[Inbound], T]
    handle: Callable[[Sequence[T]], Awaitable[Sequence[Envelope]]]


class Consumer(Generic[T]):
    """Runs a `Loop`: one lane for each partition that is assigned."""

    def __init__(self, loop: Loop[T]) -> None:
        self._loop = loop
        self._lanes: dict[TopicPartition, _Lane[T]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Join the group. KafkaConnectionError where no broker answers; it may be called again then."""
        loop = self._loop
        client = AIOKafkaConsumer(
            bootstrap_servers=loop.bootstrap,
            client_id=f"{loop.group}-{loop.slot}",
            group_id=loop.group,
            group_instance_id=f"{loop.group}-{loop.slot}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=POLL_INTERVAL_MS_MAX,
            fetch_max_wait_ms=FETCH_WAIT_MS,
        )
        client.subscribe([loop.topic], listener=_Rebalance(self))
        self._client = client
        try:
            await client.start()
        except BaseException:
            await client.stop()
            raise

    async def run(self) -> None:
        """Settle until cancelled or `stop`; raises what ended a lane or the reading."""
        pump = asyncio.create_task(self._pump(), name="pump")
        try:
            done, _ = await asyncio.wait({pump, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            pump.cancel()
            with suppress(asyncio.CancelledError):
                await pump

    async def stop(self, within_s: float) -> None:
        """Finish the batches in hand, within a bound, and leave. A batch that is not finished is settled again by the next owner, from its stored entries."""
        await self.close_lanes(within_s)
        if self._client is not None:
            await self._client.stop()

    async def ping(self) -> None:
        """Cheap proof that a broker answers. KafkaError or TimeoutError otherwise."""
        await self._joined._client.fetch_all_metadata()  # noqa: SLF001 - the consumer has no public look at the cluster

    @property
    def assigned(self) -> list[int]:
        """Partitions that this process settles now."""
        return sorted(tp.partition for tp, lane in self._lanes.items() if lane.is_open)

    def lag(self) -> dict[int, int]:
        """Records not settled yet, by partition of this process."""
        lags = {}
        for tp, lane in self._lanes.items():
            if lane.is_open:
                end = self._joined.highwater(tp)
                lags[tp.partition] = max(0, end - lane.settled) if end is not None else 0
                LAG.labels(self._loop.group, tp.topic, tp.partition).set(lags[tp.partition])
        return lags

    def open_lanes(self, assigned: Iterable[TopicPartition]) -> None:
        """Start to serve partitions; called when the group has assigned them."""
        for tp in assigned:
            lane = _Lane(self._loop, self._joined, tp)
            self._lanes[tp] = lane
            lane.task = asyncio.create_task(lane.serve(), name=f"lane-{tp.partition}")
            lane.task.add_done_callback(self._lane_ended)

    async def close_lanes(self, within_s: float) -> None:
        """Stop serving all partitions: each finishes its batch, within a bound."""
        lanes, given_up = list(self._lanes.values()), list(self._lanes)
        self._lanes = {}
        for lane in lanes:
            lane.close()
        for tp in given_up:
            with suppress(KeyError):
                LAG.remove(self._loop.group, tp.topic, tp.partition)
        tasks = [lane.task for lane in lanes if lane.task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                log.warning("partition given up in the middle of a batch", lane=task.get_name(), within_s=within_s)
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def _joined(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise RuntimeError("not started")
        return self._client

    def _lane_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError())

    async def _pump(self) -> None:
        """Move fetched records into their lanes' buffers, and pause what is full: lag then grows in Kafka, not in memory."""
        while True:
            open_before = {tp: lane for tp, lane in self._lanes.items() if lane.is_open}
            try:
                fetched = await self._joined.getmany(timeout_ms=PUMP_WAIT_MS, max_records=self._loop.batch_records_max)
            except ConsumerStoppedError:
                return
            for tp, records in fetched.items():
                lane = self._lanes.get(tp)
                if lane is None or not lane.is_open:
                    continue
                if open_before.get(tp) is not lane:
                    # Fetched before the lane's seek, or after it: unknown. Drop it and go back to where the lane began.
                    self._joined.seek(tp, lane.next_offset)
                    continue
                lane.put(records)
            self.lag()


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc] # the client has no types
    def __init__(self, consumer: Consumer[T]) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish what is in hand before another process may begin there."""
        log.info("partitions revoked", partitions=sorted(tp.partition for tp in revoked))
        await self._consumer.close_lanes(REVOKE_S)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Open a lane for each."""
        log.info("partitions assigned", partitions=sorted(tp.partition for tp in assigned))
        self._consumer.open_lanes(assigned)


class _Lane(Generic[T]):
    """One assigned partition: its buffer, its producer, its straight line from record to committed offset."""

    def __init__(self, loop: Loop[T], client: AIOKafkaConsumer, tp: TopicPartition) -> None:
        self._loop = loop
        self._client = client
        self._tp = tp
        self._buffer: deque[ConsumerRecord] = deque()
        self._filled = asyncio.Event()
        self._closing = False
        self._paused = False
        self._streak = Streak()
        self.task: asyncio.Task[None] | None = None
        self.is_open = False
        self.next_offset = 0
        self.settled = 0

    def put(self, records: Sequence[ConsumerRecord]) -> None:
        """Take fetched records in; ones seen before are dropped."""
        fresh = [record for record in records if record.offset >= self.next_offset]
        if fresh:
            self.next_offset = fresh[-1].offset + 1
            self._buffer.extend(fresh)
            self._filled.set()
        if len(self._buffer) >= BUFFERED_BATCHES_MAX * self._loop.batch_records_max and not self._paused:
            self._client.pause(self._tp)
            self._paused = True

    def close(self) -> None:
        """Take no further batch."""
        self._closing = True
        self._filled.set()

    async def serve(self) -> None:
        """Serve the partition until closed. Raises Fenced, TooManyUnreadable, or what `handle` raised."""
        producer = await self._open()
        try:
            while batch := await self._take():
                await self._settle(producer, batch)
        finally:
            self.is_open = False
            # Stopping flushes; after a fencing there is nothing of ours to flush and the client says so by raising.
            with suppress(KafkaError, AssertionError, TimeoutError):
                await asyncio.wait_for(producer.stop(), TRANSACTION_MS / 1000)

    async def _open(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._loop.bootstrap,
            client_id=f"{self._loop.group}-{self._loop.slot}-{self._tp.partition}",
            transactional_id=f"{self._loop.group}-{self._tp.partition}",
            transaction_timeout_ms=TRANSACTION_MS,
            acks="all",
            linger_ms=0,
            max_request_size=max(RESULT_BYTES_MAX, DEAD_LETTER_BYTES_MAX),
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        try:
            async with asyncio.timeout(OPEN_S):
                await producer.start()
                committed = await self._client.committed(self._tp)
        except BaseException:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(producer.stop(), TRANSACTION_MS / 1000)
            raise
        # No await from here to `is_open`: the pump must not run between the seek and the lane's opening.
        self.next_offset = self.settled = committed or 0
        self._client.seek(self._tp, self.next_offset)
        self.is_open = True
        log.info("partition open", partition=self._tp.partition, offset=self.next_offset)
        return producer

    async def _take(self) -> list[ConsumerRecord]:
        """The next batch; an empty one when closed."""
        while not self._buffer and not self._closing:
            self._filled.clear()
            await self._filled.wait()
        if self._closing:
            return []
        batch = [self._buffer.popleft() for _ in range(min(len(self._buffer), self._loop.batch_records_max))]
        if self._paused and len(self._buffer) < self._loop.batch_records_max:
            self._client.resume(self._tp)
            self._paused = False
        return batch

    async def _settle(self, producer: AIOKafkaProducer, batch: Sequence[ConsumerRecord]) -> None:
        requests, letters = self._read(batch)
        results = await self._loop.handle(requests) if requests else []
        BATCH_RECORDS.observe(len(batch))
        with TRANSACTION_S.time():
            await self._publish(producer, results, letters, batch[-1].offset + 1)
        self.settled = batch[-1].offset + 1
        for letter in letters:
            DEAD_LETTERED.labels(letter.topic).inc()
            log.error("record put to the dead letters", partition=letter.partition, offset=letter.offset, reason=letter.reason)

    def _read(self, batch: Sequence[ConsumerRecord]) -> tuple[list[T], list[DeadLetter]]:
        requests: list[T] = []
        letters: list[DeadLetter] = []
        for record in batch:
            try:
                requests.append(self._loop.decode(inbound(record)))
            except Unreadable as error:
                letters.append(dead_letter(record, str(error)))
            self._streak.note([not letters or letters[-1].offset != record.offset])
        return requests, letters

    async def _publish(self, producer: AIOKafkaProducer, results: Sequence[Envelope], letters: Sequence[DeadLetter], next_offset: int) -> None:
        """One transaction; repeated with the same results where Kafka failed in passing. Fenced where another owner is there."""
        for attempt in range(1, COMMIT_ATTEMPTS_MAX + 1):
            try:
                return await self._transact(producer, results, letters, next_offset)
            except (ProducerFenced, UnknownError) as error:
                raise Fenced(f"partition {self._tp.partition} has another owner") from error
            except KafkaError as error:
                RETRIES.labels("kafka-transaction").inc()
                log.warning("kafka transaction failed", partition=self._tp.partition, attempt=attempt, error=repr(error))
                if attempt == COMMIT_ATTEMPTS_MAX:
                    raise
                await producer.abort_transaction()
                await asyncio.sleep(COMMIT_BACKOFF_S * attempt)
        return None

    async def _transact(self, producer: AIOKafkaProducer, results: Sequence[Envelope], letters: Sequence[DeadLetter], next_offset: int) -> None:
        partition = self._tp.partition
        await producer.begin_transaction()
        sent = [
            await producer.send(self._loop.results_topic, value=result.value, key=result.key, partition=partition, headers=result.headers())
            for result in results
        ]
        sent += [await producer.send(DEAD_LETTERS, value=letter.value, key=letter.key, partition=partition, headers=letter.headers()) for letter in letters]
        await producer.send_offsets_to_transaction({self._tp: next_offset}, self._loop.group)
        await asyncio.gather(*sent)
        await producer.commit_transaction()


def inbound(record: ConsumerRecord) -> Inbound:
    """A record with its envelope. Unreadable where it has none."""
    envelope = read(record.key, record.value, record.headers)
    return Inbound(record.topic, record.partition, record.offset, from_millis(record.timestamp), envelope)


def dead_letter(record: ConsumerRecord, reason: str) -> DeadLetter:
    """A record as a dead letter."""
    headers = tuple((name, value or b"") for name, value in record.headers)
    return DeadLetter(record.topic, record.partition, record.offset, record.key, record.value, headers, reason, from_millis(record.timestamp))
