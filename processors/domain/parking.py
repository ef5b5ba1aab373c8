"""The rules of parking and draining: which entries they leave, and what becomes of the account.

Parking moves nothing. A step of draining decides requests that waited as any others, with the time of their own records; its own entry comes
after theirs and is never later than the last of them, so that the next step decides with the times of its records too.
"""

from dataclasses import replace
from datetime import datetime

from processors.domain.decide import Decided
from schemas.ledger import Counters, Entry, Lines, ParkCause, Parked, Parking
from schemas.requests import DrainRequested, LoggedRequest, canonical, parking_id
from schemas.results import PARKED


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


def drained(decided: Decided, parked: Parked, drain: LoggedRequest, parking: Parking, last: int) -> tuple[Decided, Entry]:
    """The step of draining that decided these, up to the waiting request at the offset `last`: what it gives, and its own entry."""
    account = decided.account
    entry = draining_entry(account.username, account.version, account.at, drain, parking)
    facts = replace(parked, drained=last, cause=parking.cause or parked.cause) if parking.status == "parked" else None
    after = replace(account, version=entry.version, status=parking.status, parked=facts)
    entries = tuple(replace(one, drained_by=drain.request_id) for one in decided.entries)
    return replace(decided, account=after, entries=entries), entry
