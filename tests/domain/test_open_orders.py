"""Orders that wait for their price, at their placing: what fills at once, what is held, what is refused. The rows are the rules."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from processors.domain.orders import OPEN_ORDERS_MAX
from schemas.ledger import Account, Posting
from schemas.requests import OrderPlaced, TimeInForce
from tests.domain.given import MIDNIGHT, MS, NOON, USER, Books, account, buy, cancel, code_of, deposit, expiry, sell, settle, trigger, waiting, withdrawal
from tests.domain.test_orders import Refuses

LATE = NOON + timedelta(seconds=31)
"""The quote of an order has ended."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Opens:
    """An order that waits: what is held for it, in USD for a buy and in BTC for a sale, and what is left of that."""

    name: str
    before: Account
    request: OrderPlaced
    held: str
    left: str
    at: datetime = NOON


@dataclass(frozen=True)
class FillsAtOnce:
    """An order that fills in the decision that places it: what it was worth, at the quote, and its fee."""

    name: str
    before: Account
    request: OrderPlaced
    total: str
    fee: str = "0"


RICH = account("1000", btc="2", cost="30")

OPENS = [
    Opens("a buy below the market", RICH, waiting(), "90", "910"),
    Opens("a buy with its fee", RICH, waiting(fee_bps=25), "90.23", "909.77"),
    Opens("worth and fee are rounded up each", RICH, waiting(quantity="3", limit="0.335", fee_bps=1), "1.02", "998.98"),
    Opens("the fee is of the unrounded worth", RICH, waiting(limit="90.001", fee_bps=100), "90.92", "909.08"),
    Opens("exactly enough", account("90.00"), waiting(), "90", "0"),
    Opens("exactly enough with the fee", account("90.23"), waiting(fee_bps=25), "90.23", "0"),
    Opens("the largest worth", RICH, waiting(total_max="90.00"), "90", "910"),
    Opens("a buy worth one cent", RICH, waiting(quantity="0.00000001", limit="1000000", price="1000001"), "0.01", "999.99"),
    Opens("a sale above the market", RICH, waiting("limit_sell", "0.5", "110", fee_bps=25), "0.5", "1.5"),
    Opens("a sale of all", RICH, waiting("limit_sell", "2", "110"), "2", "0"),
    Opens("a stop below the market", RICH, waiting("stop_loss_sell", "2", "90"), "2", "0"),
    Opens("a profit to take above the market", RICH, waiting("take_profit_sell", "2", "110"), "2", "0"),
    Opens("a sale worth one cent after its fee", RICH, waiting("limit_sell", "0.00000002", "1000000", fee_bps=100), "0.00000002", "1.99999998"),
    Opens("due at a quote that has ended: it waits for the next price", RICH, waiting(limit="100"), "100", "900", LATE),
    Opens("a sale due at a quote that has ended", RICH, waiting("limit_sell", "1", "50"), "1", "1", LATE),
]

AT_ONCE = [
    FillsAtOnce("a buy at the market's price, which stands still", RICH, waiting(limit="100"), "100"),
    FillsAtOnce("a buy above the market fills at the market", RICH, waiting(limit="900"), "100"),
    FillsAtOnce("only the market's price has to be there", account("100"), waiting(limit="900"), "100"),
    FillsAtOnce("the fee is of the market's price", RICH, waiting(limit="900", fee_bps=25), "100", "0.25"),
    FillsAtOnce("only the market's price is bounded", RICH, waiting(limit="900", total_max="100"), "100"),
    FillsAtOnce("a sale at the market's price", RICH, waiting("limit_sell", "1", "100"), "100"),
    FillsAtOnce("a sale below the market fills at the market", RICH, waiting("limit_sell", "1", "0.01", fee_bps=25), "100", "0.25"),
    FillsAtOnce("a stop at the market's price", RICH, waiting("stop_loss_sell", "1", "100"), "100"),
    FillsAtOnce("a stop above the market", RICH, waiting("stop_loss_sell", "1", "150"), "100"),
    FillsAtOnce("a profit that is there already", RICH, waiting("take_profit_sell", "1", "80"), "100"),
]

REFUSALS = [
    Refuses("one cent too little", account("89.99"), waiting(), "insufficient-funds"),
    Refuses("one cent too little for the fee", account("90.22"), waiting(fee_bps=25), "insufficient-funds"),
    Refuses("nothing there", account(), waiting(), "insufficient-funds"),
    Refuses("more than is owned", account("0", btc="0.99999999"), waiting("limit_sell", "1", "110"), "insufficient-holdings"),
    Refuses("never owned", account("0"), waiting("stop_loss_sell", "1", "90"), "insufficient-holdings"),
    Refuses("dust: a buy worth less than a cent", RICH, waiting(quantity="0.00000001", limit="999999", price="1000000"), "below-minimum"),
    Refuses("dust: a sale worth less than a cent", RICH, waiting("limit_sell", "0.00000001", "999999", price="1"), "below-minimum"),
    Refuses("dust: a sale that only its fee is worth", RICH, waiting("limit_sell", "0.00000001", "1000000", price="1", fee_bps=1), "below-minimum"),
    Refuses("dust: less than a cent at the market, more at its own price", RICH, waiting(quantity="0.0001", limit="100", price="99"), "below-minimum"),
    Refuses("dust: less than a cent at its own price, more at the market", RICH, waiting("stop_loss_sell", "0.0001", "99"), "below-minimum"),
    Refuses("dust: a marketable sale", RICH, waiting("limit_sell", "0.0001", "1", price="99"), "below-minimum"),
    Refuses("one cent over the largest worth", RICH, waiting(total_max="89.99"), "above-maximum"),
    Refuses("over the largest worth by rounding", RICH, waiting(limit="89.9900001", total_max="89.99"), "above-maximum"),
    Refuses("a sale over the largest worth", RICH, waiting("limit_sell", "1", "110", total_max="109.99"), "above-maximum"),
    Refuses("marketable, over the largest worth", RICH, waiting(limit="900", total_max="99.99"), "above-maximum"),
    Refuses("at once or not at all, and worth too little", RICH, waiting(quantity="0.0001", limit="90", tif="ioc"), "below-minimum"),
    Refuses("at once or not at all, and worth too much", RICH, waiting(tif="fok", total_max="89"), "above-maximum"),
    Refuses("the largest numbers that can be written", RICH, waiting(quantity="9" * 20, limit="9" * 20, price="9" * 20 + ".5"), "above-maximum"),
    Refuses("the smallest numbers that can be written", RICH, waiting(quantity="1E-18", limit="1E-18", minimum="1E-18", scale=18), "below-minimum"),
    Refuses("one decimal too many", RICH, waiting(quantity="0.123", scale=2), "validation-failed"),
    Refuses("below the least quantity", RICH, waiting(quantity="0.4", minimum="0.5"), "below-minimum"),
    Refuses("not traded", RICH, waiting(active=False), "asset-inactive", "/asset_id"),
    Refuses("its time has ended when it is decided", RICH, waiting(tif="gtd", until=NOON), "validation-failed", "/expires_at"),
    Refuses("its time had ended, and it would fill", RICH, waiting(limit="100", tif="gtd", until=NOON - MS), "validation-failed", "/expires_at"),
    Refuses("at once, at a quote that has ended", RICH, waiting(limit="100", tif="ioc"), "price-expired", None, LATE),
    Refuses("or not at all, at a quote that has ended", RICH, waiting(tif="fok"), "price-expired", None, LATE),
]


@pytest.mark.parametrize("row", OPENS, ids=lambda row: row.name)
def test_an_order_that_waits_holds_what_its_fill_may_take(row: Opens) -> None:
    """What is held is to the cent worth and fee at its own price, or the quantity to be sold; it is the customer's still, and cannot be used twice."""
    after, entry = settle(row.before, row.request, at=row.at)
    assert entry.refusal is None
    order, buys = entry.lines.order, row.request.order_type == "limit_buy"
    assert order
    unit = "USD" if buys else "BTC"
    line = after.cash[unit] if buys else after.positions[unit]
    before = row.before.cash[unit] if buys else row.before.positions[unit]
    assert (order.status, order.held, line.held, line.available) == ("open", Decimal(row.held), Decimal(row.held), Decimal(row.left))
    assert line.available + line.held == before.available
    assert entry.postings == (Posting("customer", unit, -order.held), Posting("held", unit, order.held))
    assert (entry.lines.cash, entry.lines.positions) == (({unit: line}, {}) if buys else ({}, {unit: line}))
    assert (order.filled_quantity, order.average_price, order.fee, order.reason) == (0, None, 0, None)
    assert (order.created_version, order.updated_version, order.created_at, order.updated_at) == (8, 8, row.at, row.at)
    assert (after.counters.open_orders, after.counters.orders) == (1, row.before.counters.orders + 1)
    assert after.counters.transactions == row.before.counters.transactions + (1 if buys else 0)
    if not buys:
        assert (line.cost_basis, line.realised) == (Decimal(30), 0)


@pytest.mark.parametrize("row", AT_ONCE, ids=lambda row: row.name)
def test_an_order_that_is_marketable_fills_at_the_quote(row: FillsAtOnce) -> None:
    """It has the market's price, which is not worse than its own; nothing is held, on the way neither."""
    after, entry = settle(row.before, row.request)
    order, sign = entry.lines.order, -1 if row.request.order_type == "limit_buy" else 1
    assert order
    assert (order.status, order.total_amount, order.fee, order.average_price) == ("completed", Decimal(row.total), Decimal(row.fee), Decimal(100))
    assert order.price == row.request.price
    assert after.cash["USD"].available == row.before.cash["USD"].available + sign * Decimal(row.total) - Decimal(row.fee)
    assert (order.held, after.cash["USD"].held, after.positions["BTC"].held, after.counters.open_orders) == (0, 0, 0, 0)
    assert "held" not in [posting.account for posting in entry.postings]


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
def test_a_refused_order_holds_nothing(row: Refuses) -> None:
    """A refused order leaves an entry with the code, no order, and the account as it was but for its version."""
    after, entry = settle(row.before, row.request, at=row.at)
    assert entry.refusal is not None
    assert (entry.refusal.code, entry.refusal.pointer) == (row.code, row.pointer)
    assert (entry.postings, entry.lines.cash, entry.lines.positions, entry.lines.order) == ((), {}, {}, None)
    assert (after.cash, after.positions, after.counters) == (row.before.cash, row.before.positions, row.before.counters)


IN_FORCE: list[tuple[TimeInForce, str, datetime, str]] = [
    ("gtc", "100", NOON, "completed"),
    ("gtc", "90", NOON, "open"),
    ("gtc", "100", LATE, "open"),
    ("gtd", "100", NOON, "completed"),
    ("gtd", "90", NOON, "open"),
    ("gtd", "100", LATE, "open"),
    ("day", "100", NOON, "completed"),
    ("day", "90", NOON, "open"),
    ("day", "100", LATE, "open"),
    ("ioc", "100", NOON, "completed"),
    ("ioc", "90", NOON, "cancelled"),
    ("ioc", "100", LATE, "price-expired"),
    ("fok", "100", NOON, "completed"),
    ("fok", "90", NOON, "cancelled"),
    ("fok", "100", LATE, "price-expired"),
]


@pytest.mark.parametrize(("tif", "limit", "at", "becomes"), IN_FORCE)
def test_time_in_force(tif: TimeInForce, limit: str, at: datetime, becomes: str) -> None:
    """Each with a limit that the market (100) has reached, with one that it has not, and with a quote that has ended."""
    until = NOON + HOUR if tif == "gtd" else None
    after, entry = settle(RICH, waiting(limit=limit, tif=tif, until=until), at=at)
    order = entry.lines.order
    assert (order.status if order else code_of(entry)) == becomes
    if order:
        assert order.time_in_force == tif
        assert order.expires_at == (MIDNIGHT if tif == "day" else until)
        assert (order.reason, after.cash["USD"].held) == (
            "unmarketable" if becomes == "cancelled" else None,
            Decimal(90 if limit == "90" else 100) * (becomes == "open"),
        )


def test_an_order_not_filled_at_once_leaves_a_cancelled_order() -> None:
    """It is in the list of orders, moved nothing, needs no funds, and its client_order_id is used up."""
    books = Books(Account(USER))
    entry = books.take(waiting(tif="ioc", quantity="100"))
    assert entry
    assert (books.order().status, books.order().reason, books.order().held) == ("cancelled", "unmarketable", 0)
    assert (entry.postings, entry.lines.cash, books.account.counters.orders, books.account.counters.open_orders) == ((), {}, 1, 0)
    assert code_of(books.take(deposit("1000"), waiting())) == "duplicate-client-order-id"


@pytest.mark.parametrize(
    ("at", "ends"),
    [
        (NOON, MIDNIGHT),
        (MIDNIGHT - MS, MIDNIGHT),
        (MIDNIGHT, MIDNIGHT + 24 * HOUR),
        (MIDNIGHT + MS, MIDNIGHT + 24 * HOUR),
    ],
)
def test_a_day_ends_at_the_next_midnight_utc(at: datetime, ends: datetime) -> None:
    """`day` ends at the first 00:00 UTC after the decision's time; an order placed at exactly 00:00 has the whole day."""
    _, entry = settle(RICH, waiting(tif="day"), at=at)
    assert entry.lines.order
    assert entry.lines.order.expires_at == ends


def test_the_day_is_that_of_the_accounts_time() -> None:
    """A record with an earlier time than the last decision is placed at that decision's time, and so ends a day later."""
    _, entry = settle(account("1000", at=MIDNIGHT, day="2026-11-26"), waiting(tif="day"), at=MIDNIGHT - MS)
    assert entry.lines.order
    assert (entry.at, entry.lines.order.expires_at) == (MIDNIGHT, MIDNIGHT + 24 * HOUR)


HELD = {
    "another order to buy": (waiting(name="second", limit="90.01"), "insufficient-funds"),
    "a market buy": (buy("1", "90.01"), "insufficient-funds"),
    "a withdrawal": (withdrawal("90.01"), "insufficient-funds"),
    "another order to sell": (waiting("limit_sell", "1.00000001", "110", name="second"), "insufficient-holdings"),
    "a market sale": (sell("1.00000001", "100"), "insufficient-holdings"),
    "a stop": (waiting("stop_loss_sell", "1.00000001", "90", name="second"), "insufficient-holdings"),
    "a sale that is marketable": (waiting("limit_sell", "1.00000001", "90", name="second"), "insufficient-holdings"),
}


@pytest.mark.parametrize("name", HELD)
def test_what_is_held_cannot_be_used(name: str) -> None:
    """With 90 of 180 USD and 1 of 2 BTC held, no more than 90 USD and 1 BTC can be spent, held, sold or withdrawn; that much can."""
    request, code = HELD[name]
    books = Books(account("180", btc="2", cost="30"))
    books.take(waiting(), waiting("limit_sell", "1", "110", name="sale"))
    assert (books.cash, books.btc) == ((90, 90), (1, 1))
    assert code_of(books.take(request)) == code
    assert (books.cash, books.btc) == ((90, 90), (1, 1))
    assert [code_of(books.take(one)) for one in (withdrawal("90"), sell("1", "100"))] == [None, None]


def test_an_account_has_so_many_open_orders() -> None:
    """The one over the bound is refused until another is closed; orders that do not wait are not counted."""
    books = Books(account("100000", btc="1"))
    books.take(*(waiting(name=str(number), quantity="0.1", limit="10") for number in range(OPEN_ORDERS_MAX)))
    assert (books.account.counters.open_orders, books.cash) == (OPEN_ORDERS_MAX, (99_000, 1_000))
    assert code_of(books.take(waiting(name="over"))) == "too-many-open-orders"
    assert code_of(books.take(waiting("limit_sell", "1", "110", name="over"))) == "too-many-open-orders"
    assert code_of(books.take(waiting(name="now", limit="100"))) is None
    assert code_of(books.take(waiting(name="never", tif="ioc"))) is None
    assert code_of(books.take(cancel("7"))) is None
    assert code_of(books.take(waiting(name="over"))) is None
    assert code_of(books.take(waiting(name="more"))) == "too-many-open-orders"
    assert code_of(books.take(trigger("10", "8"), waiting(name="more"))) is None
    assert books.account.counters.open_orders == OPEN_ORDERS_MAX


CLOSED = {"open": (), "filled": (trigger("90"),), "cancelled": (cancel(),)}


@pytest.mark.parametrize("name", CLOSED)
def test_a_client_order_id_is_used_once_for_ever(name: str) -> None:
    """A second order under the id of one that is open, or was closed long ago, is refused, and the first one is as it was."""
    books = Books(account("1000"))
    books.take(waiting(), *CLOSED[name])
    before, cash = books.order(), books.cash
    assert code_of(books.take(waiting(limit="80"))) == "duplicate-client-order-id"
    assert code_of(books.take(buy("1", "1", client_order_id="mine"))) == "duplicate-client-order-id"
    assert (books.order(), books.cash) == (before, cash)


def test_an_expired_order_keeps_its_client_order_id() -> None:
    """The same where its time ended."""
    books = Books(account("1000"))
    books.take(waiting(tif="day"))
    books.take(expiry(), at=MIDNIGHT)
    assert code_of(books.take(waiting(), at=MIDNIGHT)) == "duplicate-client-order-id"


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
def test_a_refusal_does_not_depend_on_what_is_known(row: Refuses) -> None:
    """What is refused anyway is refused alike with and without knowing an earlier order of that client_order_id."""
    known = Books(account("1000"))
    known.take(waiting())
    _, entry = settle(row.before, row.request, at=row.at)
    _, knowing = settle(row.before, row.request, at=row.at, orders=known.orders)
    assert knowing == entry
