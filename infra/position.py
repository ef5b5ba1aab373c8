"""How far the projector is behind the end of the results, told through Redis: the read door says it with each answer, and never asks Kafka.

One hash, a field for each partition: `<caught up> <heard> <behind>`, two times in milliseconds since 1970 and a number of records, and one with the number
of partitions. What was appended before the first of the times is shown; at the second one the log's end was looked at. All of it may be lost; then nobody
says anything until the projector has told it again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final, cast

from events.lag import partition_of
from infra.cache_client import Cache, CacheUnavailable
from infra.clock import Clock
from infra.known import Known
from schemas.instants import EPOCH

POSITION: Final = "projector:position"
TELL_S: Final = 0.2
"""Between two tellings."""
PARTITIONS_KNOWN: Final = 16_384
"""Users whose partition is remembered: the hash of the publisher's client costs a twentieth of a small read."""
MARKS_MAX: Final = 3_000
"""Moments that are remembered while the projector is behind: ten minutes of them."""
COUNT: Final = "partitions"
"""Field of the number of partitions: an account's one follows from all that there are."""
SILENT_S: Final = 1.0
"""Who was at the end, and has not heard of the log since, may be behind by now. The broker answers for a partition without news four times as often."""

_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class _Told:
    """Of one partition. Times in ms since 1970."""

    caught_up: int
    heard: int
    behind: int

    def lag_ms(self, now: int) -> int:
        if self.behind:
            return max(1, now - self.caught_up)
        silent = now - self.heard
        return silent if silent > SILENT_S * 1000 else 0


class Position:
    """The projector's side.

    `places` tells, of each partition that it reads, up to which offset all is shown, where the log ended, and when that was heard, in ms since 1970;
    `partitions` how many the topic has, None while that is not known.
    """

    def __init__(self, cache: Cache, places: Callable[[], Mapping[int, tuple[int, int, int]]], partitions: Callable[[], int | None]) -> None:
        self._cache = cache
        self._places = places
        self._partitions = partitions
        self._caught_up: dict[int, int] = {}
        self._marks: dict[int, deque[tuple[int, int]]] = {}
        """By partition, moments and where the log ended then, as long as not all of that is shown: with results always under way it never stands at the end."""

    async def tell(self) -> None:
        """Tell it now. CacheUnavailable."""
        places, partitions = dict(self._places()), self._partitions()
        if not places or not partitions:
            return
        self._caught_up = {partition: at for partition, at in self._caught_up.items() if partition in places}
        if places.keys() - self._caught_up.keys():
            before, _ = await _read(self._cache)
            self._caught_up = {partition: told.caught_up for partition, told in before.items()} | self._caught_up
        for partition, (reach, end, heard) in places.items():
            marks = self._marks.setdefault(partition, deque(maxlen=MARKS_MAX))
            if not marks or marks[-1] != (heard, end):
                marks.append((heard, end))
            while marks and marks[0][1] <= reach:
                self._caught_up[partition] = marks.popleft()[0]
        # Since when a projector is behind that was never at the end, nobody knows until it has passed the end that it began with.
        known = [(partition, place) for partition, place in places.items() if partition in self._caught_up]
        fields: dict[Any, Any] = {partition: f"{self._caught_up[partition]} {heard} {max(0, end - reach)}" for partition, (reach, end, heard) in known}
        fields[COUNT] = partitions
        await self._cache.run("position", lambda: self._cache.client.hset(POSITION, mapping=fields))

    async def tell_again_and_again(self) -> None:
        """Until cancelled. While Redis is away nobody can be told."""
        while True:
            with suppress(CacheUnavailable):
                await self.tell()
            await asyncio.sleep(TELL_S)


class ProjectionLag:
    """The door's side: how old what the views show may be. `memory_s`: the age up to which what was read is not read again."""

    def __init__(self, cache: Cache, clock: Clock, *, memory_s: float = TELL_S) -> None:
        self._cache = cache
        self._clock = clock
        self._known = Known(self._read, memory_s=memory_s)

    async def ms(self, username: str) -> int | None:
        """Milliseconds for which results of this account's partition have waited to be shown: 0 where none waits. None where nobody knows."""
        known, partitions = await self._known.value()
        told = known.get(_partition(username, partitions)) if partitions else None
        return told.lag_ms(_ms(self._clock.now())) if told else None

    async def _read(self) -> tuple[Mapping[int, _Told], int]:
        try:
            return await _read(self._cache)
        except CacheUnavailable:
            return {}, 0


@lru_cache(PARTITIONS_KNOWN)
def _partition(username: str, partitions: int) -> int:
    return partition_of(username, range(partitions))


async def _read(cache: Cache) -> tuple[dict[int, _Told], int]:
    """By partition what was told of it, and how many there are; 0 while nobody has told that."""
    fields = cast("dict[bytes, bytes]", await cache.run("position", lambda: cache.client.hgetall(POSITION)))  # the client does not decode
    return {int(name): _Told(*map(int, text.split())) for name, text in fields.items() if name.isdigit()}, int(fields.get(COUNT.encode(), 0))


def _ms(instant: datetime) -> int:
    return (instant - EPOCH) // _MS
