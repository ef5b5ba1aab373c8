"""What happened: the values of records on the results topic, each made from a journal entry and from nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from pydantic import TypeAdapter, ValidationError
from uuid_utils import UUID, uuid5

from schemas.instants import Instant
from schemas.ledger import Entry, Lines, Parking, Posting, Refusal

RESULT_NAMESPACE: Final = UUID("0c0d5c9e-58f0-5a1c-8d6a-7f7b2f2a9e11")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one request.

    `version` is the account's version after it: the results of an account have every version exactly once. `lines` are the lines
    that it touched with their values after it, never the whole account. `refusal` is set, and `postings` empty, where it was refused.
    `parking` is set where the account was parked or drained: then `lines` touch nothing, and its counters are not to be taken.
    """

    username: str
    request_id: str
    version: int
    at: Instant
    kind: str
    payload: Mapping[str, str]
    lines: Lines
    postings: tuple[Posting, ...] = ()
    refusal: Refusal | None = None
    parking: Parking | None = None


PARKED: Final = "AccountParked"
"""The kind of the entry and the name of the result of a parking, which nobody asked for."""
_SETTLED: Final = {
    "Deposit": "DepositSettled",
    "Withdrawal": "WithdrawalSettled",
    "FenceRequested": "CommandFenced",
    PARKED: PARKED,
    "DrainRequested": "AccountDrained",
}
_REFUSED: Final = {
    "Deposit": "DepositRejected",
    "Withdrawal": "WithdrawalRejected",
    "OrderPlaced": "OrderRejected",
    "OrderCancelRequested": "OrderCancelRejected",
}
_BY_ORDER_STATUS: Final = {"open": "OrderAccepted", "completed": "OrderFilled", "cancelled": "OrderCancelled", "expired": "OrderExpired"}

RESULT_TYPES: Final = tuple(f"cnop.account.{name}.v1" for name in (*_SETTLED.values(), *_REFUSED.values(), *_BY_ORDER_STATUS.values()))


class UnreadableResult(ValueError):
    """A record's value is not a result."""


@cache
def result_adapter() -> TypeAdapter[Result]:
    """Reader and writer of results."""
    return TypeAdapter(Result)


def result_of(entry: Entry) -> Result:
    """The one result of an entry; the same entry gives the same result for ever, to the byte.

    Maps are put in order, since the store gives them back in an order of its own.
    """
    lines = entry.lines
    return Result(
        username=entry.username,
        request_id=entry.request_id,
        version=entry.version,
        at=entry.at,
        kind=entry.kind,
        payload=dict(sorted(entry.payload.items())),
        lines=Lines(lines.counters, dict(sorted(lines.cash.items())), dict(sorted(lines.positions.items())), lines.order),
        postings=entry.postings,
        refusal=entry.refusal,
        parking=entry.parking,
    )


def result_value(entry: Entry) -> bytes:
    """The value of an entry's result record: made once, then kept with the entry, in memory as in the store.

    What is emitted again is therefore what was stored, to the byte, also where a later release would write it in another way.
    """
    return entry.value or _keep(entry, encode_result(result_of(entry)))


def entry_of(value: bytes, *, partition: int, offset: int, correlation_id: str, trace_id: str, drained_by: str | None = None) -> Entry:
    """The entry whose result this is the value of, with the place of its request and the ids that its headers carry. UnreadableResult."""
    result = decode_result(value)
    entry = Entry(
        request_id=result.request_id,
        username=result.username,
        version=result.version,
        at=result.at,
        kind=result.kind,
        payload=result.payload,
        partition=partition,
        offset=offset,
        correlation_id=correlation_id,
        trace_id=trace_id,
        lines=result.lines,
        postings=result.postings,
        refusal=result.refusal,
        parking=result.parking,
        drained_by=drained_by,
    )
    _keep(entry, value)
    return entry


def result_type(result: Entry | Result) -> str:
    """The CloudEvents type of a result."""
    if result.refusal:
        name = _REFUSED[result.kind]
    elif result.lines.order:
        name = _BY_ORDER_STATUS[result.lines.order.status]
    else:
        name = _SETTLED[result.kind]
    return f"cnop.account.{name}.v1"


def result_id(request_id: str) -> str:
    """The CloudEvents id of the result of a request: the same at every emission."""
    return str(uuid5(RESULT_NAMESPACE, request_id))


def encode_result(result: Result) -> bytes:
    """The JSON value of a result record."""
    return result_adapter().dump_json(result, exclude_none=True)


def decode_result(value: bytes | None) -> Result:
    """Read a result record's value. UnreadableResult names the field and the rule."""
    if value is None:
        raise UnreadableResult("no value")
    try:
        return result_adapter().validate_json(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableResult(f"/{'/'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def _keep(entry: Entry, value: bytes) -> bytes:
    # A copy of the entry does not take it along: `replace` leaves out what its constructor does not take.
    object.__setattr__(entry, "value", value)
    return value
