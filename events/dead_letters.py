"""Dead letters: records that nobody can ever read, kept as they came, with the reason added.

`dlq_*` and `x-original-topic` are overwritten, never appended: a letter that is redriven and fails again still says where it first came from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import Counter

from schemas.instants import rfc3339

REASON_CHARACTERS_MAX: Final = 500
IN_ROW_MAX: Final = 200
"""Unreadable records in a row after which the reader stops: more of them is a wrong release, not a wrong record."""

DEAD_LETTERED: Final = Counter("cnop_dead_letters_total", "Records put to the dead letters", ["topic"])


class TooManyUnreadable(RuntimeError):
    """More unreadable records in a row than a healthy producer could have written: stop and look, offsets unmoved."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record as it came, and why it could not be read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    original_headers: tuple[tuple[str, bytes | None], ...]
    reason: str
    read_at: datetime

    def headers(self) -> list[tuple[str, bytes | None]]:
        """The original headers, then the reason and the place it was read from."""
        ours = {
            # A reason may quote what was read, and that need not be text that UTF-8 has a form for.
            "dlq_reason": self.reason[:REASON_CHARACTERS_MAX].encode(errors="backslashreplace"),
            "dlq_topic": self.topic.encode(),
            "dlq_partition": str(self.partition).encode(),
            "dlq_offset": str(self.offset).encode(),
            "dlq_at": rfc3339(self.read_at).encode(),
            "x-original-topic": dict(self.original_headers).get("x-original-topic") or self.topic.encode(),
        }
        return [*((name, value) for name, value in self.original_headers if name not in ours), *ours.items()]


class Streak:
    """Counts unreadable records in a row, over all batches of one reader."""

    def __init__(self) -> None:
        self._length = 0

    def note(self, outcomes: Iterable[bool]) -> None:
        """Take the readability of records in order. TooManyUnreadable where a run of unreadable ones gets too long."""
        for readable in outcomes:
            self._length = 0 if readable else self._length + 1
            if self._length > IN_ROW_MAX:
                raise TooManyUnreadable(f"more than {IN_ROW_MAX} unreadable records in a row")
