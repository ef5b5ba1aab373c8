"""One simulated run: clients, a log, a store, and settlement processes that crash, hang, come back and are taken over.

Everything runs in coroutines that are driven by hand: wherever code waits, the run decides by its seed who goes on, and whether somebody dies
there. Nothing sleeps, so a run takes milliseconds, and a seed tells the whole of it.
"""

import random
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from events.envelope import Envelope, Inbound, Unreadable, read
from processors import settlement as real_settlement
from schemas.market import AssetFacts, Quote
from schemas.requests import (
    AccountRequest,
    Deposit,
    FenceRequested,
    LimitStamp,
    OrderPlaced,
    OrderStamp,
    Withdrawal,
    encode_request,
    request_id,
    request_type,
)
from tests.fakes.ledger import Fault, MemoryLedger
from tests.fakes.log import Fenced, Log, Record
from tests.simulation.auditor import Auditor, Wrong, must

PARTITIONS = 2
USERS = ("ann_00", "bob_00", "cat_00", "dan_00")
REQUESTS = 24
STEPS_MAX = 6_000
BATCH_MAX = 6
LANES_MAX = 3
"""Owners of one partition at once: one that is assigned, and those that do not know yet that they are not."""
BEGIN = datetime(2026, 11, 25, 23, 59, 50, tzinfo=UTC)


@types.coroutine
def step(name: str) -> Generator[str, None, None]:
    """A place at which others may go on, and at which this one may die."""
    yield name


@dataclass
class Lane:
    """One process's work on one partition."""

    partition: int
    run: Coroutine[Any, Any, None]
    idle: bool = False


@dataclass(frozen=True)
class Variant:
    """The shell as it is, or with one thing wrong: the settlement module, the store, and how a lane opens, publishes and ends."""

    name: str = "as it is"
    settlement: types.ModuleType = real_settlement
    ledger: type[MemoryLedger] = MemoryLedger
    opens: "Callable[[World, int, int], Awaitable[tuple[str, int, int]]] | None" = None
    publishes: "Callable[[World, Producer, Batch], Awaitable[None]] | None" = None
    survives_fencing: bool = False


@dataclass
class Producer:
    """A transactional id with the epoch that it was opened with."""

    transactional_id: str
    epoch: int


@dataclass
class Batch:
    """What a batch's transaction carries."""

    partition: int
    results: Sequence[Envelope]
    letters: Sequence[Record]
    next_offset: int


@dataclass
class World:
    """A run. `calm` is the end of it: no more faults, and everything must come to rest."""

    seed: int
    variant: Variant = field(default_factory=Variant)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - a simulation, not a secret
        self.auditor = Auditor()
        self.log = Log(PARTITIONS, self.auditor.committed)
        self.ledger = self.variant.ledger(step=step, fault=self._fault, stored=self.auditor.stored)
        self.lanes: list[Lane] = []
        self.calm = False
        self.processes = 0
        self._at = BEGIN
        self._script = [self._request(number) for number in range(REQUESTS)]
        self._fault_rate = self.chance.choice([0.0, 0.05, 0.2, 0.5])
        self._crash_rate = self.chance.choice([0.0, 0.005, 0.03])
        self._takeover_rate = self.chance.choice([0.0, 0.01, 0.05])

    def play(self) -> None:
        """Run to the end. Wrong where a guarantee does not hold, whatever a bug raises where one shows otherwise."""
        try:
            self._play()
        finally:
            for lane in self.lanes:
                lane.run.close()

    def _play(self) -> None:
        for _ in range(STEPS_MAX):
            if not self.calm and not self._script and self.chance.random() < 0.01:
                self._calm_down()
            self._event()
            if self.calm and self._at_rest():
                break
        else:
            raise Wrong("everything comes to rest once faults have stopped")
        while self.ledger.late:
            self.ledger.land(0)
        self.auditor.finish()

    def _event(self) -> None:
        roll = self.chance.random()
        if self._script and roll < 0.1:
            self._append(*self._script.pop(0))
        elif not self.calm and roll < 0.1 + self._crash_rate and self.lanes:
            self._crash(self.chance.choice(self.lanes))
        elif not self.calm and roll < 0.1 + self._crash_rate + self._takeover_rate:
            self._take_over(self.chance.randrange(PARTITIONS))
        elif self.ledger.late and self.chance.random() < 0.1:
            self.ledger.land(self.chance.randrange(len(self.ledger.late)))
        elif not self.calm and self.chance.random() < 0.002:
            self.log.expire()
        else:
            self._advance()

    def _advance(self) -> None:
        """Let one lane go on to its next wait; a partition that nobody serves gets an owner."""
        orphans = [partition for partition in range(PARTITIONS) if not any(lane.partition == partition for lane in self.lanes)]
        if orphans:
            self._take_over(self.chance.choice(orphans))
        lane = self.chance.choice(self.lanes)
        try:
            lane.idle = lane.run.send(None) == "idle"
        except (StopIteration, Fenced):
            self.lanes.remove(lane)
        except self.variant.settlement.Stalled as stalled:
            raise Wrong("faults that pass do not stall a process") from stalled

    def _take_over(self, partition: int) -> None:
        if sum(lane.partition == partition for lane in self.lanes) < LANES_MAX:
            self.processes += 1
            self.lanes.append(Lane(partition, self._serve(partition, self.processes)))

    def _crash(self, lane: Lane) -> None:
        lane.run.close()
        self.lanes.remove(lane)

    def _calm_down(self) -> None:
        """A last owner for each partition; those that were there before go on until they learn it."""
        self.calm = True
        for partition in range(PARTITIONS):
            self._take_over(partition)

    def _at_rest(self) -> bool:
        return all(lane.idle for lane in self.lanes) and all(self.log.committed(p) == len(self.log.requests[p]) for p in range(PARTITIONS))

    def _fault(self, operation: str) -> Fault:
        if self.calm or self.chance.random() >= self._fault_rate:
            return "none"
        return self.chance.choice(["conflict", "throttled", "lost-before", "lost-after", "late"]) if operation == "write" else "lost-before"

    # The protocol of events/consumer.py

    async def _serve(self, partition: int, process: int) -> None:
        settle = self.variant.settlement.Settlement(self.ledger, lambda _: step("pause"), lambda: BEGIN, log_lines_max=0)
        transactional_id, epoch, position = await (self.variant.opens or fence_then_seek)(self, partition, process)
        producer = Producer(transactional_id, epoch)
        while True:
            records = self.log.fetch(partition, position, self.chance.randint(1, BATCH_MAX))
            if not records:
                await step("idle")
                continue
            await step("fetched")
            requests, letters = self._read(records)
            results = await settle(requests) if requests else []
            try:
                await (self.variant.publishes or in_one_transaction)(self, producer, Batch(partition, results, letters, records[-1].offset + 1))
            except Fenced:
                if not self.variant.survives_fencing:
                    raise
                producer.epoch = self.log.init(producer.transactional_id)
            position = records[-1].offset + 1

    def _read(self, records: Sequence[Record]) -> tuple[list[Any], list[Record]]:
        requests, letters = [], []
        for record in records:
            try:
                envelope = read(record.key, record.value, record.headers)
                requests.append(self.variant.settlement.decode(Inbound("requests", record.partition, record.offset, record.at, envelope)))
            except Unreadable:
                letters.append(record)
        return requests, letters

    # The clients

    def _append(self, request: AccountRequest, key: str, subject: str) -> None:
        self._at += timedelta(milliseconds=self.chance.choice([0, 1, 40, 700, -5]))
        envelope = Envelope(
            id=request_id(request.username, key),
            source="urn:cnop:command-api",
            type=request_type(request),
            subject=subject,
            time=self._at,
            value=encode_request(request),
            correlation_id=f"c{key}",
            trace_id=f"t{key}",
            reply_to=self.chance.choice([None, "reply:door-1"]),
        )
        partition = USERS.index(request.username) % PARTITIONS
        self.auditor.asked(self.log.append(partition, self._at, envelope.key, envelope.value, envelope.headers()))

    def _request(self, number: int) -> tuple[AccountRequest, str, str]:
        """A request, its idempotency key (often one that was used before) and the name that the record's key bears."""
        user = self.chance.choice(USERS)
        key = str(self.chance.randrange(number + 1)) if self.chance.random() < 0.3 else str(number)
        subject = self.chance.choice(USERS) if self.chance.random() < 0.03 else user
        return self._of_kind(user), key, subject

    def _of_kind(self, user: str) -> AccountRequest:
        chance = self.chance
        match chance.choice(["deposit", "deposit", "withdrawal", "buy", "buy", "sell", "fence"]):
            case "deposit":
                return Deposit(user, Decimal(chance.choice(["100.00", "250", "0.01", "0.001"])), LimitStamp(Decimal(500)))
            case "withdrawal":
                return Withdrawal(user, Decimal(chance.choice(["30.00", "100", "0.01"])), LimitStamp(Decimal(150)))
            case "fence":
                return FenceRequested(user)
            case side:
                return self._order(user, side)

    def _order(self, user: str, side: str) -> OrderPlaced:
        chance = self.chance
        quote = Quote(Decimal(chance.choice(["3.333", "50", "99.999999"])), 1, BEGIN, BEGIN + timedelta(seconds=chance.choice([1, 60])))
        facts = AssetFacts(8, Decimal("0.1"), True, chance.choice([0, 10]))
        stamp = OrderStamp(quote, facts, Decimal(1000))
        name = chance.choice([None, None, "mine", "yours"])
        quantity = Decimal(chance.choice(["0.1", "1", "1.5", "0.33333333"]))
        return OrderPlaced(user, chance.choice(["BTC", "ETH"]), f"market_{side}", quantity, stamp, client_order_id=name)  # type: ignore[arg-type]


async def fence_then_seek(world: World, partition: int, _process: int) -> tuple[str, int, int]:
    """Open the partition's producer, and only then ask where to begin."""
    transactional_id = f"cnop-settlement-{partition}"
    await step("connect")
    epoch = world.log.init(transactional_id)
    await step("fenced the others")
    position = world.log.committed(partition)
    await step("sought")
    return transactional_id, epoch, position


async def in_one_transaction(world: World, producer: Producer, batch: Batch) -> None:
    """Results, dead letters and offset together."""
    async with transaction(world, producer):
        for result in batch.results:
            await step("send")
            world.log.send(producer.transactional_id, producer.epoch, batch.partition, result)
        for letter in batch.letters:
            await step("send")
            world.log.send_letter(producer.transactional_id, producer.epoch, letter)
        await step("send offsets")
        world.log.send_offset(producer.transactional_id, producer.epoch, batch.partition, batch.next_offset)


@asynccontextmanager
async def transaction(world: World, producer: Producer) -> AsyncIterator[None]:
    """Begin, and commit where nothing was raised."""
    await step("begin")
    world.log.begin(producer.transactional_id, producer.epoch)
    yield
    await step("commit")
    world.log.commit(producer.transactional_id, producer.epoch)
    await step("committed")


__all__ = ["Batch", "Producer", "Variant", "World", "Wrong", "fence_then_seek", "in_one_transaction", "must", "step", "transaction"]
