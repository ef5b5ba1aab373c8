"""The connection to Redis: its bounds, its one error, and scripts in one round trip."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from typing import Any, Final, TypeVar

from prometheus_client import Counter, Histogram
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from events.tracing import span

T = TypeVar("T")

CONNECTIONS_MAX: Final = 32
CONNECTION_WAIT_S: Final = 1.0
"""How long a call may wait for a free connection of the pool."""
CONNECT_S: Final = 0.5
ANSWER_S: Final = 1.0
RETRIES_MAX: Final = 1
"""Repetitions inside one call, for a connection that died while it was idle. Whoever can wait longer repeats knowingly."""
RETRY_WAIT_S_MAX: Final = 0.1
REST_S: Final = 0.5
"""After a failure calls are refused at once for this long: a server that is away must not cost every reader a timeout."""
PIPELINE_MAX: Final = 256
"""Script calls in one pipeline."""

_AWAY: Final = (RedisConnectionError, RedisTimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError, OSError, TimeoutError)

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


class _TellsItsEnd:
    """A connection that was reset while it lay idle says so, as the client expects it: uvloop raises RuntimeError where one writes to it."""

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc] # of the client's own class
        except RuntimeError as error:
            raise ConnectionResetError(str(error)) from error


class Cache:
    """A pool of connections; nothing is connected before the first call. `client` is the raw client, for those who subscribe."""

    def __init__(self, url: str, *, client_name: str, connections_max: int = CONNECTIONS_MAX) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections_max,
            timeout=CONNECTION_WAIT_S,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            client_name=client_name,
            retry=Retry(ExponentialBackoff(cap=RETRY_WAIT_S_MAX, base=RETRY_WAIT_S_MAX / 4), RETRIES_MAX),
        )
        pool.connection_class = type("Connection", (_TellsItsEnd, pool.connection_class), {})
        self.client: Redis = Redis.from_pool(pool)
        self._rests_until = 0.0

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

    async def _measured(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        started = time.perf_counter()
        with span(f"redis {operation}"):
            try:
                return await call()
            except _AWAY as error:
                raise self._away(operation, error) from error
            finally:
                CALL_S.labels(operation).observe(time.perf_counter() - started)

    async def _evaluate(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        answers = await self._send(script, calls)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            await self.client.script_load(script.text)
            answers = await self._send(script, calls)
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer
        return answers

    async def _send(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        async with self.client.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(script.digest, len(call.keys), *call.keys, *call.args)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    def _away(self, operation: str, error: Exception) -> CacheUnavailable:
        FAULTS.labels(operation, type(error).__name__).inc()
        self._rests_until = asyncio.get_running_loop().time() + REST_S
        return CacheUnavailable(f"{operation}: {type(error).__name__}: {error}")
