"""Processes of settlement that are killed, or stopped and continued, at every moment between a record and its committed offset.

The processes are real and so is the broker. What must hold whatever happens: each request is stored once and told once, in the order of the
log, and the committed offset of a partition never goes back.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.local.stack import Addresses
from tests.integration.loops import PARTITIONS, QUICK, Log, LoopProcess
from tests.waiting import eventually

COUNT = 30
TAKEOVER_S = 60.0
TOGETHER_S = 400
"""Twelve processes at once, on a machine with two cores and other tests."""
STOPPED_S = 2.0 + QUICK.session_ms / 1000
"""Longer than a session and than a transaction: both are over when the process goes on."""


@asynccontextmanager
async def offsets(log: Log) -> AsyncIterator[list[dict[int, int]]]:
    """Every committed offset that was seen meanwhile, by partition."""
    client = AIOKafkaConsumer(bootstrap_servers=log.kafka, group_id=log.name, enable_auto_commit=False)
    await client.start()
    seen: list[dict[int, int]] = []

    async def look() -> None:
        while True:
            seen.append({number: await client.committed(TopicPartition(log.requests, number)) or 0 for number in range(PARTITIONS)})
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await client.stop()


async def publish(log: Log, word: str) -> dict[int, list[str]]:
    names = {number: [f"{word}-{number}-{index}" for index in range(COUNT)] for number in range(PARTITIONS)}
    for number, own in names.items():
        await log.publish(*own, partition=number)
    return names


async def all_done(seen: list[dict[int, int]], count: int, *processes: LoopProcess) -> None:
    """Wait until so many records of each partition are settled. Whoever ends fenced meanwhile is started again, as a supervisor does it: on a busy machine
    a process that was never stopped may be late for its transaction too.
    """

    def reached() -> bool:
        for process in processes:
            if process.is_fenced():
                process.at = ""
                process.start()
        return bool(seen) and min(seen[-1].values()) >= count

    try:
        await eventually(reached, TAKEOVER_S, f"{count} records of each partition are settled")
    except AssertionError as error:
        raise AssertionError("\n".join([str(error), str(seen[-1:]), *(f"--- {process.slot}: {process.output[-3000:]}" for process in processes)])) from None


async def each_once(log: Log, *published: dict[int, list[str]]) -> None:
    """All results, each once, in the order of the log; and no offset went back."""
    wanted = [[name for names in published for name in names[number]] for number in range(PARTITIONS)]
    await eventually(lambda: log.has_told(sum(map(len, wanted))), TAKEOVER_S, "every result can be read")
    assert [await log.read_results(number) for number in range(PARTITIONS)] == wanted


def never_back(seen: list[dict[int, int]]) -> None:
    for number in range(PARTITIONS):
        course = [offsets[number] for offsets in seen]
        assert course == sorted(course)


@pytest.mark.parametrize("moment", ["opened", "stored", "told", "committed"])
async def test_killed(provisioned: Addresses, tmp_path: Path, moment: str) -> None:
    """▲ Kill -9 at that moment: the same slot, started again, tells the rest, and nothing twice."""
    log = await Log(provisioned.kafka).create()
    published = await publish(log, "a")
    victim = LoopProcess(log, tmp_path, at=moment).start()
    assert await victim.ended() == -signal.SIGKILL
    heir = LoopProcess(log, tmp_path)
    try:
        async with offsets(log) as seen:
            heir.start()
            await all_done(seen, COUNT, heir)
        await each_once(log, published)
        never_back(seen)
    finally:
        heir.kill()


async def one_is_stopped(log: Log, folder: Path, moment: str) -> None:
    """One process stops itself at that moment for longer than its session; another slot takes over; then the first goes on."""
    first = await publish(log, "a")
    stopped, other = LoopProcess(log, folder, slot="0", at=moment, then=signal.SIGSTOP), LoopProcess(log, folder, slot="1")
    try:
        async with offsets(log) as seen:
            stopped.start()
            await stopped.stopped()
            since = asyncio.get_running_loop().time()
            other.start()
            await all_done(seen, COUNT, stopped, other)
            second = await publish(log, "b")
            await asyncio.sleep(max(0.0, since + STOPPED_S - asyncio.get_running_loop().time()))
            stopped.go_on()
            await all_done(seen, 2 * COUNT, stopped, other)
            third = await publish(log, "c")
            await all_done(seen, 3 * COUNT, stopped, other)
        await each_once(log, first, second, third)
        never_back(seen)
    finally:
        stopped.kill()
        other.kill()


async def one_dies_in_a_rebalance(log: Log, folder: Path) -> None:
    """One process is killed while it gives its partitions back to a second one."""
    first = await publish(log, "a")
    victim, other = LoopProcess(log, folder, slot="0", at="revoked", then=signal.SIGKILL), LoopProcess(log, folder, slot="1")
    try:
        async with offsets(log) as seen:
            victim.start()
            await all_done(seen, COUNT // 2, victim)
            other.start()
            assert await victim.ended() == -signal.SIGKILL
            second = await publish(log, "b")
            await all_done(seen, 2 * COUNT, other)
        await each_once(log, first, second)
        never_back(seen)
    finally:
        victim.kill()
        other.kill()


@pytest.mark.timeout(TOGETHER_S)
async def test_stopped_and_continued(provisioned: Addresses, tmp_path: Path) -> None:
    """▲ Stopped past its session and its transaction at each moment, or killed in a rebalance: no offset goes back, no result comes twice."""
    moments = ("opening", "opened", "stored", "told", "committed")
    logs = [await Log(provisioned.kafka).create() for _ in range(len(moments) + 1)]
    for name in (*moments, "rebalance"):
        (tmp_path / name).mkdir()
    await asyncio.gather(
        *(one_is_stopped(log, tmp_path / moment, moment) for log, moment in zip(logs, moments, strict=False)),
        one_dies_in_a_rebalance(logs[-1], tmp_path / "rebalance"),
    )
