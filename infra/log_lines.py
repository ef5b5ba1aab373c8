"""Log lines on their way out: those of one moment are made and written together.

Each write wakes whoever reads the pipe: at thousands of requests a second a line each costs the reader, and the kernel between, more than making it.
And a line that is made between all else that a request needs costs four times as much as one of many that are made in a row.
"""

import asyncio
import threading
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any, BinaryIO, Final

Event = MutableMapping[str, Any]

GATHER_S: Final = 0.02
"""How long a line may wait. A process that is killed loses the lines of this time, but none that told of trouble."""
LINES_MAX: Final = 256
"""So many lines that wait are written at the latest."""
_SETTLED: Final = frozenset({str, int, float, bool, type(None), datetime})
"""Types of what will still be the same when the line is made."""


class Lines:
    """What structlog writes to; `make` makes a line of an event.

    Lines from outside of an event loop are written at once, and so are warnings and errors, with all before them.
    """

    def __init__(self, out: BinaryIO, make: Callable[[Event], bytes]) -> None:
        self._out = out
        self._make = make
        self._waiting: list[Event | bytes] = []
        self._due: asyncio.TimerHandle | None = None
        self._lock = threading.RLock()

    def msg(self, event: Event) -> None:
        """Write it, in a moment."""
        line = event if _SETTLED.issuperset(map(type, event.values())) else self._make(event)
        with self._lock:
            self._waiting.append(line)
            if len(self._waiting) >= LINES_MAX:
                self.flush()
            elif self._due is None:
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    self.flush()
                else:
                    self._due = loop.call_later(GATHER_S, self.flush)

    def urgent(self, event: Event) -> None:
        """Write it now."""
        line = self._make(event)
        with self._lock:
            self._waiting.append(line)
            self.flush()

    def flush(self) -> None:
        """Write all that waits."""
        with self._lock:
            lines, self._waiting = self._waiting, []
            due, self._due = self._due, None
            if due is not None:
                due.cancel()
            if lines:
                self._out.write(b"\n".join([line if isinstance(line, bytes) else self._make(line) for line in lines]) + b"\n")
                self._out.flush()

    debug = info = log = msg
    warn = warning = error = exception = critical = fatal = failure = urgent
