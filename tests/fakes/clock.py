"""A clock that stands still until it is moved, and identifiers that count."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)


class FakeClock:
    """Shows the time that it was given."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start

    def now(self) -> datetime:
        """The time it was moved to last."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on."""
        self._now += timedelta(seconds=seconds)


class FakeIds:
    """UUIDs that count up from 1."""

    def __init__(self) -> None:
        self._count = 0

    def new(self) -> str:
        """The next one."""
        self._count += 1
        return f"00000000-0000-7000-8000-{self._count:012d}"
