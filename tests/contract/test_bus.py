"""What a door relies on of its publisher, the real one on Kafka and the fake one alike."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from events.bus import Bus, OutcomeUnknown, TooLarge, TooManyInFlight, Unavailable
from events.envelope import Envelope, read
from events.topics import REQUEST_BYTES_MAX, REQUESTS
from infra.local.stack import Addresses
from tests.conftest import PARTITIONS
from tests.fakes.bus import FakeBus
from tests.fakes.clock import START
from tests.waiting import eventually

DEADLINE_S = 10.0


@dataclass
class Case:
    """A publisher, one whose acknowledgements never come in time, one that is not connected, and what stands in the log of an account."""

    bus: Bus | FakeBus
    silent: Bus | FakeBus
    away: Bus | FakeBus
    log_of: Callable[[str], Awaitable[list[Envelope]]]


@pytest.fixture(params=["fake", "kafka"])
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    if request.param == "fake":
        yield _fake()
        return
    async with _real(request.getfixturevalue("provisioned")) as real:
        yield real


def _fake() -> Case:
    bus, silent, away = FakeBus(), FakeBus(), FakeBus()
    silent.state, away.state, silent.log = "silent", "away", bus.log

    async def log_of(subject: str) -> list[Envelope]:
        return [envelope for _, envelope in bus.log if envelope.subject == subject]

    return Case(bus, silent, away, log_of)


@asynccontextmanager
async def _real(machines: Addresses) -> AsyncIterator[Case]:
    bus = Bus(machines.kafka, client_id="test", acknowledge_s=DEADLINE_S)
    silent = Bus(machines.kafka, client_id="test-silent", acknowledge_s=0)
    away = Bus("127.0.0.1:1", client_id="test-away", acknowledge_s=DEADLINE_S)
    await bus.start()
    await silent.start()

    async def log_of(subject: str) -> list[Envelope]:
        return [envelope for envelope in await _everything(machines.kafka) if envelope.subject == subject]

    yield Case(bus, silent, away, log_of)
    for one in (bus, silent, away):
        await one.stop(DEADLINE_S)


async def _everything(bootstrap: str) -> list[Envelope]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    await consumer.start()
    try:
        partitions = [TopicPartition(REQUESTS, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends, found = await consumer.end_offsets(partitions), []
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += [read(record.key, record.value, record.headers) for record in records]
        return found
    finally:
        await consumer.stop()


def event(subject: str, value: bytes = b"{}", **more: str) -> Envelope:
    return Envelope(
        id=str(uuid4()), source="urn:test", type="cnop.account.Deposit.v1", subject=subject, time=START, value=value, correlation_id="c", trace_id="t", **more
    )


async def test_acknowledged_means_in_the_log(case: Case) -> None:
    """What `publish` returned for is in the log as it was, with its headers, in the order of the calls for one key."""
    subject = f"user_{uuid4().hex[:8]}"
    events = [event(subject, b'{"n":%d}' % number, reply_to="reply:x", traceparent="00-1-2-01") for number in range(5)]
    for one in events:
        await case.bus.publish(REQUESTS, one)
    assert await case.log_of(subject) == events
    assert case.bus.reachable


async def test_unavailable_means_not_in_the_log(case: Case) -> None:
    """Without a broker the event is refused before it is handed over."""
    subject = f"user_{uuid4().hex[:8]}"
    with pytest.raises(Unavailable):
        await case.away.publish(REQUESTS, event(subject))
    assert await case.log_of(subject) == []
    assert not case.away.reachable


async def test_unknown_means_it_may_come(case: Case) -> None:
    """An event that was not acknowledged in time is in the log all the same, once."""
    one = event(f"user_{uuid4().hex[:8]}")
    with pytest.raises(OutcomeUnknown):
        await case.silent.publish(REQUESTS, one)

    async def there() -> bool:
        return await case.log_of(one.subject) == [one]

    await eventually(there, DEADLINE_S)


async def test_too_large_is_refused(case: Case) -> None:
    """A record over the topic's limit is refused before it is sent, and the next one goes through."""
    subject = f"user_{uuid4().hex[:8]}"
    with pytest.raises(TooLarge):
        await case.bus.publish(REQUESTS, event(subject, b"x" * (REQUEST_BYTES_MAX + 1)))
    await case.bus.publish(REQUESTS, event(subject))
    assert len(await case.log_of(subject)) == 1


async def test_cancelled_callers_break_nothing(case: Case) -> None:
    """A caller that goes away while it publishes leaves the publisher as it was."""
    subject = f"user_{uuid4().hex[:8]}"
    task = asyncio.create_task(case.bus.publish(REQUESTS, event(subject)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    last = event(subject)
    await case.bus.publish(REQUESTS, last)
    assert (await case.log_of(subject))[-1] == last


async def test_so_many_on_their_way_and_no_more(provisioned: Addresses) -> None:
    """One event over the bound is refused before it is handed over; those told as unknown count until they have arrived."""
    bus = Bus(provisioned.kafka, client_id="test-bound", acknowledge_s=0, in_flight_max=2)
    await bus.start()
    subject = f"user_{uuid4().hex[:8]}"
    told = await asyncio.gather(*(bus.publish(REQUESTS, event(subject)) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in told] == [OutcomeUnknown, OutcomeUnknown, TooManyInFlight, TooManyInFlight, TooManyInFlight]
    assert bus.in_flight <= 2
    await eventually(lambda: bus.in_flight == 0, DEADLINE_S)
    watching = asyncio.create_task(bus.watch())
    await eventually(lambda: bus.reachable, DEADLINE_S)
    with pytest.raises(OutcomeUnknown):
        await bus.publish(REQUESTS, event(subject))
    watching.cancel()
    await asyncio.wait([watching])
    await bus.stop(DEADLINE_S)
