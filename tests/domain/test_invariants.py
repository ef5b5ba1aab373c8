"""`hold_invariants`: each rule, and a decision that breaks it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from processors.domain.decide import BrokenInvariant, hold_invariants
from schemas.ledger import Account, CashLine, Entry, Posting, Refusal
from tests.domain.given import account, buy, deposit, sell, settle

Broken = Callable[[Account, Account, Entry], tuple[Account, Entry]]

BEFORE = account("1000", btc="2", cost="30")
CENT = Decimal("0.01")


def _cash(after: Account, change: Decimal) -> Account:
    line = after.cash["USD"]
    return replace(after, cash={"USD": replace(line, available=line.available + change)})


def _lines(entry: Entry, **lines: object) -> Entry:
    return replace(entry, lines=replace(entry.lines, **lines))


def _position(after: Account, entry: Entry, **amounts: Decimal) -> tuple[Account, Entry]:
    position = replace(after.positions["BTC"], **amounts)
    return replace(after, positions={"BTC": position}), _lines(entry, positions={"BTC": position})


def _overdrawn(_: Account, after: Account, entry: Entry) -> tuple[Account, Entry]:
    """Everything adds up, but the customer paid more than there was."""
    line = CashLine(Decimal(-1), updated_at=entry.at)
    legs = (Posting("customer", "USD", Decimal(-1001)), Posting("world", "USD", Decimal(1001)))
    return replace(after, cash={"USD": line}), replace(_lines(entry, cash={"USD": line}), postings=legs)


DEPOSIT_ROWS: dict[str, Broken] = {
    "a version is left out": lambda _, after, entry: (replace(after, version=after.version + 1), entry),
    "the entry has another version": lambda _, after, entry: (after, replace(entry, version=entry.version + 1)),
    "the version stands still": lambda before, after, entry: (replace(after, version=before.version), replace(entry, version=before.version)),
    "time goes back": lambda before, after, entry: (replace(after, at=before.at - timedelta(milliseconds=1)), entry),
    "a refusal with legs": lambda _, after, entry: (after, replace(entry, refusal=Refusal("fenced", ""))),
    "a refusal with lines": lambda before, after, entry: (before_at(before, after), replace(entry, refusal=Refusal("fenced", ""), postings=())),
    "a leg without its other side": lambda _, after, entry: (after, replace(entry, postings=entry.postings[:1])),
    "legs that do not cancel out": lambda _, after, entry: (after, replace(entry, postings=(entry.postings[0], Posting("world", "USD", Decimal(-4))))),
    "legs of different units": lambda _, after, entry: (after, replace(entry, postings=(entry.postings[0], Posting("world", "BTC", Decimal(-5))))),
    "a cent out of nowhere": lambda _, after, entry: (_cash(after, CENT), entry),
    "a cent lost": lambda _, after, entry: (_cash(after, -CENT), entry),
    "legs without a line": lambda before, after, entry: (replace(after, cash=before.cash), _lines(entry, cash={})),
    "a line without legs": lambda _, after, entry: (after, replace(entry, postings=())),
    "less than nothing": _overdrawn,
}

BUY_ROWS: dict[str, Broken] = {
    "an asset out of nowhere": lambda _, after, entry: _position(after, entry, available=after.positions["BTC"].available + CENT),
    "an asset held twice": lambda _, after, entry: _position(after, entry, held=CENT),
    "held less than nothing": lambda _, after, entry: _position(after, entry, held=-CENT, available=after.positions["BTC"].available + CENT),
    "a negative cost": lambda _, after, entry: _position(after, entry, cost_basis=-CENT),
}


def before_at(before: Account, after: Account) -> Account:
    """The account as it was before, under the version and time after."""
    return replace(before, version=after.version, at=after.at)


@pytest.mark.parametrize("name", DEPOSIT_ROWS)
def test_a_broken_deposit_is_caught(name: str) -> None:
    """The decision as made passes; with one thing wrong it raises."""
    after, entry = settle(BEFORE, deposit("5"))
    hold_invariants(BEFORE, after, entry)
    with pytest.raises(BrokenInvariant):
        hold_invariants(BEFORE, *DEPOSIT_ROWS[name](BEFORE, after, entry))


@pytest.mark.parametrize("name", BUY_ROWS)
def test_a_broken_buy_is_caught(name: str) -> None:
    """The decision as made passes; with one thing wrong it raises."""
    after, entry = settle(BEFORE, buy("1", "100"))
    hold_invariants(BEFORE, after, entry)
    with pytest.raises(BrokenInvariant):
        hold_invariants(BEFORE, *BUY_ROWS[name](BEFORE, after, entry))


def test_cost_left_where_nothing_is_owned_is_caught() -> None:
    """A sale of everything that leaves a cost behind raises."""
    after, entry = settle(BEFORE, sell("2", "100"))
    hold_invariants(BEFORE, after, entry)
    with pytest.raises(BrokenInvariant, match="cost"):
        hold_invariants(BEFORE, *_position(after, entry, cost_basis=CENT))


UNSEEN: dict[str, Broken] = {
    "the entry tells other cash than the account has": lambda _, after, entry: (after, _lines(entry, cash={"USD": CashLine(Decimal(7), updated_at=entry.at)})),
    "a line that the entry does not name has changed": lambda _, after, entry: (replace(after, positions={}), entry),
    "the entry counts other than the account": lambda _, after, entry: (after, _lines(entry, counters=replace(entry.lines.counters, transactions=99))),
    "the account is another's": lambda _, after, entry: (replace(after, username="mallory"), entry),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_entry_and_account_must_tell_the_same(name: str) -> None:
    """What an entry says of the account after it is what the account after it is, and what it does not name has not changed."""
    after, entry = settle(BEFORE, deposit("5"))
    with pytest.raises(BrokenInvariant):
        hold_invariants(BEFORE, *UNSEEN[name](BEFORE, after, entry))
