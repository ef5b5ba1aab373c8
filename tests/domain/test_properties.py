"""What holds of every history that can be asked for."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.domain.decide import Decided, decide_all
from schemas.ledger import Account, Order
from schemas.requests import LoggedRequest, canonical, decode_request, encode_request, request_type
from schemas.results import RESULT_TYPES, decode_result, encode_result, result_of, result_type
from tests.domain.given import USER, buy, deposit
from tests.domain.plain import Book
from tests.domain.strategies import histories, requests

quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def decided(history: tuple[LoggedRequest, ...]) -> Decided:
    return decide_all(Account(USER), history, {})


@quick
@given(histories())
def test_decisions_agree_with_the_plain_book(history: tuple[LoggedRequest, ...]) -> None:
    """Never raises; refuses what the plain book refuses, with its code; cash, holdings, cost and profit are the book's."""
    book = Book()
    codes = [book.take(logged) for logged in history]
    after = decided(history)
    assert [entry.refusal.code if entry.refusal else None for entry in after.entries] == codes
    cash = after.account.cash.get("USD")
    assert Fraction(cash.available if cash else 0) * 100 == book.cents
    assert set(after.account.positions) == set(book.holdings)
    for asset_id, position in after.account.positions.items():
        held = book.holdings[asset_id]
        assert Fraction(position.available) == held.quantity
        assert Fraction(position.cost_basis) * 100 == held.cost
        assert Fraction(position.realised) * 100 == held.realised


@quick
@given(histories())
def test_the_books_add_up(history: tuple[LoggedRequest, ...]) -> None:
    """Legs sum to zero per unit in every entry; the lines are the sums of the customer's legs; nothing is negative; counts are those of the lists."""
    owned: dict[str, Fraction] = {}
    after = decided(history)
    for entry in after.entries:
        sums: dict[str, Fraction] = {}
        for posting in entry.postings:
            sums[posting.unit] = sums.get(posting.unit, Fraction(0)) + Fraction(posting.amount)
            if posting.account == "customer":
                owned[posting.unit] = owned.get(posting.unit, Fraction(0)) + Fraction(posting.amount)
        assert not any(sums.values())
        lines = {unit: line.available + line.held for unit, line in entry.lines.cash.items()}
        lines |= {unit: position.quantity for unit, position in entry.lines.positions.items()}
        for unit, total in lines.items():
            assert Fraction(total) == owned[unit] >= 0
        assert all(position.cost_basis >= 0 for position in entry.lines.positions.values())
    cash_legs = [posting for entry in after.entries for posting in entry.postings if (posting.account, posting.unit) == ("customer", "USD")]
    assert after.account.counters.transactions == len(cash_legs)
    assert after.account.counters.orders == len(after.orders)


@quick
@given(histories())
def test_versions_and_times(history: tuple[LoggedRequest, ...]) -> None:
    """One entry for each request, in order, versions 1, 2, 3 …, times that never go back and never before the record's own."""
    after = decided(history)
    assert [entry.request_id for entry in after.entries] == [logged.request_id for logged in history]
    assert [entry.version for entry in after.entries] == list(range(1, len(history) + 1))
    assert after.account.version == len(history)
    times = [entry.at for entry in after.entries]
    assert times == sorted(times)
    assert all(entry.at >= logged.at for entry, logged in zip(after.entries, history, strict=True))


@quick
@given(histories(), st.data())
def test_any_partition_of_a_history_settles_the_same(history: tuple[LoggedRequest, ...], data: st.DataObject) -> None:
    """Folded one by one, all at once or in any batches, a history leaves the same account, entries and orders."""
    account, orders, entries, rest = Account(USER), dict[str, Order](), [], history
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        step = decide_all(account, rest[:size], orders)
        account, rest = step.account, rest[size:]
        entries += step.entries
        orders |= {order.order_id: order for order in step.orders}
    whole = decided(history)
    assert (account, tuple(entries), tuple(orders.values())) == (whole.account, whole.entries, whole.orders)


@quick
@given(histories())
def test_results_survive_the_wire(history: tuple[LoggedRequest, ...]) -> None:
    """A result is read back as it was, is written again byte for byte, and has a declared type."""
    for entry in decided(history).entries:
        result = result_of(entry)
        value = encode_result(result)
        assert decode_result(value) == result
        assert encode_result(decode_result(value)) == value
        assert result_type(result) in RESULT_TYPES


@quick
@given(requests)
def test_requests_survive_the_wire(request: object) -> None:
    """A request is read back as it was, and written again byte for byte."""
    value = encode_request(request)
    assert decode_request(request_type(request), value) == request
    assert encode_request(decode_request(request_type(request), value)) == value


@quick
@given(requests, st.integers(0, 4))
def test_the_spelling_of_an_amount_does_not_count(request: object, zeros: int) -> None:
    """5000, 5000.0 and 5000.00 are the same payload, and what the door stamped is no part of it."""
    name = next((name for name in ("amount", "quantity") if hasattr(request, name)), None)
    if name is None:
        return
    number: Decimal = getattr(request, name)
    text = f"{number:f}"
    longer = Decimal((text if "." in text else text + ".") + "0" * zeros)
    assert canonical(replace(request, **{name: longer})) == canonical(request)


def test_canonical_rows() -> None:
    """The one spelling: no exponent, no trailing zeros; fields that were not given are not there."""
    assert [canonical(deposit(text))["amount"] for text in ("5000", "5000.0", "5000.00", "5E+3", "05000.00")] == ["5000"] * 5
    assert canonical(deposit("0.10"))["amount"] == "0.1"
    assert canonical(deposit("1", day_limit="5")) == canonical(deposit("1", day_limit="6"))
    assert canonical(buy("1.50", "7")) == canonical(buy("1.5", "8", fee_bps=9))
    assert canonical(buy("1.5")) == {
        "type": "OrderPlaced",
        "username": USER,
        "asset_id": "BTC",
        "order_type": "market_buy",
        "quantity": "1.5",
        "time_in_force": "gtc",
    }
    assert canonical(replace(buy("1"), expires_at=buy("1").stamp.quote.quoted_at + timedelta(seconds=1)))["expires_at"] == "2026-11-25T12:00:01.000Z"
