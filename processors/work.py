"""One account's part of a batch: what waits for its decision, what is known of the account, and what the store said of it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final

import structlog
from prometheus_client import Counter

from events.consumer import RETRIES
from events.envelope import Envelope
from infra.ledger import ACTIONS_MAX, NEIGHBOUR, Failed, Named, Outcome, Refused, Stored, Unknown, Write
from infra.parked import Unreadable as UnreadableAccount
from processors.domain.decide import Decided, decide_all, decide_until
from processors.records import where
from schemas.ledger import Account, Entry, Order, ParkCause, Parked
from schemas.requests import NAMES_ORDER, Deposit, DrainRequested, FenceRequested, LoggedRequest, Withdrawal
from schemas.results import result_value
from schemas.tables import entry_sk, order_sk

log = structlog.get_logger()

FOLD_ACTIONS_MAX: Final = ACTIONS_MAX - 2
"""Actions of one account's requests in one write, beside the account itself and the account as it was on an earlier day."""
FAILURES_MAX: Final = 3
"""Failures of one account's next request, with a pause and a fresh load after each, before it is parked."""
DRAIN_MAX: Final = 32
"""Waiting requests in one step of draining: an entry, an order and a day that ended each, beside the account, the drain's entry and the parked list."""
_WITHOUT_ORDER: Final = (Deposit, Withdrawal, FenceRequested)

PASSED: Final = Counter("cnop_passed_total", "Requests from inside that found nothing to do, by kind", ["kind"])


@dataclass(slots=True, eq=False)
class Work:
    """One account's part of a batch, from first load to the last stored entry.

    Of `account` and `unreadable` one is there once it is loaded. `found` are ids of requests that were stored before this batch; `drained` are
    entries that this batch made of requests that had waited. `told` has further results by the offset of the record that tells them, and
    `asked` further requests. `lookups` are entries whose record may have a parking to tell; `emptied`: up to which offset waiting items are done.
    `orders` are those that are known, and of the sort keys `looked_up` there are no others. `passed` are requests from inside that found nothing to do:
    each may have been stored before and not told yet, and then found done what it did itself, so its entry is looked for before it is dropped.
    """

    username: str
    account: Account | None = None
    pending: list[LoggedRequest] = field(default_factory=list)
    unreadable: UnreadableAccount | None = None
    orders: dict[str, Order] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    found: set[str] = field(default_factory=set)
    fold_max: int = FOLD_ACTIONS_MAX
    drain_max: int = DRAIN_MAX
    failures: int = 0
    cause: ParkCause = "decision"
    steps: int = 0
    told: dict[int, list[Envelope]] = field(default_factory=dict)
    asked: list[Envelope] = field(default_factory=list)
    drained: list[Entry] = field(default_factory=list)
    lookups: list[Entry] = field(default_factory=list)
    emptied: tuple[int, int] | None = None
    looked_up: set[str] = field(default_factory=set)
    passed: list[LoggedRequest] = field(default_factory=list)

    def goes_on(self) -> bool:
        """Whether anything is left to do."""
        self.leave_out_decided()
        return bool(self.pending or self.lookups)

    def leave_out_decided(self) -> None:
        """What has an entry waits for nothing any more."""
        self.pending = [logged for logged in self.pending if logged.request_id not in self.entries]

    def is_plain(self) -> bool:
        """Whether its next requests are decided and stored, and nothing else."""
        account = self.account
        if account is None or account.parked or self.lookups or self.failures >= FAILURES_MAX:
            return False
        return not isinstance(self.pending[0].request, DrainRequested)

    def forget(self) -> None:
        """What is known of the account may be wrong: it is loaded before anything else is done, and its orders after it."""
        self.account = self.unreadable = None
        self.orders.clear()
        self.looked_up.clear()
        self.passed.clear()

    def fail(self, cause: ParkCause, error: str, where: str = "") -> None:
        """Its next request failed."""
        self.failures += 1
        self.cause = cause
        self.forget()
        first = self.pending[0]
        log.warning("an account's work failed", username=self.username, offset=first.offset, tries=self.failures, cause=cause, error=error, where=where)

    def drop(self, logged: LoggedRequest) -> None:
        """A request is done that leaves no entry here."""
        self.pending = [other for other in self.pending if other.offset != logged.offset]
        self.steps += 1

    def wanted(self) -> set[str]:
        """Sort keys of what has to be read before the next step: orders that its requests name, and entries of those that were passed over."""
        if self.account is None or self.account.parked or self.failures >= FAILURES_MAX:
            return set()
        return self.orders_sought(self.pending) | {entry_sk(logged.request_id) for logged in self.passed}

    def orders_sought(self, requests: Iterable[LoggedRequest]) -> set[str]:
        """Sort keys of the orders that requests name and that are not known yet."""
        names = {logged.request.order_id for logged in requests if isinstance(logged.request, NAMES_ORDER)}
        return {order_sk(name) for name in names if name not in self.orders} - self.looked_up

    def sought(self, keys: Iterable[str], found: Named) -> None:
        """Take in what was found under the keys that were asked for. A request that was passed over and has no entry is done."""
        if found.unreadable:
            self.fail("undecodable", found.unreadable)
            return
        self.orders.update(found.orders)
        self.looked_up.update(keys)
        self.learn(dict(found.entries))
        for logged in self.passed:
            if logged.request_id not in self.entries:
                PASSED.labels(type(logged.request).__name__).inc()
                self.drop(logged)
        self.passed.clear()
        self.steps += 1

    def became(self, parked: Parked, version: int) -> None:
        """The account is parked now, at that version."""
        if self.account:
            self.account = replace(self.account, status="parked", version=version, parked=parked)
        elif self.unreadable:
            self.unreadable = replace(self.unreadable, version=version, parked=parked)

    def learn(self, entries: dict[str, Entry]) -> None:
        """Entries were found in the way. One that a draining made tells that its record once parked the account, perhaps."""
        self.entries.update(entries)
        self.found.update(entries)
        self.lookups += [entry for entry in entries.values() if entry.drained_by]


def next_fold(pending: Iterable[LoggedRequest], requests_max: int = FOLD_ACTIONS_MAX, on_the_way: Collection[str] = ()) -> tuple[LoggedRequest, ...]:
    """The next requests of one account to decide and write at once, but for those on the way to the store.

    Each id once: the store refuses the same item twice in a transaction, and the first in the log wins. All of one day, so that at most one day ends.
    """
    fold: dict[str, LoggedRequest] = {}
    actions = 0
    day: date | None = None
    for logged in pending:
        if isinstance(logged.request, DrainRequested):
            break
        if logged.request_id in on_the_way or logged.request_id in fold:
            continue
        actions += 1 if isinstance(logged.request, _WITHOUT_ORDER) else 2
        day = day or logged.at.date()
        if actions > FOLD_ACTIONS_MAX or len(fold) == requests_max or logged.at.date() != day:
            break
        fold[logged.request_id] = logged
    return tuple(fold.values())


def decide_next(work: Work) -> Decided | None:
    """The next fold decided; the part of it before a request whose decision raises; None where nothing of it is to be stored."""
    fold = next_fold(work.pending, work.fold_max)
    account = work.account
    if account is None:
        raise RuntimeError("decided before it was loaded")
    done, error = decide_until(account, fold, work.orders)
    if error and not (done.entries or done.passed):
        work.fail("decision", type(error).__name__, where(error))
        return None
    if not done.entries:
        work.passed += done.passed
        return None
    return done


def decide_ahead(work: Work, done: Decided) -> Decided | None:
    """The fold after one that is on its way to the store, decided as if that were stored already. None where there is none, or where it raises."""
    on_the_way = {entry.request_id for entry in done.entries} | {logged.request_id for logged in done.passed}
    fold = next_fold(work.pending, work.fold_max, on_the_way)
    if not fold:
        return None
    try:
        ahead = decide_all(done.account, fold, {**work.orders, **{order.order_id: order for order in done.orders}})
        for entry in ahead.entries:
            result_value(entry)  # it is kept with the entry: the next write finds it made
    except Exception:  # noqa: BLE001 - decided again, and counted as a failure of this account's work then
        return None
    return ahead if ahead.entries else None


def as_write(work: Work, decided: Decided, *further: Entry) -> Write:
    """What was decided from what is known of the account, to be stored with further entries."""
    loaded = work.account.version if work.account else 0
    return Write(loaded, decided.account, (*decided.entries, *further), decided.orders, decided.replaces, decided.days)


def learn(work: Work, decided: Decided, outcome: Outcome) -> None:
    """Take in what the store said."""
    match outcome:
        case Stored():
            work.account = decided.account
            work.failures = 0
            work.entries.update((entry.request_id, entry) for entry in decided.entries)
            work.orders.update((order.order_id, order) for order in decided.orders)
            work.passed += decided.passed
            work.leave_out_decided()
        case Refused(moved, entries, orders):
            RETRIES.labels("moved" if moved else "stored-before").inc()
            if moved:
                work.forget()
            work.learn(dict(entries))
            work.orders.update(orders)
        case Unknown(cause):
            RETRIES.labels(cause).inc()
            if cause != NEIGHBOUR:
                work.forget()
        case Failed(cause):
            RETRIES.labels("store-refused").inc()
            if len(decided.entries) > 1:
                work.fold_max = len(decided.entries) // 2
            else:
                work.fail("store-refused", cause)
