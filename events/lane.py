"""One partition of the settlement loop: its straight line from record to committed offset."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from prometheus_client import Counter, Gauge, Histogram

from events.dead_letters import DEAD_LETTERED, DeadLetter, Streak
from events.envelope import Envelope, Unreadable
from events.loop import Handled, Loop
from events.records import dead_letter, inbound, size_of
from events.topics import DEAD_LETTER_BYTES_MAX, DEAD_LETTERS, REQUEST_BYTES_MAX, RESULT_BYTES_MAX
from events.transaction import Fenced, Outgoing, Record, TransactionFailed, Transactions

T = TypeVar("T")
log = structlog.get_logger()

POLL_MS: Final = 500
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""A batch takes no further answer when it has this much: at most one more than this is in hand."""
COMMIT_ATTEMPTS_MAX: Final = 3
COMMIT_BACKOFF_S: Final = 0.2

BATCH_RECORDS: Final = Histogram("cnop_settlement_batch_records", "Records settled together", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000))
TRANSACTION_S: Final = Histogram(
    "cnop_settlement_kafka_transaction_seconds", "Results and offsets into Kafka", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2)
)
LAG: Final = Gauge("cnop_consumer_lag_records", "Records in the log that are not settled yet", ["group", "topic", "partition"])
RETRIES: Final = Counter("cnop_retries_total", "Tries that were repeated, by cause", ["cause"])


class Lane(Generic[T]):
    """One assigned partition: its transactions, its straight line from record to committed offset."""

    def __init__(self, loop: Loop[T], client: AIOKafkaConsumer, tp: TopicPartition) -> None:
        self._loop = loop
        self._client = client
        self._tp = tp
        self._closing: asyncio.Future[list[ConsumerRecord]] = asyncio.get_running_loop().create_future()
        self._streak = Streak()
        self._committed: int | None = None
        self._transactions = Transactions(
            loop.bootstrap,
            transactional_id=f"{loop.group}-{tp.partition}",
            client_id=f"{loop.member}-{tp.partition}",
            partition=tp.partition,
            transaction_ms=loop.bounds.transaction_ms,
        )
        self.task: asyncio.Task[None] | None = None
        self.is_open = False
        self.waits = False
        """For records: nothing is in hand."""
        self.reach = 0
        """All before this offset is settled, or is no record but the mark of a transaction."""
        self.moves = 0

    def close(self) -> None:
        """Take no further batch."""
        if not self._closing.done():
            self._closing.set_result([])

    def has_all(self, end: int) -> bool:
        """Whether nothing is left to do up to there."""
        return self.waits and self.reach >= end

    def describe(self) -> str:
        """Where it stands, for an operator."""
        doing = "it waits for records" if self.waits else "a batch is in hand" if self.is_open else "it is being opened"
        return f"{doing}, settled up to {self.reach}"

    def lag(self) -> int:
        """Records that are not settled, as far as the last fetch told."""
        return max(0, (self._client.highwater(self._tp) or 0) - self.reach)

    async def serve(self) -> None:
        """Serve the partition until closed. Raises Fenced, TooManyUnreadable, OffsetOutOfRangeError, or what `handle` raised."""
        gauge = LAG.labels(self._loop.group, self._tp.topic, self._tp.partition)
        try:
            await self._open()
            while batch := await self._take():
                await self._settle(batch)
                gauge.set(self.lag())
        finally:
            self.is_open = self.waits = False
            self._loop.closed(self._tp.partition)
            LAG.remove(self._loop.group, self._tp.topic, self._tp.partition)
            await self._transactions.close()

    async def _open(self) -> None:
        async with asyncio.timeout(self._loop.bounds.open_s):
            await self._transactions.open()
            self._committed = await self._client.committed(self._tp)
            begin = self._committed
            if begin is None:
                begin = (await self._client.beginning_offsets([self._tp]))[self._tp]
        # Nobody has taken a record of this partition before, and what the client has fetched of it is dropped by this.
        self._client.seek(self._tp, begin)
        self.reach, self.is_open = begin, True
        log.info("partition open", partition=self._tp.partition, offset=begin)

    async def _take(self) -> list[ConsumerRecord]:
        """The next batch; an empty one when closed."""
        self.waits = True
        self.moves += 1
        reading: asyncio.Future[list[ConsumerRecord]] = asyncio.create_task(self._read_on(), name=f"read-{self._tp.partition}")
        try:
            await asyncio.wait((reading, self._closing), return_when=asyncio.FIRST_COMPLETED)
            return (self._closing if self._closing.done() else reading).result()
        finally:
            self.waits = False
            if not reading.done():
                # Records are handed out whole or not at all, so none is lost on the way; and the next owner begins at the committed offset.
                reading.cancel()
                await asyncio.wait({reading})

    async def _read_on(self) -> list[ConsumerRecord]:
        batch: list[ConsumerRecord] = []
        taken = 0
        while len(batch) < self._loop.batch_records_max and taken < BATCH_BYTES_MAX:
            room = self._loop.batch_records_max - len(batch)
            found = (await self._client.getmany(self._tp, timeout_ms=0 if batch else POLL_MS, max_records=room)).get(self._tp)
            if found:
                batch += found
                taken += sum(map(size_of, found))
            elif batch:
                break
            else:
                # Past the marks of transactions, which are no records.
                self.reach = max(self.reach, await self._client.position(self._tp))
        return batch

    async def _settle(self, batch: Sequence[ConsumerRecord]) -> None:
        requests, letters = self._read(batch)
        handled = await self._loop.handle(requests) if requests else Handled()
        BATCH_RECORDS.observe(len(batch))
        with TRANSACTION_S.time():
            await self._publish(handled, letters, batch[-1].offset + 1)
        self.reach = batch[-1].offset + 1
        for letter in letters:
            DEAD_LETTERED.labels(letter.topic).inc()
            log.error("record put to the dead letters", topic=letter.topic, partition=letter.partition, offset=letter.offset, reason=letter.reason)
        await self._afterwards(handled)

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

    async def _publish(self, handled: Handled, letters: Sequence[DeadLetter], next_offset: int) -> None:
        """One transaction; repeated with the same results where Kafka failed in passing. Fenced where another owner is there."""
        outgoing = [
            Outgoing(self._loop.results_topic, RESULT_BYTES_MAX, _records(handled.results)),
            Outgoing(self._loop.topic, REQUEST_BYTES_MAX, _records(handled.requests)),
            Outgoing(DEAD_LETTERS, DEAD_LETTER_BYTES_MAX, [(letter.key, letter.value, letter.headers()) for letter in letters]),
        ]
        for attempt in range(1, COMMIT_ATTEMPTS_MAX + 1):
            try:
                await self._transactions.commit(outgoing, {self._tp: next_offset}, self._loop.group)
            except TransactionFailed as error:
                RETRIES.labels("kafka-transaction").inc()
                log.warning("kafka transaction failed", partition=self._tp.partition, attempt=attempt, error=str(error))
                if attempt == COMMIT_ATTEMPTS_MAX:
                    raise
                await asyncio.sleep(COMMIT_BACKOFF_S * attempt)
                if await self._took_place(next_offset):
                    break
            else:
                break
        self._committed = next_offset

    async def _took_place(self, next_offset: int) -> bool:
        """Whether a transaction without an answer was committed after all. Fenced where the offset is one that this lane never wrote."""
        async with asyncio.timeout(self._loop.bounds.open_s):
            await self._transactions.open()
            committed = await self._client.committed(self._tp)
        if committed not in (next_offset, self._committed):
            raise Fenced(f"partition {self._tp.partition} stands at {committed}, where another owner has put it")
        return bool(committed == next_offset)

    async def _afterwards(self, handled: Handled) -> None:
        if handled.after is None:
            return
        try:
            await handled.after()
        except Exception as error:  # noqa: BLE001 - by contract its work is repeatable and made up for later
            log.warning("work after a batch failed", partition=self._tp.partition, error=repr(error))


def _records(envelopes: Iterable[Envelope]) -> list[Record]:
    return [(envelope.key, envelope.value, envelope.headers()) for envelope in envelopes]
