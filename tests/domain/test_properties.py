"""What holds of every history that can be asked for."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.domain.decide import Decided, decide, decide_all, decide_until
from schemas.ledger import Account, CashLine, Entry, Order, pairs
from schemas.requests import INTERNAL, NAMES_ORDER, LoggedRequest, canonical, decode_request, encode_request, request_type
from schemas.results import RESULT_TYPES, decode_result, encode_result, result_of, result_type
from schemas.rows import trade_of, transactions_of
from tests.domain.given import USER, buy, deposit
from tests.domain.plain import Book
from tests.domain.strategies import histories, requests

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def decided(history: tuple[LoggedRequest, ...]) -> Decided:
    return decide_all(Account(USER), history, {})


class Shell:
    """Settles a history in batches as the shell does: of the orders, a batch knows those it names, and it learns of one whose name is used again."""

    def __init__(self) -> None:
        self.account = Account(USER)
        self.orders: dict[str, Order] = {}
        self.entries: list[Entry] = []
        self.passed: list[LoggedRequest] = []
        self.days: list[Account] = []

    def settle(self, batch: tuple[LoggedRequest, ...]) -> None:
        known = {logged.request.order_id: None for logged in batch if isinstance(logged.request, NAMES_ORDER)}
        done = decide_all(self.account, batch, {name: self.orders[name] for name in known if name in self.orders})
        in_the_way = {order.order_id for order in done.orders if self._stands(order, done)}
        while in_the_way:
            known |= dict.fromkeys(in_the_way)
            done = decide_all(self.account, batch, {name: self.orders[name] for name in known if name in self.orders})
            in_the_way = {order.order_id for order in done.orders if self._stands(order, done)}
        self.account = done.account
        self.orders |= {order.order_id: order for order in done.orders}
        self.entries += done.entries
        self.passed += done.passed
        self.days += done.days

    def _stands(self, order: Order, done: Decided) -> bool:
        """Whether the store would refuse: an order that is new and is there, or was read at another version than it has."""
        there = self.orders.get(order.order_id)
        return done.replaces.get(order.order_id) != (there.updated_version if there else None)


@quick
@given(histories())
def test_decisions_agree_with_the_plain_book(history: tuple[LoggedRequest, ...]) -> None:
    """Never raises; refuses what the plain book refuses, with its code; cash, holdings, cost, profit and orders are the book's after each request."""
    book, shell = Book(), Shell()
    for logged in history:
        told = len(shell.entries)
        code = book.take(logged)
        shell.settle((logged,))
        assert [entry.refusal.code if entry.refusal else None for entry in shell.entries[told:]] == ([] if book.passed else [code])
        assert_same(shell.account, shell.orders, book)
    assert_same(decided(history).account, {order.order_id: order for order in decided(history).orders}, book)


def assert_same(account: Account, orders: Mapping[str, Order], book: Book) -> None:
    """Account and orders are those of the plain book."""
    cash = account.cash.get("USD") or CashLine()
    assert (Fraction(cash.available) * 100, Fraction(cash.held) * 100) == (book.cents, book.held_cents)
    assert set(account.positions) == set(book.holdings)
    for asset_id, position in account.positions.items():
        plain = book.holdings[asset_id]
        assert (Fraction(position.available), Fraction(position.held)) == (plain.quantity, plain.held)
        assert (Fraction(position.cost_basis) * 100, Fraction(position.realised) * 100) == (plain.cost, plain.realised)
    assert set(orders) == set(book.orders)
    for name, order in orders.items():
        same = book.orders[name]
        assert (order.status, order.reason, order.expires_at) == (same.status, same.reason, same.ends)
        assert Fraction(order.held) * (100 if same.buys else 1) == same.hold
        if order.status == "completed":
            assert (Fraction(order.total_amount) * 100, Fraction(order.fee) * 100) == (same.paid, same.fee)


@quick
@given(histories())
def test_the_books_add_up(history: tuple[LoggedRequest, ...]) -> None:
    """Legs of every entry come in pairs that sum to zero; what is available and what is held are the sums of their legs, and nothing is negative."""
    owned: dict[tuple[str, str], Fraction] = {}
    for entry in decided(history).entries:
        for leg, other in pairs(entry.postings):
            assert (leg.account, leg.unit, leg.amount) == ("customer", other.unit, -other.amount)
            assert other.account != "customer"
            for posting in (leg, other):
                owned[posting.account, posting.unit] = owned.get((posting.account, posting.unit), Fraction(0)) + Fraction(posting.amount)
        for unit, line in (*entry.lines.cash.items(), *entry.lines.positions.items()):
            assert Fraction(line.available) == owned.get(("customer", unit), 0) >= 0
            assert Fraction(line.held) == owned.get(("held", unit), 0) >= 0
        assert all(position.cost_basis >= 0 for position in entry.lines.positions.values())


@quick
@given(histories())
def test_what_is_held_is_the_sum_over_the_open_orders(history: tuple[LoggedRequest, ...]) -> None:
    """After each request, per unit; so is the count of open orders. Nothing else holds anything."""
    shell = Shell()
    for logged in history:
        shell.settle((logged,))
        held: dict[str, Decimal] = {}
        for order in shell.orders.values():
            unit = "USD" if order.order_type.endswith("buy") else order.asset_id
            held[unit] = held.get(unit, Decimal(0)) + order.held
            assert (order.held > 0) == (order.status == "open")
        lines = {**shell.account.cash, **shell.account.positions}
        assert {unit: line.held for unit, line in lines.items() if line.held} == {unit: amount for unit, amount in held.items() if amount}
        assert shell.account.counters.open_orders == sum(order.status == "open" for order in shell.orders.values())


@quick
@given(histories())
def test_counts_are_those_of_the_lists(history: tuple[LoggedRequest, ...]) -> None:
    """The counters are the lengths of the lists; ids of transactions are unique; each row is the order's that it names."""
    after = decided(history)
    rows = [row for entry in after.entries for row in transactions_of(entry)]
    assert len(rows) == after.account.counters.transactions == len({row.transaction_id for row in rows})
    assert len(after.orders) == after.account.counters.orders
    assert sum((row.amount for row in rows), Decimal(0)) == (after.account.cash.get("USD") or CashLine()).available
    trades = [trade for entry in after.entries if (trade := trade_of(entry))]
    assert sorted(trade.order_id for trade in trades) == sorted(order.order_id for order in after.orders if order.status == "completed")


@quick
@given(histories())
def test_a_closed_order_never_changes(history: tuple[LoggedRequest, ...]) -> None:
    """Once an order is closed it is the same for ever; one that fills does so before its time ends and at a price that is not worse than its own."""
    shell, closed = Shell(), dict[str, Order]()
    for logged in history:
        shell.settle((logged,))
        assert closed == {name: shell.orders[name] for name in closed}
        closed |= {name: order for name, order in shell.orders.items() if order.status != "open"}
    for order in closed.values():
        if order.status != "completed" or order.price is None:
            continue
        assert order.expires_at is None or order.updated_at < order.expires_at
        assert order.average_price is not None
        rises = order.order_type in ("limit_sell", "take_profit_sell")
        assert order.average_price >= order.price if rises else order.average_price <= order.price


@quick
@given(histories())
def test_a_request_that_is_passed_over_is_so_for_ever(history: tuple[LoggedRequest, ...]) -> None:
    """It changes nothing, and it finds nothing whenever it is read again, so that a record read twice never tells results in another order."""
    shell, passed = Shell(), list[LoggedRequest]()
    for logged in history:
        before = shell.account, dict(shell.orders), len(shell.entries)
        shell.settle((logged,))
        if len(shell.entries) == before[2]:
            assert (shell.account, shell.orders) == before[:2]
            passed += [logged] if logged.request.order_id in shell.orders else []  # type: ignore[union-attr]
        for again in passed:
            assert decide(shell.account, again, shell.orders) == (shell.account, None)


@quick
@given(histories())
def test_versions_and_times(history: tuple[LoggedRequest, ...]) -> None:
    """One entry for each request that is not passed over, in order, versions 1, 2, 3 …, times that never go back and never before the record's own."""
    after = decided(history)
    passed = {logged.offset for logged in after.passed}
    settled = [logged for logged in history if logged.offset not in passed]
    assert [entry.request_id for entry in after.entries] == [logged.request_id for logged in settled]
    assert all(isinstance(logged.request, INTERNAL) for logged in after.passed)
    assert [entry.version for entry in after.entries] == list(range(1, len(settled) + 1))
    assert after.account.version == len(settled)
    times = [entry.at for entry in after.entries]
    assert times == sorted(times)
    assert all(entry.at >= logged.at for entry, logged in zip(after.entries, settled, strict=True))
    ended = [before.at.date() for before in after.days]
    assert ended == sorted(set(ended)) == sorted({at.date() for at in times})[:-1]


@quick
@given(histories(), st.data())
def test_any_partition_of_a_history_settles_the_same(history: tuple[LoggedRequest, ...], data: st.DataObject) -> None:
    """Folded one by one, all at once or in any batches, with the orders that each batch knows, a history leaves the same account, entries and orders."""
    shell, rest = Shell(), history
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        shell.settle(rest[:size])
        rest = rest[size:]
    whole = decided(history)
    assert (shell.account, tuple(shell.entries), tuple(shell.orders.values())) == (whole.account, whole.entries, whole.orders)
    assert (tuple(shell.passed), tuple(shell.days)) == (whole.passed, whole.days)
    halves, error = decide_until(Account(USER), history, {})
    assert (halves, error) == (whole, None)


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
