"""The doors' publisher on a real broker: what its watch tells."""

import asyncio

import pytest

from events.bus import Bus, PublisherDead
from infra.local.stack import Addresses

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
