"""Which generations of the views live, and which of them is read.

The pointer is one hash in Redis without a lifetime, so that the eviction policy (`volatile-lru`) never takes it. After each change it is kept beside the
ledger as well: where Redis has lost everything, who misses the pointer puts it back as it was. Were the first generation taken for the one that is read
instead, then for a moment some processes would show what others do not read.

At most two generations live. Every change of a view is put into both by one script, so that for each account they are at the same version, or one of
them has no view of it and is filled from the ledger. That is why the readers may be switched from one to the other at any moment, each at its own.

A process acts on what it knows of the pointer for at most `KNOWN_S`, and a call that it began then ends in time: `SETTLED_S` after a change nobody
acts on what was before.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol, cast, get_args

from botocore.exceptions import ClientError

from infra.cache_client import Cache, CacheUnavailable, Call, Script
from infra.dynamo import Dynamo, DynamoUnavailable, error_code, from_item, to_attribute, to_item
from infra.known import Known
from schemas.tables import GENERATIONS_KEY, LEDGER

POINTER: Final = "projections"
KNOWN_S: Final = 0.5
SETTLED_S: Final = 8.0
"""`KNOWN_S`, and the time of the calls of one batch: waiting for a connection, the answer, and one repetition, for each of its two parts."""
FIRST: Final = 1
CHANGE_ATTEMPTS_MAX: Final = 2
"""A change that Redis loses is made again."""
FIELDS: Final = ("number", "serving", "standby", "state")

State = Literal["building", "built", "kept", "dropping"]
"""Of the standby generation: not complete yet; complete and never read so far; read before the other one, and kept for going back to it; given up, so that
nothing is put into it any more, and its keys are being taken away."""


class Conflict(RuntimeError):
    """The pointer is not what the change started from: somebody else has changed it meanwhile."""


class NotKept(RuntimeError):
    """The ledger's table refuses: this process may not read it, or not put the pointer there."""


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


_FIELDS: Final = f"""
local names = {{'{"', '".join(FIELDS)}'}}
-- As HSET takes them; '' stands for none
local function fields(from)
  local put = {{}}
  for at, name in ipairs(names) do
    if ARGV[from + at] ~= '' then put[#put + 1], put[#put + 2] = name, ARGV[from + at] end
  end
  return put
end
"""

_SET: Final = Script(
    "generations set",
    f"""{_FIELDS}
-- KEYS: pointer. ARGV: number, serving, standby, state as they are; then as they are to be
-- Answers 'set', also where it is so already; 'lost' where there is no pointer; 'other'
local known = redis.call('HMGET', KEYS[1], unpack(names))
if not known[2] then return 'lost' end
local function is(from)
  for at = 1, 4 do
    if (known[at] or (at == 1 and '0' or '')) ~= ARGV[from + at] then return false end
  end
  return true
end
if is(4) then return 'set' end
if not is(0) then return 'other' end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(fields(4)))
return 'set'
""",
)

_PUT_BACK: Final = Script(
    "generations put back",
    f"""{_FIELDS}
-- KEYS: pointer. ARGV: number, serving, standby, state. Where there is one it stays.
if redis.call('EXISTS', KEYS[1]) == 0 then
  -- Where memory is full of what may not go it is not put: it is right all the same.
  local put = redis.pcall('HSET', KEYS[1], unpack(fields(0)))
  if type(put) == 'table' and put.err then return ARGV end
end
return redis.call('HMGET', KEYS[1], unpack(names))
""",
)


@dataclass(frozen=True, slots=True)
class Pointed:
    """What lives, and which change of the pointer made it so: each has the next number."""

    live: Live = Live()
    number: int = 0


class Pointer(Protocol):
    """Where the pointer is kept for the case that Redis loses it: `KeptPointer`, or a fake. DynamoUnavailable for a passing fault, NotKept for another one."""

    async def get(self) -> Pointed:
        """The newest that was put; that of a new system where none ever was."""
        ...

    async def put(self, pointed: Pointed) -> None:
        """Keep it, unless a newer one is kept."""
        ...


class KeptPointer:
    """One item beside the ledger."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def get(self) -> Pointed:
        """See `Pointer`."""
        try:
            answer = await self._dynamo.call("get_item", TableName=LEDGER.name, Key=GENERATIONS_KEY, ConsistentRead=True)
        except ClientError as error:
            raise NotKept(f"The pointer to the generations cannot be read from the table {LEDGER.name}: {error}") from error
        if "Item" not in answer:
            return Pointed()
        item = from_item(answer["Item"])
        standby = item.get("standby")
        return Pointed(Live(int(item["serving"]), None if standby is None else int(standby), item.get("state")), int(item["number"]))

    async def put(self, pointed: Pointed) -> None:
        """See `Pointer`."""
        item = {**GENERATIONS_KEY, **to_item(pointed.live), "number": to_attribute(pointed.number)}
        newer = {"ConditionExpression": "attribute_not_exists(pk) OR #number < :number", "ExpressionAttributeNames": {"#number": "number"}}
        try:
            await self._dynamo.call("put_item", TableName=LEDGER.name, Item=item, ExpressionAttributeValues={":number": item["number"]}, **newer)
        except ClientError as error:
            if error_code(error) != "ConditionalCheckFailedException":
                raise NotKept(f"The pointer to the generations cannot be kept in the table {LEDGER.name}: {error}") from error


class Generations:
    """The pointer as one process knows it. CacheUnavailable where it has to be read and cannot be."""

    def __init__(self, cache: Cache, kept: Pointer) -> None:
        self._cache = cache
        self._kept = kept
        self._known = Known(self._read, memory_s=KNOWN_S)
        self._rests_until = float("-inf")

    async def live(self) -> Live:
        """What lives, as it was at most `KNOWN_S` ago."""
        return (await self._known.value()).live

    async def read(self) -> Live:
        """What lives now."""
        return (await self._known.again()).live

    async def change(self, before: Live, after: Live) -> None:
        """Set the pointer. Conflict where it is not as it was before. Others know of it after `SETTLED_S` at the latest.

        What is kept is never more than this one change behind. A loss of Redis before the change is kept takes it back, as if it were made the other way
        round at that moment. DynamoUnavailable or NotKept where it cannot be kept: it may be made, and the next change keeps it.
        """
        for _ in range(CHANGE_ATTEMPTS_MAX):
            now = await self._known.again()
            if now.live != before:
                break
            await self._kept.put(now)
            kept = await self._kept.get()  # newer than the pointer where Redis was set back
            then = Pointed(after, max(now.number, kept.number) + 1)
            answer = await self._cache.script(_SET, Call((POINTER,), (*_spelled(now), *_spelled(then))))
            if answer == b"set":
                await self._kept.put(then)
                if await self.read() == after:
                    return
        raise Conflict("the generations were changed by somebody else")

    async def _read(self) -> Pointed:
        fields = cast("list[bytes | None]", await self._cache.run("generations", partial(self._cache.client.hmget, POINTER, FIELDS)))
        return _pointed(fields if any(fields) else await self._put_back())

    async def _put_back(self) -> list[bytes | None]:
        """Who misses it does that, and those who miss it while the ledger does not answer are told so without a wait of their own."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._rests_until:
            raise CacheUnavailable("generations: the pointer is lost, and the ledger did not answer")
        try:
            kept = await self._kept.get()
        except (DynamoUnavailable, NotKept) as error:
            self._rests_until = loop.time() + KNOWN_S
            raise CacheUnavailable(f"generations: the pointer is lost, and the ledger does not answer: {error}") from error
        return cast("list[bytes | None]", await self._cache.script(_PUT_BACK, Call((POINTER,), _spelled(kept))))


def _pointed(fields: Sequence[bytes | None]) -> Pointed:
    number, serving, standby, state = (field.decode() if field else "" for field in fields)
    known = next((one for one in get_args(State) if one == state), None)
    return Pointed(Live(int(serving or FIRST), int(standby) if standby else None, known), int(number or 0))


def _spelled(pointed: Pointed) -> tuple[str, str, str, str]:
    live = pointed.live
    return str(pointed.number), str(live.serving), "" if live.standby is None else str(live.standby), live.state or ""
