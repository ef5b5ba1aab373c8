"""How long nothing is settled after kill -9 of a settlement process, under steady load, as seen by a reader of the results topic.

Same slot: its supervisor starts the process again. Another slot: a second settlement process, started here, shares the partitions; it is killed
and stays dead, so its partitions wait for the group to notice.
"""

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.backlog import envelopes
from bench.bulk import Say, mix_of
from bench.mix import Mix
from bench.stage import SETTLEMENT, Stage
from bench.waiting import until
from events.topics import REQUESTS, RESULTS
from infra.local import ports, probes
from infra.local.cache import GUARD

KILLS: Final = 5
LOAD_PER_S: Final = 100
ACCOUNTS: Final = 200
STEADY_S: Final = 2.0
"""Load before each kill."""
WITHIN_S: Final = 60.0
IN_FLIGHT_S: Final = 0.5
"""Results that were on their way when the process died arrive within this; a process needs longer to start."""
POLL_S: Final = 0.02
SPARE_SLOT: Final = "bench"


@dataclass(frozen=True, slots=True)
class Gap:
    """Seconds without a result around a kill: until the first one of any partition, and until every partition has one again."""

    first_s: float
    all_s: float


class Results:
    """When results arrived, by partition."""

    def __init__(self, partitions: int) -> None:
        self._times: dict[int, list[float]] = defaultdict(list)
        self.partitions = partitions

    def note(self, partition: int, at: float) -> None:
        """A result was read."""
        self._times[partition].append(at)

    def since(self, moment: float) -> set[int]:
        """Partitions with a result after that moment."""
        return {partition for partition, times in self._times.items() if times[-1] > moment}

    def gap(self, moment: float) -> Gap:
        """The longest silences after a moment, each measured from the last result before it. Each partition must have had one before and after it."""
        everything = sorted(at for times in self._times.values() for at in times)
        return Gap(_silence(everything, moment), max(_silence(times, moment) for times in self._times.values()))


def _silence(times: list[float], moment: float) -> float:
    last = max(at for at in times if at <= moment)
    return max(after - before for before, after in pairwise(at for at in times if at >= last))


def recovery(at: Stage, kills: int, say: Say) -> dict[str, Any]:
    """Kill -9, and the same slot comes back."""

    async def measure() -> list[Gap]:
        async with _loaded(at) as results:
            return [await _killed(results, lambda: at.pids()[SETTLEMENT], f"kill -9 {number + 1} of {kills}", say) for number in range(kills)]

    gaps = asyncio.run(measure())
    return {**_spread("recovery", [gap.first_s for gap in gaps]), **_spread("recovery_all_partitions", [gap.all_s for gap in gaps])}


def takeover(at: Stage, kills: int, say: Say) -> dict[str, Any]:
    """Kill -9, and another slot takes the partitions."""

    async def measure() -> list[Gap]:
        async with _loaded(at) as results:
            return [await _taken_over(at, results, f"takeover {number + 1} of {kills}", say) for number in range(kills)]

    return _spread("takeover", [gap.all_s for gap in asyncio.run(measure())])


async def _taken_over(at: Stage, results: Results, label: str, say: Say) -> Gap:
    async with _spare(at) as pid:
        await _flowing(results, time.monotonic() + STEADY_S)
        return await _killed(results, lambda: pid, label, say)


async def _killed(results: Results, pid: Any, label: str, say: Say) -> Gap:
    await _flowing(results, time.monotonic() + STEADY_S)
    os.kill(await asyncio.to_thread(pid), signal.SIGKILL)
    moment = time.monotonic()
    await _flowing(results, moment + IN_FLIGHT_S)
    gap = results.gap(moment)
    say(f"{label}: first result after {gap.first_s:.2f} s, every partition after {gap.all_s:.2f} s")
    return gap


async def _flowing(results: Results, moment: float) -> None:
    """Returns when every partition has had a result after that moment."""

    async def all_flow() -> bool:
        return len(results.since(moment)) == results.partitions

    await until(all_flow, every_s=POLL_S, within_s=WITHIN_S)


@asynccontextmanager
async def _loaded(at: Stage) -> AsyncIterator[Results]:
    """Steady load on all partitions, and a reader of what comes out."""
    kafka = at.addresses.kafka
    reader = AIOKafkaConsumer(bootstrap_servers=kafka, client_id="bench-recovery", isolation_level="read_committed", auto_offset_reset="latest")
    producer = AIOKafkaProducer(bootstrap_servers=kafka, client_id="bench-recovery", acks="all")
    await reader.start()
    await producer.start()
    numbers = sorted(await producer.partitions_for(RESULTS))
    reader.assign([TopicPartition(RESULTS, number) for number in numbers])
    await reader.seek_to_end()
    results = Results(len(numbers))
    tasks = [asyncio.create_task(_read(reader, results)), asyncio.create_task(_load(producer, mix_of(ACCOUNTS)))]
    try:
        await _flowing(results, time.monotonic())
        yield results
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await producer.stop()
        await reader.stop()


async def _read(reader: AIOKafkaConsumer, results: Results) -> None:
    async for record in reader:
        results.note(record.partition, time.monotonic())


async def _load(producer: AIOKafkaProducer, mix: Mix) -> None:
    for event in envelopes(mix.requests(sys.maxsize), mix.at):
        await producer.send_and_wait(REQUESTS, value=event.value, key=event.key, headers=event.headers())
        await asyncio.sleep(1 / LOAD_PER_S)


@asynccontextmanager
async def _spare(at: Stage) -> AsyncIterator[int]:
    """A second settlement process with partitions of its own; ends with the block, and with this process."""
    port = ports.free(at.addresses.admin_ports.values())
    argv = [sys.executable, "-I", "-S", str(GUARD), "-9", str(os.getpid()), sys.executable, "-m", "ops.main", "run", SETTLEMENT]
    env = {**os.environ, **at.environment, "CNOP_SLOT": SPARE_SLOT, "CNOP_ADMIN_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(*argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: asyncio.to_thread(probes.http_ready, port), every_s=POLL_S, within_s=WITHIN_S)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _spread(name: str, seconds: list[float]) -> dict[str, Any]:
    return {f"{name}_s": round(statistics.median(seconds), 2), f"{name}_max_s": round(max(seconds), 2), f"{name}_each_s": [round(each, 2) for each in seconds]}
