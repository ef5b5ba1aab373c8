"""The connection to Redis: its bounds, its one error, and scripts in one round trip."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from typing import Any, Final, TypeVar

from prometheus_client import Counter, Histogram
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ClusterError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from events.tracing import span
from infra.cache_address import CONNECTION_WAIT_S, connect, is_cluster
from infra.cache_connection import Command, Exchange, exchanging

T = TypeVar("T")

CONNECTIONS_MAX: Final = 32
CONNECT_S: Final = 0.5
ANSWER_S: Final = 1.0
REST_S: Final = 0.5
"""After a failure calls are refused at once for this long: a server that is away must not cost every reader a timeout."""
PIPELINE_MAX: Final = 256
"""Script calls, or reads, in one pipeline."""

_UNREACHED: Final = (RedisConnectionError, RedisTimeoutError, ClusterDownError)
"""What a cluster's pipeline gives as the answer of a call whose node is gone, or has no partner that takes over yet."""
_AWAY: Final = (
    *_UNREACHED,
    BusyLoadingError,
    ClusterError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    OSError,
    TimeoutError,
)

CALL_S: Final = Histogram("cnop_redis_seconds", "Redis calls", ["operation"], buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 3))
FAULTS: Final = Counter("cnop_redis_faults_total", "Redis calls that failed for a passing reason", ["operation", "cause"])


class CacheUnavailable(ConnectionError):
    """Redis did not answer, or cannot take writes now. Whether a write was done is then unknown; all of ours can be repeated."""


class Script:
    """A Lua script and the digest by which the server knows it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script."""

    keys: tuple[str, ...]
    args: tuple[str | bytes | int, ...]


class Cache:
    """A pool of connections; nothing is connected before the first call. `client` is the raw client, for those who subscribe."""

    def __init__(self, url: str, *, client_name: str, connections_max: int = CONNECTIONS_MAX) -> None:
        self.client: Redis = connect(url, client_name=client_name, connections_max=connections_max, connect_s=CONNECT_S, answer_s=ANSWER_S)
        self._turns = asyncio.Semaphore(connections_max) if is_cluster(self.client) else None
        self._rests_until = 0.0
        self._asked: deque[tuple[Command, asyncio.Future[Any]]] = deque()
        """As long as there are calls: each of them ends with its reader."""
        self._asking: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """Close all connections."""
        await self.client.aclose()

    async def ping(self) -> None:
        """Proof that the server answers, asked of it even while others are refused. CacheUnavailable otherwise."""
        await self._measured("ping", self.client.ping)
        self._rests_until = 0.0

    async def run(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Run one call of the client. CacheUnavailable where the server is away, or was a moment ago."""
        if asyncio.get_running_loop().time() < self._rests_until:
            FAULTS.labels(operation, "resting").inc()
            raise CacheUnavailable(f"{operation}: away a moment ago")
        return await self._measured(operation, call)

    async def ask(self, *command: str | bytes | int) -> Any:
        """Read by one command, in one round trip with what else is asked meanwhile: a round trip costs more than all else about a read.

        It is sent after the call: what was written before the call is seen. Who stops waiting disturbs nobody else. CacheUnavailable as of `run`.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append((command, answer))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._send_asked(), name="redis reads", context=Context())  # of no one request
        return await answer

    async def ask_script(self, script: Script, call: Call) -> Any:
        """Read by a script that changes nothing, in one round trip with what else is asked. See `ask`."""
        try:
            return await self.ask(*_command(script, call))
        except NoScriptError:
            return await self.script(script, call)

    async def script(self, script: Script, call: Call) -> Any:
        """Run a script once; its answer. The server is given the text where it does not have it."""
        return (await self.scripts(script, [call]))[0]

    async def scripts(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Run a script for each call, in order, in as few round trips as `PIPELINE_MAX` allows.

        Calls may be run a second time where the server lost the script in between, so they must bear that.
        """
        answers: list[Any] = []
        for start in range(0, len(calls), PIPELINE_MAX):
            some = calls[start : start + PIPELINE_MAX]
            answers += await self.run(script.name, partial(self._evaluate, script, some))
        return answers

    async def _send_asked(self) -> None:
        """Send what is asked until nothing is. A failure of the whole is that of all the calls it was for."""
        while self._asked:
            async with self._exchanging() as exchange:
                while self._asked:
                    await asyncio.sleep(0)  # what else can run now may ask as well: a third of a read's work is its share of a round trip
                    await self._send_some(exchange)

    async def _send_some(self, exchange: Exchange) -> None:
        some = [self._asked.popleft() for _ in range(min(len(self._asked), PIPELINE_MAX))]
        try:
            answers = await self.run("reads", partial(exchange, [command for command, _ in some]))
            told = [self._away("reads", answer) if isinstance(answer, _AWAY) else answer for answer in answers]
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers get it
            told = [error] * len(some)
        for (_, answer), one in zip(some, told, strict=True):
            if not answer.done():
                _resolve(answer, one)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        async with self._exchanging() as exchange:
            return await exchange(commands)

    def _exchanging(self) -> AbstractAsyncContextManager[Exchange]:
        return exchanging(self.client) if self._turns is None else nullcontext(self._exchange_with_cluster)

    async def _exchange_with_cluster(self, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            return [await self._send_one(commands[0])]
        async with self.client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
        # A cluster's client looks for the node that took over where a single call fails; where a pipeline does, it does not.
        return [await self._send_one(command) if isinstance(answer, _UNREACHED) else answer for command, answer in zip(commands, answers, strict=True)]

    async def _send_one(self, command: Command) -> Any:
        try:
            return await self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # of the client
        except NoScriptError as error:
            return error

    async def _measured(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        started = time.perf_counter()
        with span(f"redis {operation}"):
            try:
                return await (call() if self._turns is None else self._in_turn(self._turns, call))
            except _AWAY as error:
                raise self._away(operation, error) from error
            finally:
                CALL_S.labels(operation).observe(time.perf_counter() - started)

    async def _evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        commands = [_command(script, call) for call in calls]
        answers = await self._exchange(commands)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            await self.client.script_load(script.text)
            answers = await self._exchange(commands)
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    async def _in_turn(self, turns: asyncio.Semaphore, call: Callable[[], Awaitable[T]]) -> T:
        """One of `connections_max` calls at once, where the client itself does not wait for a free connection."""
        async with asyncio.timeout(CONNECTION_WAIT_S):
            await turns.acquire()
        try:
            return await call()
        finally:
            turns.release()

    def _away(self, operation: str, error: Exception) -> CacheUnavailable:
        FAULTS.labels(operation, type(error).__name__).inc()
        if not isinstance(error, OutOfMemoryError):  # a server that is full still answers what does not need memory
            self._rests_until = asyncio.get_running_loop().time() + REST_S
        return CacheUnavailable(f"{operation}: {type(error).__name__}: {error}")


def _command(script: Script, call: Call) -> Command:
    return ("EVALSHA", script.digest, len(call.keys), *call.keys, *call.args)


def _resolve(answer: asyncio.Future[Any], told: Any) -> None:
    if isinstance(told, Exception):
        answer.set_exception(told)
    else:
        answer.set_result(told)
