"""Publishing for the doors: idempotent, acknowledged by all replicas, and honest about what is not known.

An idempotent producer never drops a batch that was handed to it: a publish that is not acknowledged in time may still come into the
log, whenever the broker is back. So there are two failures, and they are not alike: `Unavailable` says that nothing was handed over,
`OutcomeUnknown` that something was.
"""

import asyncio
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from prometheus_client import Counter, Gauge, Histogram

import events.connections  # noqa: F401 - see there
from events.envelope import Envelope
from events.topics import REQUEST_BYTES_MAX

log = structlog.get_logger()

HAND_OVER_S: Final = 1.0
"""How long a publish may wait for metadata and buffer space before anything is handed over."""
WATCH_INTERVAL_S: Final = 1.0
WATCH_TIMEOUT_S: Final = 2.0
RETRY_BACKOFF_MS: Final = 20
REQUEST_TIMEOUT_MS: Final = 10_000
BATCH_BYTES: Final = 16 * 1024
BULK_BATCH_BYTES: Final = REQUEST_BYTES_MAX * 3 // 4
"""Records of one partition that are sent together: few for somebody who waits for each, many for who has thousands at a time. A batch counts as one
message for the topic's bound."""
IN_FLIGHT_MAX: Final = 1_000
"""Events that are handed over or waiting for it, and not acknowledged, at once: with it the bytes in the client's buffers are bounded."""

PUBLISHED: Final = Counter("cnop_published_total", "Events published, by outcome", ["topic", "outcome"])
IN_FLIGHT: Final = Gauge("cnop_publishes_in_flight", "Events handed over, or waiting for it, that are not acknowledged")
PUBLISH_S: Final = Histogram(
    "cnop_publish_seconds", "Hand-over to acknowledgement", ["topic"], buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 3)
)


class Unavailable(RuntimeError):
    """The event was not handed to the broker's client: it will not appear in the log."""


class TooManyInFlight(RuntimeError):
    """So many events wait for their acknowledgement that one more is refused: it was not handed over, and will not appear in the log."""


class OutcomeUnknown(RuntimeError):
    """The event was handed over and not acknowledged in time: it may be in the log, or come into it later."""


class TooLarge(ValueError):
    """The record is over the topic's limit: refused before anything was sent."""


class PublisherDead(RuntimeError):
    """The client's sender has ended, after an error that it cannot come back from: the process must be started anew."""


class Bus:
    """A door's publisher. `start` waits for the first connection; `watch` must run as a held task: it tells whether a broker answers."""

    def __init__(self, bootstrap: str, *, client_id: str, acknowledge_s: float, in_flight_max: int = IN_FLIGHT_MAX, batch_bytes: int = BATCH_BYTES) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._acknowledge_s = acknowledge_s
        self._reachable = False
        self._in_flight_max = in_flight_max
        self._batch_bytes = batch_bytes
        self._publishing = 0
        self._on_the_way: set[str] = set()
        self._gave_up: BaseException | None = None

    @property
    def reachable(self) -> bool:
        """Whether a broker answered the last look, at most a few seconds ago."""
        return self._reachable

    @property
    def in_flight(self) -> int:
        """Events that are not acknowledged: those that somebody waits for, and those that were told as unknown and may still arrive."""
        return self._publishing + len(self._on_the_way)

    async def ping(self) -> None:
        """Raises Unavailable where no broker answered the last look."""
        if not self._reachable:
            raise Unavailable("no broker answers")

    async def start(self) -> None:
        """Connect. KafkaConnectionError where no broker answers; it may be called again then."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=self._batch_bytes,
            max_request_size=REQUEST_BYTES_MAX,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        self._producer, self._reachable = producer, True

    async def stop(self, within_s: float) -> None:
        """Flush what was handed over, within a bound, and disconnect. What is not acknowledged by then stays unknown."""
        if self._producer is None:
            return
        try:
            await asyncio.wait_for(self._producer.stop(), within_s)
        except TimeoutError:
            log.warning("publisher stopped with unacknowledged events", within_s=within_s)

    async def watch(self) -> None:
        """Ask for metadata again and again; runs until it is cancelled. PublisherDead where the client will never send again."""
        while True:
            if self._producer is not None and self._producer._sender.sender_task.done():  # noqa: SLF001 - the client tells of it in no other way
                raise PublisherDead("the Kafka client's sender has ended")
            if self._gave_up is not None:
                # The event's place in the producer's sequence is used up: the broker refuses all that follow it in that partition, for ever.
                raise PublisherDead(f"the Kafka client gave an event up: {self._gave_up!r}")
            reachable = await self._answers()
            if reachable != self._reachable:
                log.warning("broker reachable" if reachable else "broker away")
            self._reachable = reachable
            await asyncio.sleep(WATCH_INTERVAL_S)

    async def _answers(self) -> bool:
        if self._producer is None:
            return False
        try:
            await asyncio.wait_for(self._producer.client.fetch_all_metadata(), WATCH_TIMEOUT_S)
        except (KafkaError, OSError, TimeoutError):
            return False
        return True

    async def publish(self, topic: str, envelope: Envelope, partition: int | None = None) -> None:
        """Returns when every replica in sync has the event; never retries with a new record.

        Raises Unavailable, TooManyInFlight or TooLarge, where nothing was handed over, or OutcomeUnknown.

        While an event that was told as unknown may still arrive, the same id is told as unknown again, also where the broker is away by
        then: "nothing was sent" would be true of this call and a lie about the request.
        """
        if envelope.id in self._on_the_way:
            PUBLISHED.labels(topic, "unknown").inc()
            raise OutcomeUnknown("an earlier event of this id was handed over and is not acknowledged yet")
        if self._producer is None or not self._reachable:
            PUBLISHED.labels(topic, "unavailable").inc()
            raise Unavailable("no broker answers")
        if self.in_flight >= self._in_flight_max:
            PUBLISHED.labels(topic, "too-many").inc()
            raise TooManyInFlight(f"{self._in_flight_max} events are not acknowledged yet")
        self._count(1)
        try:
            with PUBLISH_S.labels(topic).time():
                acknowledged = await self._hand_over(self._producer, topic, envelope, partition)
                await self._acknowledge(topic, envelope.id, acknowledged)
        finally:
            self._count(-1)
        PUBLISHED.labels(topic, "acknowledged").inc()

    def _count(self, change: int) -> None:
        self._publishing += change
        IN_FLIGHT.set(self.in_flight)

    async def _hand_over(self, producer: AIOKafkaProducer, topic: str, envelope: Envelope, partition: int | None) -> "asyncio.Future[object]":
        try:
            async with asyncio.timeout(HAND_OVER_S):
                acknowledged: asyncio.Future[object] = await producer.send(
                    topic, value=envelope.value, key=envelope.key, partition=partition, headers=envelope.headers()
                )
                return acknowledged
        except MessageSizeTooLargeError:
            PUBLISHED.labels(topic, "too-large").inc()
            raise TooLarge(f"the record is larger than {REQUEST_BYTES_MAX} bytes") from None
        except (KafkaError, TimeoutError) as error:
            PUBLISHED.labels(topic, "unavailable").inc()
            raise Unavailable(str(error) or "no metadata or buffer space in time") from error

    async def _acknowledge(self, topic: str, event_id: str, acknowledged: "asyncio.Future[object]") -> None:
        try:
            async with asyncio.timeout(self._acknowledge_s):
                await asyncio.shield(acknowledged)
        except (KafkaError, TimeoutError) as error:
            self._reachable = self._reachable and not isinstance(error, TimeoutError)
            self._on_the_way.add(event_id)
            acknowledged.add_done_callback(lambda future: self._arrived(event_id, future))
            PUBLISHED.labels(topic, "unknown").inc()
            raise OutcomeUnknown(str(error) or f"not acknowledged within {self._acknowledge_s} s") from error

    def _arrived(self, event_id: str, future: "asyncio.Future[object]") -> None:
        self._on_the_way.discard(event_id)
        self._count(0)
        if not future.cancelled() and (error := future.exception()):
            self._gave_up = error
