"""The settlement loop: read a batch, let it be settled, then put results, follow-up requests, dead letters and the offset into one Kafka transaction.

The transactional id belongs to a partition, not to a process. A new owner's producer fences every earlier one of that partition and ends
its hung transaction; only then does it ask where to begin. With an id per process, a process that was paused and resumed would commit
offsets of its past over those of its successor.

The order for a partition that was just assigned is therefore: open the producer, read the committed offset, seek, and only then take records.
Each partition's lane takes its own records when it is ready for them, and the client fetches no more than one answer ahead: what is not
settled waits in Kafka, not in memory.

Whatever fails past the bounds given here ends the process with its offsets unmoved: `run` raises.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, Generic, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

import events.connections  # noqa: F401 - see there
from events.lane import LAG, RETRIES, Lane
from events.loop import SESSION_MS, Bounds, Handled, Loop
from events.stalls import Ends, Stillness, Stuck, when_reading_ends
from events.transaction import Fenced

T = TypeVar("T")
log = structlog.get_logger()

HEARTBEAT_MS: Final = 1_000
POLL_INTERVAL_MS_MAX: Final = 2**31 - 1
"""The client's own watch over idle readers is off: it cannot tell a spare slot from a stuck one. `events.stalls` can."""
FETCH_WAIT_MS: Final = 250
FETCH_BYTES_MAX: Final = 4 * 1024 * 1024
"""One answer of the broker, of each partition: what a lane may find waiting when it comes back for more."""
LEAVE_S: Final = 3.0

__all__ = ["LAG", "RETRIES", "SESSION_MS", "Bounds", "Consumer", "Fenced", "Handled", "Loop", "Stuck"]


class Consumer(Generic[T]):
    """Runs a `Loop`: one lane for each partition that is assigned."""

    def __init__(self, loop: Loop[T]) -> None:
        self._loop = loop
        self._lanes: dict[TopicPartition, Lane[T]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._client: AIOKafkaConsumer | None = None
        self._stillness = Stillness(loop.bounds.watch_interval_s)

    async def start(self) -> None:
        """Join the group. KafkaConnectionError where no broker answers; it may be called again then. TimeoutError where the group does not let it in."""
        loop = self._loop
        client = AIOKafkaConsumer(
            bootstrap_servers=loop.bootstrap,
            client_id=loop.member,
            group_id=loop.group,
            group_instance_id=loop.member,
            enable_auto_commit=False,
            # A committed offset outside of the log means that the log was cut or put back: to begin anywhere else would lose or repeat.
            auto_offset_reset="none",
            isolation_level="read_committed",
            session_timeout_ms=loop.bounds.session_ms,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_poll_interval_ms=POLL_INTERVAL_MS_MAX,
            fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
        )
        client.subscribe([loop.topic], listener=_Rebalance(self))
        self._client = client
        try:
            async with asyncio.timeout(loop.bounds.open_s):
                await client.start()
        except BaseException:
            await client.stop()
            raise
        when_reading_ends(client, self.fail)

    async def run(self) -> None:
        """Settle until cancelled or `stop`; raises what ended a lane, the membership or the watch."""
        watch = asyncio.create_task(self._watch(), name="watch")
        try:
            done, _ = await asyncio.wait({watch, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def stop(self, within_s: float) -> None:
        """Finish the batches in hand, within a bound, and leave. A batch that is not finished is settled again by the next owner, from its stored entries."""
        await self.close_lanes(within_s)
        if self._client is not None:
            # The client raises here what ended its reading; `run` has told it.
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(self._client.stop(), LEAVE_S)

    async def ping(self) -> None:
        """Cheap proof that a broker answers. KafkaError or TimeoutError otherwise."""
        await self._joined._client.fetch_all_metadata()  # noqa: SLF001 - the consumer has no public look at the cluster

    async def moving(self) -> None:
        """Raises Stuck where a partition has work and has not moved for a while: not ready before it is ended."""
        self._stillness.check()

    @property
    def revoke_s(self) -> float:
        """How long a partition that is taken away may take for the batch in hand."""
        return self._loop.bounds.revoke_s

    @property
    def assigned(self) -> list[int]:
        """Partitions that this process settles now."""
        return sorted(tp.partition for tp, lane in self._lanes.items() if lane.is_open)

    def lag(self) -> dict[int, int]:
        """Records not settled yet, by partition of this process."""
        return {tp.partition: lane.lag() for tp, lane in self._lanes.items() if lane.is_open}

    def open_lanes(self, assigned: Iterable[TopicPartition]) -> None:
        """Start to serve partitions; called when the group has assigned them."""
        for tp in assigned:
            lane = Lane(self._loop, self._joined, tp)
            self._lanes[tp] = lane
            lane.task = asyncio.create_task(lane.serve(), name=f"lane-{tp.partition}")
            lane.task.add_done_callback(self._lane_ended)

    async def close_lanes(self, within_s: float) -> None:
        """Stop serving all partitions: each finishes its batch, within a bound."""
        lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            lane.close()
        tasks = [lane.task for lane in lanes if lane.task]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                log.warning("partition given up in the middle of a batch", lane=task.get_name(), within_s=within_s)
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def fail(self, error: BaseException) -> None:
        """End `run` with this; the first one counts."""
        if not self._failed.done():
            self._failed.set_exception(error)

    @property
    def _joined(self) -> AIOKafkaConsumer:
        if self._client is None:
            raise RuntimeError("not started")
        return self._client

    def _lane_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)

    async def _watch(self) -> None:
        """Look after what raises nothing by itself: the membership, and partitions that do not move."""
        ends = Ends(self._loop.bootstrap, f"{self._loop.member}-watch")
        try:
            while True:
                await asyncio.sleep(self._loop.bounds.watch_interval_s)
                self._joined._coordinator.check_errors()  # noqa: SLF001 - else told only to one who reads, and a spare slot has nobody who does
                self._look(await ends.of(self._joined.assignment()))
        finally:
            await ends.close()

    def _look(self, ends: Mapping[TopicPartition, int]) -> None:
        self._stillness.keep_only(ends)
        for tp, end in ends.items():
            lane = self._lanes.get(tp)
            if lane is not None and lane.has_all(end):
                self._stillness.forget(tp)
                continue
            still_s = self._stillness.look(tp, (id(lane), lane.moves if lane else 0))
            bound_s = self._loop.bounds.idle_stall_s if lane is None or lane.waits else self._loop.bounds.busy_stall_s
            if still_s >= bound_s:
                what = lane.describe() if lane else "nobody serves it"
                raise Stuck(f"partition {tp.partition} has not moved for {still_s:g} s: {what}, its log ends at {end}")


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc] # the client has no types
    """The client logs what these raise and goes on, with partitions that nobody serves: so what they raise ends the consumer."""

    def __init__(self, consumer: Consumer[T]) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish what is in hand before another process may begin there."""
        log.info("partitions revoked", partitions=sorted(tp.partition for tp in revoked))
        try:
            await self._consumer.close_lanes(self._consumer.revoke_s)
        except Exception as error:  # noqa: BLE001 - see above
            self._consumer.fail(error)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Open a lane for each."""
        log.info("partitions assigned", partitions=sorted(tp.partition for tp in assigned))
        try:
            self._consumer.open_lanes(assigned)
        except Exception as error:  # noqa: BLE001 - see above
            self._consumer.fail(error)
