"""Deposits, withdrawals and fences: the rows are the rules."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import pytest

from schemas.ledger import Account, Posting
from schemas.requests import AccountRequest
from tests.domain.given import MIDNIGHT, MS, NOON, account, deposit, fence, settle, withdrawal


@dataclass(frozen=True)
class Moves:
    """A request that settles: the cash after it, and what counts for the day."""

    name: str
    before: Account
    request: AccountRequest
    available: str
    deposited: str = "0"
    withdrawn: str = "0"
    at: datetime = NOON


@dataclass(frozen=True)
class Refuses:
    """A request that is refused: code and pointer."""

    name: str
    before: Account
    request: AccountRequest
    code: str
    at: datetime = NOON


MOVES = [
    Moves("the first deposit makes the line", Account("alice_1"), deposit("5000.00"), "5000.00", deposited="5000"),
    Moves("a deposit adds up", account("0.01"), deposit("0.02"), "0.03", deposited="0.02"),
    Moves("trailing zeros are no decimals", account("1"), deposit("2.500000"), "3.5", deposited="2.5"),
    Moves("a deposit up to the day limit", account("0", deposited="9999.99"), deposit("0.01"), "0.01", deposited="10000"),
    Moves("one deposit of the whole day limit", account("0"), deposit("10000.00"), "10000", deposited="10000"),
    Moves("the day ends at UTC midnight", account("0", deposited="10000"), deposit("1"), "1", deposited="1", at=MIDNIGHT),
    Moves("withdrawals do not use up the deposit limit", account("5", withdrawn="10000"), deposit("1"), "6", deposited="1", withdrawn="10000"),
    Moves("a withdrawal of everything", account("100.00"), withdrawal("100.00"), "0", withdrawn="100"),
    Moves("a withdrawal leaves the rest", account("100.00"), withdrawal("99.99"), "0.01", withdrawn="99.99"),
    Moves("a withdrawal up to the day limit", account("500", withdrawn="9900"), withdrawal("100"), "400", withdrawn="10000"),
    Moves("the withdrawal limit begins anew at midnight", account("500", withdrawn="10000"), withdrawal("100"), "400", withdrawn="100", at=MIDNIGHT),
    Moves("deposits do not use up the withdrawal limit", account("5", deposited="10000"), withdrawal("1"), "4", deposited="10000", withdrawn="1"),
]

REFUSALS = [
    Refuses("a cent has no parts: deposit", account("1"), deposit("0.001"), "validation-failed"),
    Refuses("a cent has no parts: withdrawal", account("1"), withdrawal("0.999"), "validation-failed"),
    Refuses("one cent over the deposit limit", account("0", deposited="9999.99"), deposit("0.02"), "limit-exceeded"),
    Refuses("a single deposit over the limit", account("0"), deposit("10000.01"), "limit-exceeded"),
    Refuses("a millisecond before midnight is still the day", account("0", deposited="10000"), deposit("0.01"), "limit-exceeded", MIDNIGHT - MS),
    Refuses("one cent over the withdrawal limit", account("500", withdrawn="9999.99"), withdrawal("0.02"), "limit-exceeded"),
    Refuses("one cent too little", account("100.00"), withdrawal("100.01"), "insufficient-funds"),
    Refuses("nothing there", Account("alice_1"), withdrawal("0.01"), "insufficient-funds"),
    Refuses("the limit is told before the funds", account("1"), withdrawal("10000.01"), "limit-exceeded"),
    Refuses("the largest number that can be written", account("1"), deposit("9" * 20), "limit-exceeded"),
]


@pytest.mark.parametrize("row", MOVES, ids=lambda row: row.name)
def test_cash_moves_between_customer_and_world(row: Moves) -> None:
    """The line changes by the amount, the day's counter grows by it, and one row of history is counted."""
    after, entry = settle(row.before, row.request, at=row.at)
    amount = Decimal(row.available) - (row.before.cash["USD"].available if row.before.cash else 0)
    assert entry.refusal is None
    assert after.cash["USD"].available == Decimal(row.available)
    assert after.cash["USD"].updated_at == row.at
    assert entry.lines.cash == after.cash
    assert entry.postings == (Posting("customer", "USD", amount), Posting("world", "USD", -amount))
    assert (after.counters.deposited, after.counters.withdrawn) == (Decimal(row.deposited), Decimal(row.withdrawn))
    assert after.counters.day == f"{row.at:%Y-%m-%d}"
    assert after.counters.transactions == row.before.counters.transactions + 1
    assert after.counters.orders == row.before.counters.orders
    assert entry.lines.order is None


@pytest.mark.parametrize("row", REFUSALS, ids=lambda row: row.name)
def test_a_refusal_moves_nothing(row: Refuses) -> None:
    """A refused request leaves a numbered entry with the code, and cash, counts and lists as they were."""
    after, entry = settle(row.before, row.request, at=row.at)
    assert entry.refusal is not None
    assert (entry.refusal.code, entry.refusal.pointer) == (row.code, "/amount")
    assert entry.refusal.detail
    assert (entry.postings, entry.lines.cash, entry.lines.positions, entry.lines.order) == ((), {}, {}, None)
    assert (after.cash, after.positions) == (row.before.cash, row.before.positions)
    assert after.version == entry.version == row.before.version + 1
    assert (after.counters.transactions, after.counters.orders) == (row.before.counters.transactions, row.before.counters.orders)


def test_a_fence_leaves_an_entry_and_nothing_else() -> None:
    """A fence takes the place of the request whose id it carries."""
    before = account("10", btc="1", cost="5", deposited="3")
    after, entry = settle(before, fence())
    assert (entry.kind, entry.refusal, entry.postings) == ("FenceRequested", None, ())
    assert entry.version == after.version == 8
    assert (after.cash, after.positions, after.counters) == (before.cash, before.positions, before.counters)


def test_an_entry_carries_its_request() -> None:
    """An entry tells whose request it was, where it stood in the log, and what was asked, without what the door added."""
    _, entry = settle(Account("alice_1"), deposit("5.00"))
    assert (entry.username, entry.partition, entry.offset, entry.at) == ("alice_1", 0, 0, NOON)
    assert (entry.correlation_id, entry.trace_id) == ("correlation-k", "trace-k")
    assert entry.payload == {"type": "Deposit", "username": "alice_1", "amount": "5", "currency": "USD"}


def test_time_of_an_account_never_goes_back() -> None:
    """A record with an earlier time than the last decision is decided at that decision's time: also across midnight."""
    before = account("100", at=MIDNIGHT, day="2026-11-26", withdrawn="10000")
    after, entry = settle(before, withdrawal("1"), at=MIDNIGHT - MS)
    assert entry.at == after.at == MIDNIGHT
    assert entry.refusal is not None
    assert entry.refusal.code == "limit-exceeded"
