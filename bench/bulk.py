"""Settlement in bulk: a whole backlog is in the log before settlement starts, and the raw limit is taken before and after it in the same run."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

from bench.backlog import Progress, envelopes, progress, publish
from bench.mix import Mix, Work
from bench.profiling import Samples, sampled
from bench.raw import Piece, RawLimit
from bench.stage import SETTLEMENT, Stage
from bench.usage import Look, cpu_s, per_thousand, spent
from bench.waiting import until
from events.topics import PROJECTOR, RESULTS
from infra.clock import SystemClock

POLL_S: Final = 0.2
WITHIN_S: Final = 600.0
PIECE_REQUESTS: Final = 20_000
"""Requests that a raw writer holds in memory at once."""

Curve = list[tuple[float, int]]
"""Moments, and how many requests were settled then."""
Watch = Callable[[Mapping[str, int]], AbstractContextManager[Any]]
"""Something that goes on while settlement settles; given the process ids by name."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Bulk:
    """A bulk run. `per_s` is from the first committed offset seen to the last; `start_s` from the start of the program to the first, and
    `start_cpu_s` the CPU seconds of one settlement process until then.

    `curve` has (seconds, requests settled) at each look.
    """

    requests: int
    per_s: float
    start_s: float
    start_cpu_s: float
    cpu_per_thousand: dict[str, float]
    curve: Curve = field(repr=False)

    def rate(self, first: int, last: int) -> float:
        """Requests a second while those of numbers `first` to `last` were settled; the whole run's where that was too fast to see."""
        inside = [(at, settled) for at, settled in self.curve if first <= settled <= last]
        if len(inside) < 2 or inside[-1][1] == inside[0][1]:  # noqa: PLR2004 - a stretch has two ends
            return self.per_s
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


@dataclass(frozen=True, slots=True)
class Raw:
    """What the store took when everything was ready in memory."""

    requests: int
    per_s: float
    cpu_per_thousand: dict[str, float]


def compared(at: Stage, requests: int, accounts: int, slots: int, say: Say) -> dict[str, Any]:
    """Settlement alone on a backlog, between the two halves of the raw limit: noise that lasts hits both."""
    mix = mix_of(accounts)
    with at.only():
        limit = _RawHalves(at, requests, accounts, slots)
        try:
            say(f"raw limit, accounts: {accounts}, first half")
            limit.half()
            say(f"bulk, {requests} requests, accounts: {accounts}")
            bulk = settled(at, mix.work(requests), slots)
            say("raw limit, second half")
            limit.half()
        finally:
            limit.close()
    raw = limit.total()
    return {
        "bulk_per_s": round(bulk.per_s),
        "bulk_ratio": round(bulk.per_s / raw.per_s, 3),
        "raw_per_s": round(raw.per_s),
        "bulk_start_s": round(bulk.start_s, 1),
        "bulk_start_cpu_s": round(bulk.start_cpu_s, 2),
        "bulk_cpu_s_per_1000": bulk.cpu_per_thousand,
        "raw_cpu_s_per_1000": raw.cpu_per_thousand,
    }


def with_projector(at: Stage, requests: int, accounts: int, slots: int) -> dict[str, Any]:
    """The same with the projector at work on what settlement settles."""
    mix = mix_of(accounts)
    with at.only("projector"):
        bulk = settled(at, mix.work(requests), slots)
    return {"bulk_with_projector_per_s": round(bulk.per_s), "bulk_with_projector_cpu_s_per_1000": bulk.cpu_per_thousand}


def profiled(at: Stage, requests: int, accounts: int) -> tuple[Bulk, Samples]:
    """Settlement with the projector on a backlog, sampled: its speed is not to be compared, its shares are."""
    samples, mix = Samples(), mix_of(accounts)

    @contextmanager
    def watch(pids: Mapping[str, int]) -> Iterator[None]:
        with sampled(pids[SETTLEMENT]) as read:
            yield
        samples.own, samples.whole = read.own, read.whole

    with at.only("projector"):
        return settled(at, mix.work(requests), 1, watch), samples


def mix_of(accounts: int) -> Mix:
    """A day of accounts that nobody has seen before."""
    return Mix(secrets.token_hex(4), accounts, SystemClock().now())


def settled(at: Stage, work: Work, slots: int, watch: Watch = nullcontext) -> Bulk:
    """Stop settlement, publish the work, start so many slots, and measure until all of it is settled. Settlement runs on afterwards."""
    return asyncio.run(_settled(at, work, at.settlements[:slots], watch))


async def _settled(at: Stage, work: Work, names: tuple[str, ...], watch: Watch) -> Bulk:
    await asyncio.to_thread(at.stop, *[name for name in at.settlements if name in at.pids()])
    async with progress(at.addresses.kafka) as log:
        before = await log.committed()
        await publish(at.addresses.kafka, envelopes(work.requests, work.at, work.series))
        started = time.monotonic()
        await asyncio.to_thread(at.start, *names)
        curve: Curve = []
        await _reached(log, before, 1, curve)
        begun = cpu_s(at.pids())
        with watch(at.pids()):
            await _reached(log, before, work.count, curve)
        ended = cpu_s(at.pids())
    (first_at, first), (last_at, last) = curve[0], curve[-1]
    rate = (last - first) / (last_at - first_at) if last > first else work.count / (last_at - started)
    return Bulk(work.count, rate, first_at - started, spent({}, begun).get(SETTLEMENT, 0.0), per_thousand(spent(begun, ended), max(1, last - first)), curve)


def views_caught_up(at: Stage) -> None:
    """Returns when the projector has read every result. TimeoutError past the bound."""

    async def wait() -> None:
        async with progress(at.addresses.kafka) as log:

            async def caught_up() -> bool:
                return not await log.behind(PROJECTOR, RESULTS)

            await until(caught_up, every_s=POLL_S, within_s=WITHIN_S)

    asyncio.run(wait())


async def _reached(log: Progress, before: int, count: int, curve: Curve) -> None:
    """Look until `count` requests after `before` are settled; each look that shows progress goes into the curve."""

    async def reached() -> bool:
        settled_now = await log.committed() - before
        if settled_now > (curve[-1][1] if curve else 0):
            curve.append((time.monotonic(), settled_now))
        return settled_now >= count

    await until(reached, every_s=POLL_S, within_s=WITHIN_S)


class _RawHalves:
    def __init__(self, at: Stage, requests: int, accounts: int, slots: int) -> None:
        self._at = at
        self._requests = requests
        self._store_s = 0.0
        self._pieces: list[Piece] = []
        partitions = asyncio.run(_partitions(at.addresses.kafka))
        self._limit = RawLimit(at.addresses.dynamodb_url, mix_of(accounts), requests, partitions, slots)

    def half(self) -> None:
        left = self._requests // 2
        while left > 0:
            self._limit.prepare(min(left, PIECE_REQUESTS))
            left -= PIECE_REQUESTS
            before = self._store()
            self._pieces.append(self._limit.write())
            self._store_s += spent(before, self._store()).get("dynamodb", 0.0)

    def total(self) -> Raw:
        requests, seconds = sum(piece.requests for piece in self._pieces), sum(piece.seconds for piece in self._pieces)
        cpu = {"writer": sum(piece.cpu_s for piece in self._pieces), "dynamodb": self._store_s}
        return Raw(requests, requests / seconds, per_thousand(cpu, requests))

    def close(self) -> None:
        self._limit.close()

    def _store(self) -> Look:
        return cpu_s({name: pid for name, pid in self._at.pids().items() if name == "dynamodb"})


async def _partitions(kafka: str) -> int:
    async with progress(kafka) as log:
        return await log.partitions()
