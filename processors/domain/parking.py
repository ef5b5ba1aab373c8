"""The rules of parking and draining: which entries they leave, and what becomes of the account.

Parking moves nothing. A step of draining decides requests that waited as any others, with the time of their own records; its own entry comes
after theirs and is never later than the last of them, so that the next step decides with the times of its records too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from processors.domain.decide import Decided, decide_all
from schemas.ledger import Account, Counters, Entry, Lines, Order, ParkCause, Parked, Parking
from schemas.requests import DrainRequested, LoggedRequest, canonical, parking_id
from schemas.results import PARKED


@dataclass(frozen=True, slots=True)
class Drained:
    """What one step of draining gives: the account after it, the entries of the requests it decided, its own entry, and what became of orders."""

    account: Account
    entries: tuple[Entry, ...]
    entry: Entry
    orders: tuple[Order, ...]
    replaces: Mapping[str, int]
    days: tuple[Account, ...]


def decide_until(account: Account, requests: tuple[LoggedRequest, ...], orders: Mapping[str, Order]) -> tuple[Decided, Exception | None]:
    """Decide requests in their order, up to the first whose decision raises; what it raised, or None where none did."""
    done = Decided(account, (), ())
    known = dict(orders)
    for logged in requests:
        try:
            step = decide_all(done.account, (logged,), known)
        except Exception as error:  # noqa: BLE001 - a bug in one account's work: the caller parks that account
            return done, error
        known.update((order.order_id, order) for order in step.orders)
        done = _joined(done, step)
    return done, None


def _joined(done: Decided, step: Decided) -> Decided:
    """What both gave. An order that the first placed or changed is, for the store, still as it was before the first."""
    orders = {order.order_id: order for order in done.orders}
    replaces = {name: version for name, version in step.replaces.items() if name not in orders} | dict(done.replaces)
    orders |= {order.order_id: order for order in step.orders}
    return Decided(step.account, done.entries + step.entries, tuple(orders.values()), replaces, done.passed + step.passed, done.days + step.days)


def parking_entry(username: str, version: int, at: datetime, logged: LoggedRequest, cause: ParkCause) -> Entry:
    """The entry of a parking that this record caused, at an account of `version` whose last decision was at `at`."""
    return Entry(
        request_id=parking_id(username, logged.partition, logged.offset),
        username=username,
        version=version + 1,
        at=max(at, logged.at),
        kind=PARKED,
        payload={"type": PARKED, "username": username},
        partition=logged.partition,
        offset=logged.offset,
        correlation_id=logged.correlation_id,
        trace_id=logged.trace_id,
        lines=Lines(Counters()),
        parking=Parking("parked", cause),
    )


def draining_entry(username: str, version: int, at: datetime, drain: LoggedRequest, parking: Parking) -> Entry:
    """The entry of a step of draining, at an account of `version` whose last decision was at `at`."""
    return Entry(
        request_id=drain.request_id,
        username=username,
        version=version + 1,
        at=at,
        kind=DrainRequested.__name__,
        payload=canonical(drain.request),
        partition=drain.partition,
        offset=drain.offset,
        correlation_id=drain.correlation_id,
        trace_id=drain.trace_id,
        lines=Lines(Counters()),
        parking=parking,
    )


def drained(decided: Decided, parked: Parked, drain: LoggedRequest, parking: Parking, last: int) -> Drained:
    """The step of draining that decided these, up to the waiting request at the offset `last`."""
    account = decided.account
    entry = draining_entry(account.username, account.version, account.at, drain, parking)
    facts = replace(parked, drained=last, cause=parking.cause or parked.cause) if parking.status == "parked" else None
    after = replace(account, version=entry.version, status=parking.status, parked=facts)
    entries = tuple(replace(one, drained_by=drain.request_id) for one in decided.entries)
    return Drained(after, entries, entry, decided.orders, decided.replaces, decided.days)
