"""What moves the views on, as Redis tells it: a door's followers of accounts, behind one subscription.

The guard of the views publishes each change of a view on the account's channel (`infra.cache_guard`). A follower is told of a change after the view shows
it, at most once: what may have been lost is told as lost, and the follower looks at the view then.
"""

import asyncio
import contextlib
from typing import Final, Protocol

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from infra.cache_guard import ANEW, CHANGES, LOADED
from infra.subscription import Subscription
from schemas.results import Result, UnreadableResult, decode_result

log = structlog.get_logger()

TOLD: Final = Counter("cnop_changes_total", "Changes of views that were told to this door, by what they were", ["kind"])
RECONNECTS: Final = Counter("cnop_change_reconnects_total", "Subscriptions to changes that had to be made again")


class Follower(Protocol):
    """Is told what becomes of one account's view. None of these waits."""

    def changed(self, result: Result) -> None:
        """The view shows this result."""
        ...

    def moved(self, version: int) -> None:
        """The view shows at least this version; what lies before it was not told."""
        ...

    def renewed(self, version: int) -> None:
        """The view is at least at this version, and what was told before of that version or an earlier one may have been wrong."""
        ...

    def lost(self) -> None:
        """Changes may have been missed."""
        ...


class Changes:
    """The accounts that are followed. `run` must be a held task; until Redis can be reached nothing is told, and afterwards everybody that they lost it."""

    def __init__(self, redis: Redis) -> None:
        self._subscription = Subscription(redis, CHANGES, self._told, self._lost)
        self._followers: dict[str, Follower] = {}

    @property
    def connected(self) -> bool:
        """Whether changes come, as far as is known."""
        return self._subscription.connected

    async def run(self) -> None:
        """Tell the followers until cancelled."""
        with contextlib.suppress(RedisError, OSError):
            await self._subscription.start()
        await self._subscription.run()

    def follow(self, username: str, follower: Follower) -> asyncio.Task[bool]:
        """Tell the one follower of an account from now on. When the task's result is true, a view that is read afterwards is followed without a gap.

        Where it is not, Redis is away: `lost` is called when changes come. The task ends in about a second and raises nothing.
        """
        self._followers[username] = follower
        return asyncio.create_task(self._follow(username, follower), name=f"follow {username}")

    def leave(self, username: str) -> None:
        """Tell nothing of that account any more."""
        del self._followers[username]
        self._subscription.drop(CHANGES + username)

    async def _follow(self, username: str, follower: Follower) -> bool:
        return self._followers.get(username) is follower and await self._subscription.add(CHANGES + username)

    def _told(self, channel: str, data: bytes) -> None:
        username = channel.removeprefix(CHANGES)
        follower = self._followers.get(username)
        if follower is None:
            TOLD.labels("late").inc()
            return
        try:
            TOLD.labels(_tell(follower, username, data)).inc()
        except ValueError as error:  # UnreadableResult is one: the view shows what cannot be read here
            TOLD.labels("unreadable").inc()
            log.warning("unreadable change", username=username, error=str(error))
            follower.lost()

    def _lost(self, channel: str) -> None:
        if channel == CHANGES:
            RECONNECTS.inc()
        elif follower := self._followers.get(channel.removeprefix(CHANGES)):
            follower.lost()


def _tell(follower: Follower, username: str, data: bytes) -> str:
    if data.startswith(LOADED):
        follower.moved(int(data.removeprefix(LOADED)))
        return "loaded"
    if data.startswith(ANEW):
        follower.renewed(int(data.removeprefix(ANEW)))
        return "anew"
    result = decode_result(data)
    if result.username != username:
        raise UnreadableResult("of another account")
    follower.changed(result)
    return "result"
