"""A door is served on one port, finishes what it began when it stops, and says why it cannot start."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from litestar import get, post

from infra.http import PUBLIC, Background, BackgroundFailed, Health, PortTaken, build_app, serve
from infra.http_serve import UNREAD_S, listen
from infra.local import ports
from tests.fakes.clock import FakeIds
from tests.waiting import eventually
from tests.web.toy import DEADLINE_S, until_answering


async def test_port_taken() -> None:
    """A taken port is told at once, by number and by what to set, before anything is opened."""
    opened = False

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        nonlocal opened
        opened = True
        yield

    app = build_app("toy", [], ids=FakeIds(), health=Health(), lifespan=[lifespan])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"port {port} on 127\.0\.0\.1 is taken.*CNOP_PORT"):
            await serve(app, "127.0.0.1", port, asyncio.Event(), 1)
    assert not opened
    with pytest.raises(PortTaken, match="cannot be bound"):
        listen("192.0.2.1", 0)


async def test_start_fails() -> None:
    """What the lifespan raises comes through as it is, and the port is free again."""

    class Broker(AbstractAsyncContextManager[None]):
        async def __aenter__(self) -> None:
            raise ConnectionError("no broker")

        async def __aexit__(self, *_: object) -> None:
            """Never entered."""

    port = ports.free()
    with pytest.raises(ConnectionError, match="no broker"):
        await serve(build_app("toy", [], ids=FakeIds(), health=Health(), lifespan=[lambda _: Broker()]), "127.0.0.1", port, asyncio.Event(), 1)
    listen("127.0.0.1", port).close()


async def test_stopped_while_starting() -> None:
    """A stop that comes while a machine is waited for ends the waiting; what was open by then is closed."""
    waiting, stop, log = asyncio.Event(), asyncio.Event(), []

    @asynccontextmanager
    async def first(_app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            log.append("first closed")

    @asynccontextmanager
    async def second(_app: Any) -> AsyncIterator[None]:
        waiting.set()
        await asyncio.Event().wait()
        yield

    serving = asyncio.create_task(serve(build_app("toy", [], ids=FakeIds(), health=Health(), lifespan=[first, second]), "127.0.0.1", 0, stop, 1))
    async with asyncio.timeout(DEADLINE_S):
        await waiting.wait()
        stop.set()
        await serving
    assert log == ["first closed"]


async def test_cancelled_while_starting() -> None:
    """Whoever cancels the serving itself is not told that all went well."""
    waiting = asyncio.Event()

    @asynccontextmanager
    async def never(_app: Any) -> AsyncIterator[None]:
        waiting.set()
        await asyncio.Event().wait()
        yield

    serving = asyncio.create_task(serve(build_app("toy", [], ids=FakeIds(), health=Health(), lifespan=[never]), "127.0.0.1", 0, asyncio.Event(), 1))
    await waiting.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_whoever_says_no_more_is_answered() -> None:
    """A client that closes its side once it has asked, as `nc -N` does, gets all of its answer."""

    @get("/now", opt={PUBLIC: True})
    async def now() -> str:
        return "at once"

    port, stop = ports.free(), asyncio.Event()
    serving = asyncio.create_task(serve(build_app("toy", [now], ids=FakeIds(), health=Health()), "127.0.0.1", port, stop, DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await until_answering(client, serving)
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /api/v1/now HTTP/1.1\r\nHost: x\r\n\r\n")
            writer.write_eof()
            assert (await reader.read()).endswith(b"at once")
            writer.close()
        stop.set()
        await serving


def test_no_delay() -> None:
    """Accepted connections send at once: with Nagle's algorithm an answer can wait 40 ms for the client's acknowledgement."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
def test_a_reader_that_takes_nothing_is_cut() -> None:
    """Accepted connections have a bound on how long what was sent may stay untaken."""
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNREAD_S * 1000


async def test_graceful() -> None:
    """At the stop a running request is answered, no new connection is taken, tasks end first and connections close last."""
    entered, release, stop, order = asyncio.Event(), asyncio.Event(), asyncio.Event(), []
    background = Background()

    async def task() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append("task ended")

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        background.start("task", task())
        yield
        order.append("connection closed")

    @get("/slow", opt={PUBLIC: True})
    async def slow() -> str:
        entered.set()
        await release.wait()
        order.append("answered")
        return "done"

    health = Health()

    async def health_stopped() -> bool:
        return not (await health.ready()).ok

    app = build_app("toy", [slow], ids=FakeIds(), health=health, background=background, lifespan=[lifespan])
    port = ports.free()
    serving = asyncio.create_task(serve(app, "127.0.0.1", port, stop, DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await until_answering(client, serving)
        answer = asyncio.create_task(client.get("/api/v1/slow"))
        await entered.wait()
        stop.set()
        await eventually(health_stopped, DEADLINE_S)
        await eventually(partial(refused, port), DEADLINE_S)
        release.set()
        assert (await answer).text == "done"
        await serving
    assert order == ["answered", "task ended", "connection closed"]


async def test_bounded() -> None:
    """A request that does not end holds the process no longer than its share of the time."""
    entered, stop = asyncio.Event(), asyncio.Event()

    @post("/endless", opt={PUBLIC: True})
    async def endless() -> str:
        entered.set()
        await asyncio.Event().wait()
        return ""

    port = ports.free()
    serving = asyncio.create_task(serve(build_app("toy", [endless], ids=FakeIds(), health=Health()), "127.0.0.1", port, stop, 0.5))
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await until_answering(client, serving)
        answer = asyncio.create_task(client.post("/api/v1/endless"))
        await entered.wait()
        stop.set()
        await serving
        assert ((await answer).status_code, (await answer).json()["code"]) == (503, "outcome-unknown")


async def test_background_failure_stops_serving() -> None:
    """The end of a background task ends the serving, with its cause."""
    fail = asyncio.Event()
    background = Background()

    async def task() -> None:
        await fail.wait()
        raise ValueError("gone")

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        background.start("task", task())
        yield

    app = build_app("toy", [], ids=FakeIds(), health=Health(), background=background, lifespan=[lifespan])
    port = ports.free()
    serving = asyncio.create_task(serve(app, "127.0.0.1", port, asyncio.Event(), 1))
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await until_answering(client, serving)
        fail.set()
        with pytest.raises(BackgroundFailed, match="task failed"):
            await serving


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False
