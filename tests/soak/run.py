"""One soak: load, faults in two lanes, a calm end, the audit."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.soak.auditor import Findings, audit
from tests.soak.evidence import Evidence, gather
from tests.soak.faults import Fault
from tests.soak.running import NotBack, System, running, until
from tests.soak.volume import Volume
from tests.soak.watch import Watch

WARM_S: Final = 60.0
"""Bound of the wait for the first results after the start."""
DRAINED_S: Final = 180.0
"""After the last fault everything that was asked is settled in this time."""
LATE_FACTOR_MAX: Final = 1.25
"""A lane that is behind goes on past its time by this factor, so that the counts are reached on a slow machine too."""
CALM_S_MAX: Final = 1.0
"""Longest pause between two faults of a lane that is behind its plan."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked: callers over HTTP with a pause each, and records a second straight into Kafka, of so many accounts."""

    callers: int
    per_s: float
    pause_s: float = 0.1
    accounts: int = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of each lane, spread over so many seconds; with `ends_in_time` those that are much too late are left out."""

    lanes: Sequence[Sequence[Fault]]
    seconds: float
    ends_in_time: bool = True


@dataclass(slots=True)
class Tried:
    """One fault that happened. Times are seconds since the start of the run; `alone` tells that no other fault overlapped."""

    name: str
    measure: str
    started: float
    ended: float = 0.0
    recovery_s: float | None = None
    error: str = ""
    alone: bool = True


@dataclass(slots=True)
class Progress:
    """What a run has done so far."""

    started: float = field(default_factory=time.monotonic)
    tried: list[Tried] = field(default_factory=list)
    system: System | None = None
    volume: Volume | None = None
    phase: str = "starting"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def acknowledged(self) -> int:
        """Requests with a definite answer."""
        return (self.system.callers.acknowledged if self.system else 0) + (self.volume.acknowledged if self.volume else 0)

    @property
    def watch(self) -> Watch | None:
        """The look past the doors."""
        return self.system.watch if self.system else None


@dataclass(frozen=True, slots=True)
class Soak:
    """What a run ended with."""

    progress: Progress
    findings: Findings
    surprises: Sequence[str]
    evidence: Evidence

    @property
    def clean(self) -> bool:
        """Whether nothing at all went wrong."""
        return self.findings.clean and not self.surprises and not any(tried.error for tried in self.progress.tried)


async def soak(home: Path, plan: Plan, load: Load, seed: int, *, progress: Progress, stop: asyncio.Event) -> Soak:
    """Run it all on a system of its own under `home`; `stop` ends the faults early. Nothing is left running when this returns or raises."""
    chance = Random(seed)  # noqa: S311 - a plan that can be had again
    async with running(home, chance, callers=load.callers, pause_s=load.pause_s) as system:
        volume = Volume(system.addresses.kafka, chance, accounts=load.accounts, per_s=load.per_s)
        progress.system, progress.volume = system, volume
        quiet = asyncio.Event()
        watching = asyncio.create_task(system.watch.run())
        asking = [asyncio.create_task(system.callers.run(quiet)), asyncio.create_task(volume.run(quiet))]
        try:
            await until(lambda: system.watch.recovered(0.0) and system.callers.acknowledged > 0, WARM_S, "nothing was settled after the start")
            progress.phase = "faults"
            await _disturb(system, plan, progress, stop)
            progress.phase = "draining"
            await _calm(system, progress)
            quiet.set()
            await asyncio.gather(*asking)
            await system.no_triggers()
            await _drained(system, progress)
            progress.phase = "auditing"
            return await _audited(system, volume, progress)
        finally:
            for task in (watching, *asking):
                task.cancel()
            await asyncio.gather(watching, *asking, return_exceptions=True)


async def _disturb(system: System, plan: Plan, progress: Progress, stop: asyncio.Event) -> None:
    """Returns early when `stop` is set; what is under way is finished."""
    async with asyncio.TaskGroup() as group:
        for lane in plan.lanes:
            group.create_task(_lane(system, lane, plan, progress, stop))


async def _lane(system: System, faults: Sequence[Fault], plan: Plan, progress: Progress, stop: asyncio.Event) -> None:
    started = time.monotonic()
    for number, fault in enumerate(faults):
        due = started + number * plan.seconds / len(faults)
        if await _stopped_by(stop, max(due - time.monotonic(), system.chance.random() * CALM_S_MAX)):
            return
        if plan.ends_in_time and time.monotonic() > started + plan.seconds * LATE_FACTOR_MAX:
            return
        tried = Tried(fault.name, fault.measure, progress.elapsed_s)
        progress.tried.append(tried)
        try:
            tried.recovery_s = await fault.happen(system)
        except Exception as error:  # noqa: BLE001 - told in the report; the next fault comes all the same
            tried.error = f"{type(error).__name__}: {error}"
        tried.ended = progress.elapsed_s


async def _stopped_by(stop: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


async def _calm(system: System, progress: Progress) -> None:
    """No more faults: everything runs, and the network does what it should."""
    for proxy in system.proxies.values():
        await proxy.accept()
    await _or_error(progress, "at the end", system.whole)


async def _drained(system: System, progress: Progress) -> None:
    async def settled() -> None:
        looks = system.watch.looks
        await until(lambda: system.watch.looks > looks + 1 and system.watch.lag == 0, DRAINED_S, "not everything was settled")

    await _or_error(progress, "drained", settled)


async def _or_error(progress: Progress, name: str, act: Callable[[], Any]) -> None:
    try:
        await act()
    except NotBack as error:
        progress.tried.append(Tried(name, "", progress.elapsed_s, error=str(error)))


async def _audited(system: System, volume: Volume, progress: Progress) -> Soak:
    evidence = await gather(system.addresses.kafka, system.addresses.dynamodb_url)
    evidence = replace(evidence, promises=[*system.callers.promises(), *volume.promises()], committed=system.watch.committed)
    findings = await asyncio.to_thread(audit, evidence)
    mark_alone(progress.tried)
    return Soak(progress, findings, system.callers.surprises, evidence)


def mark_alone(tried: Sequence[Tried]) -> None:
    """Say of each fault whether another one overlapped it."""
    for one in tried:
        one.alone = not any(other is not one and other.started < one.ended and one.started < other.ended for other in tried)
