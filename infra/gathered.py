"""What comes at about the same time, handed on together: where one by one costs several times as much as many in a row."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

GATHER_S: Final = 0.02
"""How long anything may wait. A process that is killed loses what came in this time."""
WAITING_MAX: Final = 256
"""So many that wait are handed on at the latest."""


class Gathered(Generic[T]):
    """Hands on to `take`, in the order in which they came. What comes from outside of an event loop does not wait. For any thread."""

    def __init__(self, take: Callable[[list[T]], None]) -> None:
        self._take = take
        self._waiting: list[T] = []
        self._due: asyncio.TimerHandle | None = None
        self._lock = threading.RLock()

    def add(self, one: T, *, urgent: bool = False) -> None:
        """Hand it on in a moment; where that is `urgent` now, with all before it."""
        with self._lock:
            self._waiting.append(one)
            if urgent or len(self._waiting) >= WAITING_MAX:
                self.flush()
            elif self._due is None:
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    self.flush()
                else:
                    self._due = loop.call_later(GATHER_S, self.flush)

    def flush(self) -> None:
        """Hand on all that wait."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            due, self._due = self._due, None
            if due is not None:
                due.cancel()
            if waiting:
                self._take(waiting)
