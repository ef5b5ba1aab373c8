"""Access tokens and token families that are refused although they have not expired.

One sorted set without a lifetime, so that the eviction policy (`volatile-lru`) never takes it; the score is the expiry, and what has expired is
pruned. It cannot be rebuilt: if Redis loses its data, revoked access tokens are good again until they expire.
"""

import asyncio
from collections import deque
from datetime import datetime
from functools import partial
from typing import Final

from infra.cache_client import Cache
from infra.clock import Clock

DENYLIST: Final = "denylist"
PRUNE_AFTER_S: Final = 60
"""Doors' clocks may differ: a token is kept on the denylist for so long after its expiry."""
ASKED_AT_ONCE_MAX: Final = 256
"""Tokens that are looked up in one round trip."""


class Denylist:
    """While Redis is away every call raises CacheUnavailable; whoever changes anything on a token's word must refuse then.

    Each call is answered by a look that began after it: what was revoked before the call is known to it. Calls that come while a look is under way
    share the next one.
    """

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock
        self._asked: deque[tuple[tuple[str, str], asyncio.Future[bool]]] = deque()
        """As long as there are calls: each of them ends with its request."""
        self._asking: asyncio.Task[None] | None = None

    async def revoke(self, token_id: str, expires_at: datetime) -> None:
        """Refuse one access token from now on. Repeating it is harmless."""
        await self._add(f"t:{token_id}", expires_at)

    async def revoke_family(self, family: str, expires_at: datetime) -> None:
        """Refuse every access token that was issued with a family of refresh tokens; `expires_at` is when the last of them expires."""
        await self._add(f"f:{family}", expires_at)

    async def is_revoked(self, token_id: str, family: str) -> bool:
        """Whether a token, or its family, is refused."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asked.append(((f"t:{token_id}", f"f:{family}"), answer))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="denylist")
        return await answer

    async def _ask(self) -> None:
        """Look up what is asked until nothing is. A failure is that of the calls it was for."""
        while self._asked:
            asked = [self._asked.popleft() for _ in range(min(len(self._asked), ASKED_AT_ONCE_MAX))]
            try:
                scores = await self._cache.run("denylist", partial(self._scores, [member for members, _ in asked for member in members]))
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
                for _, answer in asked:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), of_token, of_family in zip(asked, scores[::2], scores[1::2], strict=True):
                    if not answer.done():
                        answer.set_result(of_token is not None or of_family is not None)

    async def _scores(self, members: list[str]) -> list[float | None]:
        scores: list[float | None] = await self._cache.client.zmscore(DENYLIST, members)
        return scores

    async def _add(self, member: str, expires_at: datetime) -> None:
        await self._cache.run("revoke", partial(self._store, member, expires_at.timestamp()))

    async def _store(self, member: str, expiry: float) -> None:
        async with self._cache.client.pipeline(transaction=True) as pipeline:
            pipeline.zadd(DENYLIST, {member: expiry}, gt=True)
            pipeline.zremrangebyscore(DENYLIST, "-inf", self._clock.now().timestamp() - PRUNE_AFTER_S)
            await pipeline.execute()
