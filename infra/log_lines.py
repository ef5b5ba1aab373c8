"""Log lines on their way out: those of one moment are made and written together.

Each write wakes whoever reads the pipe: at thousands of requests a second a line each costs the reader, and the kernel between, more than making it.
And a line that is made between all else that a request needs costs four times as much as one of many that are made in a row.
"""

from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any, BinaryIO, Final

from infra.gathered import Gathered

Event = MutableMapping[str, Any]

_SETTLED: Final = frozenset({str, int, float, bool, type(None), datetime})
"""Types of what will still be the same when the line is made."""


class Lines:
    """What structlog writes to; `make` makes a line of an event.

    Lines from outside of an event loop are written at once, and so are warnings and errors, with all before them.
    """

    def __init__(self, out: BinaryIO, make: Callable[[Event], bytes]) -> None:
        self._out = out
        self._make = make
        self._gathered: Gathered[Event | bytes] = Gathered(self._write)

    def msg(self, event: Event) -> None:
        """Write it, in a moment."""
        self._gathered.add(event if _SETTLED.issuperset(map(type, event.values())) else self._make(event))

    def urgent(self, event: Event) -> None:
        """Write it now."""
        self._gathered.add(self._make(event), urgent=True)

    def flush(self) -> None:
        """Write all that waits."""
        self._gathered.flush()

    def _write(self, lines: list[Event | bytes]) -> None:
        self._out.write(b"\n".join([line if isinstance(line, bytes) else self._make(line) for line in lines]) + b"\n")
        self._out.flush()

    debug = info = log = msg
    warn = warning = error = exception = critical = fatal = failure = urgent
