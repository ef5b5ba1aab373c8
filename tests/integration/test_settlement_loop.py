"""The settlement loop on a real broker: each result once, in order, through crashes, a second owner, and records that nobody can read.

The handler here stores into a plain dict, as the ledger does by entry: what was stored before is found again, and its result made again.
"""

import asyncio
from collections.abc import Sequence

import pytest
from aiokafka import AIOKafkaProducer

from events.consumer import Consumer, Fenced, Handled
from events.envelope import Inbound, Unreadable
from events.records import inbound
from infra.local.stack import Addresses
from tests.integration.loops import WITHIN_S, Log, everything, request, running
from tests.waiting import eventually


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


async def test_each_request_gives_one_result_in_the_order_of_the_log_and_the_offset_moves_with_them(log: Log) -> None:
    names = [f"r{index}" for index in range(120)]
    await log.publish(*names)
    async with running(log.loop()):
        await eventually(lambda: len(log.stored) == 120, WITHIN_S)
    await log.tells(names)
    await log.commits(120)


async def test_a_result_goes_to_the_partition_with_its_requests_number(log: Log) -> None:
    await log.publish("one", partition=1)
    async with running(log.loop()):
        await eventually(lambda: "one" in log.stored, WITHIN_S)
    (record,) = await eventually(lambda: everything(log.kafka, log.results), WITHIN_S)
    assert record.partition == 1


async def test_what_was_stored_before_a_crash_and_never_told_is_told_once_after_it(log: Log) -> None:
    await log.publish("r0", "r1", "r2")

    async def crash_after_storing(batch: Sequence[Inbound]) -> Handled:
        await log.settle(batch)
        raise ConnectionResetError("between store and topic")

    async with running(log.loop(crash_after_storing)) as (_, task):
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(task, WITHIN_S)
    assert len(log.stored) == 3
    assert await log.read_results() == []
    assert await log.committed() in (None, 0)
    async with running(log.loop()):
        await eventually(log.read_results, WITHIN_S)
    await log.tells(["r0", "r1", "r2"])


async def test_a_repeated_request_id_gives_no_second_result(log: Log) -> None:
    await log.publish("r0", "r1", "r0", "r2")
    async with running(log.loop()):
        await eventually(lambda: "r2" in log.stored, WITHIN_S)
    await log.tells(["r0", "r1", "r2"])


async def test_a_second_owner_of_a_partition_fences_the_first_whose_batch_then_leaves_no_trace(log: Log) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def paused(batch: Sequence[Inbound]) -> Handled:
        results = await log.settle(batch)
        entered.set()
        await go_on.wait()
        return results

    await log.publish("r0", "r1")
    zombie = Consumer(log.loop(paused))
    await zombie.start()
    zombie_task = asyncio.create_task(zombie.run())
    await asyncio.wait_for(entered.wait(), WITHIN_S)
    # The same slot started anew while the old process hangs: it takes over, settles and commits.
    async with running(log.loop()) as (_, owner):
        await eventually(log.read_results, WITHIN_S)
        await log.publish("r2", "r3")
        await eventually(lambda: len(log.stored) == 4, WITHIN_S)
        committed_before = await eventually(lambda: _is(log.committed(), 4), WITHIN_S)
        go_on.set()
        with pytest.raises(Fenced):
            await asyncio.wait_for(zombie_task, WITHIN_S)
        await zombie.stop(1.0)
        assert committed_before
        # It ended, and did not fence in its turn who came after it.
        await log.publish("r4")
        await eventually(lambda: _is(log.committed(), 5), WITHIN_S)
        assert not owner.done()
    await log.tells(["r0", "r1", "r2", "r3", "r4"])


async def _is(value, expected) -> bool:
    return await value == expected


async def test_a_stop_finishes_the_batch_in_hand(log: Log) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(batch: Sequence[Inbound]) -> Handled:
        entered.set()
        await go_on.wait()
        return await log.settle(batch)

    await log.publish("r0", "r1")
    async with running(log.loop(slow)) as (consumer, _):
        await asyncio.wait_for(entered.wait(), WITHIN_S)
        stopping = asyncio.create_task(consumer.stop(5.0))
        go_on.set()
        await stopping
    await eventually(lambda: _agree(log), WITHIN_S, "results and offset are both there")
    told = await log.read_results()
    assert told in (["r0"], ["r0", "r1"])
    await log.commits(len(told))


async def _agree(log: Log) -> bool:
    return len(await log.read_results()) == await log.committed()


async def test_a_backlog_larger_than_the_buffer_is_settled_whole_and_in_order(log: Log) -> None:
    names = [f"r{index}" for index in range(300)]
    await log.publish(*names)
    async with running(log.loop(batch_records_max=10)) as (consumer, _):
        await eventually(lambda: len(log.stored) == 300, WITHIN_S)
        await eventually(lambda: consumer.lag() == {0: 0, 1: 0}, WITHIN_S)
    await log.tells(names)


def test_a_record_with_two_names_for_its_user_is_unreadable() -> None:
    class Record:
        topic, partition, offset, timestamp = "t", 0, 0, 0
        key, value = b"bob_001", b"{}"
        headers = tuple(request("r").headers())

    with pytest.raises(Unreadable, match="ce_subject"):
        inbound(Record())


async def test_a_record_of_a_transaction_that_was_aborted_is_never_settled(log: Log) -> None:
    """▲ Only what is committed is read: a follow-up request of a batch that failed, for instance, was never asked."""
    client = AIOKafkaProducer(bootstrap_servers=log.kafka, transactional_id=f"{log.name}-test")
    await client.start()
    await client.begin_transaction()
    await client.send_and_wait(log.requests, key=b"alice_1", value=b"{}", partition=0, headers=request("never").headers())
    await client.abort_transaction()
    await client.stop()
    await log.publish("r0")
    async with running(log.loop()) as (consumer, _):
        await eventually(lambda: "r0" in log.stored, WITHIN_S)
        await eventually(lambda: consumer.lag() == {0: 0, 1: 0}, WITHIN_S)
    await log.tells(["r0"])
