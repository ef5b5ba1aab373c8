"""A group's consumer with aiokafka's face and habits, on a broker in memory.

As there: records are fetched ahead and handed out before the listener has done with an assignment; the fetch of committed offsets does not see
what a transaction has pending; after a session is over it still says that it owns its partitions, until it has asked the group.
`bootstrap_servers` is the wire to the broker.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import (
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    UnknownError,
    UnknownMemberIdError,
)
from aiokafka.structs import ConsumerRecord

from tests.fakes.kafka_broker import Slot
from tests.fakes.kafka_producer import Wire

FETCH_RECORDS_MAX = 100
BACKOFF_S = 0.1
BACKOFF_S_MAX = 1.0


@dataclass
class _Assigned:
    """One partition that the group has given us. `fetched` are slots, and the offset after them."""

    tp: TopicPartition
    position: int | None = None
    fetched: list[Slot] = field(default_factory=list)
    after: int = 0
    highwater: int | None = None
    generation: int = 0
    is_fetching: bool = False
    error: KafkaError | None = None
    changed: "asyncio.Future[None] | None" = None

    def wake(self) -> None:
        if self.changed is not None and not self.changed.done():
            self.changed.set_result(None)


class FakeConsumer:
    """As AIOKafkaConsumer, as far as a group's reader needs it."""

    def __init__(
        self,
        *,
        bootstrap_servers: Wire,
        group_id: str | None = None,
        group_instance_id: str | None = None,
        session_timeout_ms: int = 10_000,
        heartbeat_interval_ms: int = 3_000,
        fetch_max_wait_ms: int = 500,
        **_: Any,
    ) -> None:
        self._wire = bootstrap_servers
        self._broker = bootstrap_servers.broker
        self._group = group_id
        self._instance = group_instance_id or ""
        self._session_s = session_timeout_ms / 1000
        self._beat_s = heartbeat_interval_ms / 1000
        self._wait_s = fetch_max_wait_ms / 1000
        self._topics: tuple[str, ...] = ()
        self._listener: Any = None
        self._assigned: dict[TopicPartition, _Assigned] = {}
        self._joined: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._reading: asyncio.Future[None] | None = None

    # The private names that our code looks at

    @property
    def _client(self) -> "FakeConsumer":
        return self

    @property
    def _coordinator(self) -> "FakeConsumer":
        return self

    @property
    def _fetcher(self) -> "FakeConsumer":
        return self

    @property
    def error_future(self) -> "asyncio.Future[None]":
        """Ends where the reading ends."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_future()
        return self._reading

    async def fetch_all_metadata(self) -> None:
        """Proof that the broker answers."""
        await self._wire.send("metadata", lambda reply: reply(None))

    def check_errors(self) -> None:
        """Raise what ended the membership."""
        if self._task and self._task.done() and not self._task.cancelled():
            self._task.result()

    # aiokafka's own

    def subscribe(self, topics: Iterable[str], listener: Any = None) -> None:
        self._topics, self._listener = tuple(topics), listener

    async def start(self) -> None:
        """Connect, and wait for the first assignment."""
        await self._wire.connect()
        if self._topics:
            self._joined = asyncio.get_running_loop().create_future()
            self._task = asyncio.get_running_loop().create_task(self._membership(), name="membership")
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait({self._joined, self._task}, return_when=asyncio.FIRST_COMPLETED)
            self.check_errors()

    async def stop(self) -> None:
        """A static member leaves without a word."""
        self._closed = True
        if self._task:
            self._task.cancel()
            await asyncio.wait({self._task})

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._assigned)

    async def committed(self, tp: TopicPartition) -> int | None:
        """What the group has committed; what a transaction has pending does not count."""
        found = await self._ask("fetch-offsets", lambda: self._broker.groups.of(str(self._group)).offsets.get(tp))
        return None if found is None else int(found)

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self._ask("list-offsets", lambda: None)
        return dict.fromkeys(tps, 0)

    async def end_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = await self._ask("list-offsets", lambda: self._broker.ends(tps))
        return ends

    def highwater(self, tp: TopicPartition) -> int | None:
        return self._of(tp).highwater

    async def position(self, tp: TopicPartition) -> int:
        """Waits until there is one."""
        while True:
            assigned = self._of(tp)
            if assigned.position is not None:
                return assigned.position
            await self._change(assigned, None)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        """Go there, and drop what was fetched."""
        assigned = self._of(tp)
        assigned.position, assigned.fetched, assigned.error = offset, [], None
        assigned.generation += 1
        assigned.is_fetching = False
        self._fetch(assigned)
        assigned.wake()

    async def getmany(self, *tps: TopicPartition, timeout_ms: int = 0, max_records: int | None = None) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Records of one partition, in order; none after the time is over."""
        (tp,) = tps
        self.check_errors()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_ms / 1000
        while True:
            assigned = self._of(tp)
            if assigned.error:
                error, assigned.error = assigned.error, None
                raise error
            if assigned.fetched:
                return {tp: self._take(assigned, max_records or FETCH_RECORDS_MAX)}
            if loop.time() >= until:
                return {}
            await self._change(assigned, until - loop.time())
            self.check_errors()

    def _take(self, assigned: _Assigned, limit: int) -> list[ConsumerRecord]:
        taken, assigned.fetched = assigned.fetched[:limit], assigned.fetched[limit:]
        assigned.position = assigned.fetched[0].offset if assigned.fetched else assigned.after
        self._fetch(assigned)
        return [_record(assigned.tp, slot) for slot in taken]

    def _of(self, tp: TopicPartition) -> _Assigned:
        if tp not in self._assigned:
            raise IllegalStateError(f"partition {tp} is not assigned")
        return self._assigned[tp]

    async def _change(self, assigned: _Assigned, within_s: float | None) -> None:
        assigned.changed = asyncio.get_running_loop().create_future()
        await asyncio.wait({assigned.changed}, timeout=within_s)

    # Fetching ahead

    def _fetch(self, assigned: _Assigned) -> None:
        if self._closed or assigned.is_fetching or assigned.fetched or assigned.position is None or self._assigned.get(assigned.tp) is not assigned:
            return
        assigned.is_fetching = True
        offset, generation = assigned.position, assigned.generation
        asked = self._wire.send("fetch", lambda reply: self._broker.fetch(reply, assigned.tp, offset, FETCH_RECORDS_MAX, self._wait_s))
        asked.add_done_callback(lambda asked: self._fetched(assigned, generation, asked))

    def _fetched(self, assigned: _Assigned, generation: int, asked: "asyncio.Future[Any]") -> None:
        if asked.cancelled() or assigned.generation != generation:
            if not asked.cancelled():
                asked.exception()
            return
        assigned.is_fetching = False
        error = asked.exception()
        if error is None:
            assigned.fetched, assigned.after, assigned.highwater = asked.result()
            if not assigned.fetched:
                assigned.position = assigned.after
                self._fetch(assigned)
            assigned.wake()
        elif isinstance(error, OffsetOutOfRangeError):
            assigned.error = error
            assigned.wake()
        else:
            asyncio.get_running_loop().call_later(BACKOFF_S, self._fetch, assigned)

    # The group

    async def _membership(self) -> None:
        member_id, joined = "", False
        while True:
            if not joined:
                await self._tell("on_partitions_revoked", set(self._assigned))
            try:
                member_id, generation, tps = await self._wire.send(
                    "join",
                    lambda reply, member_id=member_id: self._broker.groups.join(  # type: ignore[misc]
                        reply, str(self._group), member_id, self._instance, self._topics, self._session_s
                    ),
                )
            except UnknownMemberIdError:
                member_id, joined = "", True
                continue
            except UnknownError as error:
                raise KafkaError(f"Unexpected error during coordination {error!r}") from error
            except KafkaError:
                joined = True
                await asyncio.sleep(BACKOFF_S)
                continue
            joined = False
            self._assigned = {tp: _Assigned(tp) for tp in tps}
            begin = asyncio.get_running_loop().create_task(self._begin(dict(self._assigned)))
            await self._tell("on_partitions_assigned", set(tps))
            if self._joined and not self._joined.done():
                self._joined.set_result(None)
            try:
                member_id = await self._beat(member_id, generation)
            finally:
                begin.cancel()

    async def _beat(self, member_id: str, generation: int) -> str:
        """Until the group wants to be joined anew; under which name."""
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                await self._wire.send("heartbeat", lambda reply: reply(self._broker.groups.heartbeat(str(self._group), member_id, generation)))
            except RebalanceInProgressError:
                return member_id
            except (IllegalGenerationError, UnknownMemberIdError):
                return ""
            except UnknownError as error:
                raise KafkaError(f"Unexpected exception in heartbeat task: {error!r}") from error
            except KafkaError:
                continue

    async def _begin(self, assigned: dict[TopicPartition, _Assigned]) -> None:
        """Fetch from the committed offsets, while the listener is still at work."""
        for tp, one in assigned.items():
            offset = await self.committed(tp)
            if one.position is not None or one.generation:
                continue
            if offset is None:
                one.error = NoOffsetForPartitionError(tp)
                one.wake()
            else:
                one.position = offset
                self._fetch(one)
                one.wake()

    async def _tell(self, what: str, tps: set[TopicPartition]) -> None:
        if self._listener is not None:
            await getattr(self._listener, what)(tps)

    async def _ask(self, what: str, request: Any) -> Any:
        pause_s = BACKOFF_S
        while True:
            try:
                return await self._wire.send(what, lambda reply: reply(request()))
            except KafkaError:
                await asyncio.sleep(pause_s)
                pause_s = min(BACKOFF_S_MAX, pause_s * 2)


def _record(tp: TopicPartition, slot: Slot) -> ConsumerRecord:
    return ConsumerRecord(tp.topic, tp.partition, slot.offset, slot.timestamp_ms, 1, slot.key, slot.value, None, -1, -1, slot.headers)
