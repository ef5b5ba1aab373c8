"""Light subscribers on a real broker: a batch that failed is never passed over, and what is committed was handled."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from faststream.kafka.subscriber import usecase

from events.envelope import Inbound
from events.subscriber import Subscriber
from infra.local.stack import Addresses
from tests.integration.loops import WITHIN_S, Log, request
from tests.waiting import eventually


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


class Reader:
    """A subscriber with a handler that notes what it was given, and raises where it is told to."""

    def __init__(self, log: Log, *, fails_at: str = "", batch_records_max: int = 2) -> None:
        self.handled: list[str] = []
        self.calls = 0
        self._fails_at = fails_at
        self.unfinished: dict[tuple[str, int], int] = {}
        self.looks = 0
        self.subscriber = Subscriber(
            log.kafka,
            group=log.name,
            slot="0",
            topics=[log.requests],
            handler=self.handle,
            batch_records_max=batch_records_max,
            unfinished=self.look,
        )

    def look(self) -> dict[tuple[str, int], int]:
        self.looks += bool(self.handled)
        return self.unfinished

    async def handle(self, records: Sequence[Inbound]) -> Sequence[tuple[Inbound, str]]:
        self.calls += 1
        names = [record.envelope.id for record in records]
        if self._fails_at in names:
            raise ConnectionResetError("view store away")
        self.handled += names
        return ()

    async def __aenter__(self) -> "asyncio.Task[None]":
        await self.subscriber.start()
        self._task = asyncio.create_task(self.subscriber.run())
        return self._task

    async def __aexit__(self, *_: object) -> None:
        await self.subscriber.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_a_handler_that_raises(log: Log) -> None:
    """▲ FastStream would deliver the next batch and commit past the failed one: here the process ends, and both are read again."""
    await log.publish(*(f"r{index}" for index in range(10)))
    reader = Reader(log, fails_at="r2")
    async with reader as task:
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(task, WITHIN_S)
    assert reader.handled == ["r0", "r1"]
    assert reader.calls == 2
    assert (await log.committed() or 0) <= 2
    again = Reader(log)
    async with again:
        await eventually(lambda: again.handled[-8:] == [f"r{index}" for index in range(2, 10)], WITHIN_S)


async def test_what_is_handled_is_committed_a_moment_later(log: Log) -> None:
    """Without being told to; and nothing that was not handled."""
    await log.publish("r0", "r1", "r2")
    async with Reader(log) as task:
        await eventually(lambda: _stands(log, 3), WITHIN_S)
        assert not task.done()


async def test_an_idle_reader_waits_for_records_and_for_nothing_else(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastStream's own poll sleeps after it has found nothing, again and again, and what comes meanwhile waits."""
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(seconds)

    monkeypatch.setattr(usecase, "anyio", SimpleNamespace(sleep=nap))
    polls = count_polls(monkeypatch)
    async with Reader(log) as task:
        await eventually(lambda: len(polls) > 1, WITHIN_S)  # one has ended with nothing
        await log.publish("r0")
        await eventually(lambda: _stands(log, 1), WITHIN_S)
        assert not task.done()
    assert naps == []


def count_polls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    polls: list[int] = []
    poll = AIOKafkaConsumer.getmany

    async def counted(self: AIOKafkaConsumer, *partitions: Any, **bounds: int) -> Any:
        polls.append(bounds["timeout_ms"])
        return await poll(self, *partitions, **bounds)

    monkeypatch.setattr(AIOKafkaConsumer, "getmany", counted)
    return polls


async def test_what_goes_on_is_not_committed(log: Log) -> None:
    """▲ Work that goes on after its batch holds the offset back, also at the end; a restart reads from there, and what is done is committed by itself."""
    await log.publish(*(f"r{index}" for index in range(5)))
    reader = Reader(log)
    reader.unfinished[log.requests, 0] = 3
    async with reader:
        await eventually(lambda: len(reader.handled) == 5, WITHIN_S)
        await eventually(lambda: _stands(log, 3), WITHIN_S)
    await log.commits(3)
    again = Reader(log)
    again.unfinished[log.requests, 0] = 3
    async with again:
        await eventually(lambda: again.handled == ["r3", "r4"] and again.looks > 1, WITHIN_S)
        again.unfinished.clear()
        await eventually(lambda: _stands(log, 5), WITHIN_S)


@pytest.mark.parametrize("header", [("ce_id", b"\xff"), ("x", None), ("\x00", b"")], ids=["not text", "no value", "an odd name"])
async def test_a_header_that_the_framework_cannot_read(log: Log, header: tuple[str, bytes | None]) -> None:
    """▲ FastStream would drop the whole batch without a word: the records around it are handled, and the record itself is a dead letter or read."""
    await log.publish("r0")
    await log.publish_raw(b"{}", [*request("odd").headers(), header])
    await log.publish("r1")
    reader = Reader(log, batch_records_max=50)
    async with reader:
        await eventually(lambda: {"r0", "r1"} <= set(reader.handled), WITHIN_S)
        await eventually(lambda: _stands(log, 3), WITHIN_S)
    assert ("odd" in reader.handled) != bool(await log.letters())


async def _stands(log: Log, offset: int) -> bool:
    return await log.committed() == offset
