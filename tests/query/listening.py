"""A reader of the live stream, over ASGI: what it was sent, event by event, as fast as it lets itself be sent anything."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from tests.fakes.histories import History
from tests.query.door import ReadDoor
from tests.waiting import eventually

DEADLINE_S = 10.0


@dataclass(frozen=True)
class Event:
    """One event of a stream. A comment is named `:`."""

    name: str
    data: Any = None
    id: str | None = None


@dataclass
class Reader:
    """`status` and `headers` of the answer, and the `events` so far. While `reads` is not set it takes nothing."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    retry_ms: list[int] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    _rest: str = ""

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self._take(message["body"].decode())
            self.ended = not message["more_body"]

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    @property
    def versions(self) -> list[int]:
        """The account versions that it was told, in order."""
        return [int(event.id) for event in self.events if event.id is not None]

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    async def told(self, count: int, name: str = "") -> list[Event]:
        """Wait for so many events, of one name if that is given."""
        return (await eventually(lambda: found if len(found := self.named(name) if name else self.events) >= count else None, DEADLINE_S))[:count]

    def _take(self, text: str) -> None:
        *blocks, self._rest = (self._rest + text).split("\n\n")
        for block in blocks:
            lines = dict(line.split(": ", 1) if not line.startswith(":") else (":", line[1:]) for line in block.split("\n"))
            if "retry" in lines:
                self.retry_ms.append(int(lines["retry"]))
            if ":" in lines or "event" in lines:
                self.events.append(Event(lines.get("event", ":"), json.loads(lines.get("data", "null")), lines.get("id")))


@asynccontextmanager
async def listening(
    door: ReadDoor, history: History, *, reads: bool = True, method: str = "GET", headers: dict[str, str] | None = None, **query: str
) -> AsyncIterator[Reader]:
    """An open stream of a user, which is left at the end."""
    given = {"Host": "test", **door.headers(history), **(headers or {})}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/api/v1/stream",
        "raw_path": b"/api/v1/stream",
        "root_path": "",
        "query_string": urlencode(query).encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }
    reader = Reader()
    if reads:
        reader.reads.set()
    answering = asyncio.create_task(door.app(scope, reader.receive, reader.send))
    try:
        if reads:
            await eventually(lambda: reader.status or answering.done(), DEADLINE_S)
        yield reader
    finally:
        reader.left.set()
        reader.reads.set()
        await asyncio.wait_for(answering, DEADLINE_S)
