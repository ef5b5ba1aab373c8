"""A real cache that says how many reads have their answer, and whether a cache answers at all."""

from typing import Any

from infra.cache_client import Cache, CacheUnavailable


class CountingCache(Cache):
    """`answered`: reads that have their answer, and go on with it at once."""

    answered = 0

    async def ask(self, *command: str | bytes | int) -> Any:
        answer = await super().ask(*command)
        self.answered += 1
        return answer


async def answers(cache: Cache) -> bool:
    """Whether its server does, in time."""
    try:
        await cache.ping()
    except CacheUnavailable:
        return False
    return True
