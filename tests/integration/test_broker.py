"""A broker that dies, or does not answer: ridden out where that is short, an end within bounds where it is not, and each result once."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psutil
import pytest
from aiokafka.errors import KafkaError

from events.consumer import Handled
from events.envelope import Inbound
from events.transaction import TransactionFailed
from infra.local.stack import Addresses
from tests.integration.loops import QUICK, WITHIN_S, Log, running
from tests.waiting import eventually

SILENT_S = 3.0


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


def broker(addresses: Addresses) -> psutil.Process:
    """The process that listens on this session's port."""
    port = addresses.port("kafka")
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            return psutil.Process(connection.pid)
    raise AssertionError("no broker listens")


@contextmanager
def silent(addresses: Addresses) -> Iterator[None]:
    """The broker is stopped: connections stand, nothing answers."""
    process = broker(addresses)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("busy", [True, False], ids=["a batch is in hand", "idle"])
async def test_silent_for_a_while(provisioned: Addresses, log: Log, busy: bool) -> None:
    """Shorter than a transaction may take: the loop waits it out and goes on, with a batch in hand or without."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(batch: Sequence[Inbound]) -> Handled:
        entered.set()
        if busy:
            await go_on.wait()
        return await log.settle(batch)

    await log.publish("r0")
    async with running(log.loop(wait)) as (_, task):
        await asyncio.wait_for(entered.wait(), WITHIN_S)
        if not busy:
            await eventually(lambda: log.has_told(1), WITHIN_S)
        with silent(provisioned):
            go_on.set()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), SILENT_S)
        await log.publish("r1")
        await eventually(lambda: log.has_told(2), WITHIN_S)
        assert not task.done()
    await log.tells(["r0", "r1"])


async def test_silent_for_too_long(provisioned: Addresses, log: Log) -> None:
    """▲ Longer than all bounds, with a batch in hand: the process ends, its offset unmoved, and the next one tells what is stored."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(batch: Sequence[Inbound]) -> Handled:
        handled = await log.settle(batch)
        entered.set()
        await go_on.wait()
        return handled

    await log.publish("r0", "r1")
    async with running(log.loop(wait, bounds=replace(QUICK, transaction_ms=1_000, open_s=10.0))) as (_, task):
        await asyncio.wait_for(entered.wait(), WITHIN_S)
        with silent(provisioned):
            go_on.set()
            with pytest.raises((TransactionFailed, TimeoutError, KafkaError)):
                await asyncio.wait_for(task, WITHIN_S)
    assert await log.read_results() in ([], ["r0"])
    assert await log.committed() in (None, 1)
    async with running(log.loop()):
        await eventually(lambda: log.has_told(2), WITHIN_S)
    await log.tells(["r0", "r1"])


async def test_killed(provisioned: Addresses, log: Log) -> None:
    """▲ kill -9 of the broker under load: it comes back, and the loop, or the next process, tells everything once, in order."""
    names = [f"r{index}" for index in range(200)]
    await log.publish(*names[:100])
    ended = []
    async with running(log.loop(batch_records_max=5)) as (_, task):
        await eventually(lambda: len(log.stored) >= 20, WITHIN_S)
        broker(provisioned).kill()
        await eventually(lambda: _answers(log), WITHIN_S)
        await log.publish(*names[100:])
        await eventually(lambda: _told_or_ended(log, 200, task), WITHIN_S)
        ended.append(task.done())
    if ended[0]:
        async with running(log.loop()):
            await eventually(lambda: log.has_told(200), WITHIN_S)
    await log.tells(names)
    await log.commits(200)


async def _told_or_ended(log: Log, count: int, task: "asyncio.Task[None]") -> bool:
    return task.done() or await log.has_told(count)


async def _answers(log: Log) -> bool:
    try:
        await log.committed()
    except KafkaError:
        return False
    return True
