"""A connection to Redis that listens: to one channel for as long as it runs, and to others as they are added and dropped.

Messages are hints that save time, never the truth: what is published while nobody is subscribed is gone. So whoever listens is told when that may have
happened, and looks for itself then.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

log = structlog.get_logger()

CONFIRM_S: Final = 5.0
"""Bound of the first subscription of a connection, until the server has confirmed it."""
ADD_S: Final = 1.0
"""Bound of one that is added later."""
LOOK_S: Final = 2.0
"""After this much silence the server is asked for a sign of life."""
SILENT_LOOKS_MAX: Final = 3
"""So many unanswered looks in a row count as a lost connection."""
RETRY_S: Final = 0.05
RETRY_S_MAX: Final = 2.0
CHANNELS_AT_ONCE: Final = 256
"""Channels named in one command."""

Told = Callable[[str, bytes], None]
"""Gets channel and message."""
Lost = Callable[[str], None]
"""Gets a channel whose messages may have gone nowhere for a while, and come again from now on."""


class Subscription:
    """One connection and its channels.

    `start` returns when the server has confirmed the first channel. `run` must be a held task; when the connection is lost it subscribes again for as
    long as it takes, and then calls `lost` for each channel, the first one before the others.
    """

    def __init__(self, redis: Redis, channel: str, told: Told, lost: Lost) -> None:
        self.channel = channel
        self._redis = redis
        self._told = told
        self._lost = lost
        self._pubsub: PubSub | None = None
        self._channels: set[str] = set()
        self._dropped: set[str] = set()
        self._awaited: dict[str, asyncio.Future[None]] = {}
        self._writing = asyncio.Lock()
        """Commands go out in the order in which they were meant: a channel that is dropped and added again stays."""

    @property
    def connected(self) -> bool:
        """Whether the subscription stands, as far as is known."""
        return self._pubsub is not None

    async def start(self) -> None:
        """Subscribe once. RedisError, OSError or TimeoutError where that fails."""
        self._pubsub = await self._subscribe()

    async def run(self) -> None:
        """Hand out messages until cancelled."""
        try:
            while True:
                pubsub = self._pubsub or await self._subscribe_again()
                try:
                    await self._listen(pubsub)
                except (RedisError, OSError) as error:
                    log.warning("subscription lost, subscribing again", channel=self.channel, error=str(error) or type(error).__name__)
                self._pubsub = None
                await _close(pubsub)
        finally:
            if self._pubsub:
                await _close(self._pubsub)
                self._pubsub = None

    async def add(self, channel: str) -> bool:
        """Listen to one more channel. Whether the server has confirmed it: where it could not in time, `lost` is called when it has."""
        self._channels.add(channel)
        pubsub = self._pubsub
        if pubsub is None:
            return False
        confirmed = self._awaited.setdefault(channel, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(ADD_S):
                async with self._writing:
                    await pubsub.subscribe(channel)
                await asyncio.shield(confirmed)
        except (RedisError, OSError):  # TimeoutError is an OSError
            self._awaited.pop(channel, None)
            return False
        return True

    def drop(self, channel: str) -> None:
        """Listen to it no more. The server is told with the next message or look."""
        self._channels.discard(channel)
        self._dropped.add(channel)

    async def _subscribe(self) -> PubSub:
        pubsub = self._redis.pubsub()
        try:
            async with asyncio.timeout(CONFIRM_S):
                await pubsub.subscribe(self.channel)
                while True:
                    message = await pubsub.get_message(timeout=CONFIRM_S)
                    if message and message["type"] == "subscribe":
                        return pubsub
        except BaseException:
            await _close(pubsub)
            raise

    async def _subscribe_again(self) -> PubSub:
        pause_s = RETRY_S
        while True:
            try:
                pubsub = await self._subscribe()
            except (RedisError, OSError):
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_S_MAX)
            else:
                self._pubsub = pubsub
                self._dropped.clear()
                log.info("subscribed again", channel=self.channel, others=len(self._channels))
                self._lost(self.channel)
                return pubsub

    async def _listen(self, pubsub: PubSub) -> None:
        await self._resume(pubsub)
        silent = 0
        while silent < SILENT_LOOKS_MAX:
            message = await pubsub.get_message(timeout=LOOK_S)
            if message is None:
                silent += 1
                await pubsub.ping()
            else:
                silent = 0
                self._hear(message["type"], message["channel"], message["data"])
            if self._dropped:
                await self._forget(pubsub)
            _end_if_cancelled()
        raise ConnectionError(f"no sign of life for {SILENT_LOOKS_MAX * LOOK_S} s")

    async def _resume(self, pubsub: PubSub) -> None:
        """The other channels on a new connection; what is confirmed without being awaited counts as lost until then."""
        async with self._writing:
            for some in _parts(frozenset(self._channels)):
                await pubsub.subscribe(*some)

    def _hear(self, kind: str, channel: bytes | str | None, data: bytes | str) -> None:
        name = channel.decode() if isinstance(channel, bytes) else channel or ""
        if kind == "message":
            self._told(name, data.encode() if isinstance(data, str) else data)
        elif kind == "subscribe" and name == self.channel:
            raise ConnectionError("the client library has reconnected by itself")
        elif kind == "subscribe":
            self._confirm(name)

    def _confirm(self, channel: str) -> None:
        awaited = self._awaited.pop(channel, None)
        if awaited and not awaited.done():
            awaited.set_result(None)
        elif channel in self._channels:
            self._lost(channel)

    async def _forget(self, pubsub: PubSub) -> None:
        async with self._writing:
            gone, self._dropped = self._dropped - self._channels, set()
            for some in _parts(gone):
                await pubsub.unsubscribe(*some)


def _parts(channels: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(channels)
    while some := list(islice(rest, CHANNELS_AT_ONCE)):
        yield some


def _end_if_cancelled() -> None:
    """The client sends under `asyncio.wait_for`, which before Python 3.12 forgets a cancel that comes as it is done."""
    task = asyncio.current_task()
    if task and task.cancelling():
        raise asyncio.CancelledError


async def _close(pubsub: PubSub) -> None:
    with contextlib.suppress(RedisError, OSError):
        await pubsub.aclose()  # type: ignore[no-untyped-call] # redis-py has no annotation there
