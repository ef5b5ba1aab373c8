"""Virtual time: many processes in one thread, none of which ever waits for real.

Each simulated process has an event loop of its own; what it awaits are timers here. The timeline goes from one timer to the next, over all
processes and machines, so a run of minutes takes milliseconds and is the same at every repetition. A process can be stopped (its timers come
when it is continued), and it can be killed: nothing of it runs any more, no `finally` either.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

UNWIND_TURNS_MAX = 200


class Handle:
    """A call to come. What asyncio asks of its handles."""

    __slots__ = ("_args", "_call", "_context", "gone", "loop")

    def __init__(self, loop: "ProcessLoop | None", call: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> None:
        self.loop = loop
        self.gone = False
        self._call = call
        self._args = args
        self._context = context

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def run(self) -> None:
        if self._context is None:
            self._call(*self._args)
        else:
            self._context.run(self._call, *self._args)


class Timeline:
    """The one clock, in seconds since the beginning, and all that is to come."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Handle]] = []
        self._number = 0
        self._awake: deque[ProcessLoop] = deque()

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, call: Callable[..., object], *args: Any) -> Handle:
        """Something that happens outside of any process: in the network, in a machine."""
        return self.push(self.now + delay_s, Handle(None, call, args, None))

    def push(self, when: float, handle: Handle) -> Handle:
        self._number += 1
        heapq.heappush(self._heap, (max(when, self.now), self._number, handle))
        return handle

    def wake(self, loop: "ProcessLoop") -> None:
        self._awake.append(loop)

    def advance(self) -> None:
        """On to the next timer, and all that follows from it without a further wait."""
        self.settle()
        when, _, handle = heapq.heappop(self._heap)
        self.now = when
        if handle.gone:
            return
        if handle.loop is None:
            handle.run()
        else:
            handle.loop.due(handle)
        self.settle()

    def settle(self) -> None:
        """Let every process go on until it waits."""
        while self._awake:
            self._awake.popleft().run_ready()


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one simulated process."""

    def __init__(self, timeline: Timeline, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: set[asyncio.Task[Any]] = set()
        self.unhandled: list[dict[str, Any]] = []
        self._timeline = timeline
        self._ready: deque[Handle] = deque()
        self._stopped = False
        self._missed: list[Handle] = []
        self._closing = False

    # What happens to a process

    def kill(self) -> None:
        """As by SIGKILL: what is on its way stays on its way, and nothing else happens."""
        self.alive = False

    def stop_process(self) -> None:
        """As by SIGSTOP."""
        self._stopped = True

    def continue_process(self) -> None:
        """As by SIGCONT: every timer that came meanwhile comes now."""
        if self._stopped:
            self._stopped = False
            self._ready.extend(self._missed)
            self._missed.clear()
            self._timeline.wake(self)

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    def due(self, handle: Handle) -> None:
        if not self.alive:
            return
        if self._stopped:
            self._missed.append(handle)
        else:
            self._ready.append(handle)
            self._timeline.wake(self)

    def run_ready(self) -> None:
        """Until it waits, was stopped or is dead. As in asyncio: first come, first served."""
        if not self._ready or not self.alive:
            return
        ready = self._ready
        asyncio._set_running_loop(self)  # documented as being for event loops
        try:
            while ready and self.alive and not self._stopped:
                handle = ready.popleft()
                if not handle.gone:
                    handle.run()
        finally:
            asyncio._set_running_loop(None)

    def unwind(self) -> None:
        """At the very end: take all tasks apart, so that none is left to the garbage collector. Its machines do not listen any more."""
        self.alive, self._stopped, self._closing = True, False, True
        for _ in range(UNWIND_TURNS_MAX):
            live = [task for task in self.tasks if not task.done()]
            if not live:
                break
            for task in live:
                task.cancel()
            self.run_ready()
        self.alive = False

    # What asyncio asks of a loop

    def time(self) -> float:
        return self._timeline.now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        handle = Handle(self, callback, args, context or copy_context())
        if self.alive and not self._ready and not self._closing:
            self._timeline.wake(self)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        return self.call_at(self._timeline.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Handle:  # type: ignore[override]
        if self._closing:
            return self.call_soon(callback, *args, context=context)
        return self._timeline.push(when, Handle(self, callback, args, context or copy_context()))

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None) -> "asyncio.Task[Any]":  # type: ignore[override]
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
