"""A TCP proxy in front of one machine, with faults that can be switched on and off while connections run through it.

Our own, since none that a fresh machine can install fits: toxiproxy needs Go, `faultlib` a newer Python, `microburst` speaks HTTP only, and `faulty`
drops bytes out of a stream, which no network does, and cannot cut, refuse or reset. What is needed is small.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

HOST: Final = "127.0.0.1"
CHUNK_BYTES_MAX: Final = 256 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

Request = Callable[[bytes], bool]
"""Tells, from the first bytes of what a client sends, whether a fault is meant for it."""


class Proxy:
    """`async with Proxy("kafka", port, lambda: upstream_port) as proxy`. Each fault is a context manager and ends with its block.

    `upstream` is asked at each connection; where nothing listens there, the client's connection is reset.
    """

    def __init__(self, name: str, port: int, upstream: Callable[[], int]) -> None:
        self.name = name
        self.port = port
        self.lost_answers = 0
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._loses: Request | None = None

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._close()
        self.cut()
        tasks = list(self._links)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Faults

    def cut(self) -> int:
        """Reset every connection that is open now, in both directions; the number of them."""
        links = list(self._links.values())
        for link in links:
            link.reset()
        return len(links)

    async def refuse(self) -> None:
        """Reset what is open, and refuse connections until `accept`."""
        await self._close()
        self.cut()

    async def accept(self) -> None:
        """Listen again."""
        if self._server is None:
            await self._listen()

    @contextmanager
    def slow(self, delay_s: float) -> Iterator[None]:
        """Each piece of data takes this much longer, each way."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Connections are accepted and stay open, but no byte goes through; at the end all that was held goes on."""
        self._flowing.clear()
        try:
            yield
        finally:
            self._flowing.set()

    @contextmanager
    def losing_answers(self, of: Request) -> Iterator[None]:
        """A request that `of` picks reaches the machine whole; its connection is reset in the middle of the answer."""
        self._loses = of
        try:
            yield
        finally:
            self._loses = None

    # The pipe

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port, limit=CHUNK_BYTES_MAX)

    async def _close(self) -> None:
        # Not `wait_closed`: since Python 3.12 it waits for the connections as well.
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        link = _Link(writer)
        self._links[task] = link
        try:
            await self._flowing.wait()
            answers, requests = await asyncio.open_connection(HOST, self._upstream(), limit=CHUNK_BYTES_MAX)
            link.upstream = requests
            if link.is_reset:
                return
            ways = [asyncio.create_task(self._forth(link, reader, requests)), asyncio.create_task(self._back(link, answers, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            link.reset()
        except asyncio.CancelledError:
            link.reset()  # the proxy closes; asyncio's own callback would take the cancellation for a fault of ours
        finally:
            del self._links[task]
            link.close()

    async def _forth(self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await self._piece(reader):
                link.is_condemned = link.is_condemned or (self._loses is not None and self._loses(data))
                writer.write(data)
                await writer.drain()

    async def _back(self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await self._piece(reader):
                if link.is_condemned:
                    self.lost_answers += 1
                    writer.write(data[: len(data) // 2])
                    link.reset()
                    return
                writer.write(data)
                await writer.drain()

    async def _piece(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(CHUNK_BYTES_MAX)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        await self._flowing.wait()
        return data


class _Link:
    """A client's connection and its way on."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.is_condemned = False
        self.is_reset = False

    def reset(self) -> None:
        """Both sides see a reset."""
        self.is_reset = True
        for writer in filter(None, (self.client, self.upstream)):
            with suppress(OSError, ValueError, AttributeError):  # closed already
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    def close(self) -> None:
        """Both sides see an end, after all that was written."""
        for writer in filter(None, (self.client, self.upstream)):
            writer.close()


# What the faults pick


def kafka_requests(*api_keys: int) -> Request:
    """Requests of these kinds (Kafka protocol: length, then the kind)."""
    wanted = frozenset(api_keys)
    return lambda data: len(data) >= 6 and struct.unpack(">h", data[4:6])[0] in wanted


def requests_with(text: bytes) -> Request:
    """Requests that contain these bytes, whatever their case."""
    folded = text.lower()
    return lambda data: folded in data.lower()
