"""Serving an app over HTTP on one port until the process stops."""

import asyncio
import contextlib
import errno
import math
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

import structlog
import uvicorn

from infra.http_health import Health
from infra.http_writes import Connection
from infra.process import Background, run_process
from infra.settings import Settings
from infra.telemetry import configure

log = structlog.get_logger()

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 30
UNREAD_S: Final = 30
"""A connection whose other side takes nothing of what was sent to it, or is gone without a word, is cut after this time."""
FILES_MAX: Final = 65_536
"""Open files, which are connections for the most part, that a door allows itself, where the system lets it."""
DRAIN_SHARE: Final = 0.5
"""Part of the time for stopping that running requests get; the rest is for closing connections to machines."""


class PortTaken(RuntimeError):
    """The address to listen on is in use, or not one of this machine."""


class App(Protocol):
    """What can be served: an ASGI app that opens what it needs in `lifespan`, and tells how it is."""

    @property
    def health(self) -> Health:
        """Told when the process begins to stop."""
        ...

    @property
    def background(self) -> Background:
        """Watched while it serves."""
        ...

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Opens connections and starts background tasks; closes them at its end."""
        ...

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        """Answer one request (ASGI 3)."""
        ...


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are `infra.process`'s."""
        yield


def be(name: str, settings: Settings, build: Callable[[], App], port: int) -> None:
    """Be the process that serves this app until it is told to stop; call it as the last thing of the main thread.

    `build` makes the app, not yet connected, on the loop that will serve it. SystemExit with a status that is not 0 where anything fails.
    """
    flush = configure(name, settings)

    async def main(stop: asyncio.Event) -> None:
        await serve(build(), settings.host, port, stop, settings.shutdown_s)

    try:
        run_process(main, shutdown_s=settings.shutdown_s)
    finally:
        flush()


async def serve(app: App, host: str, port: int, stop: asyncio.Event, shutdown_s: float) -> None:
    """Serve until `stop` is set, then finish the running requests for at most half of `shutdown_s`.

    The port is bound first and everything the app needs opened next; port 0 takes a free one, which is logged. PortTaken where it cannot
    be bound; BackgroundFailed where one of the app's background tasks ended; what the app's lifespan raises comes through.
    """
    _make_room()
    with contextlib.closing(listen(host, port)) as listener:
        async with contextlib.AsyncExitStack() as opened:
            if await _open(app, opened, stop):
                log.info("listening", host=host, port=listener.getsockname()[1])
                await _serve_on(listener, app, stop, shutdown_s * DRAIN_SHARE)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. PortTaken where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = "is taken by another process" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
        raise PortTaken(f"port {port} on {host} {reason}; set CNOP_PORT (a door) or CNOP_ADMIN_PORT (a processor) to a free one") from error
    # Accepted connections inherit it. Without it an answer of two segments waits 40 ms for the client's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
    return listener


def _make_room() -> None:
    """Each open stream is a connection, and many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _open(app: App, opened: contextlib.AsyncExitStack, stop: asyncio.Event) -> bool:
    """Open what the app needs; false where the process was told to stop before that was done (a machine may be waited for)."""
    opening = asyncio.current_task()
    if opening is None:
        raise RuntimeError("not in a task")
    watching = asyncio.create_task(_cancel_at(stop, opening))
    try:
        await opened.enter_async_context(app.lifespan())
    except asyncio.CancelledError:
        if not watching.done():
            raise
        opening.uncancel()
        return False
    finally:
        watching.cancel()
    return True


async def _cancel_at(stop: asyncio.Event, opening: "asyncio.Task[Any]") -> None:
    await stop.wait()
    opening.cancel()


async def _serve_on(listener: socket.socket, app: App, stop: asyncio.Event, drain_s: float) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            loop="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            reset_contextvars=True,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(drain_s),
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    failed = asyncio.create_task(app.background.failed())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([serving, failed, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        app.health.stop()
        server.should_exit = True
        stopped.cancel()
        failed.cancel()
        await serving
    if failed.done() and not failed.cancelled():
        failed.result()
