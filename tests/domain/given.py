"""Accounts and requests for the domain's tests, with the least that a row must say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from processors.domain.decide import decide_all
from schemas.ledger import Account, CashLine, Counters, Entry, Order, Position
from schemas.market import AssetFacts, Quote
from schemas.requests import (
    AccountRequest,
    Deposit,
    FenceRequested,
    LimitStamp,
    LoggedRequest,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderStamp,
    OrderTriggered,
    TimeInForce,
    Withdrawal,
    order_id,
    request_id,
)

USER = "alice_1"
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)
MS = timedelta(milliseconds=1)
LATER = NOON + timedelta(days=365)
DAY_LIMIT = "10000.00"
TOTAL_MAX = "100000.00"
SEQUENCE = 41
"""Of the price in every order's quote."""


def account(
    cash: str | None = None,
    *,
    btc: str | None = None,
    cost: str = "0",
    at: datetime = NOON,
    version: int = 7,
    deposited: str = "0",
    withdrawn: str = "0",
    day: str = "2026-11-25",
) -> Account:
    """An account of version 7 with some cash, some BTC and what was moved on a day."""
    return Account(
        USER,
        version,
        at,
        cash={} if cash is None else {"USD": CashLine(Decimal(cash), updated_at=at)},
        positions={} if btc is None else {"BTC": Position(Decimal(btc), cost_basis=Decimal(cost), created_at=at, updated_at=at)},
        counters=Counters(day, Decimal(deposited), Decimal(withdrawn), 3, 1),
    )


def deposit(amount: str, *, day_limit: str = DAY_LIMIT) -> Deposit:
    return Deposit(USER, Decimal(amount), LimitStamp(Decimal(day_limit)))


def withdrawal(amount: str, *, day_limit: str = DAY_LIMIT) -> Withdrawal:
    return Withdrawal(USER, Decimal(amount), LimitStamp(Decimal(day_limit)))


def fence() -> FenceRequested:
    return FenceRequested(USER)


def order(
    kind: str,
    quantity: str,
    price: str = "50000.00",
    *,
    asset_id: str = "BTC",
    scale: int = 8,
    minimum: str = "0.00000001",
    active: bool = True,
    fee_bps: int = 0,
    total_max: str = TOTAL_MAX,
    valid_until: datetime = NOON + timedelta(seconds=30),
    client_order_id: str | None = None,
    limit: str | None = None,
    tif: TimeInForce = "gtc",
    until: datetime | None = None,
) -> OrderPlaced:
    quote = Quote(Decimal(price), SEQUENCE, NOON, valid_until)
    facts = AssetFacts(scale, Decimal(minimum), active, fee_bps)
    return OrderPlaced(
        USER,
        asset_id,
        kind,  # type: ignore[arg-type]
        Decimal(quantity),
        OrderStamp(quote, facts, Decimal(total_max)),
        price=Decimal(limit) if limit else None,
        client_order_id=client_order_id,
        time_in_force=tif,
        expires_at=until,
    )


def buy(quantity: str, price: str = "50000.00", **stamp: object) -> OrderPlaced:
    return order("market_buy", quantity, price, **stamp)  # type: ignore[arg-type]


def sell(quantity: str, price: str = "50000.00", **stamp: object) -> OrderPlaced:
    return order("market_sell", quantity, price, **stamp)  # type: ignore[arg-type]


def waiting(kind: str = "limit_buy", quantity: str = "1", limit: str = "90", *, name: str = "mine", price: str = "100", **stamp: object) -> OrderPlaced:
    """An order with a price of its own; the market is at 100."""
    return order(kind, quantity, price, limit=limit, client_order_id=name, **stamp)  # type: ignore[arg-type]


def cancel(name: str = "mine") -> OrderCancelRequested:
    return OrderCancelRequested(USER, order_id(USER, name))


def trigger(price: str, name: str = "mine", *, sequence: int = SEQUENCE + 1, priced_at: datetime = LATER) -> OrderTriggered:
    """A price that comes later than every order of these tests, unless its time is given."""
    return OrderTriggered(USER, order_id(USER, name), Decimal(price), sequence, priced_at)


def expiry(name: str = "mine") -> OrderExpiryReached:
    return OrderExpiryReached(USER, order_id(USER, name))


def revocation(name: str = "mine") -> OrderRevoked:
    return OrderRevoked(USER, order_id(USER, name), "asset-inactive")


def logged(request: AccountRequest, *, key: str = "k", at: datetime = NOON, offset: int = 0) -> LoggedRequest:
    return LoggedRequest(request, request_id(request.username, key), at, 0, offset, f"correlation-{key}", f"trace-{key}")


def in_order(requests: Iterable[AccountRequest], *, at: datetime = NOON) -> tuple[LoggedRequest, ...]:
    """Requests as consecutive records of one partition, each with an id of its own."""
    return tuple(logged(request, key=str(offset), at=at, offset=offset) for offset, request in enumerate(requests))


def settle(before: Account, request: AccountRequest, *, at: datetime = NOON, orders: Mapping[str, Order] | None = None) -> tuple[Account, Entry]:
    """Decide one request the way settlement does."""
    decided = decide_all(before, (logged(request, at=at),), orders or {})
    return decided.account, decided.entries[0]


@dataclass
class Books:
    """An account with its orders, for histories that are told one request at a time."""

    account: Account
    orders: dict[str, Order] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def take(self, *requests: AccountRequest, at: datetime = NOON) -> Entry | None:
        """Settle these; the entry of the last one, None where it found nothing to do."""
        entry = None
        for request in requests:
            key = str(len(self.entries))
            decided = decide_all(self.account, (logged(request, key=key, at=at, offset=len(self.entries)),), self.orders)
            self.account = decided.account
            self.orders |= {order.order_id: order for order in decided.orders}
            self.entries += decided.entries
            entry = decided.entries[0] if decided.entries else None
        return entry

    def order(self, name: str = "mine") -> Order:
        return self.orders[order_id(USER, name)]

    @property
    def cash(self) -> tuple[Decimal, Decimal]:
        """Available and held."""
        line = self.account.cash.get("USD", CashLine())
        return line.available, line.held

    @property
    def btc(self) -> tuple[Decimal, Decimal]:
        """Available and held."""
        position = self.account.positions.get("BTC", Position())
        return position.available, position.held


def code_of(entry: Entry | None) -> str | None:
    """The code of a refusal."""
    assert entry
    return entry.refusal.code if entry.refusal else None


def without_time(line: CashLine | Position) -> CashLine | Position:
    """A line for a comparison of its amounts alone."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return replace(line, updated_at=epoch, created_at=epoch) if isinstance(line, Position) else replace(line, updated_at=epoch)
