"""`hold_invariants`: each rule, and a decision that breaks it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from processors.domain.decide import BrokenInvariant, hold_invariants
from schemas.ledger import Account, CashLine, Entry, Order, Posting, Refusal
from schemas.requests import AccountRequest
from tests.domain.given import Books, account, buy, cancel, deposit, sell, settle, trigger, waiting

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


def _order(after: Account, entry: Entry, **facts: object) -> tuple[Account, Entry]:
    assert entry.lines.order
    return after, _lines(entry, order=replace(entry.lines.order, **facts))  # type: ignore[arg-type]


def _counters(after: Account, entry: Entry, open_orders: int) -> tuple[Account, Entry]:
    counters = replace(after.counters, open_orders=after.counters.open_orders + open_orders)
    return replace(after, counters=counters), _lines(entry, counters=counters)


def _usd(after: Account, entry: Entry, available: Decimal, held: Decimal, postings: tuple[Posting, ...]) -> tuple[Account, Entry]:
    """Cash that changes by so much more, with the legs to it."""
    line = after.cash["USD"]
    cash = {"USD": replace(line, available=line.available + available, held=line.held + held)}
    return replace(after, cash=cash), replace(_lines(entry, cash=cash), postings=entry.postings + postings)


HOLD = (Posting("customer", "USD", -CENT), Posting("held", "USD", CENT))
RELEASE = (Posting("customer", "USD", CENT), Posting("held", "USD", -CENT))
BTC_HOLD = (Posting("customer", "BTC", -CENT), Posting("held", "BTC", CENT))


def _btc_held(after: Account, entry: Entry) -> tuple[Account, Entry]:
    """A part of the holding is held beside the cash."""
    position = after.positions["BTC"]
    lines = {"BTC": replace(position, available=position.available - CENT, held=position.held + CENT)}
    return replace(after, positions=lines), replace(_lines(entry, positions=lines), postings=entry.postings + BTC_HOLD)


def _without_order(after: Account, entry: Entry) -> tuple[Account, Entry]:
    return after, _lines(entry, order=None)


def _nothing_held(before: Account, after: Account, entry: Entry) -> tuple[Account, Entry]:
    """Everything adds up, but the order can be filled with nothing."""
    _, entry = _order(after, entry, held=Decimal(0))
    return replace(after, cash=before.cash), replace(_lines(entry, cash={}), postings=())


PLACED: dict[str, Broken] = {
    "more is held than the order says": lambda _, after, entry: _usd(after, entry, -CENT, CENT, HOLD),
    "less is held than the order says": lambda _, after, entry: _usd(after, entry, CENT, -CENT, RELEASE),
    "the order says that more is held": lambda _, after, entry: _order(after, entry, held=entry.lines.order.held + CENT),  # type: ignore[union-attr]
    "an open order that holds nothing": lambda _, after, entry: _order(after, entry, held=Decimal(0)),
    "a closed order that holds something": lambda _, after, entry: _order(after, entry, status="cancelled"),
    "another asset is held too": lambda _, after, entry: _btc_held(after, entry),
    "what is held is another asset than the order's": lambda _, after, entry: _order(after, entry, order_type="limit_sell"),
    "held without legs": lambda _, after, entry: (after, replace(entry, postings=())),
    "legs of a hold, and cash that is not held": lambda _, after, entry: _usd(after, entry, CENT, -CENT, ()),
    "a hold that nothing holds": lambda _, after, entry: (after, _lines(entry, order=None)),
    "a hold of no order": lambda _, after, entry: _counters(*_without_order(after, entry), -1),
    "an open order for which nothing is held": _nothing_held,
    "an open order that is not counted": lambda _, after, entry: _counters(after, entry, -1),
    "an open order that is counted twice": lambda _, after, entry: _counters(after, entry, 1),
    "a pair the other way round": lambda _, after, entry: (after, replace(entry, postings=entry.postings[::-1])),
    "a pair of the customer with himself": lambda _, after, entry: (
        after,
        replace(entry, postings=(entry.postings[0], Posting("customer", "USD", Decimal(90)))),
    ),
    "placed at another version": lambda _, after, entry: _order(after, entry, created_version=7),
    "changed at another version": lambda _, after, entry: _order(after, entry, updated_version=7),
}

CLOSED: dict[str, Broken] = {
    "a cent stays held": lambda _, after, entry: _usd(after, entry, -CENT, CENT, HOLD),
    "a cent too much is released": lambda _, after, entry: _usd(after, entry, CENT, -CENT, RELEASE),
    "the order still holds": lambda _, after, entry: _order(after, entry, held=CENT),
    "it is open still": lambda _, after, entry: _order(after, entry, status="open"),
    "it is counted still": lambda _, after, entry: _counters(after, entry, 1),
    "placed at another version": lambda _, after, entry: _order(after, entry, created_version=after.version),
    "changed at the version of its placing": lambda _, after, entry: _order(after, entry, updated_version=entry.lines.order.created_version),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("name", PLACED)
def test_a_broken_hold_is_caught(name: str) -> None:
    """The decision that placed an order passes; with one thing wrong it raises."""
    after, entry = settle(BEFORE, waiting())
    hold_invariants(BEFORE, after, entry)
    with pytest.raises(BrokenInvariant):
        hold_invariants(BEFORE, *PLACED[name](BEFORE, after, entry))


@pytest.mark.parametrize("request_", [cancel(), trigger("80")], ids=["cancelled", "filled"])
@pytest.mark.parametrize("name", CLOSED)
def test_a_broken_release_is_caught(name: str, request_: AccountRequest) -> None:
    """The decision that closed an order passes; with one thing wrong it raises."""
    before, after, entry, known = _closing(request_)
    hold_invariants(before, after, entry, known)
    with pytest.raises(BrokenInvariant):
        hold_invariants(before, *CLOSED[name](before, after, entry), known)


@pytest.mark.parametrize("request_", [cancel(), trigger("80")], ids=["cancelled", "filled"])
def test_a_closed_order_that_changes_is_caught(request_: AccountRequest) -> None:
    """What closes an order is right only where that was open, and was there."""
    before, after, entry, known = _closing(request_)
    with pytest.raises(BrokenInvariant):
        hold_invariants(before, after, entry, replace(known, status="completed", held=Decimal(0)))
    with pytest.raises(BrokenInvariant):
        hold_invariants(before, after, entry, None)


def test_an_order_placed_over_another_is_caught() -> None:
    """A new order that stands where one was, open or closed, raises."""
    before, _, _, known = _closing(cancel())
    after, entry = settle(before, waiting(limit="80"))
    with pytest.raises(BrokenInvariant):
        hold_invariants(before, after, entry, known)
    with pytest.raises(BrokenInvariant, match="closed"):
        hold_invariants(before, after, entry, replace(known, status="cancelled", held=Decimal(0)))


def _closing(request: AccountRequest) -> tuple[Account, Account, Entry, Order]:
    """A decision that closes an order, with the order as it was."""
    books = Books(BEFORE)
    books.take(waiting())
    before, known = books.account, books.order()
    entry = books.take(request)
    assert entry
    return before, books.account, entry, known
