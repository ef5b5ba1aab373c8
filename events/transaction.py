"""One Kafka transaction for all that a batch leaves behind: records to several topics, and the offset that says the batch is done.

The transactional id names a partition. Whoever opens it last fences every earlier holder, and by that ends a transaction one of them may
have left open. So after a failure nothing is guessed and nothing aborted: open it again, and read the committed offset. Kafka has decided by
then whether the transaction took place, its lost answer or not.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, InvalidProducerEpoch, KafkaConnectionError, KafkaError, ProducerFenced, UnknownError
from aiokafka.producer.message_accumulator import BatchBuilder

from events.topics import REQUEST_BYTES_MAX

log = structlog.get_logger()

RETRY_BACKOFF_MS: Final = 5
"""A transaction begun while the last one's markers are being written is refused for a moment: the client's default of 100 ms is felt by callers."""
BATCH_BYTES_MAX: Final = REQUEST_BYTES_MAX
"""Bytes sent at once to one topic: the broker holds them against the topic's limit for one record, and this is the smallest of those."""
WAIT_TIMES: Final = 2
"""A commit is waited for this many times as long as a transaction can live: what takes longer did not, or its answer is lost."""
CONNECT_PAUSE_S: Final = 0.5
CLOSE_S: Final = 2.0

Record = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""Key, value and headers."""


class Fenced(RuntimeError):
    """The broker takes nothing more from this process for this partition: another owner is there, or a transaction outlived its time. Stop at once."""


class TransactionFailed(RuntimeError):
    """The transaction may or may not have taken place. Open again, and ask the committed offset."""


class TooLargeToPublish(ValueError):
    """A record is over its topic's limit: it would be refused again and again. The text names the topic and the size."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Records for one topic, in order. `record_bytes_max` is that topic's own limit."""

    topic: str
    record_bytes_max: int
    records: Sequence[Record]


class Transactions:
    """The transactions of one partition. `open` before the first `commit`, and again after TransactionFailed."""

    def __init__(self, bootstrap: str, *, transactional_id: str, client_id: str, partition: int, transaction_ms: int) -> None:
        self._bootstrap = bootstrap
        self._transactional_id = transactional_id
        self._client_id = client_id
        self._partition = partition
        self._transaction_ms = transaction_ms
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """Fence every earlier holder and end what it left open. Waits for a broker for as long as the caller does; Fenced where a later one fenced us."""
        await self.close()
        while True:
            producer = self._new_producer()
            try:
                await producer.start()
            except KafkaConnectionError:
                await _stop(producer)
                await asyncio.sleep(CONNECT_PAUSE_S)
                continue
            except BaseException:
                await _stop(producer)
                raise
            self._producer = producer
            return

    async def commit(self, outgoing: Sequence[Outgoing], offsets: Mapping[TopicPartition, int], group: str) -> None:
        """All of it, or none. Raises Fenced, TransactionFailed, or TooLargeToPublish; with the last, nothing was begun."""
        producer = self._producer
        if producer is None:
            raise TransactionFailed("not open")
        packed = [(out.topic, _packed(producer, out)) for out in outgoing if out.records]
        try:
            async with asyncio.timeout(WAIT_TIMES * self._transaction_ms / 1000):
                await producer.begin_transaction()
                # The offset first. Side by side the broker may still be taking in the group when it checks the records' partition, refuses them
                # for a moment, and the client waits before it tries again: that took longer than what was saved, one time in seven.
                await producer.send_offsets_to_transaction(dict(offsets), group)
                await _all(*(self._send(producer, topic, batches) for topic, batches in packed))
                await producer.commit_transaction()
        except (KafkaError, IllegalOperation, AssertionError, TimeoutError) as error:
            if _is_fencing(error):
                raise Fenced(f"partition {self._partition}: {error!r}") from error
            raise TransactionFailed(repr(error)) from error

    async def close(self) -> None:
        """Disconnect, within a bound. An open transaction is left to the next holder, or to its timeout."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def _send(self, producer: AIOKafkaProducer, topic: str, batches: Sequence[BatchBuilder]) -> None:
        # One after the other is how the client sends to a partition, and what keeps their order.
        sent = [await producer.send_batch(batch, topic, partition=self._partition) for batch in batches]
        await _all(*sent)

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            transactional_id=self._transactional_id,
            transaction_timeout_ms=self._transaction_ms,
            acks="all",
            linger_ms=0,
            max_batch_size=BATCH_BYTES_MAX,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )


def _packed(producer: AIOKafkaProducer, out: Outgoing) -> list[BatchBuilder]:
    """Records as batches. Made here and not one by one in the client: that takes a future, a task and a look at the metadata for each."""
    batches: list[BatchBuilder] = []
    for key, value, headers in out.records:
        if batches and batches[-1].append(timestamp=None, key=key, value=value, headers=headers) is not None:
            continue
        batch = producer.create_batch()
        batch.append(timestamp=None, key=key, value=value, headers=headers)
        if batch.size() > out.record_bytes_max:
            raise TooLargeToPublish(f"a record of {batch.size()} bytes for {out.topic}, which takes {out.record_bytes_max}")
        batches.append(batch)
    return batches


async def _all(*work: Awaitable[object]) -> None:
    """All of it, to the end; then raise what went wrong. The one that says more first: after a fencing the others fail with what it left them."""
    errors = [result for result in await asyncio.gather(*work, return_exceptions=True) if isinstance(result, BaseException)]
    if errors:
        raise next(filter(_is_fencing, errors), errors[0])


def _is_fencing(error: BaseException) -> bool:
    """Whether the broker sent us away.

    Codes that this client does not know, 82 and 90 for instance, come as UnknownError, and so does an error inside of the broker. They are
    treated alike: without knowing better it is right to end, and the next process of this slot finds out where to go on.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ProducerFenced | InvalidProducerEpoch | UnknownError):
            return True
        cause = cause.__cause__
    return False


async def _stop(producer: AIOKafkaProducer) -> None:
    # Stopping flushes; after a fencing there is nothing of ours to flush and the client says so by raising.
    with suppress(KafkaError, IllegalOperation, AssertionError, TimeoutError):
        await asyncio.wait_for(producer.stop(), CLOSE_S)
