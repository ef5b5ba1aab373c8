"""The life of a process: it runs until it is told to stop or a part of it fails, and it is gone in time."""

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any, Final, Self

import structlog
import uvloop

log = structlog.get_logger()

FAILED: Final = 1
KILLED: Final = 70
"""Exit status of a process that did not stop in time (EX_SOFTWARE)."""
SIGNALLED: Final = 128
"""Exit status of a process ended by a signal: this plus the signal's number."""
CLOSE_S: Final = 5.0
TELL_S: Final = 0.5
"""How long the last log line may hold up the end."""
COLLECT_AFTER: Final = (50_000, 20, 100)
"""Allocations before a collection of each generation. By the interpreter's own bound settlement spends a tenth of its time in vain."""


class BackgroundFailed(RuntimeError):
    """A task that must run as long as the process ended; its cause says why."""


class Background:
    """Tasks that run as long as the process does. The first one that ends, with or without an error, is a failure of the process.

    `async with` cancels them at its end and waits for them.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._failure: BackgroundFailed | None = None
        self._closing = False

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run it from now on."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def alive(self) -> bool:
        """Whether none has ended: the probe for liveness."""
        return self._failure is None

    async def failed(self) -> None:
        """Wait until one ends, then raise BackgroundFailed. Never returns."""
        await self._ended.wait()
        raise self._failure or BackgroundFailed("a background task ended")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=CLOSE_S)
            for task in late:
                log.warning("background task does not end", task=task.get_name(), within_s=CLOSE_S)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._closing or self._failure is not None:
            return
        self._failure = BackgroundFailed(f"background task {task.get_name()} {'failed' if error else 'ended'}")
        self._failure.__cause__ = error
        self._ended.set()


def run_process(main: Callable[[asyncio.Event], Awaitable[None]], *, shutdown_s: float) -> None:
    """Run a process on uvloop until `main` returns. Call from the main thread, as the last thing.

    SIGTERM and SIGINT set the event that `main` gets; `main` then finishes and returns. After `shutdown_s` the process is ended where it
    stands; a second signal does so at once. SystemExit with status 1 where `main` raises; the reason is logged.
    """
    # What was imported lives as long as the process: the collector need not look at it. What a batch makes is nearly all gone with the batch.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    try:
        uvloop.run(_until_stopped(main, shutdown_s))
    except Exception as error:  # whatever it is, it is told and ends the process
        log.critical("process failed", reason=str(error) or type(error).__name__, exc_info=error)
        sys.exit(FAILED)


async def _until_stopped(main: Callable[[asyncio.Event], Awaitable[None]], shutdown_s: float) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    told = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # Not the loop's own signal handling: this one also runs, and starts the timer, while the loop is kept busy. It may have
        # interrupted a write to the log, so it writes none itself.
        nonlocal told
        if told:
            _end_now(SIGNALLED + number, "second signal")
        told = True
        _end_after(shutdown_s)
        loop.call_soon_threadsafe(begin, signal.Signals(number).name)

    def begin(name: str) -> None:
        log.info("stopping", signal=name, within_s=shutdown_s)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        await main(stop)
    finally:
        _end_after(shutdown_s)  # what a failed main leaves behind may not hold the process either


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, _end_now, (KILLED, f"not stopped within {seconds:g} s"))
    timer.daemon = True
    timer.start()


def _end_now(status: int, reason: str) -> None:
    # Told by a thread, since what holds this process up may well be the output of its log.
    teller = threading.Thread(target=log.critical, args=("process killed",), kwargs={"reason": reason}, daemon=True)
    teller.start()
    teller.join(TELL_S)
    os._exit(status)
