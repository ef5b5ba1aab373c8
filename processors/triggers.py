"""The triggers process: finds the open orders that became due, whose time has ended, or whose asset is not traded any more, and asks for their end.

It decides nothing: it publishes requests, which settlement decides against the order itself. So it may find too much, or the same twice, and it may not
overlook anything for long:

* Prices are read in the order of their topic, and each asks for the orders that it reaches. An offset is committed when its question was asked twice,
  so a restart asks again what a crash left unasked, with the same ids.
* The index lags behind the ledger, so each question is asked again after `REASK_S`. A rotation through the whole index makes up for everything else,
  such as an order that was placed with a quote that had expired, and a price that does not move.
* Where there are few open orders, one read answers all questions of a batch; where there are many, each asks for its own.

One process does all of it: the owner of the prices, whose topic has one partition. A second slot waits and takes over. Two that both take
themselves for the owner publish the same requests, of which settlement takes one.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import stamina
import structlog
from prometheus_client import Counter, Gauge, Histogram

from events.envelope import Inbound
from events.topics import PRICES
from infra.clock import Clock, Ids
from infra.dynamo import DynamoUnavailable
from infra.open_orders import OpenOrder, OpenOrders, Page
from processors.triggers_sender import Cause, FromInside, Lately, Publisher, Sender
from processors.triggers_turns import Place, Question, Told, Turns, Unfinished, is_due, sides_towards
from schemas.market import Asset, PriceChanged, UnreadableMarketEvent, decode_price
from schemas.money import ZERO
from schemas.requests import DUE_SIDES, DueSide, OrderExpiryReached, OrderRevoked, OrderTriggered

log = structlog.get_logger()
T = TypeVar("T")

TOPICS: Final = (PRICES,)
BATCH_RECORDS_MAX: Final = 500
PAGE_ORDERS: Final = 1_000
"""Orders that are read and published for at a time; where there are not more at all, one read answers every question."""
ASKING_MAX: Final = 4
"""Assets that are asked about at one time."""
REASK_S: Final = 2.0
LOOK_S: Final = 0.5
"""How often it is looked whether there is something to ask again."""
REPUBLISH_S: Final = 60.0
"""How long an order is left alone after it was published for. Its request is in the log, so this is a net for what nobody foresees: were it shorter than
what settlement takes for a flood, the flood would double."""
ROTATION_S: Final = 60.0
AGAIN_MAX: Final = 10_000
"""Questions that wait to be asked again; whoever brings more waits until fewer do."""
ROTATION_PAUSE_S: Final = 0.1
"""Between two pages of a rotation, so that it leaves room for everything else."""
EXPIRY_S: Final = 1.0
OWNER_S: Final = 1.0
"""How often a process that does not own the prices looks whether it does."""
REVOKE_S: Final = 10.0
REVOKE_SWEEPS: Final = 2
"""How often the open orders of an asset are looked for once it is not traded: the index lags. The rotation finds those that come later."""
PATIENCE_S: Final = 60.0
ATTEMPTS_MAX: Final = 60
RETRY_WAIT_S_MAX: Final = 2.0
_patiently: Final = stamina.AsyncRetryingCaller(attempts=ATTEMPTS_MAX, timeout=PATIENCE_S, wait_initial=0.05, wait_max=RETRY_WAIT_S_MAX).on(DynamoUnavailable)

DUE: Final = Counter("cnop_due_orders_total", "Orders that were found due at a price, those that were published for before included")
WAITING: Final = Gauge("cnop_trigger_questions_waiting", "Questions of prices that wait for their turn")
TRIGGER_S: Final = Histogram(
    "cnop_trigger_seconds",
    "From a price to the last of its triggers being in the log",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600),
)
SWEEP_S: Final = Histogram(
    "cnop_trigger_sweep_seconds", "Sweeps by kind: expiry, revocation, rotation", ["sweep"], buckets=(0.01, 0.05, 0.25, 1, 5, 20, 60, 300)
)


class Assets(Protocol):
    """Which assets there are: `infra.market.MarketStore`, or a test's dict."""

    async def assets(self) -> dict[str, Asset]:
        """All assets by id. DynamoUnavailable for a passing fault."""
        ...


class Triggers:
    """`handle` is the handler of the prices' subscriber; `run` does everything else; `unfinished` tells what must not be committed yet."""

    def __init__(
        self,
        orders: OpenOrders,
        assets: Assets,
        bus: Publisher,
        *,
        clock: Clock,
        ids: Ids,
        timer: Callable[[], float],
        reask_s: float = REASK_S,
        page_orders: int = PAGE_ORDERS,
    ) -> None:
        self._orders = orders
        self._assets = assets
        self._sender = Sender(bus, clock)
        self._clock = clock
        self._ids = ids
        self._timer = timer
        self._reask_s = reask_s
        self._page_orders = page_orders
        self._latest: dict[str, Told] = {}
        self._turns = Turns()
        self._again: deque[tuple[float, Question]] = deque()
        self._fewer_again = asyncio.Event()
        self._unfinished = Unfinished()
        self._stopped: dict[str, int] = {}
        self._triggered = Lately(REPUBLISH_S, timer)
        # An expiry acts only if its record was appended after the order's end by the broker's clock, so it may have to come again soon.
        self._expired = Lately(EXPIRY_S, timer)
        self._revoked = Lately(REPUBLISH_S, timer)

    async def handle(self, batch: Sequence[Inbound]) -> list[tuple[Inbound, str]]:
        """Take prices, and ask what each of them calls for, in their order. Returns the records that cannot be read, each with the reason.

        What could not be asked yet when this returns is `unfinished`. Raises what was still failing after `PATIENCE_S`.
        """
        refused: list[tuple[Inbound, str]] = []
        questions: list[Question] = []
        for record in batch:
            try:
                told = Told(_price(record), record)
            except UnreadableMarketEvent as error:
                refused.append((record, str(error)))
            else:
                questions += self._questions(told)
        await self._ask(questions)
        while len(self._again) > AGAIN_MAX:
            self._fewer_again.clear()
            await self._fewer_again.wait()
        return refused

    def unfinished(self) -> Mapping[Place, int]:
        """The first offset of each partition whose questions are not all answered."""
        return self._unfinished.first()

    async def run(self, owns: Callable[[], bool]) -> None:
        """Answer questions, and sweep while this process `owns` the prices. Until cancelled; a failure is raised, in a group."""
        async with asyncio.TaskGroup() as group:
            for _ in range(ASKING_MAX):
                group.create_task(self._answer())
            group.create_task(_every(LOOK_S, self.ask_again))
            group.create_task(_every(EXPIRY_S, self.expire, "expiry", owns))
            group.create_task(_every(REVOKE_S, self.revoke, "revocation", owns))
            group.create_task(_every(ROTATION_S, self.rotate, "rotation", owns))

    async def ask_again(self) -> None:
        """Ask once more what was asked `reask_s` ago."""
        questions: list[Question] = []
        while self._again and self._again[0][0] <= self._timer():
            questions.append(self._again.popleft()[1])
        self._fewer_again.set()
        await self._ask(questions)

    async def expire(self) -> None:
        """Ask for the end of the orders whose time has ended."""
        now, cause = self._clock.now(), self._cause()
        async for orders in _pages(partial(self._orders.expiring, now, limit=self._page_orders)):
            sent = await self._sender.send([OrderExpiryReached(order.username, order.order_id) for order in orders], cause, self._expired)
            if sent:
                log.info("orders at their end", request_id=cause.trace_id, orders=sent)

    async def revoke(self) -> None:
        """Look which assets are not traded, and ask for the end of their open orders where that is new."""
        assets = await _patiently(self._assets.assets)
        self._stopped = {asset.asset_id: self._stopped.get(asset.asset_id, 0) for asset in assets.values() if not asset.is_active}
        for asset_id in [asset_id for asset_id, sweeps in self._stopped.items() if sweeps < REVOKE_SWEEPS]:
            for side in dict.fromkeys(DUE_SIDES.values()):
                async for orders in _pages(partial(self._orders.of_asset, asset_id, side, limit=self._page_orders)):
                    await self._revoke(asset_id, orders)
            self._stopped[asset_id] += 1

    async def rotate(self) -> None:
        """Look at every open order once: due at its asset's last price, or of an asset that is not traded."""
        async for orders in _pages(partial(self._orders.all, limit=self._page_orders), pause_s=ROTATION_PAUSE_S):
            by_asset: dict[str, list[OpenOrder]] = defaultdict(list)
            for order in orders:
                by_asset[order.asset_id].append(order)
            for asset_id, found in by_asset.items():
                if asset_id in self._stopped:
                    await self._revoke(asset_id, found)
                elif told := self._latest.get(asset_id):
                    sent = await self._trigger([order for order in found if is_due(order, told.price)], told)
                    _tell(told, sent, by="rotation")

    def _questions(self, told: Told) -> list[Question]:
        """What a price calls for. It is the asset's last one from now on, unless a later one was told before it."""
        asset_id = told.price.asset_id
        before = self._latest.get(asset_id)
        if before is None or before.price.sequence < told.price.sequence:
            self._latest[asset_id] = told
        if asset_id in self._stopped:
            return []
        questions = [Question(told, side) for side in sides_towards(told.price, before.price if before else None)]
        for question in questions:
            self._unfinished.begin(question)
        return questions

    async def _ask(self, questions: Sequence[Question]) -> None:
        """Answer them at once where there are few open orders; else let them wait for their turns."""
        if not questions:
            return
        page = None if len(self._turns) else await _patiently(self._orders.all, limit=self._page_orders)
        if page is None or page.after is not None:
            await self._turns.add(questions)
            WAITING.set(len(self._turns))
            return
        few: dict[tuple[str, DueSide], list[OpenOrder]] = defaultdict(list)
        for order in page.orders:
            few[order.asset_id, order.side].append(order)
        for question in questions:
            await self._found(question, few[question.asset_id, question.side])
            self._answered(question)

    async def _answer(self) -> None:
        while True:
            question = await self._turns.take()
            price, side = question.told.price, question.side
            page = await _patiently(self._orders.due, price.asset_id, side, price.price, limit=self._page_orders, after=question.after)
            await self._found(question, page.orders)
            question.after = page.after
            if page.after:
                self._turns.more(question)
            else:
                self._turns.done(question)
                self._answered(question)
            WAITING.set(len(self._turns))

    async def _found(self, question: Question, orders: Iterable[OpenOrder]) -> None:
        question.published += await self._trigger([order for order in orders if question.meets(order)], question.told)

    def _answered(self, question: Question) -> None:
        _tell(question.told, question.published, by="again" if question.again else "price")
        if question.again:
            self._unfinished.end(question)
            return
        self._again.append((self._timer() + self._reask_s, Question(question.told, question.side, again=True)))
        if question.published:
            TRIGGER_S.observe(max(0.0, (self._clock.now() - question.told.price.at).total_seconds()))

    async def _trigger(self, orders: Sequence[OpenOrder], told: Told) -> int:
        DUE.inc(len(orders))
        price, event = told.price, told.record.envelope
        requests = [OrderTriggered(order.username, order.order_id, price.price, price.sequence, price.at) for order in orders]
        cause = Cause(event.trace_id, event.correlation_id, event.id, event.traceparent, event.tracestate)
        return await self._sender.send(requests, cause, self._triggered)

    async def _revoke(self, asset_id: str, orders: Iterable[OpenOrder]) -> None:
        requests: list[FromInside] = [OrderRevoked(order.username, order.order_id, "asset-inactive") for order in orders]
        cause = self._cause()
        sent = await self._sender.send(requests, cause, self._revoked)
        if sent:
            log.info("orders of an asset that is not traded", request_id=cause.trace_id, asset=asset_id, orders=sent)

    def _cause(self) -> Cause:
        """A sweep of our own."""
        name = self._ids.new()
        return Cause(name, name)


def _tell(told: Told, sent: int, *, by: str) -> None:
    if sent:
        log.info("orders triggered", request_id=told.record.envelope.trace_id, asset=told.price.asset_id, price=str(told.price.price), orders=sent, by=by)


def _price(record: Inbound) -> PriceChanged:
    price = decode_price(record.envelope.value)
    if price.asset_id != record.envelope.subject:
        raise UnreadableMarketEvent("ce_subject and /asset_id differ")
    if price.price <= ZERO:
        raise UnreadableMarketEvent("/price: must be above zero")
    return price


async def _pages(read: Callable[..., Awaitable[Page[T]]], *, pause_s: float = 0.0) -> AsyncIterator[tuple[T, ...]]:
    """Page after page of a bounded read to its end, a pause between them."""
    page = await _patiently(read)
    while page.after:
        yield page.orders
        await asyncio.sleep(pause_s)
        page = await _patiently(read, after=page.after)
    yield page.orders


async def _every(seconds: float, work: Callable[[], Awaitable[None]], sweep: str | None = None, owns: Callable[[], bool] = lambda: True) -> None:
    """Do it now and every so many seconds, or as soon as it is done where it takes longer; only while this process owns what it is for."""
    loop = asyncio.get_running_loop()
    while True:
        started, pause_s = loop.time(), seconds
        if not owns():
            pause_s = OWNER_S
        else:
            await work()
            if sweep:
                SWEEP_S.labels(sweep).observe(loop.time() - started)
        await asyncio.sleep(started + pause_s - loop.time())
