"""Answers that leave in one piece: the server hands over head and body one after the other, and the loop would send each by itself.

That is a system call and a packet more for each answer, and a second waking of whoever waits for it.
"""

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HELD_BYTES_MAX: Final = 65_536
"""What is written past it goes out at once, so that a writer who never waits meets the connection's own bound."""


class Connection(HttpToolsProtocol):
    """The server's side of a connection, for `uvicorn.Config(http=…)`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the server has it
        """The connection is there."""
        self._together = Together(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._together))

    def eof_received(self) -> None:
        """The other side says no more, for which the loop closes the connection; it may be waiting for its answer all the same."""
        self._together.flush()
        super().eof_received()


class Together:
    """A transport that sends what is written in one turn of the loop in the next one. All else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it with what else is written in this turn."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._size += len(data)
        if self._size > HELD_BYTES_MAX:
            self.flush()

    def close(self) -> None:
        """Send what is held, then close."""
        self.flush()
        self._transport.close()

    def flush(self) -> None:
        """Send what is held."""
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))  # not `writelines`: asyncio's own forgets its bound there
