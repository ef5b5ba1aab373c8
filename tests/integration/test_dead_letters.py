"""Records that nobody can read, on a real broker: kept byte for byte with the reason added, and never in the way of the others."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import ConsumerRecord

from events import topics
from events.dead_letters import IN_ROW_MAX, TooManyUnreadable
from events.envelope import HEADER_VALUE_BYTES_MAX, HEADERS_MAX, Inbound
from events.subscriber import Subscriber
from events.transaction import TransactionFailed
from infra.local.stack import Addresses
from processors.settlement import decode
from tests.integration.loops import WITHIN_S, Log, request, running
from tests.waiting import eventually

Headers = list[tuple[str, bytes | None]]


@pytest.fixture
async def log(provisioned: Addresses) -> Log:
    return await Log(provisioned.kafka).create()


def headers(**changes: bytes | None) -> Headers:
    """The headers of a good record, with some of them different; `None` takes one out."""
    changed = {name.replace("__", "-"): value for name, value in changes.items()}
    kept: Headers = [(name, changed.pop(name, value)) for name, value in request("poison").headers()]
    return [(name, value) for name, value in [*kept, *changed.items()] if value is not None]


POISON: dict[str, tuple[bytes | None, bytes | None, Headers]] = {
    "not JSON": (b"alice_1", b"\xff not json", headers()),
    "no value": (b"alice_1", None, headers()),
    "no key": (None, b"{}", headers()),
    "no key and no value": (None, None, headers()),
    "an empty value": (b"alice_1", b"", headers()),
    "no headers": (b"alice_1", b"{}", []),
    "another user's key": (b"bob_001", b"{}", headers()),
    "an unknown type": (b"alice_1", b"{}", headers(ce_type=b"com.elsewhere.Thing.v1")),
    "an unknown version": (b"alice_1", b"{}", headers(ce_type=b"cnop.account.Deposit.v9")),
    "another CloudEvents version": (b"alice_1", b"{}", headers(ce_specversion=b"2.0")),
    "a header that is not text": (b"alice_1", b"{}", headers(ce_id=b"\xff\xfe")),
    "a header without a value": (b"alice_1", b"{}", [("ce_id", None), *headers()]),
    "a header over its bound": (b"alice_1", b"{}", headers(traceparent=b"0" * (HEADER_VALUE_BYTES_MAX + 1))),
    "headers over their bound": (b"alice_1", b"{}", [*headers(), *((f"x-{index}", b"1") for index in range(HEADERS_MAX))]),
    "a time that is none": (b"alice_1", b"{}", headers(ce_time=b"yesterday")),
    "half a character": (b"alice_1", b'{"username": "\\ud800"}', headers()),
    "brackets without end": (b"alice_1", b"[" * 100_000, headers()),
    "a number without end": (b"alice_1", b'{"amount": ' + b"9" * 100_000 + b"}", headers()),
}


@pytest.fixture(scope="module")
async def letters(provisioned: Addresses) -> dict[str, ConsumerRecord]:
    """One loop with settlement's own decoding over every kind of poison, and the letters that came of it."""
    log = await Log(provisioned.kafka).create()
    for key, value, own in POISON.values():
        await log.publish_raw(value, own, key=key)
    async with running(replace(log.loop(), decode=decode)) as (_, task):
        await eventually(lambda: _has(log, len(POISON)), WITHIN_S)
        assert not task.done()
    await log.commits(len(POISON))
    return dict(zip(POISON, await log.letters(), strict=True))


@pytest.mark.parametrize("kind", POISON)
async def test_poison(letters: dict[str, ConsumerRecord], kind: str) -> None:
    """▲ Key, value and headers are kept as they were, doubles and empty ones too; the reason and the place are added."""
    key, value, own = POISON[kind]
    letter = letters[kind]
    assert (letter.key, letter.value) == (key, value)
    assert list(letter.headers[: len(own)]) == own
    added = dict(letter.headers[len(own) :])
    assert added["dlq_offset"] == str(list(POISON).index(kind)).encode()
    assert added["dlq_reason"]
    assert set(added) == {"dlq_reason", "dlq_topic", "dlq_partition", "dlq_offset", "dlq_at", "x-original-topic"}


async def test_the_others_go_on(log: Log) -> None:
    """A record that cannot be read is passed over; what is around it is settled in order, with one offset for all."""
    await log.publish("r0")
    await log.publish_raw(b"junk", headers())
    await log.publish("r1")
    async with running(log.loop()):
        await eventually(lambda: _has(log, 1), WITHIN_S)
        await eventually(lambda: "r1" in log.stored, WITHIN_S)
    await log.tells(["r0", "r1"])
    await log.commits(3)


async def test_a_record_at_the_limit_of_its_topic(log: Log) -> None:
    """▲ The largest request that a broker takes still fits among the dead letters, with all that is added."""
    own = headers()
    overhead = DefaultRecordBatchBuilder.estimate_size_in_bytes(b"alice_1", b"", own)
    await log.publish_raw(b"x" * (topics.REQUEST_BYTES_MAX - overhead), own)
    async with running(log.loop()):
        await eventually(lambda: _has(log, 1), WITHIN_S)
    (letter,) = await log.letters()
    assert len(letter.value) == topics.REQUEST_BYTES_MAX - overhead


async def test_a_record_over_the_limit_of_its_topic(log: Log) -> None:
    """The broker refuses it: it never comes into the log."""
    with pytest.raises(MessageSizeTooLargeError):
        await log.publish_raw(b"x" * topics.REQUEST_BYTES_MAX, headers())


async def test_many_large_letters_at_once(log: Log) -> None:
    """A batch of nothing but large unreadable records goes into one transaction whole."""
    await log.publish_raw(b"x" * 100_000, headers(), count=40)
    async with running(log.loop()):
        await eventually(lambda: _has(log, 40), WITHIN_S)
    await log.commits(40)


async def test_a_letter_that_cannot_be_written(log: Log) -> None:
    """▲ The loop stops with its offset unmoved; what was readable beside it is stored, and told when the letter can be written again."""
    await log.publish("r0")
    await log.publish_raw(b"x" * 5_000, headers())
    async with unwritable(log.kafka):
        async with running(log.loop()) as (_, task):
            with pytest.raises(TransactionFailed):
                await asyncio.wait_for(task, WITHIN_S)
        assert (await log.committed() or 0, await log.read_results()) in [(0, []), (1, ["r0"])]
    async with running(log.loop()):
        await eventually(lambda: _has(log, 1), WITHIN_S)
    await log.tells(["r0"])
    await log.commits(2)


async def test_too_many_in_a_row(log: Log) -> None:
    """▲ They stop the reader with its offset unmoved: a wrong release, not a wrong record."""
    await log.publish_raw(b"junk", headers(), count=IN_ROW_MAX + 1)
    async with running(log.loop(batch_records_max=1000)) as (_, task):
        with pytest.raises(TooManyUnreadable):
            await asyncio.wait_for(task, WITHIN_S)
    assert (await log.committed() or 0) == len(await log.letters()) <= IN_ROW_MAX


async def test_a_light_subscriber_keeps_letters_as_well(log: Log) -> None:
    """▲ Also one with neither key nor value; a letter that it cannot write ends it, with its offset unmoved."""
    handled: list[str] = []

    async def handle(records: Sequence[Inbound]) -> Sequence[tuple[Inbound, str]]:
        handled.extend(record.envelope.id for record in records)
        return ()

    await log.publish_raw(None, [("raw", None)], key=None)
    await log.publish("r0")
    async with reading(log, handle) as task:
        await eventually(lambda: _has(log, 1), WITHIN_S)
        await eventually(lambda: handled == ["r0"], WITHIN_S)
        await eventually(lambda: _stands(log, 2), WITHIN_S)
        assert not task.done()
    (letter,) = await log.letters()
    assert (letter.key, letter.value, letter.headers[0]) == (None, None, ("raw", None))
    await log.publish_raw(b"x" * 5_000, [])
    async with unwritable(log.kafka), reading(log, handle) as task:
        with pytest.raises(MessageSizeTooLargeError):
            await asyncio.wait_for(task, WITHIN_S)
    await log.commits(2)


@asynccontextmanager
async def reading(log: Log, handle) -> AsyncIterator["asyncio.Task[None]"]:  # type: ignore[no-untyped-def]
    subscriber = Subscriber(log.kafka, group=log.name, slot="0", topics=[log.requests], handler=handle, batch_records_max=50)
    await subscriber.start()
    task = asyncio.create_task(subscriber.run())
    try:
        yield task
    finally:
        await subscriber.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def unwritable(kafka: str) -> AsyncIterator[None]:
    """The topic of dead letters takes nothing of more than a few bytes meanwhile."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    declared = next(dict(topic.settings) for topic in topics.declared(1) if topic.name == topics.DEAD_LETTERS)
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topics.DEAD_LETTERS, {**declared, "max.message.bytes": "1000"})])
        yield
    finally:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topics.DEAD_LETTERS, declared)])
        await admin.close()


async def _has(log: Log, count: int) -> bool:
    return len(await log.letters()) >= count


async def _stands(log: Log, offset: int) -> bool:
    return await log.committed() == offset
