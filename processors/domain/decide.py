"""The decision: one account and one request in, the account after it and the entry it leaves out.

Total and deterministic: everything it depends on is in its arguments, and nothing that a user can send makes it raise. A user's mistake is a
`Refusal` in the entry. What it returns has passed `hold_invariants`, which raises where our own arithmetic is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final, assert_never

from processors.domain.orders import buy, sell
from processors.domain.steps import Step, refuse
from schemas.ledger import Account, CashLine, Counters, Entry, Lines, Order, Posting
from schemas.money import INTEGER_DIGITS_MAX, ZERO, currency_scale, exact, plain, round_down, significant_scale
from schemas.requests import Deposit, DrainRequested, FenceRequested, LoggedRequest, OrderPlaced, Withdrawal, canonical, order_id
from schemas.views import moves_cash

DAY_DIGITS: Final = len("2026-11-25")


class BrokenInvariant(RuntimeError):
    """A decision would break the books: a bug, never a user's mistake."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What deciding some requests of one account in order gave."""

    account: Account
    entries: tuple[Entry, ...]
    orders: tuple[Order, ...]


@exact
def decide(account: Account, logged: LoggedRequest, orders: Mapping[str, Order]) -> tuple[Account, Entry]:
    """Settle one request against one account.

    `orders` are the orders of the account that the request could meet, by id. Returns the account after it (version + 1) and the one
    entry it leaves; a refused request leaves an entry too, with `refusal` set and no postings. Never raises for anything a user can send.
    """
    at = max(logged.at, account.at)
    today = _counters_of(account.counters, at)
    step = _step(account if today is account.counters else replace(account, counters=today), logged, at, orders)
    lines = Lines(_counted(step), step.lines.cash, step.lines.positions, step.lines.order)
    after = Account(
        username=account.username,
        version=account.version + 1,
        at=at,
        status=account.status,
        cash={**account.cash, **lines.cash} if lines.cash else account.cash,
        positions={**account.positions, **lines.positions} if lines.positions else account.positions,
        counters=lines.counters,
    )
    entry = Entry(
        request_id=logged.request_id,
        username=account.username,
        version=after.version,
        at=at,
        kind=type(logged.request).__name__,
        payload=canonical(logged.request),
        partition=logged.partition,
        offset=logged.offset,
        correlation_id=logged.correlation_id,
        trace_id=logged.trace_id,
        lines=lines,
        postings=step.postings,
        refusal=step.refusal,
    )
    hold_invariants(account, after, entry)
    return after, entry


def decide_all(account: Account, requests: tuple[LoggedRequest, ...], orders: Mapping[str, Order]) -> Decided:
    """Settle requests of one account in their order; the orders placed on the way are known to the later ones."""
    known = dict(orders)
    entries: list[Entry] = []
    placed: list[Order] = []
    for logged in requests:
        account, entry = decide(account, logged, known)
        entries.append(entry)
        if entry.lines.order:
            placed.append(entry.lines.order)
            known[entry.lines.order.order_id] = entry.lines.order
    return Decided(account, tuple(entries), tuple(placed))


def _step(account: Account, logged: LoggedRequest, at: datetime, orders: Mapping[str, Order]) -> Step:
    match logged.request:
        case Deposit() as request:
            return _bounded(account, _deposit(account, request, at))
        case Withdrawal() as request:
            return _bounded(account, _withdraw(account, request, at))
        case OrderPlaced() as request:
            return _place(account, request, logged, at, orders)
        case FenceRequested() | DrainRequested():
            return Step(account.counters)
        case _:
            assert_never(logged.request)


def _bounded(account: Account, step: Step) -> Step:
    """The step, or a refusal where it would grow a line beyond what can be written and read again."""
    figures = [figure for line in step.lines.cash.values() for figure in (line.available, line.held)]
    for position in step.lines.positions.values():
        figures += (position.available, position.held, position.cost_basis, position.realised)
    if all(figure.adjusted() < INTEGER_DIGITS_MAX for figure in (*figures, step.lines.counters.deposited, step.lines.counters.withdrawn)):
        return step
    return refuse(account, "above-maximum", f"an account cannot hold figures of more than {INTEGER_DIGITS_MAX} digits")


def _deposit(account: Account, request: Deposit, at: datetime) -> Step:
    if significant_scale(request.amount) > currency_scale(request.currency):
        return refuse(account, "validation-failed", f"{request.currency} has {currency_scale(request.currency)} decimals", "/amount")
    total = account.counters.deposited + request.amount
    if total > request.stamp.day_limit:
        return refuse(account, "limit-exceeded", f"deposits of one day may be {_money(request.stamp.day_limit, request.currency)}", "/amount")
    line = account.cash.get(request.currency, CashLine())
    return Step(
        replace(account.counters, deposited=total),
        cash={request.currency: replace(line, available=line.available + request.amount, updated_at=at)},
        postings=_transfer(request.amount, request.currency),
    )


def _withdraw(account: Account, request: Withdrawal, at: datetime) -> Step:
    if significant_scale(request.amount) > currency_scale(request.currency):
        return refuse(account, "validation-failed", f"{request.currency} has {currency_scale(request.currency)} decimals", "/amount")
    total = account.counters.withdrawn + request.amount
    if total > request.stamp.day_limit:
        return refuse(account, "limit-exceeded", f"withdrawals of one day may be {_money(request.stamp.day_limit, request.currency)}", "/amount")
    line = account.cash.get(request.currency, CashLine())
    if request.amount > line.available:
        return refuse(account, "insufficient-funds", f"{_money(line.available, request.currency)} are available", "/amount")
    return Step(
        replace(account.counters, withdrawn=total),
        cash={request.currency: replace(line, available=line.available - request.amount, updated_at=at)},
        postings=_transfer(-request.amount, request.currency),
    )


def _place(account: Account, request: OrderPlaced, logged: LoggedRequest, at: datetime, orders: Mapping[str, Order]) -> Step:
    """Fill the order, or refuse it.

    That its id was used before is said last: an order that is refused anyway writes nothing that could meet the earlier one in the store,
    so whether the earlier one is known here depends on how requests came into batches, and an outcome must not.
    """
    # No client_order_id has a slash: what a client chooses never meets what we make.
    oid = order_id(request.username, request.client_order_id or f"request/{logged.request_id}")
    step = _bounded(account, _trade(account, request, oid, at))
    if step.refusal is None and oid in orders:
        return refuse(account, "duplicate-client-order-id", f"client_order_id {request.client_order_id} was used before", "/client_order_id")
    return step


def _trade(account: Account, request: OrderPlaced, oid: str, at: datetime) -> Step:
    match request.order_type:
        case "market_buy":
            return buy(account, request, oid, at)
        case "market_sell":
            return sell(account, request, oid, at)
        case "limit_buy" | "limit_sell":
            return refuse(account, "order-type-unsupported", "limit orders are not offered yet", "/order_type")
        case _:
            assert_never(request.order_type)


def _money(amount: Decimal, currency: str) -> str:
    return f"{plain(round_down(amount, currency_scale(currency)))} {currency}"


def _transfer(amount: Decimal, unit: str) -> tuple[Posting, ...]:
    return (Posting("customer", unit, amount), Posting("world", unit, -amount))


def _counters_of(counters: Counters, at: datetime) -> Counters:
    """The counters on the day of `at`: what was moved on an earlier day no longer counts."""
    day = at.isoformat()[:DAY_DIGITS]
    return counters if counters.day == day else replace(counters, day=day, deposited=ZERO, withdrawn=ZERO)


def _counted(step: Step) -> Counters:
    rows = sum(1 for posting in step.postings if moves_cash(posting))
    placed = 1 if step.lines.order else 0
    counters = step.lines.counters
    if not (rows or placed):
        return counters
    return replace(counters, transactions=counters.transactions + rows, orders=counters.orders + placed)


def hold_invariants(before: Account, after: Account, entry: Entry) -> None:
    """What must be true of every decision. BrokenInvariant otherwise; `assert` would vanish under -O."""
    _must(after.version == before.version + 1 == entry.version, "version goes up by one")
    _must(after.at >= before.at, "time does not go back")
    _must(after.username == before.username == entry.username, "account and entry are one user's")
    _must(after.cash == {**before.cash, **entry.lines.cash}, "cash lines change by the entry alone")
    _must(after.positions == {**before.positions, **entry.lines.positions}, "positions change by the entry alone")
    _must(after.counters == entry.lines.counters, "counters are the entry's")
    _must(not (entry.refusal and (entry.postings or entry.lines.cash or entry.lines.positions or entry.lines.order)), "a refusal moves nothing")
    totals: dict[str, Decimal] = {}
    moved: dict[str, Decimal] = {}
    for posting in entry.postings:
        totals[posting.unit] = totals.get(posting.unit, ZERO) + posting.amount
        if posting.account == "customer":
            moved[posting.unit] = moved.get(posting.unit, ZERO) + posting.amount
    _must(not any(totals.values()), "legs sum to zero per unit")
    for unit in moved.keys() | entry.lines.cash.keys() | entry.lines.positions.keys():
        _must(_owned(after, unit) - _owned(before, unit) == moved.get(unit, ZERO), "a line changes by its legs", unit)
    for unit, line in entry.lines.cash.items():
        _must(line.available >= ZERO and line.held >= ZERO, "nothing is negative", unit)
    for unit, position in entry.lines.positions.items():
        _must(min(position.available, position.held, position.cost_basis) >= ZERO, "nothing is negative", unit)
        _must(bool(position.quantity) or not position.cost_basis, "no cost is left where nothing is owned", unit)


def _owned(account: Account, unit: str) -> Decimal:
    line = account.cash.get(unit) or account.positions.get(unit)
    return line.available + line.held if line else ZERO


def _must(holds: bool, rule: str, unit: str = "") -> None:
    if not holds:
        raise BrokenInvariant(f"{unit}: {rule}" if unit else rule)
