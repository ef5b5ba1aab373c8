"""The views of both generations held against each other, and whole generations taken away."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from infra.cache_client import Cache, Call, Script
from infra.cache_guard import Layout

SCAN_COUNT: Final = 1_000
"""Keys that one step of taking away looks at."""

_COMPARE: Final = Script(
    "views compare",
    """
-- KEYS: two generations' account, orders, order index, rows. Answers both versions ('' for none) and the names of what is not the same
local function hash(key)
  local flat, found = redis.call('HGETALL', key), {}
  for at = 1, #flat, 2 do found[flat[at]] = flat[at + 1] end
  return found
end
local function differ(one, other)
  for name, value in pairs(one) do if other[name] ~= value then return true end end
  for name in pairs(other) do if one[name] == nil then return true end end
  return false
end
local accounts = {hash(KEYS[1]), hash(KEYS[5])}
for _, account in ipairs(accounts) do account.status, account.stamp = account.status or '"active"', nil end
local names = {}
for name, value in pairs(accounts[1]) do if accounts[2][name] ~= value then names[#names + 1] = name end end
for name in pairs(accounts[2]) do if accounts[1][name] == nil then names[#names + 1] = name end end
if differ(hash(KEYS[2]), hash(KEYS[6])) then names[#names + 1] = 'orders' end
if differ(redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'), redis.call('ZRANGE', KEYS[7], 0, -1, 'WITHSCORES')) then names[#names + 1] = 'order_index' end
if differ(redis.call('LRANGE', KEYS[4], 0, -1), redis.call('LRANGE', KEYS[8], 0, -1)) then names[#names + 1] = 'tx' end
return {accounts[1].version or '', accounts[2].version or '', unpack(names)}
""",
)


@dataclass(frozen=True, slots=True)
class Compared:
    """Versions of an account's views in two generations, None where there is none, and the names of the fields and lists that differ, by the alphabet."""

    one: int | None
    other: int | None
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """An account's view in one generation: of the keys that are there, what is left of their lifetime, and their size in memory."""

    version: int | None
    ttl_s: dict[str, int]
    bytes: dict[str, int]


class ViewCheck:
    """For operators' tools. CacheUnavailable."""

    def __init__(self, cache: Cache, layout: Layout) -> None:
        self._cache = cache
        self._layout = layout

    async def compare(self, usernames: Sequence[str], one: int, other: int) -> list[Compared]:
        """Each account's views, both as of one moment."""
        calls = [Call((*self._layout.keys(username, one), *self._layout.keys(username, other)), ()) for username in usernames]
        return [_compared(answer) for answer in await self._cache.scripts(_COMPARE, calls)]

    async def look(self, username: str, generation: int) -> Found:
        """What there is of a view."""
        keys = self._layout.keys(username, generation)
        client = self._cache.client
        ttls = [await self._cache.run("inspect", partial(client.ttl, key)) for key in keys]
        there = {key: ttl for key, ttl in zip(keys, ttls, strict=True) if ttl != -2}  # noqa: PLR2004 - TTL's answer for a missing key
        sizes = [await self._cache.run("inspect", partial(client.memory_usage, key)) for key in there]
        version = await self._cache.run("inspect", partial(client.hget, keys[0], "version"))
        return Found(int(version) if version else None, there, {key: size or 0 for key, size in zip(there, sizes, strict=True)})

    async def take_away(self, generation: int) -> int:
        """Every key of a generation that does not live any more; how many there were. Interrupted, it is simply done again."""
        return await self._cache.run("take away", partial(self._unlink, f"g{generation}:*"))

    async def _unlink(self, pattern: str) -> int:
        gone, keys = 0, []
        async for key in self._cache.client.scan_iter(match=pattern, count=SCAN_COUNT):
            keys.append(key)
            if len(keys) == SCAN_COUNT:
                gone, keys = gone + await self._unlink_each(keys), []
        return gone + await self._unlink_each(keys)

    async def _unlink_each(self, keys: Sequence[bytes]) -> int:
        async with self._cache.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.unlink(key)  # one by one: on a cluster they have different slots
            return sum(await pipeline.execute())


def _compared(answer: Sequence[Any]) -> Compared:
    one, other, *differs = answer
    return Compared(int(one) if one else None, int(other) if other else None, tuple(sorted(name.decode() for name in differs)))
