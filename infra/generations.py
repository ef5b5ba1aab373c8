"""Which generations of the views live, and which of them is read.

The pointer is one hash in Redis without a lifetime, so that the eviction policy (`volatile-lru`) never takes it. Where Redis has lost everything, the
views are gone as well, and the first generation is as good as any.

At most two generations live. Every change of a view is put into both by one script, so that for each account they are at the same version, or one of
them has no view of it and is filled from the ledger. That is why the readers may be switched from one to the other at any moment, each at its own.

A process acts on what it knows of the pointer for at most `KNOWN_S`, and a call that it began then ends in time: `SETTLED_S` after a change nobody
acts on what was before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, cast, get_args

from infra.cache_client import Cache, Call, Script
from infra.known import Known

POINTER: Final = "projections"
KNOWN_S: Final = 0.5
SETTLED_S: Final = 8.0
"""`KNOWN_S`, and the time of the calls of one batch: waiting for a connection, the answer, and one repetition, for each of its two parts."""
FIRST: Final = 1

State = Literal["building", "built", "kept", "dropping"]
"""Of the standby generation: not complete yet; complete and never read so far; read before the other one, and kept for going back to it; given up, so that
nothing is put into it any more, and its keys are being taken away."""


class Conflict(RuntimeError):
    """The pointer is not what the change started from: somebody else has changed it meanwhile."""


@dataclass(frozen=True, slots=True)
class Live:
    """The generation that is read, and the other one that is kept up to date, if there is one."""

    serving: int = FIRST
    standby: int | None = None
    state: State | None = None

    @property
    def all(self) -> tuple[int, ...]:
        """Those that changes are put into, the serving one first."""
        return (self.serving,) if self.standby is None or self.state == "dropping" else (self.serving, self.standby)


_SET: Final = Script(
    "generations set",
    """
-- KEYS: pointer. ARGV: serving, standby, state as they are; then as they are to be. '' stands for none
local known = redis.call('HMGET', KEYS[1], 'serving', 'standby', 'state')
for at = 1, 3 do
  if (known[at] or (at == 1 and '1' or '')) ~= ARGV[at] then return 0 end
end
redis.call('DEL', KEYS[1])
for at, name in ipairs({'serving', 'standby', 'state'}) do
  if ARGV[at + 3] ~= '' then redis.call('HSET', KEYS[1], name, ARGV[at + 3]) end
end
return 1
""",
)


class Generations:
    """The pointer as one process knows it. CacheUnavailable where it has to be read and cannot be."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._known = Known(self._read, memory_s=KNOWN_S)

    async def live(self) -> Live:
        """What lives, as it was at most `KNOWN_S` ago."""
        return await self._known.value()

    async def read(self) -> Live:
        """What lives now."""
        return await self._known.again()

    async def change(self, before: Live, after: Live) -> None:
        """Set the pointer. Conflict where it is not as it was before. Others know of it after `SETTLED_S` at the latest."""
        if not await self._cache.script(_SET, Call((POINTER,), (*_spelled(before), *_spelled(after)))):
            raise Conflict("the generations were changed by somebody else")
        await self.read()

    async def _read(self) -> Live:
        return _live(cast("Mapping[bytes, bytes]", await self._cache.run("generations", partial(self._cache.client.hgetall, POINTER))))


def _live(fields: Mapping[bytes, bytes]) -> Live:
    standby = fields.get(b"standby")
    state = fields.get(b"state", b"").decode()
    return Live(int(fields.get(b"serving", FIRST)), None if standby is None else int(standby), next((one for one in get_args(State) if one == state), None))


def _spelled(live: Live) -> tuple[str, str, str]:
    return str(live.serving), "" if live.standby is None else str(live.standby), live.state or ""
