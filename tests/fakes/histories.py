"""An account's history made by hand, the ledger reads that it answers, and the plain fold that every view must equal."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Literal
from uuid import UUID, uuid5

from infra.cache import Views
from schemas.instants import day_of
from schemas.ledger import Account, CashLine, Counters, Entry, Lines, Order, Position, Posting, Refusal
from schemas.results import Result, result_of
from schemas.rows import transactions_of
from schemas.views import Transaction

Step = Literal["deposit", "withdraw", "buy", "sell", "open", "close", "fill", "refuse"]
"""`open` leaves a limit order that holds cash; `close` cancels, and `fill` fills, the oldest open one, or leaves an entry that touches nothing."""
STEPS: tuple[Step, ...] = ("deposit", "withdraw", "buy", "sell", "open", "close", "fill", "refuse")
ASSETS = ("BTC", "ETH", "SOL")
PRICE = Decimal("12.34")
FILLED = {"filled_quantity": Decimal(1), "average_price": PRICE, "total_amount": PRICE, "fee": Decimal("0.01")}
KINDS = {"deposit": "Deposit", "withdraw": "Withdrawal", "refuse": "Withdrawal", "close": "OrderCancelRequested", "fill": "OrderTriggered"}
BEGIN = datetime(2026, 11, 25, tzinfo=UTC)
NAMESPACE = UUID(int=7)


@dataclass
class History:
    """Entries of versions 1, 2, … and the account after each. `accounts[0]` is the empty one."""

    username: str
    entries: list[Entry] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    every: timedelta = timedelta(milliseconds=1)

    def __post_init__(self) -> None:
        self.accounts.append(Account(self.username))

    def grow(self, steps: Iterable[Step]) -> "History":
        for step in steps:
            self._add(step)
        return self

    @property
    def results(self) -> list[Result]:
        return [result_of(entry) for entry in self.entries]

    def orders(self, version: int | None = None) -> list[Order]:
        """Orders as they stand at a version, newest first."""
        latest = {entry.lines.order.order_id: entry.lines.order for entry in self.entries[:version] if entry.lines.order}
        return sorted(latest.values(), key=lambda order: -order.created_version)

    def rows(self, version: int | None = None) -> list[Transaction]:
        """Cash movements up to a version, newest entry first."""
        return [row for entry in reversed(self.entries[:version]) for row in transactions_of(entry)]

    def _add(self, step: Step) -> None:
        before = self.accounts[-1]
        version = before.version + 1
        at = BEGIN + version * self.every
        cash = before.cash.get("USD", CashLine())
        asset = ASSETS[version % len(ASSETS)]
        position = before.positions.get(asset, Position(created_at=at))
        counters, refusal, order, postings = before.counters, None, None, ()
        lines = Lines(counters)
        match step:
            case "deposit" | "withdraw":
                amount = Decimal(version) * (1 if step == "deposit" else -1)
                counters = replace(counters, transactions=counters.transactions + 1)
                postings = (Posting("customer", "USD", amount), Posting("world", "USD", -amount))
                lines = Lines(counters, {"USD": replace(cash, available=cash.available + amount, updated_at=at)})
            case "buy" | "sell":
                order = self._order(version, at, f"market_{step}", asset, "completed")
                lines, postings = _trade(order, cash, position, replace(counters, orders=counters.orders + 1), at)
            case "open":
                order = self._order(version, at, "limit_buy", asset, "open")
                lines, postings = _held(order, cash, replace(counters, orders=counters.orders + 1, open_orders=counters.open_orders + 1), order.held, at)
            case "close" | "fill" if oldest := next((one for one in reversed(self.orders()) if one.status == "open"), None):
                order = replace(oldest, status="cancelled", held=Decimal(0), reason="requested", updated_at=at, updated_version=version)
                lines, postings = _held(order, cash, replace(counters, open_orders=counters.open_orders - 1), -oldest.held, at)
                if step == "fill":
                    order = replace(order, status="completed", reason=None, **FILLED)  # type: ignore[arg-type]
                    position = before.positions.get(order.asset_id, Position(created_at=at))
                    lines, paid = _trade(order, lines.cash["USD"], position, lines.counters, at)
                    postings = (*postings, *paid)
            case "refuse":
                refusal = Refusal("insufficient-funds", "Not enough.")
        kind = KINDS.get(step, "OrderPlaced")
        payload = {"type": kind, "currency": "USD"}
        request_id = str(uuid5(NAMESPACE, f"{self.username} {version}"))
        self.entries.append(Entry(request_id, self.username, version, at, kind, payload, 0, version, request_id, f"trace-{version}", lines, postings, refusal))
        self.accounts.append(
            replace(
                before, version=version, at=at, counters=lines.counters, cash={**before.cash, **lines.cash}, positions={**before.positions, **lines.positions}
            )
        )

    def _order(self, version: int, at: datetime, kind: str, asset: str, status: str) -> Order:
        rest = FILLED if status == "completed" else {"price": PRICE, "total_amount": PRICE, "held": PRICE}
        order_id = f"ord_{uuid5(NAMESPACE, f'{self.username} {version} order').hex}"
        return Order(order_id, asset, kind, Decimal(1), status, version, at, at, PRICE, 1, 10, updated_version=version, **rest)  # type: ignore[arg-type]


def _held(order: Order, cash: CashLine, counters: Counters, change: Decimal, at: datetime) -> tuple[Lines, tuple[Posting, ...]]:
    """So much more is held for an order; less than nothing is released."""
    line = replace(cash, available=cash.available - change, held=cash.held + change, updated_at=at)
    after = Lines(replace(counters, transactions=counters.transactions + 1), {"USD": line}, order=order)
    return after, (Posting("customer", "USD", -change), Posting("held", "USD", change))


def _trade(order: Order, cash: CashLine, position: Position, counters: Counters, at: datetime) -> tuple[Lines, tuple[Posting, ...]]:
    sign = 1 if order.order_type.endswith("buy") else -1
    paid, fee, quantity = -sign * PRICE, order.fee, Decimal(sign)
    after = Lines(
        replace(counters, transactions=counters.transactions + 2),
        {"USD": replace(cash, available=cash.available + paid - fee, updated_at=at)},
        {order.asset_id: replace(position, available=position.available + quantity, cost_basis=position.cost_basis - paid, updated_at=at)},
        order,
    )
    legs = (("customer", "USD", paid), ("market", "USD", -paid), ("customer", "USD", -fee), ("fees", "USD", fee), ("customer", order.asset_id, quantity))
    return after, tuple(Posting(house, unit, amount) for house, unit, amount in (*legs, ("market", order.asset_id, -quantity)))  # type: ignore[arg-type]


@dataclass
class HistoryReads:
    """Implements `ParkedReads` on histories. `visible` caps the version that is settled by now; each read lets other tasks run.

    `opened`: while it is not set nothing is answered.
    """

    histories: dict[str, History]
    visible: dict[str, int] = field(default_factory=dict)
    reads: dict[str, int] = field(default_factory=dict)
    waiting: set[tuple[str, str]] = field(default_factory=set)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.opened.set()

    async def account(self, username: str) -> Account:
        await self._count("account")
        history = self.histories.get(username)
        return history.accounts[self._version(username)] if history else Account(username)

    async def entry(self, username: str, request_id: str) -> Entry | None:
        await self._count("entry")
        return next((entry for entry in self._entries(username) if entry.request_id == request_id), None)

    async def order(self, username: str, order_id: str) -> Order | None:
        await self._count("order")
        return next((order for order in self._orders(username) if order.order_id == order_id), None)

    async def entries(self, username: str, *, before: int | None, limit: int) -> list[Entry]:
        await self._count("entries")
        moved = [entry for entry in reversed(self._entries(username)) if entry.lines.cash or entry.lines.positions]
        return [entry for entry in moved if before is None or entry.version < before][:limit]

    async def asset_entries(self, username: str, asset_id: str, *, before: int | None, limit: int) -> list[Entry]:
        await self._count("asset_entries")
        moved = [entry for entry in reversed(self._entries(username)) if any(posting.unit == asset_id for posting in entry.postings)]
        return [entry for entry in moved if before is None or entry.version < before][:limit]

    async def orders(self, username: str, *, before: int | None, limit: int) -> list[Order]:
        await self._count("orders")
        return [order for order in self._orders(username) if before is None or order.created_version < before][:limit]

    async def days(self, username: str, first: str, last: str, *, limit: int) -> list[Account]:
        await self._count("days")
        accounts = self.histories[username].accounts[1 : self._version(username) + 1] if username in self.histories else []
        kept = [account for account, later in pairwise(accounts) if day_of(account.at) != day_of(later.at)]
        before = [account for account in kept if day_of(account.at) < first]
        inside = [account for account in kept if first <= day_of(account.at) <= last]
        return [*before[-1:], *inside[:limit]]

    async def waits(self, username: str, request_id: str) -> bool:
        await self._count("waits")
        return (username, request_id) in self.waiting

    async def _count(self, read: str) -> None:
        self.reads[read] = self.reads.get(read, 0) + 1
        await self.opened.wait()
        await asyncio.sleep(0)

    def _version(self, username: str) -> int:
        history = self.histories[username]
        return min(self.visible.get(username, len(history.entries)), len(history.entries))

    def _entries(self, username: str) -> Sequence[Entry]:
        return self.histories[username].entries[: self._version(username)] if username in self.histories else ()

    def _orders(self, username: str) -> list[Order]:
        return self.histories[username].orders(self._version(username)) if username in self.histories else []


async def begin(views: Views, reads: HistoryReads, history: History) -> None:
    """Have the view of an account to which nothing has happened yet, as its first reader makes it: results move it on from there. Reads are counted anew."""
    visible, reads.visible = reads.visible, {**reads.visible, history.username: 0}
    await views.load(history.username)
    reads.visible = visible
    reads.reads.clear()
