"""The newest results that were shown, on a real Kafka: whose they are, and their versions."""

import asyncio
import time
from collections import Counter
from uuid import uuid4

from events.bus import Bus
from events.envelope import Envelope
from events.reader import reading
from events.topics import RESULTS
from infra.local.stack import Addresses
from processors.upkeep import newest_shown
from tests.conftest import PARTITIONS
from tests.fakes.clock import START

ALL = 1_000_000


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


def result(subject: str, version: int) -> Envelope:
    return Envelope(
        id=str(uuid4()),
        source="urn:test",
        type="cnop.account.DepositSettled.v1",
        subject=subject,
        time=START,
        value=b"{}",
        correlation_id="c",
        trace_id="t",
        sequence=version,
    )


async def test_the_accounts_of_the_newest_results(provisioned: Addresses) -> None:
    """Each account once with its newest version, the last active first; of the wanted partitions only, and only what lies before the places given."""
    names = [f"recent_{uuid4().hex[:8]}" for _ in range(40)]
    versions: Counter[str] = Counter()
    bus = Bus(provisioned.kafka, client_id="test", acknowledge_s=10)
    await bus.start()

    async def publish(*some: str) -> dict[int, int]:
        for name in some:
            versions[name] += 1
            await bus.publish(RESULTS, result(name, versions[name]))
            at = milliseconds()
            while milliseconds() == at:  # noqa: ASYNC110 - of two results of one millisecond neither is the newer one
                await asyncio.sleep(0)
        async with reading(provisioned.kafka, client_id="test", topic=RESULTS) as reader:
            return await reader.ends()

    shown = await publish(*names, *names[:10])
    before = dict(versions)
    await publish(*names)
    await bus.stop(10)
    everything = await newest_shown(provisioned.kafka, lambda: shown, ALL)
    assert {name: version for name, version in everything.items() if name in before} == before
    mine = [name for name in everything if name in before]
    assert mine == [*names[9::-1], *names[:9:-1]]
    by_partition = [await newest_shown(provisioned.kafka, lambda number=number: {number: shown[number]}, ALL) for number in range(PARTITIONS)]
    assert sorted(name for some in by_partition for name in some) == sorted(everything)
    few = await newest_shown(provisioned.kafka, lambda: shown, PARTITIONS * 2)
    assert 0 < len(few) <= PARTITIONS * 2
    assert few.items() <= everything.items()
