"""Which generations of the views live, and which of them is read.

The pointer is one hash in Redis without a lifetime, so that the eviction policy (`volatile-lru`) never takes it. It is kept beside the ledger as well:
where Redis has lost everything, who misses the pointer puts it back as it was. Were the first generation taken for the one that is read instead, then for
a moment some processes would show what others do not read.

At most two generations live. Every change of a view is put into both by one script, so that for each account they are at the same version, or one of
them has no view of it and is filled from the ledger. That is why the readers may be switched from one to the other at any moment, each at its own.

A process acts on what it knows of the pointer for at most `KNOWN_S`, and a call that it began then ends in time: `SETTLED_S` after a change nobody
acts on what was before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol, cast, get_args

from infra.cache_client import Cache, CacheUnavailable, Call, Script
from infra.dynamo import Dynamo, DynamoUnavailable, from_item, to_item
from infra.known import Known
from schemas.tables import GENERATIONS_KEY, LEDGER

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
-- KEYS: pointer. ARGV: serving, standby, state as they are, unless the pointer is lost; then as they are to be. '' stands for none
local known = redis.call('HMGET', KEYS[1], 'serving', 'standby', 'state')
for at = 1, 3 do
  if known[1] and (known[at] or '') ~= ARGV[at] then return 0 end
end
redis.call('DEL', KEYS[1])
for at, name in ipairs({'serving', 'standby', 'state'}) do
  if ARGV[at + 3] ~= '' then redis.call('HSET', KEYS[1], name, ARGV[at + 3]) end
end
return 1
""",
)


class Pointer(Protocol):
    """Where the pointer is kept for the case that Redis loses it: `KeptPointer`, or a fake. DynamoUnavailable for a passing fault."""

    async def get(self) -> Live | None:
        """As it was put last; None where it never was."""
        ...

    async def put(self, live: Live) -> None:
        """Keep it."""
        ...


class KeptPointer:
    """One item beside the ledger."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def get(self) -> Live | None:
        """See `Pointer`."""
        answer = await self._dynamo.call("get_item", TableName=LEDGER.name, Key=GENERATIONS_KEY, ConsistentRead=True)
        if "Item" not in answer:
            return None
        item = from_item(answer["Item"])
        standby = item.get("standby")
        return Live(int(item["serving"]), None if standby is None else int(standby), item.get("state"))

    async def put(self, live: Live) -> None:
        """See `Pointer`."""
        await self._dynamo.call("put_item", TableName=LEDGER.name, Item={**GENERATIONS_KEY, **to_item(live)})


class Generations:
    """The pointer as one process knows it. CacheUnavailable where it has to be read and cannot be."""

    def __init__(self, cache: Cache, kept: Pointer) -> None:
        self._cache = cache
        self._kept = kept
        self._known = Known(self._read, memory_s=KNOWN_S)

    async def live(self) -> Live:
        """What lives, as it was at most `KNOWN_S` ago."""
        return await self._known.value()

    async def read(self) -> Live:
        """What lives now."""
        return await self._known.again()

    async def change(self, before: Live, after: Live) -> None:
        """Set the pointer. Conflict where it is not as it was before. Others know of it after `SETTLED_S` at the latest.

        It is kept before it is set. A loss of Redis in between then makes the change, which is as good as making it; after it nothing goes back.
        DynamoUnavailable where it cannot be kept.
        """
        if await self.read() == before:
            await self._kept.put(after)
            if await self._set(before, after):
                await self.read()
                return
            await self._kept.put(await self.read())
        raise Conflict("the generations were changed by somebody else")

    async def _set(self, before: Live, after: Live) -> bool:
        """Whether it was as before, or is lost."""
        return bool(await self._cache.script(_SET, Call((POINTER,), (*_spelled(before), *_spelled(after)))))

    async def _read(self) -> Live:
        fields = await self._fields()
        if not fields:
            await self._put_back()
            fields = await self._fields()
        if not fields:
            raise CacheUnavailable("generations: the pointer is lost again")
        return _live(fields)

    async def _fields(self) -> Mapping[bytes, bytes]:
        return cast("Mapping[bytes, bytes]", await self._cache.run("generations", partial(self._cache.client.hgetall, POINTER)))

    async def _put_back(self) -> None:
        try:
            kept = await self._kept.get() or Live()
        except DynamoUnavailable as error:
            raise CacheUnavailable(f"generations: the pointer is lost, and the ledger does not answer: {error}") from error
        await self._set(kept, kept)


def _live(fields: Mapping[bytes, bytes]) -> Live:
    standby = fields.get(b"standby")
    state = fields.get(b"state", b"").decode()
    return Live(int(fields[b"serving"]), None if standby is None else int(standby), next((one for one in get_args(State) if one == state), None))


def _spelled(live: Live) -> tuple[str, str, str]:
    return str(live.serving), "" if live.standby is None else str(live.standby), live.state or ""
