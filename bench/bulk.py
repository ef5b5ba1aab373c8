"""Settlement in bulk: requests from Kafka to results in Kafka, and what the store alone could take of the same transactions."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import Final
from uuid import uuid4

from events import topics
from events.bus import Bus
from events.envelope import Envelope, Inbound
from events.subscriber import Subscriber
from infra.clock import SystemClock
from infra.dynamo import Dynamo
from infra.ledger import Ledger, Stored, Write
from processors.domain.decide import decide_all
from processors.settlement import BATCH_RECORDS_MAX
from schemas.ledger import Account
from schemas.requests import Deposit, LimitStamp, LoggedRequest, encode_request, request_id, request_type

REGION: Final = "us-east-1"
PARTITIONS: Final = 4
PUBLISHED_AT_ONCE: Final = 500
WITHIN_S: Final = 600.0
_LIMIT: Final = LimitStamp(Decimal(10**9))


async def raw_limit(store: str, requests: int, accounts: int) -> float:
    """Requests a second that the store takes when their transactions are ready in memory: same client, same packing, no Kafka, no decision."""
    batches = _prepared(requests, accounts)
    async with Dynamo(store, REGION) as dynamo:
        ledger = Ledger(dynamo)
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.gather(*(_write(ledger, batches[lane::PARTITIONS]) for lane in range(PARTITIONS)))
        return requests / (loop.time() - started)


async def bulk(kafka: str, requests: int, accounts: int) -> float:
    """Requests a second from the first one published to the last result seen by a read_committed reader."""
    run = uuid4().hex[:6]
    seen: set[str] = set()
    everything = asyncio.Event()

    async def count(batch: Sequence[Inbound]) -> list[tuple[Inbound, str]]:
        seen.update(record.envelope.causation_id or "" for record in batch if record.envelope.subject.startswith(f"bench_{run}_"))
        if len(seen) >= requests:
            everything.set()
        return []

    reader = Subscriber(kafka, group=f"bench-{run}", slot="0", topics=[topics.RESULTS], handler=count, batch_records_max=2_000)
    bus = Bus(kafka, client_id="bench", acknowledge_s=30.0)
    await reader.start()
    await bus.start()
    reading = asyncio.create_task(reader.run())
    loop = asyncio.get_running_loop()
    started = loop.time()
    slots = asyncio.Semaphore(PUBLISHED_AT_ONCE)

    async def publish(number: int) -> None:
        async with slots:
            await bus.publish(topics.REQUESTS, _request(f"bench_{run}_{number % accounts}"))

    await asyncio.gather(*(publish(number) for number in range(requests)))
    await asyncio.wait_for(everything.wait(), WITHIN_S)
    seconds = loop.time() - started
    await reader.stop()
    await bus.stop(5.0)
    reading.cancel()
    return requests / seconds


def _request(username: str) -> Envelope:
    deposit = Deposit(username, Decimal(10), _LIMIT)
    rid = request_id(username, uuid4().hex)
    return Envelope(rid, "urn:cnop:bench", request_type(deposit), username, SystemClock().now(), encode_request(deposit), rid, rid)


def _prepared(requests: int, accounts: int) -> list[list[Write]]:
    """The writes of the same requests, folded by account in batches as settlement would get them."""
    run = uuid4().hex[:6]
    known: dict[str, Account] = {}
    batches = []
    for start in range(0, requests, BATCH_RECORDS_MAX):
        folds: dict[str, list[LoggedRequest]] = defaultdict(list)
        for number in range(start, min(start + BATCH_RECORDS_MAX, requests)):
            # A batch comes from one partition, that is from a part of the accounts.
            username = f"raw_{run}_{number % accounts}"
            folds[username].append(_logged(username, number))
        writes = []
        for username, fold in folds.items():
            before = known.get(username, Account(username))
            decided = decide_all(before, tuple(fold), {})
            known[username] = decided.account
            writes.append(Write(before.version, decided.account, decided.entries, decided.orders))
        batches.append(writes)
    return batches


def _logged(username: str, number: int) -> LoggedRequest:
    rid = request_id(username, str(number))
    return LoggedRequest(Deposit(username, Decimal(10), _LIMIT), rid, SystemClock().now(), 0, number, rid, rid)


async def _write(ledger: Ledger, batches: Sequence[Sequence[Write]]) -> None:
    for writes in batches:
        outcomes = await ledger.write(writes)
        if not all(isinstance(outcome, Stored) for outcome in outcomes):
            raise RuntimeError("the raw limit was not measured: a write was refused")
