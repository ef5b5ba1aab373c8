"""Accounts and requests for the domain's tests, with the least that a row must say."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from processors.domain.decide import decide_all
from schemas.ledger import Account, CashLine, Counters, Entry, Order, Position
from schemas.market import AssetFacts, Quote
from schemas.requests import AccountRequest, Deposit, FenceRequested, LimitStamp, LoggedRequest, OrderPlaced, OrderStamp, Withdrawal, request_id

USER = "alice_1"
NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)
MS = timedelta(milliseconds=1)
DAY_LIMIT = "10000.00"
TOTAL_MAX = "100000.00"


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
) -> OrderPlaced:
    quote = Quote(Decimal(price), 41, NOON, valid_until)
    facts = AssetFacts(scale, Decimal(minimum), active, fee_bps)
    return OrderPlaced(
        USER,
        asset_id,
        kind,  # type: ignore[arg-type]
        Decimal(quantity),
        OrderStamp(quote, facts, Decimal(total_max)),
        price=Decimal(limit) if limit else None,
        client_order_id=client_order_id,
    )


def buy(quantity: str, price: str = "50000.00", **stamp: object) -> OrderPlaced:
    return order("market_buy", quantity, price, **stamp)  # type: ignore[arg-type]


def sell(quantity: str, price: str = "50000.00", **stamp: object) -> OrderPlaced:
    return order("market_sell", quantity, price, **stamp)  # type: ignore[arg-type]


def logged(request: AccountRequest, *, key: str = "k", at: datetime = NOON, offset: int = 0) -> LoggedRequest:
    return LoggedRequest(request, request_id(request.username, key), at, 0, offset, f"correlation-{key}", f"trace-{key}")


def in_order(requests: Iterable[AccountRequest], *, at: datetime = NOON) -> tuple[LoggedRequest, ...]:
    """Requests as consecutive records of one partition, each with an id of its own."""
    return tuple(logged(request, key=str(offset), at=at, offset=offset) for offset, request in enumerate(requests))


def settle(before: Account, request: AccountRequest, *, at: datetime = NOON, orders: Mapping[str, Order] | None = None) -> tuple[Account, Entry]:
    """Decide one request the way settlement does."""
    decided = decide_all(before, (logged(request, at=at),), orders or {})
    return decided.account, decided.entries[0]


def without_time(line: CashLine | Position) -> CashLine | Position:
    """A line for a comparison of its amounts alone."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return replace(line, updated_at=epoch, created_at=epoch) if isinstance(line, Position) else replace(line, updated_at=epoch)
