"""The door's side of the replies: one Redis channel per door instance, and the callers that wait on it.

The projector publishes a result to the channel named in the request's record, after the view shows it. A reply is a hint that saves
time, never the truth: one that is lost, with the connection or the projector, costs a look into the ledger.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

import structlog
from prometheus_client import Counter, Gauge
from redis.asyncio import Redis

from infra.subscription import Subscription
from schemas.results import Result, UnreadableResult, decode_result

log = structlog.get_logger()

CHANNEL_PREFIX: Final = "reply:"

REPLIES: Final = Counter("cnop_replies_total", "Replies that came to this door, by what became of them", ["outcome"])
WAITING: Final = Gauge("cnop_waiters", "Callers waiting for an outcome")
RECONNECTS: Final = Counter("cnop_reply_reconnects_total", "Subscriptions that had to be made again")


class TooManyWaiters(RuntimeError):
    """So many callers wait already that one more is refused."""


class Waiter:
    """One caller waiting for the outcome of one request."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self._result: Result | None = None

    async def result(self, within_s: float) -> Result | None:
        """The result; None at the end of the time, or earlier where replies may have been lost: look into the ledger then, and wait on."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._woken.wait()
        self._woken.clear()
        return self._result

    def tell(self, result: Result) -> None:
        """Hand over the result."""
        self._result = result
        self._woken.set()

    def wake(self) -> None:
        """Have the caller look into the ledger."""
        self._woken.set()


class Replies:
    """The subscription and its waiters.

    `start` returns when the server has confirmed the subscription: only then may a request name the channel. `run` must be a held task; it
    subscribes again for as long as it takes when the connection is lost, and then wakes every waiter.
    """

    def __init__(self, redis: Redis, instance: str, *, waiters_max: int) -> None:
        self._subscription = Subscription(redis, CHANNEL_PREFIX + instance, self._hand_out, self._lost)
        self._waiters_max = waiters_max
        self._waiting = 0
        self._waiters: dict[str, set[Waiter]] = {}

    @property
    def channel(self) -> str:
        """The channel to name in a request."""
        return self._subscription.channel

    @property
    def connected(self) -> bool:
        """Whether the subscription stands, as far as is known. Without it an outcome is found in the ledger only."""
        return self._subscription.connected

    @property
    def waiting(self) -> int:
        """Callers that wait now."""
        return self._waiting

    async def start(self) -> None:
        """Subscribe once. RedisError, OSError or TimeoutError where that fails."""
        await self._subscription.start()

    async def run(self) -> None:
        """Hand out replies until cancelled."""
        await self._subscription.run()

    @contextlib.contextmanager
    def expect(self, request_id: str) -> Iterator[Waiter]:
        """Wait for a request's outcome inside the `with`; begin it before the request is published. TooManyWaiters at the bound."""
        if self._waiting >= self._waiters_max:
            raise TooManyWaiters(f"{self._waiters_max} callers wait already")
        waiter = Waiter()
        self._waiters.setdefault(request_id, set()).add(waiter)
        self._count(1)
        try:
            yield waiter
        finally:
            self._count(-1)
            others = self._waiters[request_id]
            others.discard(waiter)
            if not others:
                del self._waiters[request_id]

    def _count(self, change: int) -> None:
        self._waiting += change
        WAITING.set(self._waiting)

    def _lost(self, _channel: str) -> None:
        """Replies may have gone nowhere meanwhile."""
        RECONNECTS.inc()
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.wake()

    def _hand_out(self, _channel: str, data: bytes) -> None:
        try:
            result = decode_result(data)
        except UnreadableResult as error:
            REPLIES.labels("unreadable").inc()
            log.warning("unreadable reply", error=str(error))
            return
        waiters = self._waiters.get(result.request_id, ())
        REPLIES.labels("handed-out" if waiters else "late").inc()
        for waiter in waiters:
            waiter.tell(result)
