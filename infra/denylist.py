"""Access tokens and token families that are refused although they have not expired.

One sorted set without a lifetime, so that the eviction policy (`volatile-lru`) never takes it; the score is the expiry, and what has expired is
pruned. It cannot be rebuilt: if Redis loses its data, revoked access tokens are good again until they expire.
"""

from datetime import datetime
from functools import partial
from typing import Final

from infra.cache_client import Cache
from infra.clock import Clock

DENYLIST: Final = "denylist"
PRUNE_AFTER_S: Final = 60
"""Doors' clocks may differ: a token is kept on the denylist for so long after its expiry."""


class Denylist:
    """While Redis is away every call raises CacheUnavailable; whoever changes anything on a token's word must refuse then.

    Each call is answered by a look that began after it: what was revoked before the call is known to it.
    """

    def __init__(self, cache: Cache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock

    async def revoke(self, token_id: str, expires_at: datetime) -> None:
        """Refuse one access token from now on. Repeating it is harmless."""
        await self._add(f"t:{token_id}", expires_at)

    async def revoke_family(self, family: str, expires_at: datetime) -> None:
        """Refuse every access token that was issued with a family of refresh tokens; `expires_at` is when the last of them expires."""
        await self._add(f"f:{family}", expires_at)

    async def is_revoked(self, token_id: str, family: str) -> bool:
        """Whether a token, or its family, is refused."""
        of_token, of_family = await self._cache.ask("ZMSCORE", DENYLIST, f"t:{token_id}", f"f:{family}")
        return of_token is not None or of_family is not None

    async def _add(self, member: str, expires_at: datetime) -> None:
        await self._cache.run("revoke", partial(self._store, member, expires_at.timestamp()))

    async def _store(self, member: str, expiry: float) -> None:
        async with self._cache.client.pipeline(transaction=True) as pipeline:
            pipeline.zadd(DENYLIST, {member: expiry}, gt=True)
            pipeline.zremrangebyscore(DENYLIST, "-inf", self._clock.now().timestamp() - PRUNE_AFTER_S)
            await pipeline.execute()
