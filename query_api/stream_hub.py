"""All open streams of this process: admission, heartbeats, and their end."""

import asyncio
from typing import Final

import structlog
from prometheus_client import Counter, Gauge

from infra.cache import CacheUnavailable, Views
from infra.changes import Changes
from infra.clock import Clock
from infra.http import Background, Caller, ProblemError, Revocations
from infra.market import MarketCache
from query_api import stream_events
from query_api.stream_events import EVENTS
from query_api.stream_feed import Feed
from query_api.stream_listener import Listener
from query_api.stream_prices import WatchedPrices

log = structlog.get_logger()

HEARTBEAT_S: Final = 15.0
"""Time between two signs of life of a stream. At each the token is looked at, and whether the view has gone past what was told."""
BEATS: Final = 15
"""Groups of listeners whose heartbeats come one after the other, so that not all of them are looked at at once."""
LISTENERS_OF_USER_MAX: Final = 20
CATCHING_UP_AT_ONCE: Final = 8
"""Views that are read at once for listeners that are behind: after a loss of the connection to Redis all of them may be."""
RETRY_AFTER_S: Final = 5

LISTENERS: Final = Gauge("cnop_stream_listeners", "Open streams")
ENDED: Final = Counter("cnop_stream_ended_total", "Streams that ended, by reason", ["reason"])


class Streams:
    """Opens streams and keeps them going. `start` begins the work that is done for all of them together."""

    def __init__(
        self,
        views: Views,
        changes: Changes,
        *,
        market: MarketCache,
        revocations: Revocations,
        clock: Clock,
        listeners_max: int,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._views = views
        self._changes = changes
        self._revocations = revocations
        self._clock = clock
        self._listeners_max = listeners_max
        self._heartbeat_s = heartbeat_s
        self._prices = WatchedPrices(market)
        self._late: asyncio.Queue[Feed] = asyncio.Queue()
        """As long as there are feeds: each is in it once."""
        self._feeds: dict[str, Feed] = {}
        self._followed: dict[str, asyncio.Task[bool]] = {}
        self._groups: tuple[set[Listener], ...] = tuple(set() for _ in range(BEATS))
        self._count = 0
        self._stopping = False

    def start(self, background: Background) -> None:
        """Run everything that all streams have in common, as tasks of the process."""
        background.start("stream changes", self._changes.run())
        background.start("stream prices", self._prices.run())
        background.start("stream heartbeats", self._beat_on())
        for number in range(CATCHING_UP_AT_ONCE):
            background.start(f"stream catching up {number}", self._catch_up())

    def stop(self) -> None:
        """End all streams, and open no others."""
        self._stopping = True
        for listener in self._all():
            listener.end("restart")

    async def unknown(self, asset_ids: frozenset[str]) -> list[str]:
        """Those that are not listed. DynamoUnavailable where the market cannot be read."""
        return await self._prices.unknown(sorted(asset_ids)) if asset_ids else []

    async def open(self, caller: Caller, asset_ids: frozenset[str], last_id: int | None) -> Listener:
        """A stream that begins with what is not known at `last_id`; `close` it at its end.

        A problem where there are too many; DynamoUnavailable or TooManyReads where the account cannot be read.
        """
        self._admit(caller)
        listener = Listener(caller, asset_ids)
        feed = self._join(listener)
        try:
            await asyncio.shield(self._followed[caller.username])  # before the view is read, so that nothing is missed between
            listener.push(stream_events.opening(caller.token_id))
            await feed.begin(listener, last_id)
        except BaseException:
            self.close(listener)
            raise
        if self._stopping:
            listener.end("restart")
        return listener

    def close(self, listener: Listener) -> None:
        """Forget a stream."""
        username = listener.caller.username
        for group in self._groups:
            group.discard(listener)
        self._prices.leave(listener)
        self._number(-1)
        ENDED.labels(listener.ended or "left").inc()
        feed = self._feeds[username]
        feed.listeners.discard(listener)
        if not feed.listeners:
            del self._feeds[username], self._followed[username]
            self._changes.leave(username)

    def _admit(self, caller: Caller) -> None:
        feed = self._feeds.get(caller.username)
        if self._stopping:
            raise ProblemError("unavailable", "This process stops; another one is to be had in a moment.")
        if feed and len(feed.listeners) >= LISTENERS_OF_USER_MAX:
            raise ProblemError("rate-limited", f"You have {LISTENERS_OF_USER_MAX} streams open, and may have no more.", headers=_LATER)
        if self._count >= self._listeners_max:
            raise ProblemError("overloaded", "As many streams are open here as there may be.", headers=_LATER)

    def _join(self, listener: Listener) -> Feed:
        username = listener.caller.username
        feed = self._feeds.get(username)
        if feed is None:
            feed = self._feeds[username] = Feed(username, self._views, self._prices, self._late)
            self._followed[username] = self._changes.follow(username, feed)
        feed.listeners.add(listener)
        min(self._groups, key=len).add(listener)
        self._number(1)
        return feed

    def _number(self, change: int) -> None:
        self._count += change
        LISTENERS.set(self._count)

    def _all(self) -> list[Listener]:
        return [listener for group in self._groups for listener in group]

    async def _catch_up(self) -> None:
        while True:
            feed = await self._late.get()
            try:
                await feed.catch_up()
            except Exception:
                log.exception("listeners of an account that cannot be read are sent away")
                for listener in tuple(feed.listeners):
                    listener.end("restart")

    async def _beat_on(self) -> None:
        while True:
            for group in self._groups:
                await asyncio.sleep(self._heartbeat_s / BEATS)
                await self._beat(tuple(group))

    async def _beat(self, group: tuple[Listener, ...]) -> None:
        now = self._clock.now()
        callers = [listener.caller for listener in group]
        revoked = await asyncio.gather(*(self._revocations.is_revoked(caller.token_id, caller.family) for caller in callers), return_exceptions=True)
        for listener, answer in zip(group, revoked, strict=True):
            # While nobody can tell, a token in time is enough, as it is for other reads.
            if answer is True or listener.caller.expires_at <= now:
                listener.end("unauthorized")
            else:
                listener.push(stream_events.HEARTBEAT)
        EVENTS.labels("heartbeat").inc(len(group))
        await self._compare(sorted({listener.caller.username for listener in group}))

    async def _compare(self, usernames: list[str]) -> None:
        """With the views, so that whatever was lost in between is made up for. While Redis is away nothing changes there."""
        try:
            shown = await asyncio.gather(*map(self._views.version, usernames))
        except CacheUnavailable:
            return
        except Exception:
            log.exception("versions of views cannot be read")
            return
        for username, version in zip(usernames, shown, strict=True):
            if feed := self._feeds.get(username):
                feed.seen(version)


_LATER: Final = {"Retry-After": str(RETRY_AFTER_S)}
