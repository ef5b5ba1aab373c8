"""One open stream: what is to be sent to its reader, up to a bound."""

import asyncio
from collections import deque
from typing import Final, Literal

from infra.http import Caller
from query_api import stream_events
from schemas.stream import ResumeReason

QUEUE_BYTES_MAX: Final = 256 * 1024
"""Events that wait for one reader. What does not fit ends the stream: its reader is slow, and gets all that it missed with the next snapshot."""

End = ResumeReason | Literal["left"]


class Listener:
    """Events go in without waiting, and out as fast as they are read.

    `version` is the account's version that was told last; None before the first snapshot.
    """

    def __init__(self, caller: Caller, assets: frozenset[str]) -> None:
        self.caller = caller
        self.assets = assets
        self.version: int | None = None
        self.ended: End | None = None
        self._events: deque[bytes] = deque()
        self._bytes = 0
        self._woken = asyncio.Event()

    def push(self, event: bytes) -> None:
        """Have an event sent."""
        if self.ended:
            return
        if self._events and self._bytes + len(event) > QUEUE_BYTES_MAX:
            self._events.clear()
            self.end("slow")
            return
        self._put(event)

    def end(self, reason: End) -> None:
        """Send what waits, then that the stream is to be resumed, then no more; nothing at all to a reader that has left."""
        if self.ended:
            return
        self.ended = reason
        if reason == "left":
            self._events.clear()
            self._woken.set()
        else:
            self._put(stream_events.resume(reason, self.caller.token_id))

    async def next(self) -> bytes:
        """All that waits, as soon as there is anything; nothing at the end."""
        if not self._events and not self.ended:
            self._woken.clear()
            await self._woken.wait()
        waiting = b"".join(self._events)
        self._events.clear()
        self._bytes = 0
        return waiting

    def _put(self, event: bytes) -> None:
        self._events.append(event)
        self._bytes += len(event)
        self._woken.set()
