"""Log lines on their way out: those of one moment are written together, since each write wakes whoever reads the pipe.

At thousands of requests a second a line each costs the reader, and the kernel between, more than making it.
"""

import asyncio
import threading
from typing import BinaryIO, Final

GATHER_S: Final = 0.02
"""How long a line may wait. A process that is killed loses the lines of this time, but none that told of trouble."""
BYTES_MAX: Final = 64 * 1024
"""Lines that wait are written at this many bytes at the latest."""


class Lines:
    """What structlog writes to. Lines from outside of an event loop are written at once, and so are warnings and errors, with all before them."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None
        self._lock = threading.RLock()

    def msg(self, line: bytes) -> None:
        """Write it, in a moment."""
        with self._lock:
            self._waiting.append(line)
            self._bytes += len(line)
            if self._bytes >= BYTES_MAX:
                self.flush()
            elif self._due is None:
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    self.flush()
                else:
                    self._due = loop.call_later(GATHER_S, self.flush)

    def urgent(self, line: bytes) -> None:
        """Write it now."""
        with self._lock:
            self._waiting.append(line)
            self.flush()

    def flush(self) -> None:
        """Write all that waits."""
        with self._lock:
            lines, self._waiting, self._bytes = self._waiting, [], 0
            due, self._due = self._due, None
            if due is not None:
                due.cancel()
            if lines:
                self._out.write(b"\n".join(lines) + b"\n")
                self._out.flush()

    debug = info = log = msg
    warn = warning = error = exception = critical = fatal = failure = urgent
