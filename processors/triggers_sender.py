"""Publishing requests from inside: many at once, each until it is in the log for sure, and none again right after.

Their ids are made of what caused them, so whoever else sees the same cause publishes the same requests, and settlement takes the first.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

import stamina
from prometheus_client import Counter

from events.bus import OutcomeUnknown, TooManyInFlight, Unavailable
from events.envelope import Envelope
from events.topics import REQUESTS
from infra.clock import Clock
from schemas.requests import OrderExpiryReached, OrderRevoked, OrderTriggered, encode_request, expiry_id, request_type, revocation_id, trigger_id

SOURCE: Final = "urn:cnop:triggers"
PUBLISHES_MAX: Final = 500
"""Requests on their way at once."""
REMEMBERED_MAX: Final = 100_000
"""Orders that are known to have been published for lately; of more the oldest are forgotten, and may be published for again."""
LONGER: Final = 8
LEFT_ALONE_S_MAX: Final = 600.0
"""An order that goes on being found is left alone so many times longer each time, up to this bound: its request is in the log already. More of the
same would not help a settlement that is behind, and would pile up in a parked account."""
ATTEMPTS_MAX: Final = 30
RETRY_S_MAX: Final = 30.0
RETRY_WAIT_S_MAX: Final = 2.0
_retried: Final = stamina.AsyncRetryingCaller(attempts=ATTEMPTS_MAX, timeout=RETRY_S_MAX, wait_initial=0.05, wait_max=RETRY_WAIT_S_MAX).on(
    (Unavailable, OutcomeUnknown, TooManyInFlight)
)

PUBLISHED: Final = Counter("cnop_triggers_published_total", "Requests from inside that were published, by type", ["type"])

FromInside = OrderTriggered | OrderExpiryReached | OrderRevoked


class Publisher(Protocol):
    """Where requests go: `events.bus.Bus`, or a test's list."""

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Returns when the event is safe in the log. Unavailable, TooManyInFlight or OutcomeUnknown where it is not, or not known to be."""
        ...


@dataclass(frozen=True, slots=True)
class Cause:
    """What requests go back to: the event of a price, or a sweep of our own, which has only a name."""

    trace_id: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class Lately:
    """The orders that were published for: each is left alone for `wait_s`, and `LONGER` each time after."""

    def __init__(self, wait_s: float, timer: Callable[[], float], remembered_max: int = REMEMBERED_MAX) -> None:
        self._wait_s = wait_s
        self._timer = timer
        self._remembered_max = remembered_max
        self._orders: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def is_over(self, order_id: str) -> bool:
        """Whether an order may be published for again."""
        return self._timer() >= self._orders.get(order_id, (0.0, 0.0))[0]

    def note(self, order_id: str) -> None:
        """It was published for now."""
        now = self._timer()
        _, waited_s = self._orders.pop(order_id, (0.0, 0.0))
        wait_s = min(LEFT_ALONE_S_MAX, waited_s * LONGER) or self._wait_s
        self._orders[order_id] = now + wait_s, wait_s
        while len(self._orders) > self._remembered_max or self._first_over() < now - LEFT_ALONE_S_MAX:
            self._orders.popitem(last=False)

    def _first_over(self) -> float:
        return next(iter(self._orders.values()))[0]

    def __len__(self) -> int:
        return len(self._orders)


class Sender:
    """Publishes requests from inside."""

    def __init__(self, bus: Publisher, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._slots = asyncio.Semaphore(PUBLISHES_MAX)

    async def send(self, requests: Sequence[FromInside], cause: Cause, lately: Lately) -> int:
        """Publish for those orders that were not published for lately. Returns how many, when all of them are in the log.

        Raises what the bus still says after `RETRY_S_MAX`, and at once what does not pass.
        """
        waiting = {request.order_id: request for request in requests if lately.is_over(request.order_id)}
        wanted = len(waiting)
        if wanted:
            await _retried(self._publish, waiting, cause, lately)
        return wanted

    async def _publish(self, waiting: dict[str, FromInside], cause: Cause, lately: Lately) -> None:
        """Publish those that wait, side by side; who is in the log waits no more. Raises the first failure when all have been tried."""
        done = await asyncio.gather(*(self._one(request, cause, waiting, lately) for request in list(waiting.values())), return_exceptions=True)
        for failure in done:
            if failure:
                raise failure

    async def _one(self, request: FromInside, cause: Cause, waiting: dict[str, FromInside], lately: Lately) -> None:
        async with self._slots:
            await self._bus.publish(REQUESTS, self._envelope(request, cause))
        del waiting[request.order_id]
        lately.note(request.order_id)
        PUBLISHED.labels(type(request).__name__).inc()

    def _envelope(self, request: FromInside, cause: Cause) -> Envelope:
        return Envelope(
            id=_id(request),
            source=SOURCE,
            type=request_type(request),
            subject=request.username,
            time=self._clock.now(),
            value=encode_request(request),
            correlation_id=cause.correlation_id,
            trace_id=cause.trace_id,
            causation_id=cause.causation_id,
            traceparent=cause.traceparent,
            tracestate=cause.tracestate,
        )


def _id(request: FromInside) -> str:
    match request:
        case OrderTriggered():
            return trigger_id(request.order_id, request.sequence)
        case OrderExpiryReached():
            return expiry_id(request.order_id)
        case OrderRevoked():
            return revocation_id(request.order_id, request.reason)
        case _:
            assert_never(request)
