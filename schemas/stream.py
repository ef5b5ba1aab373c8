"""The events of the live stream: what stands in the `data` of each."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, Field

from schemas.instants import Instant
from schemas.ledger import Account, AccountStatus, CashLine, Order, Position
from schemas.market import PriceChanged
from schemas.money import HOME_CURRENCY, Amount, trimmed
from schemas.results import Result, result_type
from schemas.rows import balance_view, order_view, shown_price
from schemas.valuation import average_cost, in_cents
from schemas.views import AsOf, BalanceView, OrderView

ResumeReason = Literal["slow", "restart", "unauthorized"]
"""The reader did not keep up, the process stops, or the token is not valid any more."""


class StreamHolding(BaseModel):
    """A holding. `quantity` is all that is owned, `held_quantity` the part of it held for open orders."""

    asset_id: str
    quantity: Amount
    held_quantity: Amount
    average_cost: Amount | None
    realized_pnl: Amount
    updated_at: Instant


class StreamPrice(BaseModel):
    """The latest price of one whole unit of a watched asset, in the home currency; `sequence` counts the prices of the asset."""

    asset_id: str
    price: Amount
    sequence: int
    at: Instant


class StreamAccount(BaseModel):
    """The account at one version, which was decided `at` (null: nothing was so far).

    `orders` are the open ones among the newest 200 orders; `open_orders` counts all that are open.
    """

    version: int
    at: Instant | None
    balance: BalanceView
    holdings: list[StreamHolding]
    orders: list[OrderView]
    open_orders: int


class StreamSnapshot(StreamAccount):
    """The whole account, and the latest prices of the watched assets: it takes the place of all that was told before it."""

    prices: list[StreamPrice]


class StreamChange(BaseModel):
    """What one version of the account changed: the lines that it touched, with their values after it.

    `type` is that of the result, `code` the reason where the request was refused.
    """

    version: int
    at: Instant
    type: str
    request_id: str
    status: AccountStatus
    code: str | None
    balance: BalanceView | None
    holdings: list[StreamHolding]
    order: OrderView | None


class StreamResume(BaseModel):
    """The last event of a stream that the server ends: connect again, with the last id."""

    reason: ResumeReason


class StreamEvents(BaseModel):
    """The events by their names: each has the JSON of its member as `data`. The answer is a stream of events, never this object."""

    snapshot: StreamSnapshot | None = Field(default=None, description="`id`: its version")
    change: StreamChange | None = Field(default=None, description="`id`: its version, the one after that of the event before it")
    price: StreamPrice | None = Field(default=None, description="Without an `id`")
    resume: StreamResume | None = Field(default=None, description="Without an `id`")


def stream_account(account: Account, orders: Sequence[Order]) -> StreamAccount:
    """What a snapshot shows of an account and its newest orders."""
    return StreamAccount(
        version=account.version,
        at=account.at if account.version else None,
        balance=_balance(account.cash.get(HOME_CURRENCY), account, account.status),
        holdings=[_holding(asset_id, position) for asset_id, position in sorted(account.positions.items())],
        orders=[order_view(order) for order in orders if order.status == "open"],
        open_orders=account.counters.open_orders,
    )


def stream_change(result: Result, status: AccountStatus) -> StreamChange:
    """What a result changed; `status` is the account's after it."""
    cash = result.lines.cash.get(HOME_CURRENCY)
    return StreamChange(
        version=result.version,
        at=result.at,
        type=result_type(result),
        request_id=result.request_id,
        status=status,
        code=result.refusal.code if result.refusal else None,
        balance=_balance(cash, result, status) if cash else None,
        holdings=[_holding(asset_id, position) for asset_id, position in sorted(result.lines.positions.items())],
        order=order_view(result.lines.order) if result.lines.order else None,
    )


def stream_price(price: PriceChanged) -> StreamPrice:
    """What is told of a price."""
    return StreamPrice(asset_id=price.asset_id, price=shown_price(price.price), sequence=price.sequence, at=price.at)


def _balance(cash: CashLine | None, of: Account | Result, status: AccountStatus) -> BalanceView:
    view = balance_view(cash, of.version, status)
    view.as_of = AsOf.of(of.version, of.at)
    return view


def _holding(asset_id: str, position: Position) -> StreamHolding:
    return StreamHolding(
        asset_id=asset_id,
        quantity=trimmed(position.quantity),
        held_quantity=trimmed(position.held),
        average_cost=average_cost(position),
        realized_pnl=in_cents(position.realised),
        updated_at=position.updated_at,
    )
