"""The decision: one account and one request in, the account after it and the entry it leaves out.

Total and deterministic: everything it depends on is in its arguments, and nothing that a user can send makes it raise. A user's mistake is a
`Refusal` in the entry. What it returns has passed `hold_invariants`, which raises where our own arithmetic is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import assert_never

from processors.domain.orders import close, is_over, place, trigger
from processors.domain.steps import Step, bounded, pair, refuse
from schemas.instants import day_of
from schemas.ledger import Account, CashLine, Counters, Entry, Lines, Order, Posting
from schemas.money import ZERO, currency_scale, exact, plain, round_down, significant_scale
from schemas.requests import (
    Deposit,
    DrainRequested,
    FenceRequested,
    LoggedRequest,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderTriggered,
    Withdrawal,
    canonical,
    order_id,
)
from schemas.rows import moves_cash


class BrokenInvariant(RuntimeError):
    """A decision would break the books: a bug, never a user's mistake."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What deciding some requests of one account in order gave.

    `orders` are those that were placed or changed, as they stand after all of it; `replaces` tells of those that were there before at which account
    version that was. `passed` are requests from inside that found nothing to do: they leave nothing. `days` are the account as it was at the end of
    each UTC day that ended on the way, if it was there already.
    """

    account: Account
    entries: tuple[Entry, ...]
    orders: tuple[Order, ...]
    replaces: Mapping[str, int] = field(default_factory=dict)
    passed: tuple[LoggedRequest, ...] = ()
    days: tuple[Account, ...] = ()


@exact
def decide(account: Account, logged: LoggedRequest, orders: Mapping[str, Order]) -> tuple[Account, Entry | None]:
    """Settle one request against one account.

    `orders` are the orders of the account that the request could meet, by id; the order that it names is among them, if there is one. Returns the
    account after it (version + 1) and the one entry it leaves; a refused request leaves an entry too, with `refusal` set and no postings. A request
    from inside that finds nothing to do leaves none, and the account as it was. Never raises for anything a user can send.
    """
    at = max(logged.at, account.at)
    today = _counters_of(account.counters, at)
    step = _step(account if today is account.counters else replace(account, counters=today), logged, at, orders)
    if step is None:
        return account, None
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
    hold_invariants(account, after, entry, orders.get(lines.order.order_id) if lines.order else None)
    return after, entry


def decide_all(account: Account, requests: tuple[LoggedRequest, ...], orders: Mapping[str, Order]) -> Decided:
    """Settle requests of one account in their order; what became of orders on the way is known to the later ones."""
    done, error = decide_until(account, requests, orders)
    if error:
        raise error
    return done


def decide_until(account: Account, requests: tuple[LoggedRequest, ...], orders: Mapping[str, Order]) -> tuple[Decided, Exception | None]:
    """The same up to the first request whose decision raises; what it raised, or None where none did."""
    error: Exception | None = None
    known = dict(orders)
    entries: list[Entry] = []
    passed: list[LoggedRequest] = []
    changed: dict[str, Order] = {}
    days: list[Account] = []
    for logged in requests:
        before = account
        try:
            account, entry = decide(account, logged, known)
        except Exception as raised:  # noqa: BLE001 - a bug in one account's work: the caller parks that account
            error = raised
            break
        if entry is None:
            passed.append(logged)
            continue
        entries.append(entry)
        if before.version and before.at.date() != entry.at.date():
            days.append(before)
        if order := entry.lines.order:
            changed[order.order_id] = known[order.order_id] = order
    replaces = {name: orders[name].updated_version for name in changed if name in orders}
    return Decided(account, tuple(entries), tuple(changed.values()), replaces, tuple(passed), tuple(days)), error


def _step(account: Account, logged: LoggedRequest, at: datetime, orders: Mapping[str, Order]) -> Step | None:
    match logged.request:
        case Deposit() as request:
            return bounded(account, _deposit(account, request, at))
        case Withdrawal() as request:
            return bounded(account, _withdraw(account, request, at))
        case OrderPlaced() as request:
            return _place(account, request, logged, at, orders)
        case OrderCancelRequested() as request:
            return _cancel(account, orders.get(request.order_id), at)
        case OrderTriggered() | OrderExpiryReached() | OrderRevoked() as request:
            return _from_inside(account, request, logged.at, orders.get(request.order_id), at)
        case FenceRequested() | DrainRequested():
            return Step(account.counters)
        case _:
            assert_never(logged.request)


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
        postings=pair(request.currency, request.amount, "world"),
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
        postings=pair(request.currency, -request.amount, "world"),
    )


def _place(account: Account, request: OrderPlaced, logged: LoggedRequest, at: datetime, orders: Mapping[str, Order]) -> Step:
    """Fill the order, leave it open, or refuse it.

    That its id was used before is said last: an order that is refused anyway writes nothing that could meet the earlier one in the store,
    so whether the earlier one is known here depends on how requests came into batches, and an outcome must not.
    """
    # No client_order_id has a slash: what a client chooses never meets what we make.
    oid = order_id(request.username, request.client_order_id or f"request/{logged.request_id}")
    step = place(account, request, oid, at)
    if step.refusal is None and oid in orders:
        return refuse(account, "duplicate-client-order-id", f"client_order_id {request.client_order_id} was used before", "/client_order_id")
    return step


def _cancel(account: Account, order: Order | None, at: datetime) -> Step:
    """Cancel an order. One whose time has ended meanwhile expires, and is told as it stands, like one that was closed before."""
    if order is None:
        return refuse(account, "not-found", "the account has no such order", "#/path/order_id")
    if order.status != "open":
        return refuse(account, "order-not-open", f"the order is {order.status}", order=order)
    return close(account, order, "expired", at) if is_over(order, at) else close(account, order, "cancelled", at, "requested")


def _from_inside(
    account: Account, request: OrderTriggered | OrderExpiryReached | OrderRevoked, appended: datetime, order: Order | None, at: datetime
) -> Step | None:
    """What a request from inside does to its order; None where there is nothing to do. An order whose time has ended expires, whichever meets it first.

    Nothing is left of a request that is passed over, so what passes one over must hold for ever: a closed order stays closed, and whether the time has
    ended is asked of the request's own record and not of the account, whose time goes on. What is not passed over is decided at the account's time.
    """
    if order is None or order.status != "open":
        return None
    if is_over(order, appended):
        return close(account, order, "expired", at)
    match request:
        case OrderTriggered():
            return trigger(account, order, request, at)
        case OrderExpiryReached():
            return None
        case OrderRevoked():
            return close(account, order, "expired", at) if is_over(order, at) else close(account, order, "cancelled", at, request.reason)
        case _:
            assert_never(request)


def _money(amount: Decimal, currency: str) -> str:
    return f"{plain(round_down(amount, currency_scale(currency)))} {currency}"


def _counters_of(counters: Counters, at: datetime) -> Counters:
    """The counters on the day of `at`: what was moved on an earlier day no longer counts."""
    day = day_of(at)
    return counters if counters.day == day else replace(counters, day=day, deposited=ZERO, withdrawn=ZERO)


def _counted(step: Step) -> Counters:
    rows = sum(1 for posting in step.postings if moves_cash(posting))
    order, counters = step.lines.order, step.lines.counters
    placed = 1 if order and order.created_version == order.updated_version else 0
    if not (rows or placed):
        return counters
    return replace(counters, transactions=counters.transactions + rows, orders=counters.orders + placed)


def hold_invariants(before: Account, after: Account, entry: Entry, known: Order | None = None) -> None:
    """What must be true of every decision; `known` is the entry's order as it was before. BrokenInvariant otherwise; `assert` would vanish under -O."""
    _must(after.version == before.version + 1 == entry.version, "version goes up by one")
    _must(after.at >= before.at, "time does not go back")
    _must(after.username == before.username == entry.username, "account and entry are one user's")
    _must(after.cash == {**before.cash, **entry.lines.cash}, "cash lines change by the entry alone")
    _must(after.positions == {**before.positions, **entry.lines.positions}, "positions change by the entry alone")
    _must(after.counters == entry.lines.counters, "counters are the entry's")
    _must(not (entry.refusal and (entry.postings or entry.lines.cash or entry.lines.positions or entry.lines.order)), "a refusal moves nothing")
    moved = _moved(entry.postings)
    for unit in {unit for _, unit in moved} | entry.lines.cash.keys() | entry.lines.positions.keys():
        for account, new, old in zip(("customer", "held"), _owned(after, unit), _owned(before, unit), strict=True):
            _must(new - old == moved.get((account, unit), ZERO), f"what is {account} changes by its legs", unit)
    for unit, line in entry.lines.cash.items():
        _must(line.available >= ZERO and line.held >= ZERO, "nothing is negative", unit)
    for unit, position in entry.lines.positions.items():
        _must(min(position.available, position.held, position.cost_basis) >= ZERO, "nothing is negative", unit)
        _must(bool(position.quantity) or not position.cost_basis, "no cost is left where nothing is owned", unit)
    _hold_order(before, after, entry.lines.order, known, {unit: amount for (account, unit), amount in moved.items() if account == "held" and amount})


def _moved(postings: tuple[Posting, ...]) -> dict[tuple[str, str], Decimal]:
    """The legs summed by account and unit, which are zero for each pair."""
    moved: dict[tuple[str, str], Decimal] = {}
    _must(len(postings) % 2 == 0, "legs come in pairs")
    for leg, other in zip(postings[::2], postings[1::2], strict=True):
        _must(leg.account == "customer" != other.account, "a pair is the customer's leg and another's")
        _must(leg.unit == other.unit and leg.amount == -other.amount, "the legs of a pair sum to zero", leg.unit)
        for posting in (leg, other):
            key = posting.account, posting.unit
            moved[key] = moved.get(key, ZERO) + posting.amount
    return moved


def _hold_order(before: Account, after: Account, order: Order | None, known: Order | None, moved: Mapping[str, Decimal]) -> None:
    """Holds move with their order alone; an order that is closed stays as it is; what is open is counted."""
    was = 1 if known and known.status == "open" else 0
    now = 1 if order and order.status == "open" else 0
    _must(after.counters.open_orders - before.counters.open_orders == now - was, "open orders are counted")
    if order is None:
        _must(not moved, "only an order holds anything")
        return
    _must(known is None or bool(was), "an order that is closed stays as it is")
    versions = (known.created_version if known else after.version, after.version)
    _must((order.created_version, order.updated_version) == versions, "an order has the versions of its placing and of its last change")
    _must(bool(order.held) == bool(now), "an open order holds something, and no other does")
    change = order.held - (known.held if known else ZERO)
    _must(moved == ({order.held_unit: change} if change else {}), "what is held changes by the order's hold", order.held_unit)


def _owned(account: Account, unit: str) -> tuple[Decimal, Decimal]:
    line = account.cash.get(unit) or account.positions.get(unit)
    return (line.available, line.held) if line else (ZERO, ZERO)


def _must(holds: bool, rule: str, unit: str = "") -> None:
    if not holds:
        raise BrokenInvariant(f"{unit}: {rule}" if unit else rule)
