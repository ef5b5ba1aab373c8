"""The one transaction of a batch, when something goes wrong around it: nothing told twice, nothing lost, and an end within bounds.

What fails here is the Kafka client's call, at a chosen moment; broker, topics and offsets are real.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, UnknownError

from events import topics
from events.consumer import Consumer, Fenced, Handled
from events.envelope import Inbound
from events.transaction import TooLargeToPublish, TransactionFailed
from infra.local.stack import Addresses
from tests.integration.loops import QUICK, WITHIN_S, Log, request, result, running
from tests.waiting import eventually


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


class Fault:
    """Stands before or after one call of the client, for as many calls as it is told; a call with `real=False` never reaches the broker."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, error: Exception, *, times: int = 1, real: bool) -> None:
        self.calls = 0
        original = getattr(owner, name)

        async def faulty(client: Any, *given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls > times:
                return await original(client, *given, **named)
            if real:
                await original(client, *given, **named)
            raise error

        monkeypatch.setattr(owner, name, faulty)


@pytest.mark.parametrize("real", [True, False], ids=["committed", "not committed"])
async def test_a_commit_without_an_answer(log: Log, monkeypatch: pytest.MonkeyPatch, real: bool) -> None:
    """▲ Whether it took place is read from the committed offset, after a fencing: results are there once, in both cases."""
    fault = Fault(monkeypatch, AIOKafkaProducer, "commit_transaction", KafkaConnectionError("answer lost"), real=real)
    await log.publish("r0", "r1", "r2")
    async with running(log.loop()) as (_, task):
        await eventually(lambda: log.has_told(3), WITHIN_S)
        await log.publish("r3")
        await eventually(lambda: log.has_told(4), WITHIN_S)
        assert not task.done()
    assert fault.calls > 1
    await log.tells(["r0", "r1", "r2", "r3"])
    await log.commits(4)


@pytest.mark.parametrize("name", ["begin_transaction", "send_batch", "send_offsets_to_transaction"])
async def test_a_failure_inside_of_a_transaction(log: Log, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What was half done is never seen by a committed reader, and the same results are sent again."""
    Fault(monkeypatch, AIOKafkaProducer, name, KafkaTimeoutError("no answer"), real=name == "send_batch")
    await log.publish("r0", "r1")
    async with running(log.loop()):
        await eventually(lambda: log.has_told(2), WITHIN_S)
    await log.tells(["r0", "r1"])
    await log.commits(2)


async def test_a_transaction_that_never_succeeds(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tries are bounded: then the process ends, with its offset unmoved and nothing told."""
    Fault(monkeypatch, AIOKafkaProducer, "send_offsets_to_transaction", KafkaTimeoutError("no answer"), times=10**6, real=False)
    await log.publish("r0")
    async with running(log.loop()) as (_, task):
        with pytest.raises(TransactionFailed):
            await asyncio.wait_for(task, WITHIN_S)
    assert await log.read_results() == []
    assert await log.committed() is None


async def test_an_error_that_this_client_has_no_name_for(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """▲ Codes 82 and 90 come as UnknownError: the process ends at once, without trying again what another owner may do by now."""
    fault = Fault(monkeypatch, AIOKafkaProducer, "send_offsets_to_transaction", UnknownError("code 90"), times=10**6, real=False)
    await log.publish("r0")
    async with running(log.loop()) as (_, task):
        with pytest.raises(Fenced):
            await asyncio.wait_for(task, WITHIN_S)
    assert fault.calls == 1


async def test_an_offset_of_another_owner(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that comes back from a lost answer and finds an offset that it never wrote has been replaced meanwhile: it ends."""
    await log.publish("r0", "r1", "r2", "r3")
    Fault(monkeypatch, AIOKafkaProducer, "commit_transaction", KafkaConnectionError("answer lost"), real=False)
    committed = AIOKafkaConsumer.committed
    looks: list[int] = []

    async def moved(client: AIOKafkaConsumer, tp: TopicPartition) -> int | None:
        looks.append(tp.partition)
        return 2 if looks.count(0) > 1 and tp.partition == 0 else await committed(client, tp)

    with monkeypatch.context() as later:
        later.setattr(AIOKafkaConsumer, "committed", moved)
        async with running(log.loop()) as (_, task):
            with pytest.raises(Fenced, match="stands at 2"):
                await asyncio.wait_for(task, WITHIN_S)


async def test_follow_up_requests(log: Log) -> None:
    """▲ They come onto the batch's own partition with its results and its offset, in one transaction, and are settled in their turn."""
    done: list[int] = []

    async def settle(batch: Sequence[Inbound]) -> Handled:
        handled = await log.settle(batch)
        asked = [request(f"{record.envelope.id}+") for record in batch if len(record.envelope.id) < 4]

        async def after() -> None:
            # Decided before this is called, and visible a moment later.
            await eventually(lambda: _stands(log, batch[-1].offset + 1), WITHIN_S)
            done.append(batch[-1].offset)

        return replace(handled, requests=asked, after=after)

    await log.publish("r0", partition=1)
    async with running(log.loop(settle)) as (consumer, _):
        await eventually(lambda: log.has_told(3), WITHIN_S)
        await eventually(lambda: consumer.lag() == {0: 0, 1: 0}, WITHIN_S, "marks of transactions are no lag")
    assert await log.read_results(1) == ["r0", "r0+", "r0++"]
    assert len(done) == 3, "`after` ran before its transaction was committed"


async def test_a_failing_afterthought(log: Log) -> None:
    """What is to be done after a batch may fail: the partition goes on."""

    async def settle(batch: Sequence[Inbound]) -> Handled:
        async def after() -> None:
            raise ConnectionResetError("store away")

        return replace(await log.settle(batch), after=after)

    await log.publish("r0")
    async with running(log.loop(settle)) as (_, task):
        await eventually(lambda: log.has_told(1), WITHIN_S)
        await log.publish("r1")
        await eventually(lambda: log.has_told(2), WITHIN_S)
        assert not task.done()


async def test_a_result_that_no_topic_takes(log: Log) -> None:
    """Nothing of the batch is sent, its offset stays, and the error names topic and size: it would be refused again and again."""

    async def settle(batch: Sequence[Inbound]) -> Handled:
        return Handled([replace(result(record), value=b"x" * topics.RESULT_BYTES_MAX) for record in batch])

    await log.publish("r0")
    async with running(log.loop(settle)) as (_, task):
        with pytest.raises(TooLargeToPublish, match=log.results):
            await asyncio.wait_for(task, WITHIN_S)
    assert await log.committed() is None


async def test_a_large_batch(log: Log) -> None:
    """Thousands at once, in the order of the log, over several of the client's batches."""
    names = [f"r{index}" for index in range(4_000)]
    await log.publish(*names)
    sizes: list[int] = []

    async def settle(batch: Sequence[Inbound]) -> Handled:
        sizes.append(len(batch))
        return await log.settle(batch)

    async with running(log.loop(settle, batch_records_max=4_000)):
        await eventually(lambda: len(log.stored) == len(names), WITHIN_S)
    await log.tells(names)
    assert max(sizes) > 1_000


async def test_a_partition_that_comes_back_to_the_same_process(log: Log) -> None:
    """▲ A rebalance that leaves it where it was opens it anew, from the committed offset; the handler is told to forget what it knew."""
    await log.publish("r0", "r1")
    async with running(log.loop()) as (first, task):
        await eventually(lambda: log.has_told(2), WITHIN_S)
        second = Consumer(log.loop(slot="1"))
        await second.start()
        joined = asyncio.create_task(second.run())
        await eventually(lambda: sorted(first.assigned + second.assigned) == [0, 1], WITHIN_S)
        assert len(first.assigned) == 1
        assert sorted(log.closed) == [0, 1]
        await log.publish("r2", "r3")
        await eventually(lambda: log.has_told(4), WITHIN_S)
        assert not task.done()
        assert not joined.done()
        await second.stop(1.0)
        joined.cancel()
    await log.tells(["r0", "r1", "r2", "r3"])


async def test_a_partition_that_is_taken_away_in_the_middle_of_a_batch(log: Log) -> None:
    """▲ A batch that does not end in time is given up, and told by the next owner from what is stored: once."""
    entered = asyncio.Event()

    async def hang(batch: Sequence[Inbound]) -> Handled:
        await log.settle(batch)
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError("never")

    await log.publish("r0")
    await log.publish("s0", partition=1)
    short = replace(QUICK, revoke_s=0.2)
    async with running(log.loop(hang, bounds=short)):
        await asyncio.wait_for(entered.wait(), WITHIN_S)
        # As if its slot were given to another machine: the hanging process loses everything.
        async with running(log.loop()):
            await eventually(lambda: log.has_told(2), WITHIN_S)
    assert sorted(await log.read_results()) == ["r0", "s0"]


async def _stands(log: Log, offset: int) -> bool:
    return await log.committed(1) == offset


async def test_the_order_of_an_opening(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """▲ Fence, then read the committed offset, then seek: an offset that is read before could be moved by the one who is not fenced yet."""
    calls: list[str] = []

    def note(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def noted(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return original(*given, **named)

        monkeypatch.setattr(owner, name, noted)

    for owner, name in ((AIOKafkaProducer, "start"), (AIOKafkaConsumer, "committed"), (AIOKafkaConsumer, "seek")):
        note(owner, name)
    async with running(log.loop()) as (consumer, _):
        await eventually(lambda: consumer.assigned == [0, 1], WITHIN_S)
    assert [call for call in calls if call in ("committed", "seek")].count("seek") == 2
    assert max(index for index, call in enumerate(calls) if call == "start") < min(index for index, call in enumerate(calls) if call == "seek")
    assert calls[:2] == ["start", "start"]
