"""The rows and views that entries and orders are shown as: each movement once, with its sign, its kind and an id of its own."""

from decimal import Decimal

import pytest

from schemas.ledger import CashLine, Entry, Order
from schemas.requests import AccountRequest, OrderPlaced, order_id
from schemas.results import result_of
from schemas.rows import balance_view, order_detail, order_view, trade_of, transaction_id, transactions_of
from tests.domain.given import USER, Books, account, buy, cancel, deposit, expiry, revocation, sell, trigger, waiting, withdrawal

SALE = waiting("limit_sell", "1.50", "110", fee_bps=25)
BUY = waiting(fee_bps=25)

Row = tuple[str, str, str]
"""Type, amount, and what its id ends with."""

TRANSACTIONS: dict[str, tuple[tuple[AccountRequest, ...], list[Row]]] = {
    "a deposit": ((deposit("5"),), [("deposit", "5.00", "")]),
    "a withdrawal": ((withdrawal("5"),), [("withdraw", "-5.00", "")]),
    "a refusal": ((withdrawal("5000"),), []),
    "a market buy": ((buy("1", "10"),), [("order_payment", "-10.00", "")]),
    "a market buy with a fee": ((buy("1", "10", fee_bps=100),), [("order_payment", "-10.00", ""), ("fee", "-0.10", "_fee")]),
    "a market sale with a fee": ((sell("1", "10", fee_bps=100),), [("order_sale", "10.00", ""), ("fee", "-0.10", "_fee")]),
    "a buy is placed": ((BUY,), [("order_hold", "-90.23", "_hold")]),
    "a sale is placed": ((SALE,), []),
    "an order is filled at once": ((waiting(limit="110"),), [("order_payment", "-100.00", "")]),
    "an order is not filled at all": ((waiting(tif="ioc"),), []),
    "a buy is filled": ((BUY, trigger("80")), [("order_release", "90.23", "_release"), ("order_payment", "-80.00", ""), ("fee", "-0.20", "_fee")]),
    "a sale is filled": ((SALE, trigger("120")), [("order_sale", "180.00", ""), ("fee", "-0.45", "_fee")]),
    "a buy is cancelled": ((BUY, cancel()), [("order_release", "90.23", "_release")]),
    "a sale is cancelled": ((SALE, cancel()), []),
    "a buy is revoked": ((BUY, revocation()), [("order_release", "90.23", "_release")]),
    "a cancel in vain": ((BUY, cancel(), cancel()), []),
}

TRADES: dict[str, tuple[tuple[AccountRequest, ...], tuple[str, str, str] | None]] = {
    "a deposit": ((deposit("5"),), None),
    "a market buy": ((buy("1.50", "10.5"),), ("BUY", "1.5", "10.50")),
    "a market sale": ((sell("1", "10.125"),), ("SELL", "1", "10.125")),
    "a buy is placed": ((BUY,), None),
    "a sale is placed: what is held is the customer's still": ((SALE,), None),
    "a sale is cancelled": ((SALE, cancel()), None),
    "a buy is filled at the price it got": ((BUY, trigger("80")), ("BUY", "1", "80.00")),
    "a sale is filled, of which all was held": ((SALE, trigger("120.5")), ("SELL", "1.5", "120.50")),
}


def last_entry(requests: tuple[AccountRequest, ...]) -> Entry:
    books = Books(account("1000", btc="2", cost="30"))
    entry = books.take(*requests)
    assert entry
    return entry


@pytest.mark.parametrize("name", TRANSACTIONS)
def test_rows_of_transactions(name: str) -> None:
    """Each movement of cash is a row in the order of the legs, told the same by the entry and by its result; ids are unique within an entry."""
    requests, expected = TRANSACTIONS[name]
    entry = last_entry(requests)
    rows = transactions_of(entry)
    assert [(row.transaction_type, str(row.amount), row.transaction_id.removeprefix(transaction_id(entry.request_id))) for row in rows] == expected
    assert transactions_of(result_of(entry)) == rows
    assert len({row.transaction_id for row in rows}) == len(rows)
    order = entry.lines.order
    assert {(row.order_id, row.version, row.created_at) for row in rows} <= {(order.order_id if order else None, entry.version, entry.at)}


@pytest.mark.parametrize("name", TRADES)
def test_rows_of_trades(name: str) -> None:
    """An asset that changes its owner is a row with price and quantity; a hold and a release are none."""
    requests, expected = TRADES[name]
    entry = last_entry(requests)
    trade = trade_of(entry)
    assert (trade and (trade.transaction_type, str(trade.quantity), str(trade.price))) == expected
    assert trade_of(result_of(entry)) == trade
    if trade:
        assert entry.lines.order
        assert (trade.order_id, trade.asset_id, trade.version) == (entry.lines.order.order_id, "BTC", entry.version)


ORDERS: dict[str, tuple[OrderPlaced, AccountRequest | None, dict[str, str | None]]] = {
    "an open buy": (
        BUY,
        None,
        {"status": "open", "price": "90.00", "held_amount": "90.23", "held_quantity": "0", "total_amount": "90.00", "average_price": None, "fee": "0.00"},
    ),
    "an open sale": (
        SALE,
        None,
        {"status": "open", "price": "110.00", "held_amount": "0.00", "held_quantity": "1.5", "total_amount": "165.00", "filled_quantity": "0"},
    ),
    "a filled buy": (
        BUY,
        trigger("80.5"),
        {"status": "completed", "price": "90.00", "held_amount": "0.00", "total_amount": "80.50", "average_price": "80.50", "fee": "0.21"},
    ),
    "a filled sale": (SALE, trigger("120"), {"status": "completed", "held_quantity": "0", "filled_quantity": "1.5", "total_amount": "180.00", "fee": "0.45"}),
    "a market order": (buy("1", "10", client_order_id="mine"), None, {"status": "completed", "price": "10.00", "average_price": "10.00"}),
    "a cancelled buy": (BUY, cancel(), {"status": "cancelled", "cancel_reason": "requested", "held_amount": "0.00", "total_amount": "90.00"}),
    "a revoked sale": (SALE, revocation(), {"status": "cancelled", "cancel_reason": "asset-inactive", "held_quantity": "0"}),
    "not filled at once": (waiting(tif="fok"), None, {"status": "cancelled", "cancel_reason": "unmarketable", "time_in_force": "fok"}),
}


@pytest.mark.parametrize("name", ORDERS)
def test_orders_as_their_owner_sees_them(name: str) -> None:
    """Amounts in the currency's decimals, quantities without zeros at the end; what is held is cash for a buy and a quantity for a sale."""
    request, then, expected = ORDERS[name]
    order = order_of(request, then)
    shown = order_view(order).model_dump(mode="json")
    assert {field: shown[field] for field in expected} == expected
    assert shown["client_order_id"] == "mine"
    detail = order_detail(order)
    assert order_view(order).model_dump() == detail.model_dump(exclude={"fills"})
    if order.status == "completed":
        assert [(fill.quantity, fill.price, fill.fee, fill.filled_at) for fill in detail.fills] == [
            (order.quantity, order.average_price, order.fee, order.updated_at)
        ]
    else:
        assert detail.fills == []


def order_of(request: OrderPlaced, then: AccountRequest | None) -> Order:
    books = Books(account("1000", btc="2", cost="30"))
    books.take(request, *([then] if then else []))
    return books.orders[order_id(USER, "mine")]


def test_a_balance_tells_what_is_held() -> None:
    """Available, held, and the sum of both, all with the currency's decimals."""
    view = balance_view(CashLine(Decimal("9.7"), Decimal(90)), 7)
    assert (str(view.current_balance), str(view.held_balance), str(view.total_balance)) == ("9.70", "90.00", "99.70")


def test_an_order_that_expires_is_shown_as_expired() -> None:
    """It has no reason beside its status."""
    books = Books(account("1000"))
    books.take(waiting(tif="day"))
    order = books.order()
    assert order.expires_at
    books.take(expiry(), at=order.expires_at)
    view = order_view(books.order())
    assert (view.status, view.cancel_reason, view.expires_at) == ("expired", None, order.expires_at)
