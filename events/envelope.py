"""CloudEvents 1.0 in Kafka binary mode: attributes are headers, the value is the JSON payload alone.

Source of the header names: CloudEvents Kafka Protocol Binding 1.0.2, section 3.2. `traceparent` and `tracestate` follow W3C Trace
Context; `x-request-id` and `cnop-reply-to` are ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schemas.instants import parse_rfc3339, rfc3339

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "application/json"
SEQUENCE_DIGITS: Final = 20
HEADER_VALUE_BYTES_MAX: Final = 1024
HEADERS_MAX: Final = 32
TRACE_HEADER_BYTES_MAX: Final = 512
"""Longer trace headers are left out when writing and when reading: they come from callers, and never decide what becomes of an event.
(W3C Trace Context section 3.3.1.5 asks to pass on 512 characters of `tracestate`.)"""
_TRACE_HEADERS: Final = ("traceparent", "tracestate")

_KNOWN: Final = frozenset(
    (
        *("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "ce_correlationid", "ce_causationid", "ce_sequence"),
        *(*_TRACE_HEADERS, "x-request-id", "cnop-reply-to"),
    )
)

Headers = Sequence[tuple[str, bytes]]


class Unreadable(ValueError):
    """A record can never be read, however often it is tried: it goes to the dead letters. The text says what is wrong with it."""


class UnreadableEnvelope(Unreadable):
    """The headers of a record are not those of a CloudEvent that this system knows; the text names the header and the rule."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """One event, ready to be published or just read.

    `subject` is the record's key: the username, or an asset id. `reply_to` names the channel on which a door waits for the outcome.
    """

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    value: bytes
    correlation_id: str
    trace_id: str
    causation_id: str | None = None
    sequence: int | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    reply_to: str | None = None

    @property
    def key(self) -> bytes:
        """The record's key."""
        return self.subject.encode()

    def headers(self) -> list[tuple[str, bytes]]:
        """The record's headers; attributes that are not set are left out."""
        fields = (
            ("ce_specversion", SPEC_VERSION),
            ("ce_id", self.id),
            ("ce_source", self.source),
            ("ce_type", self.type),
            ("ce_subject", self.subject),
            ("ce_time", rfc3339(self.time)),
            ("ce_dataschema", data_schema(self.type)),
            ("content-type", CONTENT_TYPE),
            ("ce_correlationid", self.correlation_id),
            ("ce_causationid", self.causation_id),
            ("ce_sequence", None if self.sequence is None else f"{self.sequence:0{SEQUENCE_DIGITS}d}"),
            ("traceparent", self.traceparent),
            ("tracestate", self.tracestate),
            ("x-request-id", self.trace_id),
            ("cnop-reply-to", self.reply_to),
        )
        return [(name, raw) for name, value in fields if value and not _too_long_a_trace(name, raw := value.encode())]


@dataclass(frozen=True, slots=True)
class Inbound:
    """A record that was read from a topic. `at` is its timestamp: the broker's append time on the requests topic."""

    topic: str
    partition: int
    offset: int
    at: datetime
    envelope: Envelope


def data_schema(ce_type: str) -> str:
    """Name of the JSON Schema of a type's payload: `urn:cnop:schema:` and the type."""
    return f"urn:cnop:schema:{ce_type}"


def read(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Envelope:
    """Read a record. Unknown headers are ignored; key and `ce_subject` must agree. UnreadableEnvelope says what is wrong."""
    fields = _texts(headers)
    for required in ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject"):
        if not fields.get(required):
            raise UnreadableEnvelope(f"header {required} is missing")
    if fields["ce_specversion"] != SPEC_VERSION:
        raise UnreadableEnvelope(f"ce_specversion is {fields['ce_specversion']!r}, not {SPEC_VERSION!r}")
    if key is None or key != fields["ce_subject"].encode():
        raise UnreadableEnvelope("key and ce_subject differ")
    if value is None:
        raise UnreadableEnvelope("no value")
    return Envelope(
        id=fields["ce_id"],
        source=fields["ce_source"],
        type=fields["ce_type"],
        subject=fields["ce_subject"],
        time=_time(fields.get("ce_time")),
        value=value,
        correlation_id=fields.get("ce_correlationid", fields["ce_id"]),
        trace_id=fields.get("x-request-id", fields["ce_id"]),
        causation_id=fields.get("ce_causationid"),
        sequence=_sequence(fields.get("ce_sequence")),
        traceparent=fields.get("traceparent"),
        tracestate=fields.get("tracestate"),
        reply_to=fields.get("cnop-reply-to"),
    )


def _texts(headers: Iterable[tuple[str, bytes]]) -> dict[str, str]:
    """The headers that this system knows. What others put beside them is not looked at; a trace header that cannot be used is as good as none."""
    fields: dict[str, str] = {}
    for count, (name, raw) in enumerate(headers):
        if count >= HEADERS_MAX:
            raise UnreadableEnvelope(f"more than {HEADERS_MAX} headers")
        if name not in _KNOWN or (raw is not None and _too_long_a_trace(name, raw)):
            continue
        if raw is None or len(raw) > HEADER_VALUE_BYTES_MAX:
            raise UnreadableEnvelope(f"header {name} has no value or more than {HEADER_VALUE_BYTES_MAX} bytes")
        try:
            fields[name] = raw.decode()
        except UnicodeDecodeError:
            if name not in _TRACE_HEADERS:
                raise UnreadableEnvelope(f"header {name} is not UTF-8") from None
    return fields


def _too_long_a_trace(name: str, raw: bytes) -> bool:
    return name in _TRACE_HEADERS and len(raw) > TRACE_HEADER_BYTES_MAX


def _time(text: str | None) -> datetime:
    if text is None:
        raise UnreadableEnvelope("header ce_time is missing")
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise UnreadableEnvelope("ce_time is not an RFC 3339 time with an offset") from None


def _sequence(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= SEQUENCE_DIGITS):
        raise UnreadableEnvelope(f"ce_sequence is not a number of at most {SEQUENCE_DIGITS} digits")
    return int(text)
