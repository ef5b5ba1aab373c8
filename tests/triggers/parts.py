"""What the triggers process is made of in these tests: a ledger with open orders, a log, and a process whose time passes when it is told to."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from events.envelope import Envelope, Inbound
from events.topics import PRICES, REQUESTS
from infra.dynamo import Dynamo
from infra.ledger_items import order_item
from infra.open_orders import OpenOrders
from processors.triggers import PAGE_ORDERS, Triggers
from schemas.ledger import Order
from schemas.market import PRICE_CHANGED, PriceChanged, encode_price
from schemas.requests import AccountRequest, decode_request
from schemas.tables import LEDGER
from tests.fakes.clock import START, FakeClock, FakeIds
from tests.waiting import eventually

WITHIN_S = 30.0
BATCH = 25
"""Items in one write (DynamoDB's limit)."""


class Ledger:
    """Puts open orders where settlement would, and takes them away as it does when they are closed."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self._count = 0

    async def open(self, price: str, *, asset: str = "BTC", kind: str = "limit_buy", sequence: int = 1, user: str = "", **facts: Any) -> str:
        """One open order; its id."""
        return (await self.open_all([price], asset=asset, kind=kind, sequence=sequence, user=user, **facts))[0]

    async def open_all(
        self, prices: Sequence[str], *, asset: str = "BTC", kind: Any = "limit_buy", sequence: int = 1, user: str = "", **facts: Any
    ) -> list[str]:
        """An open order at each price, of as many users where none is named; their ids."""
        items = []
        for price in prices:
            self._count += 1
            order = replace(_ORDER, order_id=f"ord_{self._count:032x}", asset_id=asset, order_type=kind, price=Decimal(price), quote_sequence=sequence, **facts)
            items.append((order.order_id, order_item(user or f"user_{self._count:06d}", order)))
        for at in range(0, len(items), BATCH):
            puts = [{"PutRequest": {"Item": item}} for _, item in items[at : at + BATCH]]
            await self._dynamo.call("batch_write_item", RequestItems={LEDGER.name: puts})
        return [order_id for order_id, _ in items]

    async def clear(self) -> None:
        """No order is open."""
        while items := (await self._dynamo.call("scan", TableName=LEDGER.name, ProjectionExpression="pk, sk", Limit=1_000))["Items"]:
            for at in range(0, len(items), BATCH):
                gone = [{"DeleteRequest": {"Key": item}} for item in items[at : at + BATCH]]
                await self._dynamo.call("batch_write_item", RequestItems={LEDGER.name: gone})


_ORDER = Order("ord_", "BTC", "limit_buy", Decimal(1), "open", 1, START, START, Decimal(100), 1, 0, price=Decimal(1), held=Decimal(1), updated_version=1)


class Log:
    """Keeps what was published; `dies_after` so many publishes it takes no more, as at the end of a process."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.envelopes: list[Envelope] = []
        self._dies_after = dies_after

    async def publish(self, topic: str, envelope: Envelope) -> None:
        assert topic == REQUESTS
        await asyncio.sleep(0)
        if self._dies_after is not None and len(self.envelopes) >= self._dies_after:
            raise ConnectionResetError("killed")
        self.envelopes.append(envelope)

    @property
    def requests(self) -> list[AccountRequest]:
        """In their order."""
        return [decode_request(envelope.type, envelope.value) for envelope in self.envelopes]

    @property
    def order_ids(self) -> list[str]:
        """Of the requests, in their order."""
        return [request.order_id for request in self.requests]  # type: ignore[union-attr]


class Timer:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Assets(dict):
    """The assets as the market's table has them."""

    async def assets(self) -> dict:
        return dict(self)


@dataclass
class Process:
    """One triggers process on the index. `log` is where it publishes."""

    orders: OpenOrders
    log: Log = field(default_factory=Log)
    timer: Timer = field(default_factory=Timer)
    clock: FakeClock = field(default_factory=FakeClock)
    assets: Assets = field(default_factory=Assets)
    page_orders: int = PAGE_ORDERS
    task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self.triggers = Triggers(self.orders, self.assets, self.log, clock=self.clock, ids=FakeIds(), timer=self.timer, page_orders=self.page_orders)

    async def see(self, *prices: Inbound) -> None:
        """A batch of prices."""
        assert await self.triggers.handle(prices) == []

    async def answered(self) -> None:
        """Returns when no question waits any more, or the process has failed."""
        await eventually(lambda: not len(self.triggers._turns) or (self.task and self.task.done()), WITHIN_S)

    async def pass_time(self, seconds: float) -> None:
        """What is to be asked again by then is asked."""
        self.timer.now += seconds
        await self.triggers.ask_again()


def price(value: str, sequence: int, asset: str = "BTC", offset: int = 0) -> Inbound:
    """A record of the prices topic."""
    changed = PriceChanged(asset, Decimal(value), sequence, START)
    envelope = Envelope(f"{asset}-{sequence}", "urn:cnop:market", PRICE_CHANGED, asset, START, encode_price(changed), "round", "trace", sequence=sequence)
    return Inbound(PRICES, 0, offset or sequence, START, envelope)


@asynccontextmanager
async def running(process: Process, owns: Callable[[], bool] = lambda: False) -> AsyncIterator[None]:
    """The process does what goes on beside its prices; what it fails of is raised at the end."""
    process.task = asyncio.create_task(process.triggers.run(owns))
    try:
        yield
    finally:
        process.task.cancel()
        with suppress(asyncio.CancelledError):
            await process.task
