"""Building a generation of views under load: its rate, and whether any reader notices the building, its interruption, the switch and the way back.

What is run are the operator's own commands. Readers and writers look at each answer: no read fails, no version goes back, every token is met.
"""

import asyncio
import contextlib
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from bench import bulk
from bench.bulk import Say, mix_of
from bench.callers import API, DEPOSIT, TIMEOUT_S, Callers
from bench.generator import NotMeasured
from bench.stage import Stage
from bench.waiting import until
from infra.build_state import Build, BuildState
from infra.cache_client import Cache

ACCOUNTS: Final = 50_000
READERS: Final = 4
PATHS: Final = ("/balance", "/portfolio", "/orders", "/balance/transactions")
RATE: Final = 100_000
"""Accounts a second that the command may load: as fast as it can."""
POLL_S: Final = 0.2
WITHIN_S: Final = 1_800.0
HOLD_S: Final = 3.0
"""How long the readers read after the switch, and after the way back."""
INTERRUPTED: Final = 130
SHOWN_MAX: Final = 5


@dataclass
class Seen:
    """What answers about accounts have shown: by account, the newest version that any of them had, and what was wrong with any."""

    versions: dict[str, int] = field(default_factory=dict)
    reads: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, username: str, path: str, answer: httpx.Response, *, presented: bool) -> None:
        """Look at an answer. `presented`: the newest token that there was went with the question."""
        self.reads += 1
        if answer.status_code != httpx.codes.OK:
            self.failures.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            return
        version, seen = answer.json()["as_of"]["version"], self.versions.get(username, 0)
        if version < seen:
            self.failures.append(f"{path} of {username}: version {version} after {seen}")
        if presented and answer.headers["Consistency-Satisfied"] != "true":
            self.failures.append(f"{path} of {username}: token of version {seen} not met")
        self.versions[username] = max(version, seen)


@dataclass
class Reader:
    """Reads and writes one account after another."""

    seen: Seen = field(default_factory=Seen)
    writes: int = 0

    async def once(self, http: httpx.AsyncClient, username: str, token: str) -> None:
        """A write, and each kind of read after it; every other one presents the newest token."""
        headers, known = {"Authorization": f"Bearer {token}"}, ""
        written = await http.post(f"{API}/balance/deposit", content=DEPOSIT, headers=headers | {"Content-Type": "application/json"})
        if written.status_code == httpx.codes.CREATED:
            self.writes += 1
            known = written.headers["Consistency-Token"]
            self.seen.versions[username] = int(known.split(".")[1])
        for number, path in enumerate(PATHS):
            more = {"Consistency-Token": known} if known and number % 2 else {}
            answer = await http.get(API + path, headers=headers | more)
            self.seen.note(username, path, answer, presented=bool(more))
            known = answer.headers.get("Consistency-Token", known)


def rebuilt(at: Stage, callers: Callers, say: Say, accounts: int = ACCOUNTS) -> dict[str, Any]:
    """Seed, build with an interruption, switch, go back, give up. NotMeasured where any reader saw anything wrong."""
    mix = mix_of(accounts)
    say(f"rebuild: {accounts} accounts")
    with at.only("settlement"):
        bulk.settled(at, mix.openings(), 1)
    say("rebuild: waiting for the views")
    bulk.views_caught_up(at)
    return asyncio.run(_rebuilt(at, callers, list(mix.usernames()), say))


async def _rebuilt(at: Stage, callers: Callers, usernames: Sequence[str], say: Say) -> dict[str, Any]:
    cache = Cache(at.addresses.redis_url, client_name="bench")
    state = BuildState(cache, "bench")
    try:
        async with _load(at, callers, usernames) as readers:
            say("rebuild: begun, to be interrupted")
            await _interrupted(at, state, len(usernames) // 3)
            left = await _built(state)
            say(f"rebuild: interrupted after {left.accounts} accounts, resumed")
            per_s = await _resumed(at, state, left)
            at_switch = sum(reader.seen.reads for reader in readers)
            await _command(at, "switch")
            await asyncio.sleep(HOLD_S)
            await _command(at, "rollback")
            await asyncio.sleep(HOLD_S)
            await _command(at, "drop")
            build = await _built(state)
        reads = sum(reader.seen.reads for reader in readers)
    finally:
        await cache.stop()
    return {
        "rebuild_accounts_per_s": round(per_s),
        "rebuild": {
            "accounts": build.checked,
            "interrupted_after": left.accounts,
            "differ": len(build.differ),
            "reads": reads,
            "reads_after_switch": reads - at_switch,
            "writes": sum(reader.writes for reader in readers),
            "wrong": 0,
        },
    }


@asynccontextmanager
async def _load(at: Stage, callers: Callers, usernames: Sequence[str]) -> AsyncIterator[list[Reader]]:
    """Readers and writers while the block runs, each on accounts of its own."""
    readers = [Reader() for _ in range(READERS)]
    stop = asyncio.Event()
    limits = httpx.Limits(max_connections=READERS)
    async with httpx.AsyncClient(base_url=at.addresses.origin_url, timeout=TIMEOUT_S, limits=limits) as http:

        async def go_on(number: int, reader: Reader) -> None:
            chance = random.Random(number)  # noqa: S311 - a repeatable draw
            mine = usernames[number::READERS]
            while not stop.is_set():
                username = chance.choice(mine)
                await reader.once(http, username, callers.token(username))

        async with asyncio.TaskGroup() as group:
            for number, reader in enumerate(readers):
                group.create_task(go_on(number, reader))
            try:
                yield readers
            finally:
                stop.set()
    failures = [failure for reader in readers for failure in reader.seen.failures]
    if failures:
        raise NotMeasured(f"{len(failures)} answers were wrong while views were built anew: {'; '.join(failures[:SHOWN_MAX])}")


async def _interrupted(at: Stage, state: BuildState, accounts: int) -> None:
    process = await _begun(at, "rebuild", "--rate", str(RATE))

    async def far_enough() -> bool:
        build = await state.read()
        return process.returncode is not None or (build is not None and build.accounts >= accounts)

    await until(far_enough, every_s=POLL_S, within_s=WITHIN_S)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    await _ended(process, INTERRUPTED)


async def _resumed(at: Stage, state: BuildState, left: Build) -> float:
    """Accounts loaded a second: of the stretch in which accounts were loaded."""
    process = await _begun(at, "rebuild", "--rate", str(RATE))
    curve = [(time.monotonic(), left.accounts)]
    async with asyncio.timeout(WITHIN_S):
        while process.returncode is None:
            build = await _built(state)
            if build.accounts == left.accounts:
                curve = [(time.monotonic(), build.accounts)]  # it waits until every process knows
            elif build.accounts > curve[-1][1]:
                curve.append((time.monotonic(), build.accounts))
            await asyncio.sleep(POLL_S)
    await _ended(process, 0)
    (begin, first), (end, last) = curve[0], curve[-1]
    return (last - first) / max(end - begin, POLL_S)


async def _built(state: BuildState) -> Build:
    build = await state.read()
    if build is None:
        raise NotMeasured("nothing is known of the building")
    return build


async def _command(at: Stage, *arguments: str) -> None:
    await _ended(await _begun(at, *arguments), 0)


async def _begun(at: Stage, *arguments: str) -> asyncio.subprocess.Process:
    argv = (sys.executable, "-m", "ops.main", "projections", *arguments, "--home", str(at.home))
    return await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)


async def _ended(process: asyncio.subprocess.Process, status: int) -> None:
    _, said = await asyncio.wait_for(process.communicate(), WITHIN_S)
    if process.returncode != status:
        raise NotMeasured(f"cnop projections ended with {process.returncode}: {said.decode()[-500:]}")
