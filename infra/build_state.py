"""How far the building of a generation has come, and that only one operator works on the generations: two keys in Redis.

If they are lost the views are lost too, and a building begins anew.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from pydantic import BaseModel

from infra.cache_client import Cache, CacheUnavailable, Call, Script

BUILD: Final = "{projections}:build"
OPERATOR: Final = "{projections}:operator"
LOCK_S: Final = 30
"""Of an operator's command that ended without a word others are told to wait for so long."""

_KEEP: Final = Script("operator keep", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call('EXPIRE', KEYS[1], ARGV[2])")
_WRITE: Final = Script(
    "build write",
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[2], ARGV[2]) return 1",
)
_LEAVE: Final = Script("operator leave", "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")


class Busy(RuntimeError):
    """Another operator's command works on the generations, or did so until a moment ago and was killed."""


class Build(BaseModel):
    """Of one generation: where to go on, and what was done so far. `place` is the source's own; `items` are what the source counts.

    `accounts` were loaded, or `shown` results shown again; then accounts were `checked`, and those `filled` in that were still missing.
    """

    generation: int
    source: str
    place: Mapping[str, str] | None = None
    is_read: bool = False
    items: int = 0
    accounts: int = 0
    shown: int = 0
    failed: list[str] = []
    checked: int = 0
    filled: int = 0
    differ: dict[str, list[str]] = {}


class BuildState:
    """`operator` tells this command from every other. CacheUnavailable where Redis does not answer."""

    def __init__(self, cache: Cache, operator: str, *, keep_s: float = LOCK_S / 3) -> None:
        self._cache = cache
        self._operator = operator
        self._keep_s = keep_s

    async def read(self) -> Build | None:
        """The building that was begun last; None where there is none."""
        text = await self._cache.run("build", partial(self._cache.client.get, BUILD))
        return Build.model_validate_json(text) if text else None

    async def write(self, build: Build) -> None:
        """Write it down. Busy where the right to work was lost: then nothing is written."""
        if not await self._cache.script(_WRITE, Call((OPERATOR, BUILD), (self._operator, build.model_dump_json()))):
            raise Busy("this command may not go on: another operator's has taken over, or Redis has lost everything. Repeat it")

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nobody else works on the generations inside of this. Busy where somebody does."""
        if not await self._cache.run("build", partial(self._cache.client.set, OPERATOR, self._operator, nx=True, ex=LOCK_S)):
            raise Busy(f"another operator's command works on the generations, or was killed less than {LOCK_S} s ago")
        keeping = asyncio.create_task(self._keep_on(), name="operator")
        try:
            yield
        finally:
            keeping.cancel()
            await self._cache.script(_LEAVE, Call((OPERATOR,), (self._operator,)))

    async def _keep_on(self) -> None:
        """Renew the right to work until cancelled. Where that fails it runs out, and the next `write` tells."""
        while True:
            await asyncio.sleep(self._keep_s)
            with suppress(CacheUnavailable):
                await self._cache.script(_KEEP, Call((OPERATOR,), (self._operator, LOCK_S)))
