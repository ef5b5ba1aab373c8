"""What settlement takes from a request's record, and the records that it makes."""

import re
from dataclasses import dataclass
from typing import Final

from events.envelope import Envelope, Inbound, Unreadable
from schemas.ledger import Entry
from schemas.requests import DrainRequested, LoggedRequest, UnreadableRequest, decode_request, encode_request, next_drain_id, request_type
from schemas.results import result_id, result_type, result_value

SOURCE: Final = "urn:cnop:settlement"
_REQUEST_ID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Read:
    """A request with what its record carries for the way back. `value` is the record's, as it came; None where there was no record."""

    logged: LoggedRequest
    reply_to: str | None
    traceparent: str | None
    tracestate: str | None
    value: bytes | None = None


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
    return Read(logged, envelope.reply_to, envelope.traceparent, envelope.tracestate, envelope.value)


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


def _is_request_id(text: str) -> bool:
    """Whether it may name an entry: anything else could be too long for a key of the store, and would stop the partition for ever."""
    return _REQUEST_ID.fullmatch(text) is not None
