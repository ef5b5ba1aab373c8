"""A publisher without a broker: it keeps what was published, and can be away or silent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from events.bus import OutcomeUnknown, TooLarge, Unavailable
from events.envelope import Envelope
from events.topics import REQUEST_BYTES_MAX

State = Literal["up", "away", "silent"]


async def _nobody(_: str, __: Envelope) -> None:
    """Nobody reads the log."""


class FakeBus:
    """As `events.bus.Bus`. `away`: nothing is handed over. `silent`: it comes into the log, and nobody says so.

    `read(topic, envelope)` is told of each event, in order, after it was acknowledged.
    """

    def __init__(self, read: Callable[[str, Envelope], Awaitable[None]] = _nobody) -> None:
        self.state: State = "up"
        self.log: list[tuple[str, Envelope]] = []
        self._read = read
        self._on_the_way: set[str] = set()
        self._unread: asyncio.Queue[tuple[str, Envelope]] = asyncio.Queue()

    @property
    def reachable(self) -> bool:
        """Whether a broker would answer."""
        return self.state == "up"

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self, within_s: float) -> None:
        """Nothing to flush."""

    async def watch(self) -> None:
        """Hand events to the reader; runs until cancelled."""
        while True:
            await self._read(*await self._unread.get())

    async def publish(self, topic: str, envelope: Envelope, partition: int | None = None) -> None:
        """See `Bus`."""
        if self.state != "up" and envelope.id in self._on_the_way:
            raise OutcomeUnknown("an earlier event of this id is not acknowledged yet")
        if self.state == "away":
            raise Unavailable("no broker answers")
        if len(envelope.value) > REQUEST_BYTES_MAX:
            raise TooLarge(f"the record is larger than {REQUEST_BYTES_MAX} bytes")
        self.log.append((topic, envelope))
        self._unread.put_nowait((topic, envelope))
        if self.state == "silent":
            self._on_the_way.add(envelope.id)
            raise OutcomeUnknown("not acknowledged")
