"""What is shown of results and of the ledger's nouns: pure functions that make the rows and answers of `schemas.views`."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Final

from schemas.ledger import AccountStatus, CashLine, Entry, House, Order, Position, Posting, pairs
from schemas.money import CURRENCY_SCALES, EXACT, HOME_CURRENCY, ZERO, currency_scale, in_currency, trimmed
from schemas.results import Result
from schemas.views import BalanceView, Fill, OrderDetail, OrderView, Trade, Transaction, TransactionType


def transaction_id(request_id: str) -> str:
    """Id of a request's movement of cash."""
    return "txn_" + request_id.replace("-", "")


def moves_cash(posting: Posting) -> bool:
    """Whether a leg is a row of the customer's list of transactions."""
    return posting.account == "customer" and posting.unit in CURRENCY_SCALES


def transactions_of(entry: Entry | Result) -> list[Transaction]:
    """The rows that an entry adds to the list of transactions, in the order of its legs; a refusal adds none."""
    return list(_transactions(entry))


TRANSACTION_TYPES: Final[dict[tuple[House, bool], TransactionType]] = {
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
            kind = TRANSACTION_TYPES[other.account, leg.amount > ZERO]
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
        held_amount=Decimal(in_currency(order.held if order.is_buy else ZERO, HOME_CURRENCY)),
        held_quantity=trimmed(ZERO if order.is_buy else order.held),
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
