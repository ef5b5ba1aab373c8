"""What settlement takes from a request's record, and the records that it makes."""

from dataclasses import dataclass
from typing import Final

from events.envelope import Envelope
from schemas.ledger import Entry
from schemas.requests import DrainRequested, LoggedRequest, encode_request, next_drain_id, request_type
from schemas.results import result_id, result_type, result_value

SOURCE: Final = "urn:cnop:settlement"


@dataclass(frozen=True, slots=True)
class Read:
    """A request with what its record carries for the way back. `value` is the record's, as it came; None where there was no record."""

    logged: LoggedRequest
    reply_to: str | None
    traceparent: str | None
    tracestate: str | None
    value: bytes | None = None


def result_record(entry: Entry, read: Read) -> Envelope:
    """The result of an entry, on its way to whoever asked with that record."""
    return Envelope(
        id=result_id(entry.request_id),
        source=SOURCE,
        type=result_type(entry),
        subject=entry.username,
        time=entry.at,
        value=result_value(entry),
        correlation_id=entry.correlation_id,
        trace_id=entry.trace_id,
        causation_id=entry.request_id,
        sequence=entry.version,
        traceparent=read.traceparent,
        tracestate=read.tracestate,
        reply_to=read.reply_to,
    )


def next_drain(entry: Entry, read: Read) -> Envelope:
    """The request for the step of draining that follows the one which left this entry: the same at every emission."""
    request = DrainRequested(entry.username)
    return Envelope(
        id=next_drain_id(entry.request_id),
        source=SOURCE,
        type=request_type(request),
        subject=entry.username,
        time=entry.at,
        value=encode_request(request),
        correlation_id=entry.correlation_id,
        trace_id=entry.trace_id,
        causation_id=entry.request_id,
        traceparent=read.traceparent,
        tracestate=read.tracestate,
    )


def where(error: BaseException) -> str:
    """The place in the code that raised, for a log that must not have the error's text: it may hold a user's data."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
