"""Parking and draining: what settlement does with an account whose work fails, so that all the others go on.

An account parks from its first failing request on; one from inside that fails is dropped instead, since it is asked again. The account item gets
status, version + 1 and the facts of the parking; an entry of its own takes that version, so that results have no gap. That request and every later one
of the account is put as an item that waits, keyed by its place in the log, under the condition that the account is parked at the version known here and
that the request has no entry. A request with an entry never waits: it was decided.

A `DrainRequested` in the account's own log lets the owner decide what waits, in the order of the log and at most `DRAIN_MAX` of it, in one store
transaction: account, entries, orders, and the drain's own entry, which names the requests whose results its record tells. The account's
`drained` mark says up to where; the step that takes the last makes the account active again. While more waits, the next `DrainRequested` goes
out in the Kafka transaction that tells the results. A request that fails again stops the draining before it.

Who tells a result: a request that never waited, its own record; one that waited, the record of the drain that decided it (the entry's
`drained_by`), and no other; a parking, the record that caused it. So whatever is delivered again, each record tells the same as before. Where
the process may die:

* before the parking is stored: nothing happened; the request fails and parks again. A try that arrives late meets the version condition.
* parked, nothing put yet: the record comes again, the account is found parked from this place on, its entry is told and the request put.
* put, offsets not committed: put again, the same item. If a drain of the same batch has decided it meanwhile, its entry is in the way: nothing
  is told of it but, by its record's place, the parking (`Work.lookups`).
* a drain step stored, not told: the drain comes again, finds its entry from this place, and tells exactly what that names, next drain included.
* told, waiting items not removed: they lie before the mark, or the account is active and they lie before its next parking. Nobody decides
  them again; the next drain of the account removes them, also one that finds nothing to do.
* a drain is delivered late, after a later parking: it lies before that parking in the log, and leaves it alone.
* two owners at once: every write has the version condition, and the one without the partition cannot tell anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

import structlog
from prometheus_client import Counter

from events.consumer import RETRIES
from events.envelope import Envelope
from infra.ledger import Failed, Outcome, Refused, Stored, Unknown
from infra.parked import ParkingStore, fitting
from processors.domain.decide import Decided, decide_until
from processors.domain.parking import drained, draining_entry, parking_entry
from processors.records import Read, next_drain, result_record, where
from processors.work import DRAIN_MAX, FAILURES_MAX, Work, as_write
from schemas.ledger import Account, AccountStatus, Entry, ParkCause, Parked, Waiting
from schemas.ledger import Parking as Facts
from schemas.requests import ASKED_AGAIN, INTERNAL, DrainRequested, LoggedRequest, UnreadableRequest, decode_request, encode_request, parking_id, request_type

log = structlog.get_logger()

PARKED_A_MINUTE_MAX: Final = 10
"""More than so many accounts parked within a minute, by all processes together, are not these accounts' fault."""
MINUTE: Final = timedelta(minutes=1)
DRAIN: Final = DrainRequested.__name__

PARKED: Final = Counter("cnop_accounts_parked_total", "Accounts parked, by cause", ["cause"])
UNPARKED: Final = Counter("cnop_accounts_unparked_total", "Accounts drained to the end and active again")
WAITING: Final = Counter("cnop_requests_parked_total", "Requests put to wait in parked accounts; one that was delivered again counts again")
FAILED: Final = Counter("cnop_inside_failed_total", "Requests from inside that failed and were dropped, by kind", ["kind"])
DRAINED: Final = Counter("cnop_requests_drained_total", "Requests decided after they had waited in a parked account")


class TooManyParked(RuntimeError):
    """Accounts fail one after the other: a bad release, not bad accounts. The process ends, with its offsets unmoved."""


class NotParked(RuntimeError):
    """The store does not take a parking, or what should wait. Nothing is left but to end the process."""


class Parking:
    """What is done with accounts whose next step is not an ordinary one. `now` counts parkings by the minute."""

    def __init__(self, store: ParkingStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._passed_over: list[datetime] = []

    async def step(self, works: Sequence[Work], batch: Sequence[Read]) -> None:
        """Bring each of these accounts one step forward. DynamoUnavailable, TooManyParked, NotParked."""
        reads: dict[str, dict[int, Read]] = {work.username: {} for work in works}
        for read in batch:
            if read.logged.request.username in reads:
                reads[read.logged.request.username][read.logged.offset] = read
        for work in works:
            await self._step(work, reads[work.username])

    async def empty(self, emptied: Mapping[str, tuple[int, int]]) -> None:
        """Remove the items of requests that waited, up to an offset of a partition for each account."""
        for username, (partition, up_to) in emptied.items():
            await self._store.remove_waiting(username, partition, up_to=up_to)

    async def _step(self, work: Work, reads: Mapping[int, Read]) -> None:
        head = work.account or work.unreadable
        if work.lookups:
            await self._tell_parkings(work, reads)
        elif head is None:
            return
        elif isinstance(work.pending[0].request, DrainRequested):
            await self._drain(work, reads[work.pending[0].offset])
        elif head.parked:
            await self._let_wait(work, head.parked, reads)
        elif work.failures < FAILURES_MAX:
            work.forget()
        else:
            await self._park(work, reads[work.pending[0].offset])

    # Parking

    async def _park(self, work: Work, read: Read) -> None:
        """Park the account from this request on, unless it was decided already: what was decided is told and never waits."""
        logged, head = read.logged, work.account or work.unreadable
        if head is None:
            return
        entry = await self._store.entry(work.username, logged.request_id)
        if entry:
            work.learn({entry.request_id: entry})
            work.failures = 0
            return
        if isinstance(logged.request, INTERNAL):
            self._pass_over(work, logged)
            return
        await self._hold_the_bound(work.cause)
        parked = Parked(logged.partition, logged.offset, max(logged.at, head.at), work.cause)
        entry = parking_entry(work.username, head.version, head.at, logged, work.cause)
        outcome = await self._store.park(work.username, head.version, parked, entry, listed_at=self._now())
        if self._is_stored(work, outcome):
            work.became(parked, entry.version)
            work.told[logged.offset] = [result_record(entry, read)]
            PARKED.labels(work.cause).inc()
            log.error(
                "account parked",
                username=work.username,
                cause=work.cause,
                partition=logged.partition,
                offset=logged.offset,
                remedy=f"see docs/runbooks/parked-account.md; then: cnop parked drain {work.username}",
            )

    def _pass_over(self, work: Work, logged: LoggedRequest) -> None:
        """A request from inside that fails parks nobody: it is dropped, and asked again as long as its order is due.

        It may leave nothing, so a parking could be the one trace of it: an owner that has lost the partition would leave that unseen by the next, which
        found nothing to do and went on.
        """
        self._passed_over = [at for at in self._passed_over if self._now() - at < MINUTE] + [self._now()]
        if len(self._passed_over) > PARKED_A_MINUTE_MAX:
            raise TooManyParked(f"{len(self._passed_over)} requests from inside failed within a minute ({work.cause}): is the release good?")
        FAILED.labels(type(logged.request).__name__).inc()
        log.error("a request from inside failed", username=work.username, cause=work.cause, partition=logged.partition, offset=logged.offset)
        work.failures = 0
        work.drop(logged)

    async def _hold_the_bound(self, cause: ParkCause) -> None:
        if await self._store.parked_since(self._now() - MINUTE) >= PARKED_A_MINUTE_MAX:
            raise TooManyParked(f"{PARKED_A_MINUTE_MAX} accounts were parked within a minute, and another one fails ({cause}): is the release good?")

    # Waiting

    async def _let_wait(self, work: Work, parked: Parked, reads: Mapping[int, Read]) -> None:
        """Put the next requests to wait; the record that caused the parking tells it, also where it comes again."""
        head = work.account or work.unreadable
        if head is None:
            return
        run = await self._without_repeated(work, _until_drain(work.pending))
        if not run:
            return
        if parked.offset in {logged.offset for logged in run} and parked.offset not in work.told:
            await self._tell_parking(work, parked.partition, parked.offset, reads)
        waiting = fitting(_waiting(reads[logged.offset]) for logged in run)
        if self._is_stored(work, await self._store.put_waiting(work.username, head.version, waiting)):
            put = {one.offset for one in waiting}
            work.pending = [logged for logged in work.pending if logged.offset not in put]
            WAITING.inc(len(put))

    async def _without_repeated(self, work: Work, run: Sequence[LoggedRequest]) -> list[LoggedRequest]:
        """Of what should wait, that which nobody asks again: what is asked again for as long as it is true would gather while the account is parked.

        What was decided already is told, and not dropped.
        """
        repeated = [logged for logged in run if isinstance(logged.request, ASKED_AGAIN)]
        for logged in repeated:
            entry = await self._store.entry(work.username, logged.request_id)
            if entry:
                work.learn({entry.request_id: entry})
            else:
                work.drop(logged)
        return [logged for logged in run if logged not in repeated]

    async def _tell_parkings(self, work: Work, reads: Mapping[int, Read]) -> None:
        for entry in work.lookups:
            if entry.offset in reads and entry.offset not in work.told:
                await self._tell_parking(work, entry.partition, entry.offset, reads)
        work.lookups = []

    async def _tell_parking(self, work: Work, partition: int, offset: int, reads: Mapping[int, Read]) -> None:
        entry = await self._store.entry(work.username, parking_id(work.username, partition, offset))
        if entry:
            work.told[offset] = [result_record(entry, reads[offset])]

    # Draining

    async def _drain(self, work: Work, read: Read) -> None:
        """One step of draining, or its results once more where it was stored before."""
        drain = read.logged
        entry = await self._store.entry(work.username, drain.request_id)
        head = work.account or work.unreadable
        if entry:
            if (entry.partition, entry.offset) == (drain.partition, drain.offset):
                await self._tell_again(work, read, entry)
            work.drop(drain)
        elif head is None:
            return
        elif head.parked is None or head.parked.offset > drain.offset:
            if head.parked is None:
                work.emptied = drain.partition, drain.offset
            work.drop(drain)
        elif work.account is None:
            await self._stop(work, read, head.parked, "undecodable")
        else:
            await self._decide(work, work.account, head.parked, read)

    async def _decide(self, work: Work, account: Account, parked: Parked, read: Read) -> None:
        waiting = await self._store.waiting(work.username, parked.partition, after=parked.before, limit=work.drain_max + 1)
        step = await self._decided(account, waiting[: work.drain_max], work)
        if step.cause and not step.reads:
            await self._stop(work, read, parked, step.cause)
            return
        goes_on = len(waiting) > work.drain_max and step.cause is None
        status: AccountStatus = "parked" if goes_on or step.cause else "active"
        told = step.told(work.entries)
        last = step.reads[-1].logged.offset if step.reads else parked.before
        done, entry = drained(step.decided, parked, read.logged, Facts(status, step.cause, tuple(one.logged.request_id for one in told), goes_on), last)
        outcome = await self._store.drain(as_write(work, done, entry), unparks=status == "active")
        if isinstance(outcome, Failed):
            await self._take_less(work, read, parked, len(step.decided.entries))
        elif self._is_stored(work, outcome):
            work.account = done.account
            work.orders.update((order.order_id, order) for order in done.orders)
            work.entries.update((entry.request_id, entry) for entry in done.entries)
            work.drained += done.entries
            self._tell(work, read, entry, [result_record(work.entries[one.logged.request_id], one) for one in told])
            work.emptied = parked.partition, last
            work.drop(read.logged)
            DRAINED.inc(len(done.entries))
            UNPARKED.inc(status == "active")
            log.info("account drained", username=work.username, requests=len(done.entries), status=status, cause=step.cause, goes_on=goes_on)

    async def _decided(self, account: Account, waiting: Sequence[Waiting], work: Work) -> "_Step":
        """Decide what waited, with the orders that it names."""
        reads, cause = _reads(account.username, waiting)
        keys = work.orders_sought(read.logged for read in reads)
        if keys:
            found = (await self._store.named({work.username: keys}))[work.username]
            if found.unreadable:
                return _Step((), Decided(account, (), ()), "undecodable")
            work.sought(keys, found)
        return _decided(account, reads, cause, work)

    async def _take_less(self, work: Work, read: Read, parked: Parked, entries: int) -> None:
        """The store does not take the step: try half of it, or stop before the one request that is left."""
        RETRIES.labels("store-refused").inc()
        if entries > 1:
            work.drain_max = entries // 2
        else:
            await self._stop(work, read, parked, "store-refused")

    async def _stop(self, work: Work, read: Read, parked: Parked, cause: ParkCause) -> None:
        """The first request that waits fails again: the account stays parked as it is, and an entry says why."""
        head = work.account or work.unreadable
        if head is None:
            return
        entry = draining_entry(work.username, head.version, head.at, read.logged, Facts("parked", cause))
        facts = replace(parked, cause=cause)
        if self._is_stored(work, await self._store.park(work.username, head.version, facts, entry, listed_at=None)):
            work.became(facts, entry.version)
            self._tell(work, read, entry, [])
            work.drop(read.logged)
            log.error("draining stopped", username=work.username, cause=cause, partition=parked.partition, after=parked.before)

    async def _tell_again(self, work: Work, read: Read, entry: Entry) -> None:
        """What a stored step tells, from its entry and those that it names."""
        facts = entry.parking
        if facts is None:
            return
        entries = [await self._store.entry(work.username, request_id) for request_id in facts.drained]
        found = [one for one in entries if one]
        offsets = [one.offset for one in found]
        waiting = await self._store.waiting(work.username, entry.partition, after=min(offsets) - 1, limit=DRAIN_MAX) if offsets else []
        by_offset = {one.offset: one for one in waiting}
        self._tell(work, read, entry, [result_record(one, _way_back(read, by_offset.get(one.offset))) for one in found])
        if offsets:
            work.emptied = entry.partition, max(offsets)

    def _tell(self, work: Work, read: Read, entry: Entry, results: Sequence[Envelope]) -> None:
        work.told[read.logged.offset] = [*results, result_record(entry, read)]
        if entry.parking and entry.parking.goes_on:
            work.asked.append(next_drain(entry, read))

    def _is_stored(self, work: Work, outcome: Outcome) -> bool:
        """Whether a write of this room is stored; where it is not, the account is loaded again before the next try."""
        match outcome:
            case Stored():
                work.steps += 1
                work.failures = 0
                return True
            case Failed(cause):
                raise NotParked(f"{work.username}: the store does not take it: {cause}")
            case Refused(moved, entries, orders):
                RETRIES.labels("moved" if moved else "stored-before").inc()
                work.learn({request_id: entry for request_id, entry in entries.items() if entry.kind != DRAIN})
                work.orders.update(orders)
                if moved:
                    work.forget()
            case Unknown(cause):
                RETRIES.labels(cause).inc()
                work.forget()
        return False


@dataclass(frozen=True, slots=True)
class _Step:
    """Requests that waited, up to the first that fails again: `cause` says why that one does. `decided` are those that have no entry yet."""

    reads: Sequence[Read]
    decided: Decided
    cause: ParkCause | None

    def told(self, known: Mapping[str, Entry]) -> list[Read]:
        """Those whose results the step tells: not the ones that repeat an earlier record."""
        entries = {**known, **{entry.request_id: entry for entry in self.decided.entries}}
        places = {(entry.request_id, entry.partition, entry.offset) for entry in entries.values()}
        return [read for read in self.reads if (read.logged.request_id, read.logged.partition, read.logged.offset) in places]


def _decided(account: Account, reads: list[Read], cause: ParkCause | None, work: Work) -> _Step:
    """Decide what waited, but for what has an entry. Of a request from inside that finds nothing to do, nothing is left and nothing told."""
    fold: dict[str, LoggedRequest] = {}
    for read in reads:
        if read.logged.request_id not in work.entries:
            fold.setdefault(read.logged.request_id, read.logged)
    requests = tuple(fold.values())
    decided, error = decide_until(replace(account, status="active", parked=None), requests, work.orders)
    if error:
        cause = "decision"
        failing = requests[len(decided.entries) + len(decided.passed)].offset
        reads = [read for read in reads if read.logged.offset < failing]
        log.warning("a request that waited fails again", username=account.username, offset=failing, error=type(error).__name__, where=where(error))
    return _Step(reads, decided, cause)


def _reads(username: str, waiting: Sequence[Waiting]) -> tuple[list[Read], ParkCause | None]:
    """Waiting requests as they were read, up to the first that cannot be read any more."""
    reads: list[Read] = []
    for one in waiting:
        try:
            request = decode_request(one.type, one.value.encode())
        except UnreadableRequest:
            return reads, "undecodable"
        if request.username != username:
            return reads, "undecodable"
        logged = LoggedRequest(request, one.request_id, one.at, one.partition, one.offset, one.correlation_id, one.trace_id)
        reads.append(Read(logged, one.reply_to, one.traceparent, one.tracestate, one.value.encode()))
    return reads, None


def _way_back(drain: Read, waiting: Waiting | None) -> Read:
    """Who asked for a request that waited, as far as that is still known."""
    if waiting is None:
        return Read(drain.logged, None, None, None)
    return Read(drain.logged, waiting.reply_to, waiting.traceparent, waiting.tracestate)


def _until_drain(pending: Sequence[LoggedRequest]) -> list[LoggedRequest]:
    return list(takewhile(lambda logged: not isinstance(logged.request, DrainRequested), pending))


def _waiting(read: Read) -> Waiting:
    logged = read.logged
    return Waiting(
        partition=logged.partition,
        offset=logged.offset,
        at=logged.at,
        request_id=logged.request_id,
        type=request_type(logged.request),
        value=(read.value or encode_request(logged.request)).decode(),
        correlation_id=logged.correlation_id,
        trace_id=logged.trace_id,
        reply_to=read.reply_to,
        traceparent=read.traceparent,
        tracestate=read.tracestate,
    )
