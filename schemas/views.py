"""The answers of the REST API, and the pure functions that make their rows from results and ledger nouns."""

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from schemas.instants import Instant
from schemas.ledger import AccountStatus, CashLine, CloseReason, Entry, House, Order, Position, Posting, pairs
from schemas.money import CURRENCY_SCALES, EXACT, HOME_CURRENCY, ZERO, Amount, currency_scale, in_currency, trimmed
from schemas.requests import OrderType
from schemas.results import Result

Display = Annotated[
    Decimal,
    PlainSerializer(float, return_type=float, when_used="json"),
    WithJsonSchema({"type": "number"}),
]
"""A market figure for display: a JSON number. Never computed with."""

TransactionType = Literal["deposit", "withdraw", "order_payment", "order_sale", "order_hold", "order_release", "fee", "adjustment"]


class Transaction(BaseModel):
    """One movement of cash; money that leaves is negative."""

    transaction_id: str
    transaction_type: TransactionType
    amount: Amount
    currency: str
    status: Literal["completed"] = "completed"
    created_at: Instant
    order_id: str | None = None
    version: int


class Trade(BaseModel):
    """One movement of an asset."""

    asset_id: str
    transaction_type: Literal["BUY", "SELL"]
    quantity: Amount
    price: Amount
    status: Literal["COMPLETED"] = "COMPLETED"
    timestamp: Instant
    order_id: str
    version: int


class OrderView(BaseModel):
    """An order as its owner sees it.

    `price` is the limit or the stop, or the price at which a market order was filled; `average_price` that of the fill. `held_amount` is the cash, and
    `held_quantity` the part of the asset, that it holds while it is open. `cancel_reason` tells why it was cancelled.
    """

    order_id: str
    order_type: OrderType
    asset_id: str
    quantity: Amount
    price: Amount | None
    status: str
    total_amount: Amount
    filled_quantity: Amount
    average_price: Amount | None
    fee: Amount
    held_amount: Amount
    held_quantity: Amount
    cancel_reason: CloseReason | None
    client_order_id: str | None
    time_in_force: str
    expires_at: Instant | None
    created_at: Instant
    updated_at: Instant


class OrderAnswer(BaseModel):
    """One order."""

    data: OrderView


class Fill(BaseModel):
    """One execution of an order: `price` is that of one unit, `fee` in the home currency."""

    quantity: Amount
    price: Amount
    fee: Amount
    filled_at: Instant


class OrderDetail(OrderView):
    """An order with its fills. An order fills whole, so there is at most one."""

    fills: list[Fill]


class OrderDetailAnswer(BaseModel):
    """One order with its fills."""

    data: OrderDetail


class OrderPage(BaseModel):
    """A page of orders, newest first."""

    data: list[OrderView]
    has_more: bool
    next_cursor: str | None


class MoneyMoved(BaseModel):
    """The answer to a settled deposit or withdrawal."""

    success: bool = True
    message: str
    transaction_id: str
    timestamp: Instant
    new_balance: Amount
    currency: str


class BalanceView(BaseModel):
    """Cash: available, held for open orders, and both."""

    current_balance: Amount
    held_balance: Amount
    total_balance: Amount
    currency: str
    updated_at: Instant | None
    version: int
    status: AccountStatus


class TransactionPage(BaseModel):
    """A page of cash movements, newest first. `total_count` counts all of them, not the page."""

    transactions: list[Transaction]
    total_count: int
    has_more: bool
    next_cursor: str | None


class TradePage(BaseModel):
    """A page of movements of one asset, newest first."""

    data: list[Trade]
    has_more: bool
    next_cursor: str | None


class AssetBalance(BaseModel):
    """A holding. `quantity` is all that is owned, `held_quantity` the part of it held for open orders."""

    asset_id: str
    asset_name: str
    quantity: Amount
    held_quantity: Amount
    average_cost: Amount | None
    realized_pnl: Amount
    current_price: Display | None
    total_value: Display | None
    created_at: Instant
    updated_at: Instant


class AssetBalances(BaseModel):
    """All holdings that there ever were, by asset id."""

    data: list[AssetBalance]


class Holding(BaseModel):
    """A line of the portfolio. `percentage` is of the priced holdings' value; those of a portfolio sum to exactly 100."""

    asset_id: str
    asset_name: str
    quantity: Amount
    held_quantity: Amount
    current_price: Amount | None
    market_value: Amount | None
    percentage: Amount | None
    average_cost: Amount | None
    unrealized_pnl: Amount | None
    realized_pnl: Amount


class Summary(BaseModel):
    """Totals: `total_portfolio_value` = cash + held cash + value of the priced holdings.

    `unrealized_pnl` is that value less what these holdings cost, `realized_pnl` what all sales so far brought beyond the cost of what was sold;
    fees count as cost.
    """

    cash_balance: Amount
    held_cash: Amount
    total_asset_value: Amount
    total_portfolio_value: Amount
    unrealized_pnl: Amount
    realized_pnl: Amount
    currency: str
    unpriced_assets: list[str]
    prices_as_of: Instant | None
    last_updated: Instant | None
    version: int
    status: AccountStatus


class Portfolio(Summary):
    """Totals and holdings."""

    assets: list[Holding]


class Insight(BaseModel):
    """A portfolio in words. `model` names what wrote it."""

    summary: str
    generated_at: Instant
    model: str


class InsightAnswer(BaseModel):
    """The words on a portfolio."""

    data: Insight


class AssetView(BaseModel):
    """A row of the inventory. Market figures that are not known are null."""

    asset_id: str
    name: str
    description: str
    category: str
    price_usd: Display | None
    is_active: bool
    symbol: str
    image: str | None
    market_cap_rank: int
    price_change_percentage_24h: Display | None
    market_cap: Display | None
    total_volume_24h: Display | None


class AssetPage(BaseModel):
    """The inventory, by market capitalisation rank. The counts are of all that matches, not of the page."""

    data: list[AssetView]
    total_count: int
    active_count: int


class AssetDetail(AssetView):
    """Everything about an asset."""

    availability_status: Literal["available", "unavailable"]
    price_change_24h: Display | None
    price_change_percentage_7d: Display | None
    price_change_percentage_30d: Display | None
    high_24h: Display | None
    low_24h: Display | None
    circulating_supply: Display | None
    total_supply: Display | None
    max_supply: Display | None
    ath: Display | None
    ath_change_percentage: Display | None
    ath_date: str | None
    atl: Display | None
    atl_change_percentage: Display | None
    atl_date: str | None
    last_updated: Instant | None


class AssetAnswer(BaseModel):
    """One asset."""

    data: AssetDetail


CommandState = Literal["pending", "parked", "settled", "refused", "fenced", "unreadable"]


class CommandView(BaseModel):
    """What became of a command. `outcome` is what the original call answered, or would have answered, once it is decided."""

    command_id: str
    state: CommandState
    request_type: str | None = None
    version: int | None = None
    decided_at: Instant | None = None
    outcome: dict[str, Any] | None = None
    code: str | None = Field(default=None, description="The code of the refusal")
    detail: str | None = None


CONSISTENCY_PATTERN: Final = r"^v1\.(0|[1-9][0-9]{0,17})\.([0-9a-f]{8})$"


def consistency_token(username: str, version: int) -> str:
    """What a write answers and a read presents, to see at least this version of the account: `v1.<version>.<tag of the user>`."""
    return f"v1.{version}.{_user_tag(username)}"


def read_consistency_token(username: str, token: str) -> int | None:
    """The version in a token; None for a malformed one or another user's. The tag tells a mix-up; it is no secret and protects nothing."""
    match = re.fullmatch(CONSISTENCY_PATTERN, token)
    return int(match[1]) if match and match[2] == _user_tag(username) else None


def _user_tag(username: str) -> str:
    return hashlib.sha256(username.encode()).hexdigest()[:8]


def transaction_id(request_id: str) -> str:
    """Id of a request's movement of cash."""
    return "txn_" + request_id.replace("-", "")


def moves_cash(posting: Posting) -> bool:
    """Whether a leg is a row of the customer's list of transactions."""
    return posting.account == "customer" and posting.unit in CURRENCY_SCALES


def transactions_of(entry: Entry | Result) -> list[Transaction]:
    """The rows that an entry adds to the list of transactions, in the order of its legs; a refusal adds none."""
    return list(_transactions(entry))


_TRANSACTION_TYPES: Final[dict[tuple[House, bool], TransactionType]] = {
    ("world", True): "deposit",
    ("world", False): "withdraw",
    ("market", True): "order_sale",
    ("market", False): "order_payment",
    ("held", True): "order_release",
    ("held", False): "order_hold",
    ("fees", True): "fee",
    ("fees", False): "fee",
}
"""By whose leg is the counterpart of the customer's, and whether money comes."""
_SUFFIXES: Final[dict[TransactionType, str]] = {"order_hold": "_hold", "order_release": "_release", "fee": "_fee"}


def _transactions(entry: Entry | Result) -> Iterator[Transaction]:
    order = entry.lines.order
    for leg, other in pairs(entry.postings):
        if moves_cash(leg):
            kind = _TRANSACTION_TYPES[other.account, leg.amount > ZERO]
            yield Transaction(
                transaction_id=transaction_id(entry.request_id) + _SUFFIXES.get(kind, ""),
                transaction_type=kind,
                amount=Decimal(in_currency(leg.amount, leg.unit)),
                currency=leg.unit,
                created_at=entry.at,
                order_id=order.order_id if order else None,
                version=entry.version,
            )


def trade_of(entry: Entry | Result) -> Trade | None:
    """The movement of an asset that an entry made, if it made one; what is held or released stays the customer's."""
    order = entry.lines.order
    for leg, other in pairs(entry.postings):
        if order and leg.unit == order.asset_id and other.account == "market":
            return Trade(
                asset_id=order.asset_id,
                transaction_type="SELL" if leg.amount < ZERO else "BUY",
                quantity=trimmed(leg.amount.copy_abs()),
                price=shown_price(order.average_price or order.quote_price),
                timestamp=entry.at,
                order_id=order.order_id,
                version=entry.version,
            )
    return None


def shown_price(price: Decimal) -> Decimal:
    """A price of one unit in its one spelling: with the home currency's decimals, or more where it has more."""
    return trimmed(price, currency_scale(HOME_CURRENCY))


def _price_or_none(price: Decimal | None) -> Decimal | None:
    return None if price is None else shown_price(price)


def order_view(order: Order) -> OrderView:
    """An order as its owner sees it."""
    is_buy = order.order_type.endswith("buy")
    return OrderView(
        order_id=order.order_id,
        order_type=order.order_type,
        asset_id=order.asset_id,
        quantity=trimmed(order.quantity),
        price=_price_or_none(order.price if order.price is not None else order.average_price),
        status=order.status,
        total_amount=Decimal(in_currency(order.total_amount, HOME_CURRENCY)),
        filled_quantity=trimmed(order.filled_quantity),
        average_price=_price_or_none(order.average_price),
        fee=Decimal(in_currency(order.fee, HOME_CURRENCY)),
        held_amount=Decimal(in_currency(order.held if is_buy else ZERO, HOME_CURRENCY)),
        held_quantity=trimmed(ZERO if is_buy else order.held),
        cancel_reason=order.reason,
        client_order_id=order.client_order_id,
        time_in_force=order.time_in_force,
        expires_at=order.expires_at,
        created_at=order.created_at,
        updated_at=order.updated_at,
    )


def order_detail(order: Order) -> OrderDetail:
    """An order as its owner sees it, with its fills. A filled order does not change any more: its last change is its fill."""
    view = order_view(order)
    filled = order.filled_quantity > ZERO and order.average_price is not None
    fills = [Fill(quantity=view.filled_quantity, price=view.average_price or ZERO, fee=view.fee, filled_at=order.updated_at)] if filled else []
    return OrderDetail(**view.model_dump(), fills=fills)


def balance_view(cash: CashLine | None, version: int, status: AccountStatus = "active", currency: str = HOME_CURRENCY) -> BalanceView:
    """A cash line as its owner sees it; zeros where there never was one."""
    line = cash or CashLine()
    return BalanceView(
        current_balance=Decimal(in_currency(line.available, currency)),
        held_balance=Decimal(in_currency(line.held, currency)),
        total_balance=Decimal(in_currency(EXACT.add(line.available, line.held), currency)),
        currency=currency,
        updated_at=line.updated_at if cash else None,
        version=version,
        status=status,
    )


def last_change(lines: list[CashLine | Position]) -> datetime | None:
    """When the newest of some lines changed."""
    return max((line.updated_at for line in lines), default=None)
