"""The whole system with a proxy in front of each machine, as the faults have it: what to kill, pause, cut and empty, and how to wait until it is back."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import psutil

from infra.local import ports
from infra.local.cache import Say
from infra.local.home import MACHINES, PROCESSES, SPARES
from infra.local.machines import Addresses
from infra.local.stack import Stack
from tests.soak.callers import Callers
from tests.soak.prices import swinging
from tests.soak.proxy import Proxy
from tests.soak.watch import Watch
from tests.waiting import eventually

SECOND: Final = SPARES[0]
TRIGGERS: Final = "triggers"
PARTITIONS: Final = 4
BACK_S: Final = 90.0
"""After this time at most everything works again, whatever happened to it."""
CHOSEN: Final = {
    "CNOP_PORT": "0",
    "CNOP_FEE_BPS": "10",
    "CNOP_AUTH_REQUESTS_PER_MINUTE": "100000",
    "CNOP_ACCOUNT_PARTITIONS": str(PARTITIONS),
    "CNOP_LOG_BATCH_LINES_MAX": "0",
}


class NotBack(AssertionError):
    """The system did not come back from a fault in time. The text says from which."""


@dataclass
class System:
    """A running stack under load. `chance` decides what the faults leave open."""

    stack: Stack = field(repr=False)
    addresses: Addresses = field(repr=False)
    proxies: dict[str, Proxy] = field(repr=False)
    watch: Watch = field(repr=False)
    callers: Callers = field(repr=False)
    chance: Random = field(repr=False)

    async def send(self, name: str, number: signal.Signals) -> int:
        """A signal to a process or machine that runs, or will in a moment; the process id that got it."""
        pid = 0

        async def runs() -> bool:
            nonlocal pid
            pid = await self.pid(name)
            return bool(pid)

        await until(runs, BACK_S, f"{name} does not run")
        os.kill(pid, number)
        return pid

    async def pid(self, name: str) -> int:
        """Its process id; 0 where it does not run."""
        return await asyncio.to_thread(self.stack.pid, name)

    async def kill(self, name: str) -> None:
        """SIGKILL; returns when its successor is ready."""
        pid = await self.send(name, signal.SIGKILL)
        await until(lambda: not psutil.pid_exists(pid), BACK_S, f"{name} does not die")
        await self.ready(name)

    async def ready(self, name: str) -> None:
        """Wait until it answers that it is ready."""
        await until(lambda: asyncio.to_thread(self.stack.is_ready, name), BACK_S, f"{name} is not ready")

    async def second_slot(self) -> None:
        """Have a second settlement process, with partitions of its own."""
        if not await self.pid(SECOND):
            await asyncio.to_thread(Stack(self.stack.home.path, (SECOND,), CHOSEN, proxies={name: proxy.port for name, proxy in self.proxies.items()}).up)

    async def no_second_slot(self) -> None:
        """Stop it in good order; its partitions go to the first one when its session ends."""
        await asyncio.to_thread(self.stack.stop_process, SECOND)

    async def no_triggers(self) -> None:
        """Stop the process that fills and expires orders by itself, in good order: nobody asks for anything any more then."""
        await asyncio.to_thread(self.stack.stop_process, TRIGGERS)

    async def empty_the_cache(self) -> None:
        """FLUSHALL."""
        reader, writer = await asyncio.open_connection(ports.HOST, self.addresses.port("valkey"))
        writer.write(b"FLUSHALL\r\n")
        answer = await reader.readline()
        writer.close()
        if not answer.startswith(b"+OK"):
            raise NotBack(f"FLUSHALL was answered {answer!r}")

    async def whole(self) -> None:
        """Wait until every machine and process is ready."""
        for name in (*MACHINES, *PROCESSES):
            await self.ready(name)

    async def settling(self) -> None:
        """Wait until every partition has settled something from now on."""
        since = time.monotonic()
        await until(lambda: self.watch.recovered(since), BACK_S, "a partition does not settle")

    async def answering(self) -> None:
        """Wait until callers are answered from now on."""
        since = time.monotonic()
        await until(lambda: self.callers.answers.came_since(since), BACK_S, "callers get no answer")


@asynccontextmanager
async def running(home: Path, chance: Random, *, callers: int, pause_s: float, say: Say = lambda _part, _text: None) -> AsyncIterator[System]:
    """Start everything; it ends with the block, or with this process."""
    at = {name: ports.free() for name in MACHINES}
    machines = Stack(home, (), CHOSEN, proxies=at, say=say)
    addresses = await asyncio.to_thread(lambda: machines.up(hold=True))
    try:
        upstream = {"kafka": int(addresses.kafka_proxied.rpartition(":")[2])}
        async with AsyncExitStack() as stack:
            proxies = {
                name: await stack.enter_async_context(Proxy(name, port, lambda name=name: upstream.get(name) or addresses.port(name)))  # type: ignore[misc]
                for name, port in at.items()
            }
            processes = Stack(home, PROCESSES, {**CHOSEN, **swinging(home / "prices", chance)}, proxies=at, say=say)
            addresses = await asyncio.to_thread(processes.up)
            watch = Watch(addresses.kafka, PARTITIONS)
            os.environ.update({name: value for name, value in processes.environment().items() if name.startswith("AWS_")})
            yield System(processes, addresses, proxies, watch, Callers(addresses.origin_url, chance, callers, pause_s), chance)
    finally:
        await asyncio.to_thread(machines.down)


async def until(condition: Callable[[], bool | Awaitable[bool]], within_s: float, otherwise: str) -> None:
    """Ask until it is true. NotBack, with `otherwise`, where the time is up before."""
    try:
        await eventually(condition, within_s, otherwise)
    except AssertionError as late:
        raise NotBack(str(late)) from None
