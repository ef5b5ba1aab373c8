"""Reads over HTTP beside the raw limit of the same run (`bench.bare`), and whether they cost more with a long history.

What is compared runs in short turns, a little of each at a time: noise that lasts hits both. A ratio is the median of the ratios of the turns; single
ones are apart by a factor of two on a machine that others use as well, so that there have to be many.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import httpx

from bench import bulk
from bench.bare import PATH as BARE_PATH
from bench.bulk import Say, mix_of
from bench.callers import DEPOSIT, HISTORY, READS, Callers
from bench.figures import in_ms
from bench.generator import Job, NotMeasured, Run
from bench.stage import Stage
from bench.usage import cpu_s, total
from infra.cache import Cache
from infra.cache_guard import Layout
from infra.clock import SystemClock
from infra.generations import FIRST
from infra.local import ports
from infra.secrets import derive, read_secret
from query_api.cursors import KEY_PURPOSE, Cursors, List, Place

CONNECTIONS: Final = 16
USERS: Final = 4
TURN_S: Final = 0.5
PAGES_TURN_S: Final = 1.0
"""A deep page takes part of a second where many are asked for at once."""
TURNS_MIN: Final = 5
FEW: Final = 1_000
"""Entries of the account with a short history: enough for a page in the midst of it."""
COLD_READS: Final = 100
START_S: Final = 30.0
POLL_S: Final = 0.1
ORIGIN: Final = "origin"
BARE: Final = "bare"
STORE: Final = "dynamodb"
WARM: Final = {**READS, "history": HISTORY}
DEEP: Final[Mapping[str, tuple[str, str]]] = {"history": (HISTORY, "transactions"), "orders": ("/orders", "orders")}
"""Lists with pages: their path, and the name that their cursors are bound to."""
_UNFILTERED: Final[Mapping[str, str | None]] = {"asset_id": None, "order_type": None, "status": None}


@dataclass(slots=True)
class Turns:
    """Runs of two things, one after the other, several times. `a_cpu_s` and `b_cpu_s`: what the processes that answer used meanwhile."""

    a: list[Run] = field(default_factory=list)
    b: list[Run] = field(default_factory=list)
    a_cpu_s: float = 0.0
    b_cpu_s: float = 0.0

    @property
    def ratios(self) -> list[float]:
        """Rate of `a` over rate of `b`, turn by turn, the smallest first."""
        return sorted(a.per_s / b.per_s for a, b in zip(self.a, self.b, strict=True))

    @property
    def a_cpu_us(self) -> int:
        """CPU time of one answer of `a`."""
        return round(self.a_cpu_s / sum(len(run.times_s) for run in self.a) * 1e6)

    @property
    def b_cpu_us(self) -> int:
        """CPU time of one answer of `b`."""
        return round(self.b_cpu_s / sum(len(run.times_s) for run in self.b) * 1e6)

    @property
    def ratio(self) -> float:
        """That of the run: noise that hits one turn is not in it."""
        return round(median(self.ratios), 3)


def reads(at: Stage, people: Callers, seconds: float, say: Say) -> dict[str, Any]:
    """Every kind of read beside the bare handler, warm and cold, and the portfolio while it changes all the time."""
    tokens = [people.funded(orders=3) for _ in range(USERS)]
    with bare(at) as (url, pid):
        pids = {ORIGIN: at.pids()[ORIGIN], BARE: pid}
        say(f"reads: portfolio beside the bare handler, connections: {CONNECTIONS}")
        compared = {name: _beside(people, (people.url + path, url + BARE_PATH), tokens, seconds, pids) for name, path in WARM.items()}
    say("reads: portfolio under writes, and without a view in Redis")
    return {
        **_portfolio(compared["portfolio"]),
        "reads_16": {name: _told(turns) for name, turns in compared.items()},
        "portfolio_under_writes": _under_writes(people, tokens, seconds / 2),
        "portfolio_cold": {"reads": COLD_READS, **in_ms(sorted(asyncio.run(_cold(at, people))), "")},
    }


def long_history(at: Stage, people: Callers, entries: int, seconds: float, say: Say) -> dict[str, Any]:
    """First pages and pages in the midst of lists of an account with many entries, beside those of one with few. The rates' ratio, the worst of all."""
    few, many = (_filled(at, count, say) for count in (min(FEW, entries // 10), entries))
    say("reads: first and deep pages of both accounts")
    cursors = Cursors(derive(read_secret(Path(at.environment["CNOP_SECRET_FILE"])), KEY_PURPOSE), SystemClock())
    figures: dict[str, Any] = {}
    for name, (path, route) in {"portfolio": ("/portfolio", ""), **DEEP}.items():
        figures[f"{name}_first"] = _few_and_many(at, people, [(few, path), (many, path)], seconds)
        if route:
            pages = [(account, f"{path}?cursor={_midst(cursors, account, route)}") for account in (few, many)]
            figures[f"{name}_deep"] = _few_and_many(at, people, pages, seconds, PAGES_TURN_S)
    return {
        "history_100k_ratio": min(each["ratio"] for each in figures.values()),
        "history_100k": {"entries": {"few": few.entries, "many": many.entries}, **figures},
    }


@dataclass(frozen=True, slots=True)
class Account:
    """One that has so many entries."""

    username: str
    entries: int


@contextmanager
def bare(at: Stage) -> Iterator[tuple[str, int]]:
    """The bare handler as a process of its own, on the machines of the system under measurement: its address and process id."""
    port = ports.free([])
    environment = {**os.environ, **at.environment, "CNOP_PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-m", "bench.bare"], env=environment, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])
    try:
        url = f"http://{ports.HOST}:{port}"
        _answers(url, process)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(START_S)


def in_turns(people: Callers, a: Sequence[Job], b: Sequence[Job], seconds: float, *, turn_s: float, cpu: Callable[[], float]) -> Turns:
    """Two things in turns, `seconds` each in all, after a turn that does not count. `cpu` tells the CPU seconds that those who answer have used.

    A turn is of about `turn_s` seconds, or shorter where there would be less than `TURNS_MIN`.
    """
    count = max(TURNS_MIN, round(seconds / turn_s))
    turns, part = Turns(), seconds / count
    for jobs in (a, b):
        people.generator.run(jobs, part)
    for _ in range(count):
        began = cpu()
        turns.a.append(people.generator.run(a, part))
        between = cpu()
        turns.b.append(people.generator.run(b, part))
        turns.a_cpu_s, turns.b_cpu_s = turns.a_cpu_s + between - began, turns.b_cpu_s + cpu() - between
    return turns


def _beside(people: Callers, urls: tuple[str, str], tokens: Sequence[str], seconds: float, pids: Mapping[str, int]) -> Turns:
    ours, raw = ([Job(url, token, CONNECTIONS // len(tokens)) for token in tokens] for url in urls)
    return in_turns(people, ours, raw, seconds, turn_s=TURN_S, cpu=lambda: total(cpu_s(pids)))  # who is not asked uses next to nothing


def _portfolio(turns: Turns) -> dict[str, Any]:
    return {
        "portfolio_per_s": round(median(run.per_s for run in turns.a)),
        "portfolio_p99_ms": in_ms(_all_times(turns.a), "")["p99_ms"],
        "read_ratio": turns.ratio,
        "bare_per_s": round(median(run.per_s for run in turns.b)),
    }


def _told(turns: Turns) -> dict[str, Any]:
    return {
        "per_s": round(median(run.per_s for run in turns.a)),
        **in_ms(_all_times(turns.a), ""),
        "ratio": turns.ratio,
        "ratios": [round(one, 2) for one in turns.ratios],
        "cpu_us": turns.a_cpu_us,
        "bare_cpu_us": turns.b_cpu_us,
    }


def _all_times(runs: Sequence[Run]) -> list[float]:
    return sorted(took for run in runs for took in run.times_s)


def _under_writes(people: Callers, tokens: Sequence[str], seconds: float) -> dict[str, float]:
    """Readers while each of their accounts is written to by a caller who waits for nothing but the outcome."""
    reading = [Job(people.url + "/portfolio", token, CONNECTIONS // len(tokens)) for token in tokens]
    writing = [Job(people.url + "/balance/deposit", token, 1, DEPOSIT) for token in tokens]
    with ThreadPoolExecutor(1) as beside:
        writes = beside.submit(people.generator.run, writing, seconds)
        run = people.generator.run(reading, seconds)
    return {"per_s": round(run.per_s), **in_ms(run.times_s, ""), "writes_per_s": round(writes.result().per_s)}


async def _cold(at: Stage, people: Callers) -> list[float]:
    """Seconds of reads, one after the other, each after its account's view was taken away."""
    username = f"bench_{secrets.token_hex(6)}"
    token = people.token(username)
    people.post(token, "/balance/deposit", DEPOSIT)
    cache, times = Cache(at.environment["CNOP_REDIS_URL"], client_name="bench"), list[float]()
    keys = Layout(1).keys(username, FIRST)
    try:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:
            for _ in range(COLD_READS):
                await cache.client.delete(*keys)
                started = time.monotonic()
                (await client.get(people.url + "/portfolio")).raise_for_status()
                times.append(time.monotonic() - started)
    finally:
        await cache.stop()
    return times


def _few_and_many(at: Stage, people: Callers, pages: Sequence[tuple[Account, str]], seconds: float, turn_s: float = TURN_S) -> dict[str, Any]:
    few, many = ([Job(people.url + path, people.token(account.username), CONNECTIONS)] for account, path in pages)
    pids = {name: pid for name, pid in at.pids().items() if name in (ORIGIN, STORE)}
    turns = in_turns(people, many, few, seconds, turn_s=turn_s, cpu=lambda: total(cpu_s(pids)))
    return {
        "few_per_s": round(median(run.per_s for run in turns.b)),
        "many_per_s": round(median(run.per_s for run in turns.a)),
        "ratio": turns.ratio,
        "ratios": [round(one, 2) for one in turns.ratios],
        "few_cpu_us": turns.b_cpu_us,
        "many_cpu_us": turns.a_cpu_us,
    }


def _midst(cursors: Cursors, account: Account, route: str) -> str:
    """A cursor to the middle of a list: as a caller has it who turned all pages before."""
    return cursors.make(List(account.username, route, _UNFILTERED), Place(account.entries // 2))


def _filled(at: Stage, entries: int, say: Say) -> Account:
    """A new account with so many entries, whose view shows all of them."""
    say(f"reads: an account of {entries} entries")
    mix = mix_of(1)
    (username,) = mix.usernames()
    with at.only():
        bulk.settled(at, mix.work(entries), 1)
    bulk.views_caught_up(at)
    return Account(username, entries)


def _answers(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the bare handler does; without a token it refuses. NotMeasured where it ends instead."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url + BARE_PATH)
        except httpx.TransportError:
            time.sleep(POLL_S)
        else:
            return
    raise NotMeasured("the bare handler does not start")
