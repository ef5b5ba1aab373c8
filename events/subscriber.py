"""Light subscribers: FastStream batches for readers that are idempotent by version or id, such as the projector.

FastStream delivers the next batch after a handler has raised, whatever its acknowledgement policy. So after a failed handler here every
further batch is dropped uncommitted, and `run` raises. Offsets are committed explicitly, a moment after their batch; what is read again
after a crash changes nothing.

FastStream also keeps to itself what its client raises, and starts its reading again and again or not at all. So what is read is held
against the ends of the log, as in the settlement loop, and a reader that does not move ends the process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import ConsumerRecord
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage

import events.connections  # noqa: F401 - see there
from events.consumer import FETCH_WAIT_MS, HEARTBEAT_MS, LAG, SESSION_MS
from events.dead_letters import DEAD_LETTERED, DeadLetter, Streak
from events.envelope import Inbound, Unreadable
from events.records import dead_letter, inbound
from events.stalls import BUSY_STALL_S, IDLE_STALL_S, WATCH_INTERVAL_S, Ends, Stillness, Stuck, when_reading_ends
from events.topics import DEAD_LETTERS

log = structlog.get_logger()

COMMIT_INTERVAL_S: Final = 0.1
MEASURED_S: Final = 1.0
"""An older figure of what is behind is not told: a commit that hangs holds up the measuring."""
STOP_S: Final = 5.0
"""How long the batch in hand may take when the process stops."""
POSITION_S: Final = 1.0
COMMIT_S: Final = 5.0
BURY_S: Final = 20.0
"""A letter that is not written by then ends the reader. The client by itself would wait for a broker for ever."""
LEAVE_S: Final = 3.0
POLL_WAIT_MS: Final = 1_000
"""A poll ends as soon as there are records. Without any it is asked again after this time, and then tells what became of the membership."""

Handler = Callable[[Sequence[Inbound]], Awaitable[Sequence[tuple[Inbound, str]]]]
"""Takes a batch in order of each partition; returns the records it could not read, each with the reason."""
Unfinished = Callable[[], Mapping[tuple[str, int], int]]
"""By topic and partition: the first offset on which the handler's work goes on after it has returned."""


class Standing(NamedTuple):
    """How far a partition is read: all before offset `reach` is handled, and its log ended at `end` when the broker was last heard of it.

    `heard_ms`: when that was, in ms since 1970. It gets older while the broker cannot be reached: nobody knows then what has come since.
    """

    reach: int
    end: int
    heard_ms: int


class Subscriber:
    """One consumer group member over some topics. `start`, then `run` as a held task, then `stop`."""

    def __init__(
        self,
        bootstrap: str,
        *,
        group: str,
        slot: str,
        topics: Sequence[str],
        handler: Handler,
        batch_records_max: int,
        unfinished: Unfinished = dict,
        watch_interval_s: float = WATCH_INTERVAL_S,
        idle_stall_s: float = IDLE_STALL_S,
        busy_stall_s: float = BUSY_STALL_S,
    ) -> None:
        self._group = group
        self._handler = handler
        self._streak = Streak()
        self._unfinished = unfinished
        self._pending: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._in_hand: dict[TopicPartition, int] = {}
        self._places: dict[TopicPartition, Standing] = {}
        self._measured_at = float("-inf")
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._bootstrap = bootstrap
        self._slot = slot
        self._topics = tuple(topics)
        self._batch_records_max = batch_records_max
        self._broker: KafkaBroker | None = None
        self._subscription: Any = None
        self._letters: AIOKafkaProducer | None = None
        self._watch_interval_s = watch_interval_s
        self._idle_stall_s = idle_stall_s
        self._busy_stall_s = busy_stall_s
        self._stillness = Stillness(watch_interval_s)
        self._batches = 0

    async def start(self) -> None:
        """Join the group. KafkaConnectionError where no broker answers; it may be called again then."""
        member = f"{self._group}-{self._slot}"
        broker = KafkaBroker(self._bootstrap, client_id=member, logger=None, apply_types=False, graceful_timeout=STOP_S)
        subscription: Any = broker.subscriber(
            *self._topics,
            batch=True,
            group_id=self._group,
            group_instance_id=member,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            parser=_unparsed,
            decoder=_raw,
        )
        subscription(self._on_batch)
        subscription.get_msg = self._records
        self._broker, self._subscription = broker, subscription
        try:
            await broker.start()
        except BaseException:
            await broker.stop()
            raise
        if self._client is not None:
            when_reading_ends(self._client, self._fail)

    async def run(self) -> None:
        """Read until cancelled; raises what the handler raised, or Stuck."""
        held = {asyncio.create_task(self._commit_again_and_again(), name="committer"), asyncio.create_task(self._watch(), name="watch")}
        try:
            done, _ = await asyncio.wait({*held, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in held:
                task.cancel()
            await asyncio.wait(held)

    async def stop(self) -> None:
        """Commit what was handled, and leave."""
        with suppress(KafkaError, IllegalStateError, TimeoutError):
            await self._commit()
        for part in (self._letters, self._broker):
            if part is not None:
                with suppress(KafkaError, TimeoutError):
                    await asyncio.wait_for(part.stop(), STOP_S + LEAVE_S)

    async def ping(self) -> None:
        """Cheap proof that a broker answers. KafkaError, RuntimeError or TimeoutError otherwise."""
        client = self._client
        if client is None:
            raise RuntimeError("not started")
        await client._client.fetch_all_metadata()  # noqa: SLF001 - the consumer has no public look at the cluster

    async def moving(self) -> None:
        """Raises Stuck where a partition has records and has not moved for a while: not ready before it is ended."""
        self._stillness.check()

    @property
    def assigned(self) -> list[tuple[str, int]]:
        """Topic and partition of everything that this process reads now."""
        client = self._client
        return sorted((tp.topic, tp.partition) for tp in client.assignment()) if client else []

    def places(self, topic: str) -> dict[int, Standing]:
        """By partition of a topic, of those that this process reads, measured `MEASURED_S` ago at most."""
        if asyncio.get_running_loop().time() - self._measured_at > MEASURED_S:
            return {}
        return {tp.partition: place for tp, place in self._places.items() if tp.topic == topic}

    def partitions(self, topic: str) -> int | None:
        """How many partitions a topic has; None while that is not known."""
        client = self._client
        return len(client.partitions_for_topic(topic) or ()) or None if client else None

    @property
    def _client(self) -> AIOKafkaConsumer | None:
        return self._subscription.consumer if self._subscription else None

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)

    async def _records(self, client: AIOKafkaConsumer) -> tuple[ConsumerRecord, ...]:
        """The next batch, as soon as there is one. FastStream's own way sleeps after a poll that found nothing, and what comes then waits for it."""
        found: Mapping[TopicPartition, Sequence[ConsumerRecord]] = {}
        while not found:
            found = await client.getmany(timeout_ms=POLL_WAIT_MS, max_records=self._batch_records_max)
        return tuple(chain.from_iterable(found.values()))

    async def _on_batch(self, records: tuple[ConsumerRecord, ...]) -> None:
        if self._failed.done():
            # The process is about to end. This batch is dropped, not taken: its offsets stay where they are, and it is read again.
            return
        try:
            await self._handle(records)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends `run`, and with it the process
            self._fail(error)

    async def _handle(self, records: tuple[ConsumerRecord, ...]) -> None:
        readable: list[Inbound] = []
        letters: list[DeadLetter] = []
        by_place = {(record.topic, record.partition, record.offset): record for record in records}
        self._in_hand = {TopicPartition(record.topic, record.partition): record.offset for record in reversed(records)}
        for record in records:
            try:
                readable.append(inbound(record))
            except Unreadable as error:
                letters.append(dead_letter(record, str(error)))
        for refused, reason in await self._handler(readable) if readable else ():
            letters.append(dead_letter(by_place[refused.topic, refused.partition, refused.offset], reason))
        places = {(letter.topic, letter.partition, letter.offset) for letter in letters}
        self._streak.note(place not in places for place in by_place)
        await self._bury(letters)
        for record in records:
            self._pending[TopicPartition(record.topic, record.partition)] = record.offset + 1
        self._in_hand = {}
        self._batches += 1

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            async with asyncio.timeout(BURY_S):
                writer = await self._letter_writer()
                batch = writer.create_batch()
                # Not `send`, which refuses a record with neither key nor value: one of those must not stop the reader for ever.
                batch.append(timestamp=None, key=letter.key, value=letter.value, headers=letter.headers())
                partitions = sorted(await writer.partitions_for(DEAD_LETTERS))
                await (await writer.send_batch(batch, DEAD_LETTERS, partition=partitions[letter.partition % len(partitions)]))
            DEAD_LETTERED.labels(letter.topic).inc()
            log.error("record put to the dead letters", topic=letter.topic, partition=letter.partition, offset=letter.offset, reason=letter.reason)

    async def _letter_writer(self) -> AIOKafkaProducer:
        """Made when it is first needed. Not FastStream's producer: that one adds headers, and takes text where a letter has bytes."""
        if self._letters is None:
            writer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, enable_idempotence=True, acks="all")
            try:
                await writer.start()
            except BaseException:
                await writer.stop()
                raise
            self._letters = writer
        return self._letters

    async def _commit_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._measure()
            try:
                await self._commit()
            except (KafkaError, TimeoutError) as error:
                # Offsets that could not be committed are read again after a restart; nothing is lost by going on.
                log.warning("offsets not committed", error=repr(error))

    async def _commit(self) -> None:
        client = self._client
        pending, self._pending = self._pending, {}
        if client is None or not pending:
            return
        owned = {tp: offset for tp, offset in pending.items() if tp in client.assignment()}
        unfinished = self._unfinished()
        done = {tp: min(offset, unfinished.get((tp.topic, tp.partition), offset)) for tp, offset in owned.items()}
        new = {tp: offset for tp, offset in done.items() if self._committed.get(tp) != offset}
        self._pending = {tp: offset for tp, offset in owned.items() if done[tp] < offset} | self._pending
        if not new:
            return
        try:
            await asyncio.wait_for(client.commit(new), COMMIT_S)
            self._committed |= new
        except CommitFailedError:
            log.info("partitions moved on before their offsets were committed")
        except BaseException:
            self._pending = {**pending, **self._pending}
            raise

    async def _measure(self) -> None:
        """Set the lag of every partition that is read here, and forget those that are not any more."""
        client = self._client
        assigned: set[TopicPartition] = client.assignment() if client else set()
        for tp in self._places.keys() - assigned:
            LAG.remove(self._group, tp.topic, tp.partition)
            del self._places[tp]
        self._measured_at = asyncio.get_running_loop().time()
        for tp in assigned:
            end, heard_ms = (client.highwater(tp), client.last_poll_timestamp(tp)) if client else (None, None)
            reach = await self._reach(tp)
            if end is not None and heard_ms is not None and reach is not None:
                self._places[tp] = Standing(reach, end, heard_ms)
                LAG.labels(self._group, tp.topic, tp.partition).set(max(0, end - reach))

    async def _reach(self, tp: TopicPartition) -> int | None:
        """All before this offset is handled. None where it is not known yet.

        What is in hand counts as not handled. The position is the client's: it stands past the markers of transactions, which are no records.
        """
        client = self._client
        with suppress(TimeoutError, IllegalStateError):
            position: int | None = await asyncio.wait_for(client.position(tp), POSITION_S) if client else None
            return self._in_hand.get(tp, position)
        return None

    async def _watch(self) -> None:
        """Look for partitions that have records and do not move: nobody else would tell."""
        ends = Ends(self._bootstrap, f"{self._group}-{self._slot}-watch")
        try:
            while True:
                await asyncio.sleep(self._watch_interval_s)
                client = self._client
                await self._look(await ends.of(client.assignment()) if client else {})
        finally:
            await ends.close()

    async def _look(self, ends: Mapping[TopicPartition, int]) -> None:
        self._stillness.keep_only(ends)
        for tp, end in ends.items():
            reach = await self._reach(tp)
            if reach is not None and reach >= end:
                self._stillness.forget(tp)
                continue
            still_s = self._stillness.look(tp, (reach, self._batches))
            if still_s >= (self._busy_stall_s if self._in_hand else self._idle_stall_s):
                doing = "a batch is in hand" if self._in_hand else "it waits for records"
                raise Stuck(f"{tp.topic} {tp.partition} has not moved for {still_s:g} s: {doing}, handled up to {reach}, its log ends at {end}")


async def _unparsed(records: tuple[ConsumerRecord, ...]) -> KafkaMessage:
    """The records with nothing read of them.

    FastStream's own parser fails at a header that is empty or not UTF-8, and then passes over the whole batch without a word: every good
    record in it would be lost with the next commit.
    """
    return KafkaMessage(raw_message=records, body=b"", consumer=FAKE_CONSUMER)


async def _raw(message: KafkaMessage) -> object:
    """The records themselves: FastStream would otherwise decode each value on its own account."""
    return message.raw_message
