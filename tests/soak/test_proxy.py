"""The proxy does to a connection what it says, and what our clients make of it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest
from redis.exceptions import ConnectionError as RedisConnectionError

import events.connections  # noqa: F401 - see there
from infra.cache_client import Cache
from infra.local import ports
from tests.soak.proxy import Proxy, kafka_requests, requests_with
from tests.valkey import Valkey, valkey

ANSWER_S = 5.0


class Echo:
    """A server that gives back every line, and remembers them."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            self.got.append(line)
            writer.write(line)
            await writer.drain()
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, ports.HOST, 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy("echo", ports.free(), lambda: echo.port) as started:
        yield started


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, line: bytes) -> bytes:
        self.writer.write(line)
        async with asyncio.timeout(ANSWER_S):
            return await self.reader.readline()


async def connected(proxy: Proxy) -> Client:
    return Client(*await asyncio.open_connection(ports.HOST, proxy.port))


async def test_bytes_go_through(proxy: Proxy) -> None:
    """Without a fault it is not there."""
    client = await connected(proxy)
    assert [await client.say(b"one\n"), await client.say(b"two\n")] == [b"one\n", b"two\n"]


async def test_a_cut(proxy: Proxy) -> None:
    """What is open is reset; the next connection is as good as ever."""
    client = await connected(proxy)
    await client.say(b"one\n")
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        await client.say(b"two\n")
    assert await (await connected(proxy)).say(b"three\n") == b"three\n"


async def test_refused(proxy: Proxy) -> None:
    """Nobody gets a connection until it accepts again."""
    client = await connected(proxy)
    await client.say(b"one\n")
    await proxy.refuse()
    with pytest.raises(ConnectionResetError):
        await client.say(b"two\n")
    with pytest.raises(ConnectionRefusedError):
        await connected(proxy)
    await proxy.accept()
    assert await (await connected(proxy)).say(b"three\n") == b"three\n"


async def test_slow(proxy: Proxy) -> None:
    """Both ways take longer."""
    client = await connected(proxy)
    loop = asyncio.get_running_loop()
    with proxy.slow(0.05):
        started = loop.time()
        await client.say(b"one\n")
        assert loop.time() - started >= 0.1


async def test_stalled(proxy: Proxy, echo: Echo) -> None:
    """Connections are accepted and nothing comes through; after it everything does, in order."""
    with proxy.stalled():
        client = await connected(proxy)
        asking = asyncio.create_task(client.say(b"one\n"))
        done, _ = await asyncio.wait([asking], timeout=0.2)
        assert not done
        assert echo.got == []
    assert await asking == b"one\n"


async def test_an_answer_is_lost(proxy: Proxy, echo: Echo) -> None:
    """The request reaches the server; its connection breaks in the middle of the answer. Others are answered."""
    client, other = await connected(proxy), await connected(proxy)
    with proxy.losing_answers(requests_with(b"WRITE")):
        assert await other.say(b"read\n") == b"read\n"
        client.writer.write(b"write this\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(client.reader.readexactly(11), ANSWER_S)
    assert b"write this\n" in echo.got
    assert proxy.lost_answers == 1


async def test_nobody_behind_it(proxy: Proxy, echo: Echo) -> None:
    """Where the machine is away a connection is reset."""
    echo.port = ports.free()
    client = await connected(proxy)
    with pytest.raises(ConnectionResetError):
        await client.say(b"one\n")


def test_requests_of_kafka_are_told_apart() -> None:
    """By the number of their kind, which stands after the length."""
    picks = kafka_requests(0, 26)
    assert [picks(b"\0\0\0\x09" + kind + b"\0\x01") for kind in (b"\0\0", b"\0\x1a", b"\0\x01")] == [True, True, False]
    assert not picks(b"\0\0")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path) as started:
        yield started


async def test_a_subscription_that_was_cut_is_told_as_one(server: Valkey) -> None:
    """Under uvloop, which raises RuntimeError where one writes to a connection that is gone: no process may end of it."""

    async def subscribe_and_be_cut() -> type[BaseException] | None:
        async with Proxy("valkey", ports.free(), lambda: server.port) as proxy:
            cache = Cache(f"redis://{ports.HOST}:{proxy.port}/0", client_name="cut")
            pubsub = cache.client.pubsub()
            await pubsub.subscribe("anything")
            connection: Any = pubsub.connection
            proxy.cut()
            connection._writer.transport.abort()  # now, not when the reset has come
            await asyncio.sleep(0)
            try:
                await connection.send_command("PING")
            except Exception as error:  # noqa: BLE001 - its kind is what is asked
                return type(error)
            return None

    assert await asyncio.to_thread(_under_uvloop, subscribe_and_be_cut()) is RedisConnectionError


async def test_a_connection_to_kafka_that_was_cut_is_told_as_one() -> None:
    """The same of the Kafka client, whose tasks would end of it."""

    async def send_over_what_is_cut() -> type[BaseException] | None:
        server = await asyncio.start_server(lambda *_: None, ports.HOST, 0)
        connection: Any = AIOKafkaConnection(ports.HOST, server.sockets[0].getsockname()[1])
        connection._reader, connection._writer = await asyncio.open_connection(ports.HOST, connection.port)
        connection._read_task = asyncio.create_task(asyncio.sleep(0))
        connection._versions = {MetadataRequest([]).API_KEY: (0, 1)}
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            connection.send(MetadataRequest([]))
        except Exception as error:  # noqa: BLE001 - its kind is what is asked
            return type(error)
        finally:
            server.close()
        return None

    assert await asyncio.to_thread(_under_uvloop, send_over_what_is_cut()) is KafkaConnectionError


def _under_uvloop(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)
