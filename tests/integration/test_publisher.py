"""The doors' publisher on a real broker: what its watch tells."""

import asyncio
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from events.bus import Bus, OutcomeUnknown, PublisherDead
from events.envelope import Envelope
from infra.local.stack import Addresses
from schemas.instants import EPOCH

WITHIN_S = 10.0


async def test_a_dead_sender_ends_the_watch(provisioned: Addresses) -> None:
    """A client that will never send again must not go on answering as if the broker were away: the failed watch ends the process."""
    bus = Bus(provisioned.kafka, client_id="test", acknowledge_s=1.0)
    await bus.start()
    assert bus._producer is not None
    bus._producer._sender.sender_task.cancel()
    with pytest.raises(PublisherDead):
        await asyncio.wait_for(bus.watch(), WITHIN_S)
    await bus.stop(1.0)


async def test_an_event_that_was_given_up_ends_the_watch(provisioned: Addresses) -> None:
    """An event that the client gives up leaves a gap in its sequence: the broker refuses every later one of that partition, so the process must end."""
    topic = f"small-{uuid4().hex}"
    await _create(provisioned.kafka, topic, {"max.message.bytes": "500"})
    bus = Bus(provisioned.kafka, client_id="test", acknowledge_s=WITHIN_S)
    await bus.start()
    watch = asyncio.create_task(bus.watch())
    with pytest.raises(OutcomeUnknown):
        await bus.publish(topic, _event(b"x" * 1_000))
    with pytest.raises(PublisherDead, match="gave an event up"):
        await asyncio.wait_for(watch, WITHIN_S)
    await bus.stop(1.0)


def _event(value: bytes) -> Envelope:
    return Envelope("e", "urn:cnop:test", "cnop.test.Event.v1", "user_000001", EPOCH, value, "c", "t")


async def _create(kafka: str, topic: str, config: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=config)])
    finally:
        await admin.close()
