"""A transactional producer with aiokafka's face and habits, on a broker in memory.

As there: what fails in passing is sent again for ever, under the same sequence, so that it is appended once; what is on its way goes on when a
caller stops waiting; after the broker has sent it away everything raises. `bootstrap_servers` is the wire to the broker.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import ConcurrentTransactions, IllegalOperation, InvalidProducerEpoch, InvalidTxnState, KafkaError, NotEnoughReplicasError, ProducerFenced

from tests.fakes.kafka_broker import Broker, Reply

RECORD_OVERHEAD_BYTES = 30
BATCH_OVERHEAD_BYTES = 61
BACKOFF_S_MAX = 1.0

PASSING = (ConcurrentTransactions, NotEnoughReplicasError)


class Wire(Protocol):
    """A client's way to the broker. What `send` returns ends with the answer, or with a KafkaError where the connection broke or time ran out."""

    broker: Broker

    def send(self, what: str, ask: Callable[[Reply], None]) -> "asyncio.Future[Any]": ...

    async def connect(self) -> None:
        """KafkaConnectionError where no broker listens."""
        ...


class DirectWire:
    """Every request arrives at once and is answered at once."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def send(self, what: str, ask: Callable[[Reply], None]) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer(future, ask)
        return future

    async def connect(self) -> None:
        """Always there."""


def answer(future: "asyncio.Future[Any]", ask: Callable[[Reply], None]) -> None:
    """Ask, and let the future have what comes of it."""

    def reply(result: Any) -> None:
        if future.done():
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)

    try:
        ask(reply)
    except KafkaError as error:
        reply(error)


class Batch:
    """As aiokafka's BatchBuilder: records up to the producer's size of a batch; the first always fits."""

    def __init__(self, size_max: int) -> None:
        self.records: list[tuple[Any, Any, tuple[tuple[str, bytes | None], ...]]] = []
        self._size = BATCH_OVERHEAD_BYTES
        self._size_max = size_max

    def append(self, *, timestamp: int | None, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]] = ()) -> object | None:
        """None where it does not fit any more."""
        size = len(key or b"") + len(value or b"") + RECORD_OVERHEAD_BYTES + sum(len(name) + len(said or b"") + 2 for name, said in headers)
        if self.records and self._size + size > self._size_max:
            return None
        self._size += size
        self.records.append((key, value, tuple(headers)))
        return self

    def size(self) -> int:
        return self._size


class FakeProducer:
    """As AIOKafkaProducer, as far as transactions need it."""

    def __init__(
        self,
        *,
        bootstrap_servers: Wire,
        transactional_id: str,
        transaction_timeout_ms: int = 60_000,
        max_batch_size: int = 16_384,
        retry_backoff_ms: int = 100,
        **_: Any,
    ) -> None:
        self._wire = bootstrap_servers
        self._broker = bootstrap_servers.broker
        self._id = transactional_id
        self._timeout_s = transaction_timeout_ms / 1000
        self._size_max = max_batch_size
        self._backoff_s = retry_backoff_ms / 1000
        self._epoch = -1
        self._in_transaction = False
        self._fatal: KafkaError | None = None
        self._sent = 0
        self._added: dict[TopicPartition, asyncio.Task[Any]] = {}
        self._last: dict[TopicPartition, asyncio.Task[Any]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Connect, and take a new epoch: that fences every earlier producer of the id."""
        await self._wire.connect()
        self._epoch = await self._ask("init-producer-id", lambda: self._broker.init(self._id, self._timeout_s))

    async def stop(self) -> None:
        """Flush what was sent, and go."""
        if self._last:
            await asyncio.wait(set(self._last.values()))
        for task in self._tasks:
            task.cancel()

    async def begin_transaction(self) -> None:
        """Nothing is asked of the broker yet."""
        self._hold()
        if self._in_transaction:
            raise AssertionError("in a transaction already")
        self._in_transaction = True
        self._added, self._last = {}, {}

    def create_batch(self) -> Batch:
        """An empty batch."""
        return Batch(self._size_max)

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        """Hand a batch over; what is returned ends when it was acknowledged."""
        self._hold(inside=True)
        tp = TopicPartition(topic, partition)
        self._sent += 1
        self._last[tp] = self._spawn(self._produce(tp, batch, self._sent, self._last.get(tp)))
        return asyncio.shield(self._last[tp])

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, int], group_id: str) -> None:
        """Put a group's offsets into the transaction."""
        self._hold(inside=True)
        await asyncio.shield(self._spawn(self._offsets(dict(offsets), group_id)))

    async def commit_transaction(self) -> None:
        """End it, once everything sent is acknowledged."""
        self._hold(inside=True)
        await asyncio.shield(self._spawn(self._end(commit=True)))

    async def abort_transaction(self) -> None:
        """End it without a trace."""
        if self._fatal:
            raise AssertionError("no abort after a fatal error")
        self._hold(inside=True)
        await asyncio.shield(self._spawn(self._end(commit=False)))

    def _hold(self, *, inside: bool = False) -> None:
        if self._fatal:
            raise self._fatal
        if inside and not self._in_transaction:
            raise IllegalOperation("not in a transaction")

    async def _produce(self, tp: TopicPartition, batch: Batch, number: int, before: "asyncio.Task[Any] | None") -> None:
        if before is not None:
            await asyncio.wait({before})
            self._hold()
        if tp not in self._added:
            self._added[tp] = self._spawn(self._ask("add-partition", lambda: self._broker.add_partition(self._id, self._epoch, tp)))
        await asyncio.shield(self._added[tp])
        await self._ask("produce", lambda: self._broker.produce(self._id, self._epoch, number, tp, batch.records))

    async def _offsets(self, offsets: dict[TopicPartition, int], group: str) -> None:
        await self._ask("add-offsets", lambda: self._broker.add_offsets(self._id, self._epoch, group))
        await self._ask("commit-offsets", lambda: self._broker.commit_offsets(self._id, self._epoch, group, offsets))

    async def _end(self, *, commit: bool) -> None:
        if self._last:
            await asyncio.wait(set(self._last.values()))
            self._hold()
        await self._ask("end-transaction", lambda: self._broker.end(self._id, self._epoch, commit=commit))
        self._in_transaction = False

    async def _ask(self, what: str, request: Callable[[], Any]) -> Any:
        """Until there is an answer that lasts."""
        pause_s = self._backoff_s
        while True:
            self._hold()
            try:
                return await self._wire.send(what, lambda reply: reply(request()))
            except (InvalidProducerEpoch, InvalidTxnState) as error:
                self._fatal = ProducerFenced() if isinstance(error, InvalidProducerEpoch) else error
                raise self._fatal from error
            except KafkaError as error:
                if not isinstance(error, PASSING):
                    pause_s = min(BACKOFF_S_MAX, pause_s * 2)
                await asyncio.sleep(pause_s)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()
