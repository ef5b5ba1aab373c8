"""Thousands of open streams: what they cost while nothing happens, and whether each has every version when the projector is killed under load.

The client reads bytes and no JSON: an asyncio protocol for each stream, which checks ids as they come.
"""

import asyncio
import os
import resource
import secrets
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil

from bench.callers import DEPOSIT, Callers
from bench.generator import NotMeasured, Say
from bench.stage import Stage
from bench.waiting import until

LISTENERS: Final = 2_000
DEPOSITS: Final = 4
"""For each listener: half of them before the projector is killed, the others after it."""
IDLE_S: Final = 20.0
"""Longer than the time between two heartbeats."""
WRITERS: Final = 16
OPENING_AT_ONCE: Final = 64
OPEN_S: Final = 30.0
WITHIN_S: Final = 120.0
POLL_S: Final = 0.1
SPARE_FILES: Final = 256
ORIGIN: Final = "origin"
PROJECTOR: Final = "projector"
TRIES_MAX: Final = 20
"""Of one deposit that is refused for a passing reason: the machine is full."""
PAUSE_S: Final = 0.5


@dataclass
class Told:
    """What one stream was told. `wrong` says where a version was missing and no snapshot covered it."""

    version: int | None = None
    changes: int = 0
    snapshots: int = 0
    heartbeats: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: str = ""

    def note(self, event: str, version: int) -> None:
        """An event with an id came."""
        if event == "snapshot":
            self.snapshots += 1
            if self.version is not None and version <= self.version:
                self.wrong.append(f"snapshot of {version} after {self.version}")
        else:
            self.changes += 1
            if version != (self.version or 0) + 1:
                self.wrong.append(f"change {version} after {self.version}")
        self.version = version


class Stream(asyncio.Protocol):
    """One open stream. Lines of the chunked coding look like none of an event, so the text is read as it comes."""

    def __init__(self, request: bytes) -> None:
        self.told = Told()
        self.transport: asyncio.Transport | None = None
        self._request = request
        self._rest = b""
        self._event = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take whole lines."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.rstrip(b"\r"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self.told.ended = self.told.ended or f"connection lost: {exc}"

    def _take(self, line: bytes) -> None:
        if line.startswith(b"event: "):
            self._event = line[7:].decode()
            if self._event == "resume":
                self.told.ended = "resume"
        elif line.startswith(b"id: "):
            self.told.note(self._event, int(line[4:]))
        elif line.startswith(b": "):
            self.told.heartbeats += 1
        elif line.startswith(b"HTTP/") and b" 200 " not in line:
            self.told.ended = line.decode()


async def open_streams(url: str, tokens: Sequence[str]) -> list[Stream]:
    """A stream for each token of an origin at `url`; returns when each has its first snapshot. NotMeasured where one has none in time."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    turns = asyncio.Semaphore(OPENING_AT_ONCE)

    async def opened(token: str) -> Stream:
        request = f"GET /api/v1/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n"
        async with turns:
            _, stream = await asyncio.get_running_loop().create_connection(lambda: Stream(request.encode()), host, port)
            await until(lambda: _begun(stream), every_s=POLL_S / 10, within_s=OPEN_S)
        if stream.told.version is None:
            raise NotMeasured(f"a stream did not open: {stream.told.ended}")
        return stream

    return list(await asyncio.gather(*map(opened, tokens)))


async def all_at(streams: Sequence[Stream], version: int, within_s: float) -> None:
    """Wait until all were told that version. NotMeasured, with what is known, where that takes too long."""

    async def there() -> bool:
        return all((stream.told.version or 0) >= version or stream.told.ended for stream in streams)

    try:
        await until(there, every_s=POLL_S, within_s=within_s)
    except TimeoutError:
        late = [stream.told for stream in streams if (stream.told.version or 0) < version]
        raise NotMeasured(f"{len(late)} of {len(streams)} streams are not at version {version}, such as {late[0]}") from None


def faults(streams: Sequence[Stream]) -> list[str]:
    """What was missed, and what ended."""
    return [text for stream in streams for text in (*stream.told.wrong, stream.told.ended) if text]


def close(streams: Sequence[Stream]) -> None:
    """Leave."""
    for stream in streams:
        if stream.transport:
            stream.transport.close()


def listeners(at: Stage, callers: Callers, say: Say, count: int = LISTENERS) -> dict[str, Any]:
    """Open so many streams, each of a user of its own; look at the door while they are idle; deposit to all of them, and kill the projector meanwhile."""
    _make_room(count)
    return asyncio.run(_listeners(at, callers, say, count))


async def _listeners(at: Stage, callers: Callers, say: Say, count: int) -> dict[str, Any]:
    tokens = [callers.token(f"listener_{secrets.token_hex(8)}") for _ in range(count)]
    door = psutil.Process(at.pids()[ORIGIN])
    say(f"listeners: opening {count} streams")
    memory, began = door.memory_info().rss, time.monotonic()
    streams = await open_streams(at.addresses.origin_url, tokens)
    took_s = time.monotonic() - began
    try:
        held_kib = (door.memory_info().rss - memory) / 1024 / count
        say(f"listeners: idle for {IDLE_S:.0f} s")
        cpu = await _idle_cpu(door)
        await _through_a_kill(at, callers.url, tokens, streams, say)
    finally:
        close(streams)
    wrong = faults(streams)
    if wrong:
        raise NotMeasured(f"{len(wrong)} faults of {count} streams, such as {wrong[0]}")
    return {
        "stream_listeners": count,
        "stream": {
            "opened_per_s": round(count / took_s),
            "kib_each": round(held_kib, 1),
            "idle_cpu_percent": round(cpu, 1),
            "changes": sum(stream.told.changes for stream in streams),
            "snapshots_after_the_first": sum(stream.told.snapshots - 1 for stream in streams),
            "heartbeats": sum(stream.told.heartbeats for stream in streams),
        },
    }


async def _idle_cpu(door: psutil.Process) -> float:
    """Per cent of one core."""
    before, began = sum(door.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(IDLE_S)
    return 100 * (sum(door.cpu_times()[:2]) - before) / (time.monotonic() - began)


async def _through_a_kill(at: Stage, url: str, tokens: Sequence[str], streams: Sequence[Stream], say: Say) -> None:
    say(f"listeners: {DEPOSITS} deposits to each, and a projector that is killed")
    projector = at.pids()[PROJECTOR]
    depositing = asyncio.create_task(deposit(url, tokens, DEPOSITS // 2))
    await asyncio.sleep(0.5)
    os.kill(projector, signal.SIGKILL)
    await depositing
    await deposit(url, tokens, DEPOSITS - DEPOSITS // 2)
    await all_at(streams, DEPOSITS, WITHIN_S)
    await asyncio.to_thread(at.await_ready, PROJECTOR)


async def deposit(url: str, tokens: Sequence[str], times: int) -> None:
    """So many deposits for each token, accepted and not waited for, each under a key of its own. NotMeasured where one is not taken."""
    todo = iter([(token, secrets.token_hex(8)) for _ in range(times) for token in tokens])
    async with httpx.AsyncClient(timeout=OPEN_S) as client:

        async def write() -> None:
            for token, key in todo:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Prefer": "respond-async", "Idempotency-Key": key}
                for _ in range(TRIES_MAX):
                    answer = await client.post(f"{url}/balance/deposit", content=DEPOSIT, headers=headers)
                    if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                        break
                    await asyncio.sleep(PAUSE_S)
                if not answer.is_success:
                    raise NotMeasured(f"deposit: {answer.status_code} {answer.text}")

        await asyncio.gather(*(write() for _ in range(WRITERS)))


async def _begun(stream: Stream) -> bool:
    return stream.told.version is not None or bool(stream.told.ended)


def _make_room(count: int) -> None:
    """Each stream is an open file here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + SPARE_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count + SPARE_FILES, hard) if hard != resource.RLIM_INFINITY else count + SPARE_FILES, hard))
