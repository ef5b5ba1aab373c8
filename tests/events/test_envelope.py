"""The envelope: CloudEvents in headers, read back as they were written, and every record that is refused."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from events.envelope import HEADER_VALUE_BYTES_MAX, HEADERS_MAX, TRACE_HEADER_BYTES_MAX, Envelope, UnreadableEnvelope, read

FULL = Envelope(
    id="5b6f2c1e-7a9d-5f30-8c11-3f1f0a9f7a10",
    source="urn:cnop:command-api",
    type="cnop.account.Deposit.v1",
    subject="alice_1",
    time=datetime(2026, 11, 25, 8, 21, 42, 123_000, tzinfo=UTC),
    value=b'{"amount":"5"}',
    correlation_id="order-1",
    trace_id="req-1",
    causation_id="cause-1",
    sequence=42,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    tracestate="vendor=1",
    reply_to="reply:door-1",
)
LEAST = replace(FULL, causation_id=None, sequence=None, traceparent=None, tracestate=None, reply_to=None)


def _read(envelope: Envelope, **headers: bytes | None) -> Envelope:
    """Read a record whose headers were changed: `None` takes one out. Names are spelled with `_` for `-`."""
    changes = {name.replace("__", "-"): value for name, value in headers.items()}
    kept = {**dict(envelope.headers()), **changes}
    return read(envelope.key, envelope.value, [(name, value) for name, value in kept.items() if value is not None])


@pytest.mark.parametrize("envelope", [FULL, LEAST, replace(FULL, sequence=0), replace(FULL, sequence=10**20 - 1)], ids=["full", "least", "first", "last"])
def test_what_is_written_is_read(envelope: Envelope) -> None:
    """Every attribute comes back as it was; those that are not set leave no header."""
    assert _read(envelope) == envelope


def test_headers_are_those_of_the_binding() -> None:
    """Names and forms as consumers in other languages expect them."""
    assert dict(FULL.headers()) == {
        "ce_specversion": b"1.0",
        "ce_id": b"5b6f2c1e-7a9d-5f30-8c11-3f1f0a9f7a10",
        "ce_source": b"urn:cnop:command-api",
        "ce_type": b"cnop.account.Deposit.v1",
        "ce_subject": b"alice_1",
        "ce_time": b"2026-11-25T08:21:42.123Z",
        "ce_dataschema": b"urn:cnop:schema:cnop.account.Deposit.v1",
        "content-type": b"application/json",
        "ce_correlationid": b"order-1",
        "ce_causationid": b"cause-1",
        "ce_sequence": b"00000000000000000042",
        "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": b"vendor=1",
        "x-request-id": b"req-1",
        "cnop-reply-to": b"reply:door-1",
    }
    assert FULL.key == b"alice_1"


def test_unknown_headers_are_ignored() -> None:
    """A header that a newer or another producer adds does not disturb."""
    assert _read(FULL, b3=b"1", ce_newattribute=b"x") == FULL


def test_unknown_headers_are_not_looked_at() -> None:
    """What others put beside our headers cannot make an event unreadable, whatever it is."""
    assert read(FULL.key, FULL.value, [*FULL.headers(), ("x", None), ("y", b"\xff"), ("z", b"x" * 5_000)]) == FULL  # type: ignore[list-item]


@pytest.mark.parametrize("raw", [b"x" * (TRACE_HEADER_BYTES_MAX + 1), b"\xff"], ids=["too long", "not UTF-8"])
@pytest.mark.parametrize("name", ["traceparent", "tracestate"])
def test_a_useless_trace_header_is_as_good_as_none(name: str, raw: bytes) -> None:
    """Trace headers come from callers and never decide what becomes of an event."""
    assert getattr(_read(FULL, **{name: raw}), name) is None


def test_a_long_trace_header_is_not_sent() -> None:
    """A caller's 4 KB of tracestate neither goes into the log nor makes the event unreadable."""
    envelope = replace(FULL, tracestate="a=" + "x" * 4_000)
    assert read(envelope.key, envelope.value, envelope.headers()) == replace(FULL, tracestate=None)


def test_ids_stand_in_for_what_is_missing() -> None:
    """A producer without our extensions is understood: its event's id correlates."""
    envelope = _read(FULL, ce_correlationid=None, x__request__id=None)
    assert (envelope.correlation_id, envelope.trace_id) == (FULL.id, FULL.id)


REFUSED = {
    "no version": {"ce_specversion": None},
    "another version": {"ce_specversion": b"0.3"},
    "no id": {"ce_id": None},
    "an empty id": {"ce_id": b""},
    "no source": {"ce_source": None},
    "no type": {"ce_type": None},
    "no subject": {"ce_subject": None},
    "no time": {"ce_time": None},
    "a time without an offset": {"ce_time": b"2026-11-25T08:21:42"},
    "a time that is none": {"ce_time": b"soon"},
    "another subject than the key": {"ce_subject": b"mallory"},
    "a sequence that is no number": {"ce_sequence": b"seven"},
    "a sequence below zero": {"ce_sequence": b"-1"},
    "a sequence of 21 digits": {"ce_sequence": b"1" * 21},
    "a sequence in other digits": {"ce_sequence": "٧".encode()},
    "an empty sequence": {"ce_sequence": b""},
    "a header that is not UTF-8": {"x__request__id": b"\xff"},
    "a header that is too long": {"x__request__id": b"x" * (HEADER_VALUE_BYTES_MAX + 1)},
    "too many headers": {f"x{number}": b"1" for number in range(HEADERS_MAX)},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_an_unreadable_envelope_is_told(changes: dict[str, bytes | None]) -> None:
    """A record without a sound envelope raises UnreadableEnvelope and nothing else."""
    with pytest.raises(UnreadableEnvelope):
        _read(FULL, **changes)


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_at_the_edge_of_the_calendar_is_unreadable(when: str) -> None:
    """A ce_time that has no UTC form is unreadable like any other that is no time."""
    with pytest.raises(UnreadableEnvelope):
        _read(FULL, ce_time=when.encode())


def test_a_header_without_a_value_is_unreadable() -> None:
    """Kafka allows a header with a null value; an envelope has none."""
    with pytest.raises(UnreadableEnvelope):
        read(FULL.key, FULL.value, [*FULL.headers(), ("x-request-id", None)])  # type: ignore[list-item]


@pytest.mark.parametrize(("key", "value"), [(None, b"{}"), (b"", b"{}"), (b"alice_1 ", b"{}"), (b"\xff", b"{}"), (b"alice_1", None)])
def test_key_and_value_are_needed(key: bytes | None, value: bytes | None) -> None:
    """Without its key, or without a value (a tombstone), a record is unreadable."""
    with pytest.raises(UnreadableEnvelope):
        read(key, value, FULL.headers())


def test_an_empty_value_is_the_payloads_matter() -> None:
    """An empty value is a value: whether it can be decoded is not the envelope's question."""
    assert read(FULL.key, b"", FULL.headers()).value == b""
