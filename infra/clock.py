"""Clock and identifiers: the only module that asks the operating system for the time or for chance in anything that is stored or sent.

Both come into the rest of the code as arguments, so that a test or a simulation gives its own.
"""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from uuid_utils import uuid7

PAUSE_S_FIRST: Final = 0.01
PAUSE_S_MAX: Final = 2.0
_PARTS: Final = tuple(timedelta(microseconds=part) for part in range(1000))


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The time now: aware, UTC, whole milliseconds."""
        ...


class Ids(Protocol):
    """Makes identifiers."""

    def new(self) -> str:
        """A new identifier: a UUID in text form that no other call anywhere gets."""
        ...


class SystemClock:
    """The operating system's clock."""

    def now(self) -> datetime:
        """The time now: aware, UTC, whole milliseconds. May step back when the system's clock is set."""
        now = datetime.now(UTC)
        return now - _PARTS[now.microsecond % 1000]  # `replace` takes three times as long, and each request asks for the time


class SystemIds:
    """UUIDs of version 7 (RFC 9562): sorted by the time of their making, and not to be guessed."""

    def new(self) -> str:
        """A new UUIDv7 in text form."""
        return str(uuid7())


async def pause(attempt: int) -> None:
    """Wait before the next try: exponential from 10 ms to 2 s, with full jitter, so that writers in conflict do not meet again in step."""
    longest = min(PAUSE_S_MAX, PAUSE_S_FIRST * 2 ** min(attempt, 16))
    await asyncio.sleep(random.uniform(0, longest))  # noqa: S311 - spreading load is no secret
