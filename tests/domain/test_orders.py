"""Market orders: the rows are the rules. Rounding is against the customer."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from processors.domain.decide import decide_all
from schemas.ledger import Account, Entry
from schemas.requests import OrderPlaced, order_id, request_id
from tests.domain.given import MS, NOON, USER, account, buy, deposit, in_order, order, sell, settle


@dataclass(frozen=True)
class Fills:
    """An order that fills: cash, holding and cost basis after it, what it was worth and its fee."""

    name: str
    before: Account
    request: OrderPlaced
    cash: str
    quantity: str
    cost_basis: str
    total: str
    fee: str = "0"
    realised: str = "0"
    at: datetime = NOON


@dataclass(frozen=True)
class Refuses:
    name: str
    before: Account
    request: OrderPlaced
    code: str
    pointer: str | None = "/quantity"
    at: datetime = NOON


EXPIRY = NOON + timedelta(seconds=30)


def expiring(request: OrderPlaced, at: datetime) -> OrderPlaced:
    return replace(request, time_in_force="gtd", expires_at=at)


FILLS = [
    Fills("a buy takes cash and gives the asset", account("60000"), buy("1"), "10000", "1", "50000", "50000"),
    Fills("exactly enough", account("50000.00"), buy("1"), "0", "1", "50000", "50000"),
    Fills("exactly enough with the fee", account("50050.00"), buy("1", fee_bps=10), "0", "1", "50050", "50000", "50"),
    Fills("a buy adds to a holding and its cost", account("100000", btc="1", cost="40000"), buy("0.5"), "75000", "1.5", "65000", "25000"),
    Fills("cost is rounded up", account("10"), buy("0.00000001", "1000001"), "9.98", "0.00000001", "0.02", "0.02"),
    Fills("a cost that needs no rounding is not rounded", account("10"), buy("0.00000001", "1000000"), "9.99", "0.00000001", "0.01", "0.01"),
    Fills("cost and fee are rounded up each", account("10"), buy("3", "0.335", fee_bps=1), "8.98", "3", "1.02", "1.01", "0.01"),
    Fills("the fee is of the unrounded value", account("1000"), buy("1", "100.004", fee_bps=100), "898.98", "1", "101.02", "100.01", "1.01"),
    Fills("decimals up to the asset's", account("10"), buy("0.12", "10", scale=2), "8.8", "0.12", "1.2", "1.2"),
    Fills("the least quantity", account("10"), buy("0.5", "10", minimum="0.5"), "5", "0.5", "5", "5"),
    Fills("the largest total", account("100"), buy("1", "50", total_max="50.00"), "50", "1", "50", "50"),
    Fills("the last moment of the quote", account("60000"), buy("1", valid_until=EXPIRY), "10000", "1", "50000", "50000", at=EXPIRY),
    Fills("a sale gives cash and takes the asset", account("0", btc="2", cost="60000"), sell("1"), "50000", "1", "30000", "50000", realised="20000"),
    Fills("a sale makes the cash line", account(btc="1", cost="1"), sell("1"), "50000", "0", "0", "50000", realised="49999"),
    Fills("a sale at a loss", account("0", btc="2", cost="120000"), sell("1"), "50000", "1", "60000", "50000", realised="-10000"),
    Fills("proceeds are rounded down", account("0", btc="1", cost="1"), sell("0.5", "0.039"), "0.01", "0.5", "0.5", "0.01", realised="-0.49"),
    Fills("the fee of a sale is rounded up", account("0", btc="1", cost="50"), sell("1", "100.01", fee_bps=1), "99.99", "0", "0", "100.01", "0.02", "49.99"),
    Fills("the share of the cost is rounded up", account("0", btc="3", cost="1"), sell("1", "1"), "1", "2", "0.66", "1", realised="0.66"),
    Fills("the last sale takes all of the cost", account("0", btc="0.1", cost="0.07"), sell("0.1", "10"), "1", "0", "0", "1", realised="0.93"),
    Fills("the share is never more than there is", account("0", btc="3", cost="0"), sell("1", "1"), "1", "2", "0", "1", realised="1"),
    Fills("dust worth a cent is sold", account("0", btc="0.00000001", cost="5"), sell("0.00000001", "1000000"), "0.01", "0", "0", "0.01", realised="-4.99"),
]

REFUSALS = [
    Refuses("one cent too little", account("49999.99"), buy("1"), "insufficient-funds"),
    Refuses("one cent too little for the fee", account("50049.99"), buy("1", fee_bps=10), "insufficient-funds"),
    Refuses("nothing there", account(), buy("1"), "insufficient-funds"),
    Refuses("more than is owned", account("0", btc="0.99999999", cost="1"), sell("1"), "insufficient-holdings"),
    Refuses("never owned", account("100"), sell("1"), "insufficient-holdings"),
    Refuses("another asset", account("100", btc="5", cost="1"), sell("1", asset_id="ETH"), "insufficient-holdings"),
    Refuses("one decimal too many", account("100"), buy("0.123", "1", scale=2), "validation-failed"),
    Refuses("below the least quantity", account("100"), buy("0.49999999", "1", minimum="0.5"), "below-minimum"),
    Refuses("a buy worth less than a cent", account("100"), buy("0.00000001", "999999"), "below-minimum"),
    Refuses("a sale worth less than a cent", account("0", btc="1", cost="1"), sell("0.00000001", "999999"), "below-minimum"),
    Refuses("dust that only its fee is worth", account("0", btc="1", cost="1"), sell("0.00000001", "1000000", fee_bps=1), "below-minimum"),
    Refuses("one cent over the largest total", account("100"), buy("1", "50.01", total_max="50.00"), "above-maximum"),
    Refuses("over the largest total by rounding", account("100"), buy("1", "50.0000001", total_max="50.00"), "above-maximum"),
    Refuses("a sale over the largest total", account("0", btc="9", cost="1"), sell("2", "50", total_max="50.00"), "above-maximum"),
    Refuses("not traded", account("100"), buy("1", "1", active=False), "asset-inactive", "/asset_id"),
    Refuses("not traded: sale", account("0", btc="1"), sell("1", "1", active=False), "asset-inactive", "/asset_id"),
    Refuses("a millisecond after the quote's end", account("60000"), buy("1", valid_until=EXPIRY), "price-expired", None, EXPIRY + MS),
    Refuses("a quote that was old at once", account("60000"), sell("1", valid_until=NOON - MS), "price-expired", None),
    Refuses("decided when it had expired", account("100"), expiring(buy("1", "1"), NOON), "validation-failed", "/expires_at", NOON),
    Refuses("a market order with a price", account("100"), order("market_buy", "1", "1", limit="1"), "validation-failed", "/price"),
    Refuses("a limit order without a price", account("100"), order("limit_buy", "1", "1"), "validation-failed", "/price"),
    Refuses("a stop order without a price", account("0", btc="1"), order("stop_loss_sell", "1", "1"), "validation-failed", "/price"),
    Refuses("a price of nothing", account("100"), buy("1", "0"), "below-minimum"),
    Refuses("the largest numbers that can be written", account("100"), buy("9" * 20 + "." + "9" * 18, "9" * 20 + "." + "9" * 18, scale=18), "above-maximum"),
]


@pytest.mark.parametrize("row", FILLS, ids=lambda row: row.name)
def test_an_order_fills_whole_at_its_quote(row: Fills) -> None:
    """Cash, holding, cost basis and profit after the fill are those of the row, and the order tells price, worth and fee."""
    after, entry = settle(row.before, row.request, at=row.at)
    assert entry.refusal is None
    position, placed = after.positions["BTC"], entry.lines.order
    assert after.cash["USD"].available == Decimal(row.cash)
    assert (position.available, position.cost_basis, position.realised) == (Decimal(row.quantity), Decimal(row.cost_basis), Decimal(row.realised))
    assert placed is not None
    assert (placed.status, placed.total_amount, placed.fee) == ("completed", Decimal(row.total), Decimal(row.fee))
    assert (placed.average_price, placed.filled_quantity) == (row.request.stamp.quote.price, row.request.quantity)
    assert (placed.quote_sequence, placed.created_version, placed.created_at) == (41, entry.version, row.at)
    assert placed.order_id == order_id(USER, f"request/{request_id(USER, 'k')}")
    assert (entry.lines.cash, entry.lines.positions) == (after.cash, after.positions)


@pytest.mark.parametrize("row", FILLS, ids=lambda row: row.name)
def test_the_legs_of_a_fill(row: Fills) -> None:
    """What the customer gives the market gets, the fee goes to the fees, and lists count a row for each movement of cash."""
    after, entry = settle(row.before, row.request, at=row.at)
    legs = {(posting.account, posting.unit): Decimal(0) for posting in entry.postings}
    for posting in entry.postings:
        legs[posting.account, posting.unit] += posting.amount
    sign = 1 if row.request.order_type == "market_sell" else -1
    total, fee, quantity = sign * Decimal(row.total), Decimal(row.fee), sign * row.request.quantity
    expected = {("customer", "USD"): total - fee, ("market", "USD"): -total, ("customer", "BTC"): -quantity, ("market", "BTC"): quantity}
    assert legs == (expected | {("fees", "USD"): fee} if fee else expected)
    assert after.counters.transactions == row.before.counters.transactions + (2 if fee else 1)
    assert after.counters.orders == row.before.counters.orders + 1


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
def test_a_refused_order_moves_nothing(row: Refuses) -> None:
    """A refused order leaves an entry with the code, no order, and the account as it was but for its version."""
    after, entry = settle(row.before, row.request, at=row.at)
    assert entry.refusal is not None
    assert (entry.refusal.code, entry.refusal.pointer) == (row.code, row.pointer)
    assert (entry.postings, entry.lines.cash, entry.lines.positions, entry.lines.order) == ((), {}, {}, None)
    assert (after.cash, after.positions, after.counters) == (row.before.cash, row.before.positions, row.before.counters)
    assert after.version == row.before.version + 1


def test_a_client_order_id_is_used_once() -> None:
    """The second order under one client_order_id is refused, whether the first was placed just before or long ago; other ids go on."""
    once, again, other = buy("1", "1", client_order_id="mine"), sell("1", "1", client_order_id="mine"), buy("1", "1", client_order_id="other")
    decided = decide_all(account("100"), in_order([once, again, other]), {})
    assert [_code(entry) for entry in decided.entries] == [None, "duplicate-client-order-id", None]
    assert [placed.client_order_id for placed in decided.orders] == ["mine", "other"]
    later, entry = settle(decided.account, again, orders={placed.order_id: placed for placed in decided.orders})
    assert _code(entry) == "duplicate-client-order-id"
    assert later.cash == decided.account.cash


def test_a_client_order_id_cannot_be_one_of_ours() -> None:
    """A client that names an order like one of its requests does not meet the order of that request."""
    unnamed, named = in_order([buy("1", "1"), buy("1", "1", client_order_id=request_id(USER, "0"))])
    unnamed = replace(unnamed, request_id=request_id(USER, "0"))
    decided = decide_all(account("100"), (unnamed, named), {})
    assert [entry.refusal for entry in decided.entries] == [None, None]


def test_an_order_that_has_not_expired_fills() -> None:
    """One millisecond before `expires_at` an order is good."""
    _, entry = settle(account("100"), expiring(buy("1", "1"), NOON + MS), at=NOON)
    assert entry.refusal is None


def test_a_refused_order_does_not_use_up_its_client_order_id() -> None:
    """Where the first order was refused no order exists, so a later one may have its client_order_id."""
    dear, cheap = buy("1", "1000", client_order_id="mine"), buy("1", "1", client_order_id="mine")
    decided = decide_all(account("100"), in_order([dear, cheap]), {})
    assert [_code(entry) for entry in decided.entries] == ["insufficient-funds", None]


def test_later_requests_of_a_fold_see_the_earlier_ones() -> None:
    """Deposit, buy and sell in one fold settle as they would one by one."""
    decided = decide_all(Account(USER), in_order([deposit("100"), buy("1", "100"), sell("1", "100"), buy("2", "50")]), {})
    assert [_code(entry) for entry in decided.entries] == [None] * 4
    assert decided.account.positions["BTC"].available == 2
    assert decided.account.cash["USD"].available == 0


def test_the_first_fill_dates_the_holding() -> None:
    """A holding keeps the time at which it was first had; its last change is told beside it."""
    bought, _ = settle(account("100"), buy("1", "1"), at=NOON)
    after, _ = settle(bought, buy("1", "1"), at=NOON + MS)
    assert (after.positions["BTC"].created_at, after.positions["BTC"].updated_at) == (NOON, NOON + MS)


def _code(entry: Entry) -> str | None:
    return entry.refusal.code if entry.refusal else None


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
def test_a_refusal_does_not_depend_on_what_is_known(row: Refuses) -> None:
    """The store tells of an earlier order only where a new one is to be written: what is refused anyway is refused alike with and without knowing it."""
    request = replace(row.request, client_order_id="mine")
    known = decide_all(account("100"), in_order([buy("1", "1", client_order_id="mine")]), {}).orders
    _, entry = settle(row.before, request, at=row.at)
    _, knowing = settle(row.before, request, at=row.at, orders={placed.order_id: placed for placed in known})
    assert _code(knowing) == _code(entry)
