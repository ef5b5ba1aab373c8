"""The settlement shell: load, decide, store, tell, in a straight line. No branch here is about money.

It writes optimistically. What is in the way comes back with the refusal: an entry of the same request, an order of the same id, or a version
that moved. Then the account is decided again with what is known now, until everything of the batch is stored or found stored.

An exception in one account's work is tried again and then parks that account, from the request on that failed: see `processors.parking`. An
exception anywhere else ends the process.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Final

import structlog
from prometheus_client import Counter, Histogram

from events.consumer import RETRIES, Handled
from events.envelope import Envelope
from events.tracing import batch_span
from infra.dynamo import DynamoUnavailable
from infra.parked import ParkingStore
from processors.domain.decide import Decided
from processors.known import KnownAccounts
from processors.parking import Parking
from processors.records import SOURCE, Read, decode, result_record
from processors.work import FAILURES_MAX, Work, as_write, decide_ahead, decide_next, learn
from schemas.ledger import Account, Entry

log = structlog.get_logger()

BATCH_RECORDS_MAX: Final = 4_000
"""A backlog is taken in large batches: the requests of an account in one batch share its write."""
ATTEMPTS_MAX: Final = 60
"""Tries without progress before the process ends. With the pauses between them about a minute and a half: well under the poll interval."""
GROUP_REQUESTS: Final = 100
GROUPS_AT_ONCE: Final = 8
"""Groups of so many requests, and how many of them are with the store: it is kept busy while the next ones are decided and written down."""
TURNS_TO_SEND: Final = 4
"""Turns of the event loop after which what was given to the store is on its way there."""
LOGGED_IDS_MAX: Final = 50

SETTLED: Final = Counter("cnop_settled_total", "Requests decided and stored, by kind and outcome", ["kind", "outcome"])
REFUSED: Final = Counter("cnop_refused_total", "Requests refused by the rules, by code", ["kind", "code"])
REPLAYED: Final = Counter("cnop_replayed_total", "Requests found already decided: redelivered (result sent again) or repeated (nothing sent)", ["cause"])
SETTLE_S: Final = Histogram(
    "cnop_settle_seconds", "Append to the requests topic until stored", buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
)

__all__ = ["BATCH_RECORDS_MAX", "SOURCE", "Read", "Settlement", "Stalled", "decode"]


class Stalled(RuntimeError):
    """No progress within the bound: the process ends, with its offsets unmoved, and starts anew."""


class Settlement:
    """The handler of the settlement loop.

    `pause(attempt)` waits between tries; `now` is for measurements and for the bound on parking, never for a decision. Batches of different
    partitions may be in hand at once: no account is in two of them.
    """

    def __init__(self, ledger: ParkingStore, pause: Callable[[int], Awaitable[None]], now: Callable[[], datetime], *, log_lines_max: int) -> None:
        self._ledger = ledger
        self._known = KnownAccounts()
        self._parking = Parking(ledger, now)
        self._pause = pause
        self._now = now
        self._log_lines_max = log_lines_max
        self._groups = asyncio.Semaphore(GROUPS_AT_ONCE)

    async def __call__(self, batch: Sequence[Read]) -> Handled:
        """Settle a batch of one partition in log order.

        When this returns, every request has its entry in the store, or waits there in a parked account; the results are in the order of the
        batch. A request that was redelivered gives its stored result once more, since it may never have left; one that repeats an earlier
        record gives none. Raises Stalled, TooManyParked, and what is no account's own fault.
        """
        works = self._works(batch)
        with batch_span("settle", [(read.traceparent, read.tracestate) for read in batch]):
            await self._settle(works, batch)
        results: list[Envelope] = []
        for read in batch:
            work = works[read.logged.request.username]
            results += work.told.get(read.logged.offset, ())
            entry = work.entries.get(read.logged.request_id)
            if entry is None or entry.drained_by:
                continue  # it waits, or the draining that decided it tells its result
            if (entry.partition, entry.offset) == (read.logged.partition, read.logged.offset):
                results.append(result_record(entry, read))
            else:
                REPLAYED.labels("repeated").inc()
        self._report(batch, works)
        for work in works.values():
            if work.account and not work.account.parked:  # a parked one may be mended by hand meanwhile: it is read each time
                self._known.keep(batch[0].logged.partition, work.account)
        return Handled(results, [request for work in works.values() for request in work.asked], self._after(works))

    def closed(self, partition: int) -> None:
        """The partition is not served here any more."""
        self._known.closed(partition)

    def _works(self, batch: Sequence[Read]) -> dict[str, Work]:
        works: dict[str, Work] = {}
        for read in batch:
            username = read.logged.request.username
            work = works.get(username)
            if work is None:
                work = works[username] = Work(username, self._known.take(username))
            work.pending.append(read.logged)
        return works

    async def _settle(self, works: dict[str, Work], batch: Sequence[Read]) -> None:
        """Bring every request's entry into `works`, or see to it that it waits."""
        attempt = 0
        while unsettled := [work for work in works.values() if work.goes_on()]:
            before = _progress(unsettled)
            try:
                await self._load([work for work in unsettled if work.account is None and work.unreadable is None])
                await self._look({work.username: work for work in unsettled})
                plain, special = _sorted([work for work in unsettled if work.goes_on()])
                await self._write(plain)
                if special:
                    await self._parking.step(special, batch)
            except DynamoUnavailable as error:
                RETRIES.labels("store-away").inc()
                log.warning("store away", attempt=attempt, error=str(error))
                for work in unsettled:
                    work.forget()
            attempt = 0 if _progress(unsettled) > before else attempt + 1
            if attempt > ATTEMPTS_MAX:
                raise Stalled(f"no request of {len(unsettled)} accounts could be stored in {ATTEMPTS_MAX} tries")
            if attempt or any(0 < work.failures < FAILURES_MAX for work in unsettled):
                await self._pause(max(1, attempt))

    async def _load(self, works: Sequence[Work]) -> None:
        """Read the accounts that are not known, or not surely."""
        if not works:
            return
        accounts = await self._ledger.load([work.username for work in works])
        for work in works:
            account = accounts[work.username]
            if isinstance(account, Account):
                work.account = account
                continue
            if not account.parked and work.failures < FAILURES_MAX:
                work.fail("undecodable", account.reason)
            work.unreadable = account

    async def _look(self, works: Mapping[str, Work]) -> None:
        """Read the orders that requests name, and the entries of requests that found nothing to do: see `Work.passed`."""
        wanted = {username: keys for username, work in works.items() if (keys := work.wanted())}
        if wanted:
            for username, found in (await self._ledger.named(wanted)).items():
                works[username].sought(wanted[username], found)

    async def _write(self, works: Sequence[Work]) -> None:
        """Decide and store the next requests of accounts, as many as go into one write of each. While the store has one group, the next is decided."""
        told = await asyncio.gather(*(self._write_group(group) for group in _groups(works)), return_exceptions=True)
        for error in told:
            if error is not None:
                raise error

    async def _write_group(self, works: Sequence[Work]) -> None:
        async with self._groups:
            await self._decide_and_store(works)

    async def _decide_and_store(self, works: Sequence[Work]) -> None:
        """Decide and store the accounts' requests, fold by fold, for as long as the store takes them.

        While it has one fold of an account, the next is decided as if that one were stored, and forgotten if it is not.
        """
        decided = [(work, done) for work in works if (done := decide_next(work))]
        while decided:
            writes = [as_write(work, done) for work, done in decided]
            outcomes, ahead = await asyncio.gather(self._ledger.write(writes), _ahead(decided))
            for (work, done), outcome in zip(decided, outcomes, strict=True):
                learn(work, done, outcome)
            decided = [(work, next_done) for (work, done), next_done in zip(decided, ahead, strict=True) if next_done and work.account is done.account]

    def _after(self, works: dict[str, Work]) -> Callable[[], Awaitable[None]] | None:
        emptied = {username: work.emptied for username, work in works.items() if work.emptied}
        return partial(self._parking.empty, emptied) if emptied else None

    def _report(self, batch: Sequence[Read], works: dict[str, Work]) -> None:
        now = self._now()
        entries = []
        for read, entry, work in _outcomes(batch, works):
            entries.append(entry)
            if entry.request_id in work.found:
                REPLAYED.labels("redelivered").inc()
                continue
            SETTLE_S.observe(max(0.0, (now - read.logged.at).total_seconds()))
            _count(entry)
        drained = [entry for work in works.values() for entry in work.drained]
        for entry in drained:
            _count(entry)
        singly = len(batch) <= self._log_lines_max
        for entry in (*entries, *drained):
            if singly or entry.refusal:
                _log_entry(entry)
        if not singly:
            log.info("batch settled", requests=len(batch), accounts=len(works), request_ids=[entry.trace_id for entry in entries[:LOGGED_IDS_MAX]])


def _sorted(works: Sequence[Work]) -> tuple[list[Work], list[Work]]:
    """Those whose next requests are decided and stored, and the others."""
    plain: list[Work] = []
    special: list[Work] = []
    for work in works:
        (plain if work.is_plain() else special).append(work)
    return plain, special


def _groups(works: Sequence[Work]) -> Iterator[list[Work]]:
    """Accounts in groups of `GROUP_REQUESTS` or a little more."""
    group: list[Work] = []
    requests = 0
    for work in works:
        group.append(work)
        requests += min(len(work.pending), work.fold_max)
        if requests >= GROUP_REQUESTS:
            yield group
            group, requests = [], 0
    if group:
        yield group


def _progress(works: Sequence[Work]) -> int:
    return sum(len(work.entries) + len(work.orders) + work.steps for work in works)


async def _ahead(decided: Sequence[tuple[Work, Decided]]) -> list[Decided | None]:
    """What the accounts' next requests give if these are stored. What raises is left to the next try, which knows for sure."""
    for _ in range(TURNS_TO_SEND):
        await asyncio.sleep(0)
    return [decide_ahead(work, done) for work, done in decided]


def _outcomes(batch: Sequence[Read], works: dict[str, Work]) -> Iterator[tuple[Read, Entry, Work]]:
    """The requests of a batch that are decided, but for those that had waited."""
    for read in batch:
        work = works[read.logged.request.username]
        entry = work.entries.get(read.logged.request_id)
        if entry and not entry.drained_by:
            yield read, entry, work


def _count(entry: Entry) -> None:
    SETTLED.labels(entry.kind, "refused" if entry.refusal else "settled").inc()
    if entry.refusal:
        REFUSED.labels(entry.kind, entry.refusal.code).inc()


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
