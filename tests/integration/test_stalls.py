"""A consumer that is alive and does not move: it ends, says which partition and where, and is not ready before that."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from events.consumer import Consumer, Handled, Stuck
from events.envelope import Inbound
from events.stalls import Stillness
from events.subscriber import Subscriber
from infra.local.stack import Addresses
from tests.integration.loops import QUICK, WITHIN_S, Log, running
from tests.waiting import eventually

IMPATIENT = replace(QUICK, watch_interval_s=0.2, idle_stall_s=3.0, busy_stall_s=3.0)
PATIENT = replace(IMPATIENT, idle_stall_s=60.0, busy_stall_s=60.0)


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


async def test_a_handler_that_never_returns(log: Log) -> None:
    """A batch that stays in hand past its bound ends the process, with its offset unmoved."""

    async def hang(_batch: Sequence[Inbound]) -> Handled:
        await asyncio.Event().wait()
        raise AssertionError("never")

    await log.publish("r0")
    async with running(log.loop(hang, bounds=IMPATIENT)) as (consumer, task):
        with pytest.raises(Stuck, match=r"partition 0 has not moved for 3 s: a batch is in hand, settled up to 0, its log ends at 1"):
            await asyncio.wait_for(task, WITHIN_S)
        await consumer.stop(0.1)
    assert await log.committed() is None


async def test_a_fetch_that_gives_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """▲ The client reads nothing though the log has more: seen by asking for the log's end over another connection."""

    async def nothing(*_partitions: Any, timeout_ms: int = 0, **_more: Any) -> dict[Any, Any]:
        await asyncio.sleep(timeout_ms / 1000)
        return {}

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", lambda _self, *given, **named: nothing(*given, **named))
    await log.publish("r0")
    async with running(log.loop(bounds=IMPATIENT)) as (_, task):
        with pytest.raises(Stuck, match="it waits for records"):
            await asyncio.wait_for(task, WITHIN_S)


async def test_a_partition_that_nobody_serves(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """▲ Assigned by the group and without a lane, for whatever reason: it ends."""
    monkeypatch.setattr(Consumer, "open_lanes", lambda _self, _assigned: None)
    await log.publish("r0")
    async with running(log.loop(bounds=IMPATIENT)) as (_, task):
        with pytest.raises(Stuck, match="nobody serves it"):
            await asyncio.wait_for(task, WITHIN_S)


async def test_not_ready_before_it_ends(log: Log) -> None:
    """A partition that has not moved for a while makes the process not ready; idle ones do not."""
    go_on = asyncio.Event()

    async def wait(batch: Sequence[Inbound]) -> Handled:
        await go_on.wait()
        return await log.settle(batch)

    # As many looks as usual, in a twentieth of the time.
    async with running(log.loop(wait, bounds=replace(PATIENT, watch_interval_s=0.1))) as (consumer, _):
        await consumer.moving()
        consumer._stillness._interval_s = 2.0
        await log.publish("r0")
        await eventually(lambda: _is_still(consumer), WITHIN_S)
        go_on.set()
        await eventually(lambda: _moves(consumer), WITHIN_S)


async def test_an_idle_partition_is_not_stuck(log: Log) -> None:
    """Nothing to read is no reason to end, also not where the last thing in the log is the mark of a transaction."""

    async def settle(batch: Sequence[Inbound]) -> Handled:
        handled = await log.settle(batch)
        return replace(handled, requests=[replace(record.envelope, id="r0+") for record in batch if record.envelope.id == "r0"])

    await log.publish("r0")
    async with running(log.loop(settle, bounds=IMPATIENT)) as (_, task):
        await eventually(lambda: len(log.stored) == 2, WITHIN_S)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), 3 * IMPATIENT.idle_stall_s)


async def test_an_event_loop_that_was_blocked_past_the_session(log: Log) -> None:
    """▲ The group has given its partitions away by then: it joins again, or ends, and everything is told once."""
    blocked: list[bool] = []

    async def block_once(batch: Sequence[Inbound]) -> Handled:
        handled = await log.settle(batch)
        if not blocked:
            blocked.append(True)
            time.sleep(QUICK.session_ms / 1000 + 1.5)  # noqa: ASYNC251 - that is the fault
        return handled

    await log.publish("r0", "r1")
    async with running(log.loop(block_once, bounds=IMPATIENT)) as (_, task):
        await eventually(lambda: _told_or_ended(log, task), WITHIN_S)
    if not blocked or len(await log.read_results()) < 2:
        async with running(log.loop()):
            await eventually(lambda: log.has_told(2), WITHIN_S)
    await log.tells(["r0", "r1"])


async def test_a_log_that_is_shorter_than_the_committed_offset(log: Log) -> None:
    """▲ A log that was cut or put back is told, and not read from its beginning or its end: to do that would repeat or lose."""
    await log.publish("r0")
    await commit(log, 100)
    async with running(log.loop()) as (_, task):
        with pytest.raises(OffsetOutOfRangeError):
            await asyncio.wait_for(task, WITHIN_S)
    assert (await log.committed(), await log.read_results()) == (100, [])


async def test_records_that_were_deleted_before_they_were_settled(log: Log) -> None:
    """Retention that overtakes settlement loses requests: that stops it, for an operator to look."""
    await log.publish("r0", "r1", "r2")
    await commit(log, 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=log.kafka)
    await admin.start()
    await admin.delete_records({TopicPartition(log.requests, 0): RecordsToDelete(before_offset=2)})
    await admin.close()
    async with running(log.loop()) as (_, task):
        with pytest.raises(OffsetOutOfRangeError):
            await asyncio.wait_for(task, WITHIN_S)


@pytest.mark.parametrize("fault", ["the handler hangs", "nothing is fetched", "the client raises"])
async def test_a_light_subscriber_that_does_not_move(log: Log, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """▲ Its framework tells nobody: it ends all the same, and says where it stood."""

    async def hang(_records: Sequence[Inbound]) -> Sequence[tuple[Inbound, str]]:
        await asyncio.Event().wait()
        return ()

    async def getmany(_client: AIOKafkaConsumer, *_given: Any, **_named: Any) -> dict[Any, Any]:
        await asyncio.sleep(0.05)
        if fault == "the client raises":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a header's name is not text")
        return {}

    if fault != "the handler hangs":
        monkeypatch.setattr(AIOKafkaConsumer, "getmany", getmany)
    subscriber = Subscriber(
        log.kafka, group=log.name, slot="0", topics=[log.requests], handler=hang, batch_records_max=5, watch_interval_s=0.2, idle_stall_s=3.0, busy_stall_s=3.0
    )
    await log.publish("r0")
    await subscriber.start()
    try:
        with pytest.raises(Stuck, match=f"{log.requests} 0 has not moved for 3 s"):
            await asyncio.wait_for(subscriber.run(), WITHIN_S)
    finally:
        monkeypatch.undo()
        await subscriber.stop()
    assert await log.committed() is None


def test_a_stopped_process_does_not_count_as_still() -> None:
    """Stillness is counted in looks: time in which nobody looked is not held against anyone."""
    stillness = Stillness(2.0)
    assert [stillness.look(0, "here") for _ in range(3)] == [0.0, 2.0, 4.0]
    assert stillness.longest_s == 4.0
    assert stillness.look(0, "there") == 0.0
    stillness.look(1, "elsewhere")
    stillness.keep_only([1])
    assert stillness.look(0, "there") == 0.0


async def commit(log: Log, offset: int) -> None:
    client = AIOKafkaConsumer(bootstrap_servers=log.kafka, group_id=log.name, enable_auto_commit=False)
    await client.start()
    client.assign([TopicPartition(log.requests, 0)])
    await client.commit({TopicPartition(log.requests, 0): OffsetAndMetadata(offset, "")})
    await client.stop()


async def _told_or_ended(log: Log, task: "asyncio.Task[None]") -> bool:
    return task.done() or await log.has_told(2)


async def _is_still(consumer: Consumer[Inbound]) -> bool:
    try:
        await consumer.moving()
    except Stuck:
        return True
    return False


async def _moves(consumer: Consumer[Inbound]) -> bool:
    return not await _is_still(consumer)
