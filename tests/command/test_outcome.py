"""The door's flow where machines fail under it: on the real ledger with faults put in, and a log that nobody reads."""

import asyncio
from decimal import Decimal
from uuid import uuid4

import pytest

from command_api.call import Call, Preferences
from command_api.outcome import Door
from events.envelope import Envelope
from infra.cache import Cache, Views
from infra.clock import SystemClock
from infra.dynamo import Dynamo
from infra.generations import Generations
from infra.http import ProblemError
from infra.parked import ParkingLedger
from infra.replies import Replies
from processors.settlement import Read, Settlement
from schemas.requests import Deposit, LimitStamp, LoggedRequest, decode_request
from tests.fakes.backlog import FakeBacklog
from tests.fakes.bus import FakeBus
from tests.fakes.ledger import FaultyDynamo
from tests.fakes.pointer import MemoryPointer

NOBODY_WAITS = 10


class Flow:
    """One door, whose requests are settled at once and never replied to."""

    def __init__(self, dynamo: Dynamo, cache: Cache, faults: int = 0, wait_s: float = 0.2) -> None:
        self.bus = FakeBus()
        self.backlog = FakeBacklog()
        self.replies = Replies(cache.client, str(uuid4()), waiters_max=NOBODY_WAITS)
        self.faulty = FaultyDynamo(dynamo, [("get_item", "before")] * faults)
        ledger = ParkingLedger(self.faulty)  # type: ignore[arg-type]
        self.settlement = Settlement(ParkingLedger(dynamo), lambda _: asyncio.sleep(0), SystemClock().now, log_lines_max=0)
        views = Views(cache, ledger, Generations(cache, MemoryPointer()), ttl_s=600)
        self.door = Door(self.bus, self.replies, ledger, views, SystemClock(), backlog=self.backlog, command_key=b"k", wait_s=wait_s)
        self.username = f"user_{uuid4().hex[:12]}"

    def call(self, key: str | None = None, **preferences: int) -> Call:
        return Call(self.username, "trace", key or str(uuid4()), key is not None, Preferences(**preferences))  # type: ignore[arg-type]

    def deposit(self, amount: int = 5) -> Deposit:
        return Deposit(self.username, Decimal(amount), LimitStamp(Decimal(1000)))

    async def settle(self, envelope: Envelope) -> None:
        logged = LoggedRequest(decode_request(envelope.type, envelope.value), envelope.id, SystemClock().now(), 0, 0, "c", "t")
        await self.settlement([Read(logged, None, None, None)])


async def test_nothing_is_sent_without_the_ledger(dynamo: Dynamo, cache: Cache) -> None:
    """A call that may be a repetition is refused where nobody can tell whether it is one; the same call is taken when the ledger is back."""
    flow = Flow(dynamo, cache, faults=1)
    with pytest.raises(ProblemError) as told:
        await flow.door.submit(flow.call("k"), flow.deposit())
    assert (told.value.code, told.value.headers["Idempotency-Key"]) == ("unavailable", "k")
    assert not flow.bus.log
    assert (await flow.door.submit(flow.call("k"), flow.deposit())).status_code == 202


async def test_accepted_without_the_ledger(dynamo: Dynamo, cache: Cache) -> None:
    """A request that is in the log is told as pending while the ledger cannot be asked, never as failed."""
    flow = Flow(dynamo, cache, faults=2)
    answer = await flow.door.submit(flow.call(), flow.deposit())
    assert (answer.status_code, answer.content.state) == (202, "pending")
    assert answer.headers["Location"].endswith(answer.content.command_id)
    assert flow.replies.waiting == 0


async def test_settled_though_the_view_cannot_be_filled(dynamo: Dynamo, cache: Cache) -> None:
    """A settled request is told as settled, whatever becomes of its view."""
    flow = Flow(dynamo, cache)
    await flow.door.submit(flow.call("k", wait_s=0), flow.deposit())
    await flow.settle(flow.bus.log[0][1])
    flow.faulty.script = [("query", "before")]
    answer = await flow.door.submit(flow.call("k"), flow.deposit())
    assert not flow.faulty.script
    assert (answer.status_code, answer.content.new_balance) == (201, Decimal(5))


async def test_a_cancelled_caller_leaves_no_waiter(dynamo: Dynamo, cache: Cache) -> None:
    """A caller that goes away takes its place among the waiters with it."""
    flow = Flow(dynamo, cache, wait_s=30)
    tasks = [asyncio.create_task(flow.door.submit(flow.call(), flow.deposit())) for _ in range(NOBODY_WAITS)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert flow.replies.waiting == 0


async def test_fence_without_an_outcome(dynamo: Dynamo, cache: Cache) -> None:
    """A fence that is not decided in time is a 202 for the fenced command itself, and carries no key of its own."""
    flow = Flow(dynamo, cache)
    pending = await flow.door.submit(flow.call(wait_s=0), flow.deposit())
    answer = await flow.door.fence(flow.call(), pending.content.command_id)
    assert (answer.status_code, answer.content) == (202, pending.content)
    assert "Idempotency-Key" not in answer.headers
    first, second = (envelope for _, envelope in flow.bus.log)
    assert (first.id, first.type, second.type) == (second.id, "cnop.account.Deposit.v1", "cnop.account.FenceRequested.v1")
    await flow.settle(first)
    answer = await flow.door.fence(flow.call(), pending.content.command_id)
    assert (answer.status_code, answer.content.state) == (200, "settled")
