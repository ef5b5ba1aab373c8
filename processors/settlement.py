"""The settlement shell: load, decide, store, tell, in a straight line. No branch here is about money.

It writes optimistically. What is in the way comes back with the refusal: an entry of the same request, an order of the same id, or a version
that moved. Then the account is decided again with what is known now, until everything of the batch is stored or found stored.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import Counter, Histogram

from events.consumer import RETRIES
from events.envelope import Envelope, Inbound, Unreadable
from events.tracing import batch_span
from infra.dynamo import DynamoUnavailable
from infra.ledger import ACTIONS_MAX, NEIGHBOUR, LedgerStore, Outcome, Refused, Stored, Unknown, Write
from processors.domain.decide import Decided, decide_all
from schemas.ledger import Account, Entry, Order
from schemas.requests import LoggedRequest, UnreadableRequest, decode_request
from schemas.results import encode_result, result_id, result_of, result_type

log = structlog.get_logger()

SOURCE: Final = "urn:cnop:settlement"
BATCH_RECORDS_MAX: Final = 500
FOLD_MAX: Final = (ACTIONS_MAX - 1) // 2
"""Requests of one account in one write: each may take an entry and an order, beside the account itself."""
ATTEMPTS_MAX: Final = 60
"""Tries without progress before the process ends. With the pauses between them about a minute and a half: well under the poll interval."""
LOGGED_IDS_MAX: Final = 50

SETTLED: Final = Counter("cnop_settled_total", "Requests decided and stored, by kind and outcome", ["kind", "outcome"])
REFUSED: Final = Counter("cnop_refused_total", "Requests refused by the rules, by code", ["kind", "code"])
REPLAYED: Final = Counter("cnop_replayed_total", "Requests found already decided: redelivered (result sent again) or repeated (nothing sent)", ["cause"])
SETTLE_S: Final = Histogram(
    "cnop_settle_seconds", "Append to the requests topic until stored", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
)


class Stalled(RuntimeError):
    """No progress within the bound: the process ends, with its offsets unmoved, and starts anew."""


@dataclass(frozen=True, slots=True)
class Read:
    """A request with what its record carries for the way back."""

    logged: LoggedRequest
    reply_to: str | None
    traceparent: str | None
    tracestate: str | None


@dataclass(slots=True)
class _Work:
    """One account's part of a batch, from first load to the last stored entry."""

    pending: list[LoggedRequest]
    account: Account | None = None
    orders: dict[str, Order] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)

    def next_fold(self) -> tuple[LoggedRequest, ...]:
        """The next requests to decide, each id once: the store refuses the same item twice in a transaction, and the first in the log wins."""
        self.pending = [logged for logged in self.pending if logged.request_id not in self.entries]
        fold: dict[str, LoggedRequest] = {}
        for logged in self.pending:
            fold.setdefault(logged.request_id, logged)
            if len(fold) == FOLD_MAX:
                break
        return tuple(fold.values())


class Settlement:
    """The handler of the settlement loop.

    `pause(attempt)` waits between tries; `now` is for measurements only, never for a decision. Batches of different partitions may be in
    hand at once: no account is in two of them.
    """

    def __init__(self, ledger: LedgerStore, pause: Callable[[int], Awaitable[None]], now: Callable[[], datetime], *, log_lines_max: int) -> None:
        self._ledger = ledger
        self._pause = pause
        self._now = now
        self._log_lines_max = log_lines_max

    async def __call__(self, batch: Sequence[Read]) -> list[Envelope]:
        """Settle a batch of one partition in log order.

        When this returns, every request has its entry in the store; the results are in the order of the batch. A request that was redelivered
        gives its stored result once more, since it may never have left; one that repeats an earlier record gives none. Raises Stalled.
        """
        works = _by_account([read.logged for read in batch])
        with batch_span("settle", [(read.traceparent, read.tracestate) for read in batch]):
            found = await self._settle(works)
        results = []
        for read in batch:
            entry = works[read.logged.request.username].entries[read.logged.request_id]
            if (entry.partition, entry.offset) == (read.logged.partition, read.logged.offset):
                results.append(_result(entry, read))
            else:
                REPLAYED.labels("repeated").inc()
        self._report(batch, works, found)
        return results

    async def _settle(self, works: dict[str, _Work]) -> set[str]:
        """Bring every request's entry into `works`; returns the ids of those that were stored before this batch."""
        found: set[str] = set()
        attempt = 0
        while unsettled := {username: fold for username, work in works.items() if (fold := work.next_fold())}:
            before = _known(works)
            try:
                await self._load([work for username, work in works.items() if username in unsettled and work.account is None])
                decided = [(works[username], _decide(works[username], fold)) for username, fold in unsettled.items()]
                outcomes = await self._ledger.write([_write(work, done) for work, done in decided])
            except DynamoUnavailable as error:
                outcomes, decided = [], []
                RETRIES.labels("store-away").inc()
                log.warning("store away", attempt=attempt, error=str(error))
                for username in unsettled:
                    works[username].account = None
            for (work, done), outcome in zip(decided, outcomes, strict=True):
                found |= _learn(work, done, outcome)
            attempt = 0 if _known(works) > before else attempt + 1
            if attempt:
                if attempt > ATTEMPTS_MAX:
                    raise Stalled(f"no request of {len(unsettled)} accounts could be stored in {ATTEMPTS_MAX} tries")
                await self._pause(attempt)
        return found

    async def _load(self, works: Sequence[_Work]) -> None:
        """Read the accounts that are not known, or not surely."""
        if not works:
            return
        accounts = await self._ledger.accounts([work.pending[0].request.username for work in works])
        for work in works:
            work.account = accounts[work.pending[0].request.username]

    def _report(self, batch: Sequence[Read], works: dict[str, _Work], found: set[str]) -> None:
        now = self._now()
        entries = [works[read.logged.request.username].entries[read.logged.request_id] for read in batch]
        for read, entry in zip(batch, entries, strict=True):
            if entry.request_id in found:
                REPLAYED.labels("redelivered").inc()
                continue
            SETTLE_S.observe(max(0.0, (now - read.logged.at).total_seconds()))
            SETTLED.labels(entry.kind, "refused" if entry.refusal else "settled").inc()
            if entry.refusal:
                REFUSED.labels(entry.kind, entry.refusal.code).inc()
        singly = len(batch) <= self._log_lines_max
        for entry in entries:
            if singly or entry.refusal:
                _log_entry(entry)
        if not singly:
            log.info("batch settled", requests=len(batch), accounts=len(works), request_ids=[entry.trace_id for entry in entries[:LOGGED_IDS_MAX]])


def decode(record: Inbound) -> Read:
    """A record of the requests topic as a request. Unreadable where it is none, or where key, subject and payload name different users."""
    envelope = record.envelope
    try:
        request = decode_request(envelope.type, envelope.value)
    except UnreadableRequest as error:
        raise Unreadable(str(error)) from None
    if not _is_request_id(envelope.id):
        raise Unreadable("ce_id is not a UUID in its usual form")
    if request.username != envelope.subject:
        raise Unreadable("/username differs from ce_subject")
    logged = LoggedRequest(
        request=request,
        request_id=envelope.id,
        at=record.at,
        partition=record.partition,
        offset=record.offset,
        correlation_id=envelope.correlation_id,
        trace_id=envelope.trace_id,
    )
    return Read(logged, envelope.reply_to, envelope.traceparent, envelope.tracestate)


def _is_request_id(text: str) -> bool:
    """Whether it may name an entry: anything else could be too long for a key of the store, and would stop the partition for ever."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _by_account(requests: Sequence[LoggedRequest]) -> dict[str, _Work]:
    works: dict[str, _Work] = {}
    for logged in requests:
        works.setdefault(logged.request.username, _Work([])).pending.append(logged)
    return works


def _known(works: dict[str, _Work]) -> int:
    return sum(len(work.entries) + len(work.orders) for work in works.values())


def _decide(work: _Work, fold: tuple[LoggedRequest, ...]) -> Decided:
    account = work.account
    if account is None:
        raise RuntimeError("decided before it was loaded")
    return decide_all(account, fold, work.orders)


def _write(work: _Work, decided: Decided) -> Write:
    loaded = work.account.version if work.account else 0
    return Write(loaded, decided.account, decided.entries, decided.orders)


def _learn(work: _Work, decided: Decided, outcome: Outcome) -> set[str]:
    """Take in what the store said; returns the ids of requests that turned out to be decided already."""
    match outcome:
        case Stored():
            work.account = decided.account
            work.entries.update((entry.request_id, entry) for entry in decided.entries)
            work.orders.update((order.order_id, order) for order in decided.orders)
            return set()
        case Refused(moved, entries, orders):
            RETRIES.labels("moved" if moved else "stored-before").inc()
            if moved:
                work.account = None
            work.entries.update(entries)
            work.orders.update(orders)
            return set(entries)
        case Unknown(cause):
            RETRIES.labels(cause).inc()
            if cause != NEIGHBOUR:
                work.account = None
            return set()


def _result(entry: Entry, read: Read) -> Envelope:
    result = result_of(entry)
    return Envelope(
        id=result_id(entry.request_id),
        source=SOURCE,
        type=result_type(result),
        subject=entry.username,
        time=entry.at,
        value=encode_result(result),
        correlation_id=entry.correlation_id,
        trace_id=entry.trace_id,
        causation_id=entry.request_id,
        sequence=entry.version,
        traceparent=read.traceparent,
        tracestate=read.tracestate,
        reply_to=read.reply_to,
    )


def _log_entry(entry: Entry) -> None:
    log.info(
        "request refused" if entry.refusal else "request settled",
        request_id=entry.trace_id,
        username=entry.username,
        command=entry.request_id,
        kind=entry.kind,
        version=entry.version,
        partition=entry.partition,
        offset=entry.offset,
        **({"code": entry.refusal.code} if entry.refusal else {}),
    )
