"""The answers of the REST API. What makes them from results and ledger nouns is `schemas.rows`."""

import hashlib
import re
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from schemas.instants import EPOCH, Instant
from schemas.ledger import AccountStatus, CloseReason
from schemas.money import Amount
from schemas.requests import OrderType

Display = Annotated[
    Decimal,
    PlainSerializer(float, return_type=float, when_used="json"),
    WithJsonSchema({"type": "number"}),
]
"""A market figure for display: a JSON number. Never computed with."""

TransactionType = Literal["deposit", "withdraw", "order_payment", "order_sale", "order_hold", "order_release", "fee", "adjustment"]


class AsOf(BaseModel):
    """What an answer shows: everything up to a version of the account, and when that was decided (null: nothing was so far)."""

    version: int = 0
    at: Instant | None = None

    @classmethod
    def of(cls, version: int, at: datetime) -> "AsOf":
        """As an account tells it, whose time is the epoch where nothing was decided."""
        return cls(version=version, at=at if at > EPOCH else None)


class OfAccount(BaseModel):
    """An answer about an account, which says up to what it shows it."""

    as_of: AsOf = AsOf()


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


class OrderDetailAnswer(OfAccount):
    """One order with its fills."""

    data: OrderDetail


class OrderPage(OfAccount):
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


class BalanceView(OfAccount):
    """Cash: available, held for open orders, and both."""

    current_balance: Amount
    held_balance: Amount
    total_balance: Amount
    currency: str
    updated_at: Instant | None
    version: int
    status: AccountStatus


class TransactionPage(OfAccount):
    """A page of cash movements, newest first. `total_count` counts all of them, not the page."""

    transactions: list[Transaction]
    total_count: int
    has_more: bool
    next_cursor: str | None


class TradePage(OfAccount):
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


class OneAssetBalance(AssetBalance, OfAccount):
    """A holding, as an answer of its own."""


class AssetBalances(OfAccount):
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


class Summary(OfAccount):
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


class InsightAnswer(OfAccount):
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


TAGS_MAX: Final = 10_000
"""Users whose tag is kept in memory."""
CONSISTENCY_PATTERN: Final = r"^v1\.(0|[1-9][0-9]{0,17})\.([0-9a-f]{8})$"


def consistency_token(username: str, version: int) -> str:
    """What a write answers and a read presents, to see at least this version of the account: `v1.<version>.<tag of the user>`."""
    return f"v1.{version}.{_user_tag(username)}"


def read_consistency_token(username: str, token: str) -> int | None:
    """The version in a token; None for a malformed one or another user's. The tag tells a mix-up; it is no secret and protects nothing."""
    match = re.fullmatch(CONSISTENCY_PATTERN, token)
    return int(match[1]) if match and match[2] == _user_tag(username) else None


@lru_cache(maxsize=TAGS_MAX)
def _user_tag(username: str) -> str:
    return hashlib.sha256(username.encode()).hexdigest()[:8]
