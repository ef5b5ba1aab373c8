"""How an open order ends: filled, cancelled, expired or revoked, once and for ever. The rows are the rules."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from processors.domain.decide import decide, decide_all
from processors.domain.orders import WrongHold
from schemas.ledger import Account, Posting
from schemas.requests import AccountRequest, OrderPlaced
from tests.domain.given import (
    MIDNIGHT,
    MS,
    NOON,
    SEQUENCE,
    USER,
    Books,
    account,
    buy,
    cancel,
    code_of,
    deposit,
    expiry,
    in_order,
    logged,
    revocation,
    sell,
    trigger,
    waiting,
)

END = NOON + timedelta(seconds=10)
GTD = waiting(tif="gtd", until=END)
RICH = account("1000", btc="2", cost="30")


def opened(request: OrderPlaced, before: Account = RICH) -> Books:
    """An account whose order `mine` waits."""
    books = Books(before)
    books.take(request)
    assert books.order().status == "open"
    return books


@dataclass(frozen=True)
class Fills:
    """A waiting order and the price that fills it: cash and holding after it, what was paid or received, the fee, the cost of what is left."""

    name: str
    request: OrderPlaced
    price: str
    cash: str
    btc: str
    total: str
    fee: str = "0"
    cost: str = "30"
    realised: str = "0"


FILLS = [
    Fills("a buy at its limit", waiting(), "90", "910", "3", "90", cost="120"),
    Fills("a buy below its limit: the difference is free again", waiting(), "80", "920", "3", "80", cost="110"),
    Fills("with a fee of the price it got", waiting(fee_bps=25), "80", "919.80", "3", "80", "0.20", cost="110.20"),
    Fills("cost and fee are rounded up", waiting(fee_bps=25), "80.001", "919.78", "3", "80.01", "0.21", cost="110.22"),
    Fills("a sale at its limit", waiting("limit_sell", "1", "110"), "110", "1110", "1", "110", cost="15", realised="95"),
    Fills("a sale above its limit", waiting("limit_sell", "1", "110"), "120.009", "1120", "1", "120", cost="15", realised="105"),
    Fills("a sale with a fee", waiting("limit_sell", "1", "110", fee_bps=25), "110", "1109.72", "1", "110", "0.28", cost="15", realised="94.72"),
    Fills("a sale of all", waiting("limit_sell", "2", "110"), "110", "1220", "0", "220", cost="0", realised="190"),
    Fills("a stop at its price", waiting("stop_loss_sell", "1", "90"), "90", "1090", "1", "90", cost="15", realised="75"),
    Fills("a stop below its price: the market is what it gets", waiting("stop_loss_sell", "1", "90"), "70", "1070", "1", "70", cost="15", realised="55"),
    Fills("a profit at its price", waiting("take_profit_sell", "1", "110"), "110", "1110", "1", "110", cost="15", realised="95"),
    Fills("a profit above its price", waiting("take_profit_sell", "1", "110"), "130", "1130", "1", "130", cost="15", realised="115"),
    Fills("more than an order may be worth when it is placed", waiting("limit_sell", "1", "110", total_max="110"), "500", "1500", "1", "500", "0", "15", "485"),
]


@pytest.mark.parametrize("row", FILLS, ids=lambda row: row.name)
def test_a_trigger_fills_an_order_that_is_due(row: Fills) -> None:
    """The whole hold is released, then the market's price is paid; nothing stays held, and the order tells price, worth and fee."""
    books = opened(row.request)
    placed = books.order()
    entry = books.take(trigger(row.price), at=NOON + MS)
    assert entry
    position, order = books.account.positions["BTC"], books.order()
    assert (books.cash, books.btc) == ((Decimal(row.cash), 0), (Decimal(row.btc), 0))
    assert (position.cost_basis, position.realised) == (Decimal(row.cost), Decimal(row.realised))
    expected = replace(
        placed,
        status="completed",
        filled_quantity=placed.quantity,
        average_price=Decimal(row.price),
        total_amount=Decimal(row.total),
        fee=Decimal(row.fee),
        held=Decimal(0),
        updated_at=NOON + MS,
        updated_version=9,
    )
    assert order == expected
    buys = row.request.order_type == "limit_buy"
    sign, unit = (-1, "USD") if buys else (1, "BTC")
    legs = [(unit, placed.held, "held"), ("USD", sign * order.total_amount, "market"), ("BTC", -sign * order.quantity, "market")]
    legs += [("USD", -order.fee, "fees")] if order.fee else []
    assert entry.postings == tuple(leg for unit, amount, other in legs for leg in (Posting("customer", unit, amount), Posting(other, unit, -amount)))  # type: ignore[arg-type]
    counters = books.account.counters
    assert (counters.open_orders, counters.orders) == (0, RICH.counters.orders + 1)
    assert counters.transactions == RICH.counters.transactions + 1 + (2 if buys else 0) + bool(order.fee)


NOTHING: dict[str, tuple[OrderPlaced, AccountRequest]] = {
    "a buy above its limit": (waiting(), trigger("90.01")),
    "a buy a digit above its limit": (waiting(), trigger("90.000000000000000001")),
    "a sale below its limit": (waiting("limit_sell", "1", "110"), trigger("109.99")),
    "a stop above its price": (waiting("stop_loss_sell", "1", "90"), trigger("90.01")),
    "a profit below its price": (waiting("take_profit_sell", "1", "110"), trigger("109.99")),
    "a dip before the order": (waiting(), trigger("50", sequence=SEQUENCE - 1)),
    "the price that the order was placed at": (waiting(), trigger("50", sequence=SEQUENCE)),
    "another order": (waiting(), trigger("50", "other")),
    "its time has not ended": (GTD, expiry()),
    "an order whose time never ends": (waiting(), expiry()),
    "the end of another order": (GTD, expiry("other")),
    "another order is taken back": (waiting(), revocation("other")),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_request_from_inside_that_finds_nothing_leaves_no_trace(name: str) -> None:
    """No entry, no version, no time, no order: it is told as passed over, and the history goes on as if it had not been."""
    request, inside = NOTHING[name]
    books = opened(request)
    done = decide_all(books.account, (logged(inside, key="x", at=END - MS),), books.orders)
    assert (done.account, done.entries, done.orders, done.replaces, done.days) == (books.account, (), (), {}, ())
    assert [passed.request for passed in done.passed] == [inside]
    later = deposit("1")
    assert decide(done.account, logged(later), books.orders) == decide(books.account, logged(later), books.orders)


def test_a_midnight_that_only_a_passed_request_saw_is_not_seen() -> None:
    """A request that is passed over on the next day ends no day: limits and snapshots are those of the decisions."""
    books = opened(waiting())
    done = decide_all(books.account, in_order([trigger("95"), deposit("1")], at=MIDNIGHT), books.orders)
    assert [len(done.entries), done.days] == [1, (books.account,)]
    alone = decide_all(books.account, in_order([trigger("95")], at=MIDNIGHT), books.orders)
    assert (alone.account, alone.days) == (books.account, ())


def test_an_order_placed_after_a_dip_is_not_filled_by_a_lagging_trigger() -> None:
    """The dip to 50 came before the order's quote: its trigger comes late and finds nothing. A later price fills it."""
    books = opened(waiting())
    assert books.take(trigger("50", sequence=SEQUENCE - 5)) is None
    assert books.order().status == "open"
    assert books.take(trigger("89", sequence=SEQUENCE + 1))
    assert books.order().average_price == 89


def test_a_price_that_was_made_before_the_order_was_placed_is_not_for_it() -> None:
    """Its door did not know of the dip yet, so the quote is older than that; whoever saw the dip must not buy at it once it is over."""
    books = opened(waiting())
    placed = books.order().created_at
    assert books.take(trigger("50", priced_at=placed - MS)) is None
    assert books.order().status == "open"
    assert books.take(trigger("50", priced_at=placed))
    assert books.order().average_price == 50


def test_an_order_whose_quote_had_ended_is_filled_by_a_flat_price() -> None:
    """It waited although the price had been reached; the next price fills it, though it is the same one."""
    books = Books(RICH)
    books.take(waiting(limit="100"), at=NOON + timedelta(minutes=1))
    assert books.order().status == "open"
    assert books.take(trigger("100", sequence=SEQUENCE)) is None
    assert books.take(trigger("100"))
    assert books.order().status == "completed"


def test_a_fee_rate_raised_while_an_order_is_open_is_not_its_own() -> None:
    """The order's own rate counts: it was held for at that rate, and is filled at it."""
    books = opened(waiting(fee_bps=10))
    books.take(buy("1", "100", fee_bps=500))
    assert books.orders[books.entries[-1].lines.order.order_id].fee == 5  # type: ignore[union-attr]
    books.take(trigger("90"))
    assert (books.order().fee, books.order().fee_bps) == (Decimal("0.09"), 10)


def test_two_triggers_of_one_order() -> None:
    """The first in the log fills it at its price; the other one, of another price, finds it filled and leaves nothing."""
    books = opened(waiting())
    assert books.take(trigger("80", sequence=SEQUENCE + 1))
    after = books.account
    assert books.take(trigger("70", sequence=SEQUENCE + 2)) is None
    assert (books.account, books.order().average_price) == (after, 80)


DUST = {
    "a buy whose price fell to less than a cent": (waiting(quantity="0.0001", limit="100", price="101"), "99.99"),
    "a stop that fell through": (waiting("stop_loss_sell", "0.001", "90"), "9.99"),
    "a stop that only its fee is worth": (waiting("stop_loss_sell", "0.001", "90", fee_bps=1), "19.99"),
}


@pytest.mark.parametrize("name", DUST)
def test_a_fill_that_comes_to_nothing_cancels_the_order(name: str) -> None:
    """It is cancelled as below the minimum, and what it held is free again; the market gets nothing for nothing."""
    request, price = DUST[name]
    books = opened(request)
    entry = books.take(trigger(price))
    assert entry
    assert (books.order().status, books.order().reason, entry.refusal) == ("cancelled", "below-minimum", None)
    assert (books.cash, books.btc, books.account.counters.open_orders) == ((1000, 0), (2, 0), 0)


def test_a_dust_order_that_is_worth_a_cent_fills() -> None:
    """Worth one cent, it pays one cent."""
    books = opened(waiting(quantity="0.0001", limit="100", price="101"))
    books.take(trigger("100"))
    assert (books.order().status, books.cash, books.btc) == ("completed", (Decimal("999.99"), 0), (Decimal("2.0001"), 0))


def test_a_fill_beyond_what_an_account_can_hold_cancels_the_order() -> None:
    """A line that cannot be written is not made: the order is cancelled as above the maximum, and is a user's again."""
    full = account("99999999999999999000", btc="2", cost="30")
    books = opened(waiting("limit_sell", "2", "110"), full)
    books.take(trigger("500"))
    assert (books.order().status, books.order().reason, books.btc) == ("cancelled", "above-maximum", (2, 0))
    rich = opened(waiting(quantity="5", limit="90"), account("1000", btc="99999999999999999999"))
    rich.take(trigger("90"))
    assert (rich.order().status, rich.order().reason, rich.cash) == ("cancelled", "above-maximum", (1000, 0))


def test_what_is_held_counts_towards_what_an_account_can_hold() -> None:
    """Else a hold that is released would have no room: available and held together stay below the bound."""
    half = "60000000000000000000"
    books = Books(account(half, btc=half, cost="1"))
    books.take(waiting(quantity=half, limit="0.5", price="1", total_max=half), waiting("limit_sell", half, "0.9", name="sale", price="0.8", total_max=half))
    books.take(deposit("39999999999999999999", day_limit="9" * 20))
    assert code_of(books.take(deposit("1", day_limit="9" * 20))) == "above-maximum"
    assert code_of(books.take(buy(half, "0.1", total_max=half))) == "above-maximum"
    books.take(cancel(), cancel("sale"))
    assert (books.cash[0] + 1, books.btc) == (10**20, (Decimal(half), 0))


@pytest.mark.parametrize("name", ["limit_buy", "limit_sell"])
def test_a_cancel_releases_what_is_held(name: str) -> None:
    """Everything is free again to the cent, the order tells that its owner asked for it, and one fewer is open."""
    books = opened(waiting(name, "1", "90" if name == "limit_buy" else "110", fee_bps=25))
    entry = books.take(cancel(), at=NOON + MS)
    assert entry
    order = books.order()
    assert (order.status, order.reason, order.held, order.updated_at, order.updated_version) == ("cancelled", "requested", 0, NOON + MS, 9)
    assert (books.cash, books.btc, books.account.positions["BTC"].cost_basis) == ((1000, 0), (2, 0), 30)
    assert books.account.counters.open_orders == 0
    assert entry.refusal is None


CLOSINGS: dict[str, tuple[AccountRequest, str]] = {
    "filled": (trigger("80"), "completed"),
    "cancelled": (cancel(), "cancelled"),
    "expired": (expiry(), "expired"),
    "revoked": (revocation(), "cancelled"),
}


@pytest.mark.parametrize("name", CLOSINGS)
def test_a_closed_order_never_changes(name: str) -> None:
    """Whatever comes after it: a cancel is refused and told the order as it stands, requests from inside find nothing."""
    request, status = CLOSINGS[name]
    books = opened(GTD)
    at = END if name == "expired" else NOON
    books.take(request, at=at)
    closed, account_then = books.order(), books.account
    assert closed.status == status
    for inside in (trigger("1", sequence=99), expiry(), revocation()):
        assert books.take(inside, at=MIDNIGHT) is None
    assert books.account == account_then
    entry = books.take(cancel(), at=at)
    assert code_of(entry) == "order-not-open"
    assert entry
    assert entry.refusal
    assert entry.refusal.order == closed == books.order()
    assert (entry.postings, entry.lines.order, books.cash, books.btc) == ((), None, *_lines(account_then))


def test_a_cancel_of_an_unknown_order_is_refused() -> None:
    """Of an order that nobody placed, and of another account's, whose id is none here."""
    books = opened(waiting())
    assert code_of(books.take(cancel("other"))) == "not-found"
    assert books.order().status == "open"


ENDS = {
    "a cancel": cancel(),
    "a trigger that is due": trigger("80"),
    "a trigger that is not due": trigger("95"),
    "a trigger that lags": trigger("80", sequence=1),
    "its expiry": expiry(),
    "a revocation": revocation(),
}


@pytest.mark.parametrize("at", [END, END + MS, MIDNIGHT], ids=["at its end", "after it", "long after it"])
@pytest.mark.parametrize("name", ENDS)
def test_an_order_whose_time_has_ended_expires_whichever_meets_it_first(name: str, at: datetime) -> None:
    """It neither fills nor is cancelled: it expires, and what it held is free again."""
    books = opened(GTD)
    entry = books.take(ENDS[name], at=at)
    assert entry
    assert (books.order().status, books.order().reason, books.order().updated_at) == ("expired", None, at)
    assert (books.cash, books.account.counters.open_orders, entry.refusal) == ((1000, 0), 0, None)


@pytest.mark.parametrize("name", ENDS)
def test_an_order_whose_time_has_not_ended_does_not_expire(name: str) -> None:
    """A millisecond before its end it is cancelled, filled or left as it is."""
    books = opened(GTD)
    books.take(ENDS[name], at=END - MS)
    expected = {"a cancel": "cancelled", "a trigger that is due": "completed", "a revocation": "cancelled"}
    assert books.order().status == expected.get(name, "open")


@pytest.mark.parametrize("name", ENDS)
def test_a_record_older_than_the_last_decision(name: str) -> None:
    """A broker's clock went back: what does anything to an order whose time has ended by the account's clock expires it; what would be passed over by its
    own record's time is passed over, since it must be so again whenever it is read again.
    """
    books = opened(GTD)
    books.take(deposit("1"), at=END)
    entry = books.take(ENDS[name], at=END - MS)
    acts = name in ("a cancel", "a trigger that is due", "a revocation")
    assert books.order().status == ("expired" if acts else "open")
    assert (entry is not None) == acts


def test_a_revoked_order_tells_why() -> None:
    """What is taken back because its asset is not traded any more says so."""
    books = opened(waiting("limit_sell", "1", "110"))
    books.take(revocation())
    assert (books.order().status, books.order().reason, books.btc) == ("cancelled", "asset-inactive", (2, 0))


def test_cost_and_profit_while_a_part_is_held() -> None:
    """The cost is of all that is owned, held or not: a sale takes its share of the whole, and the last one takes what is left."""
    books = Books(account("0", btc="3", cost="100"))
    books.take(waiting("limit_sell", "1", "110"), sell("1", "50"))
    position = books.account.positions["BTC"]
    assert (position.available, position.held, position.cost_basis, position.realised) == (1, 1, Decimal("66.66"), Decimal("16.66"))
    books.take(sell("1", "50"))
    assert books.account.positions["BTC"].cost_basis == Decimal("33.33")
    books.take(trigger("110"))
    position = books.account.positions["BTC"]
    assert (position.quantity, position.cost_basis, position.realised) == (0, 0, Decimal("110.00"))
    assert books.cash == (210, 0)


def test_a_buy_adds_to_a_holding_of_which_a_part_is_held() -> None:
    """What is bought is free, the held part stays held, and the cost is that of both."""
    books = opened(waiting("limit_sell", "1", "110"))
    books.take(waiting(name="buy"), trigger("90", "buy"))
    position = books.account.positions["BTC"]
    assert (position.available, position.held, position.cost_basis) == (2, 1, 120)


def test_what_was_freed_can_be_used() -> None:
    """The difference of a price improvement, and what a closed order held, pay for the next one."""
    books = opened(waiting(), account("90"))
    assert code_of(books.take(buy("1", "10"))) == "insufficient-funds"
    books.take(trigger("80"))
    assert code_of(books.take(buy("1", "10"))) is None
    assert books.cash == (0, 0)


def test_an_order_that_held_too_little_is_a_bug() -> None:
    """A hold that does not suffice is ours to explain: it raises, and the account is parked; nobody's order is cancelled for it."""
    books = opened(waiting(), account("90"))
    short = replace(books.order(), held=Decimal(1))
    line = replace(books.account.cash["USD"], held=Decimal(1))
    with pytest.raises(WrongHold):
        decide(replace(books.account, cash={"USD": line}), logged(trigger("90")), {short.order_id: short})


def test_an_account_without_orders_passes_everything_from_inside() -> None:
    """Also one that does not exist."""
    done = decide_all(Account(USER), in_order([trigger("1"), expiry(), revocation()]), {})
    assert (done.account, done.entries, len(done.passed)) == (Account(USER), (), 3)


def _lines(one: Account) -> tuple[tuple[Decimal, Decimal], tuple[Decimal, Decimal]]:
    return Books(one).cash, Books(one).btc
