"""Who was active last, told by the newest results on a real Kafka."""

from uuid import uuid4

from events.bus import Bus
from events.envelope import Envelope
from events.topics import RESULTS
from infra.local.stack import Addresses
from processors.warming import recent
from tests.conftest import PARTITIONS
from tests.fakes.clock import START


def result(subject: str) -> Envelope:
    return Envelope(
        id=str(uuid4()), source="urn:test", type="cnop.account.DepositSettled.v1", subject=subject, time=START, value=b"{}", correlation_id="c", trace_id="t"
    )


async def test_the_accounts_of_the_newest_results(provisioned: Addresses) -> None:
    """Each account once, the last active first, no more than wanted, of the wanted partitions only; and not more of the topic is read than that takes."""
    names = [f"recent_{uuid4().hex[:8]}" for _ in range(40)]
    bus = Bus(provisioned.kafka, client_id="test", acknowledge_s=10)
    await bus.start()
    for name in (*names, *names[:10]):
        await bus.publish(RESULTS, result(name))
    await bus.stop(10)
    everything = await recent(provisioned.kafka, range(PARTITIONS), 10_000)
    assert set(everything) >= set(names)
    assert len(everything) == len(set(everything))
    assert everything[:10] == names[9::-1]
    assert everything[10:40] == names[:9:-1]
    assert await recent(provisioned.kafka, range(PARTITIONS), 12) == everything[:12]
    by_partition = [await recent(provisioned.kafka, [number], 10_000) for number in range(PARTITIONS)]
    assert sorted(name for some in by_partition for name in some) == sorted(everything)
    assert await recent(provisioned.kafka, [99], 10) == []
