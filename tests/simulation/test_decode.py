"""What settlement takes from a record: a request with its place, or nothing that anybody can ever read."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from events.envelope import Envelope, Inbound, Unreadable
from processors.settlement import decode
from schemas.requests import encode_request, request_id, request_type
from tests.domain.given import USER, deposit

AT = datetime(2026, 11, 25, 8, 21, 42, 123_000, tzinfo=UTC)
ENVELOPE = Envelope(
    id=request_id(USER, "k"),
    source="urn:cnop:command-api",
    type=request_type(deposit("5")),
    subject=USER,
    time=AT,
    value=encode_request(deposit("5")),
    correlation_id="c",
    trace_id="t",
    traceparent="00-a-b-01",
    tracestate="v=1",
    reply_to="reply:door-1",
)


def inbound(envelope: Envelope) -> Inbound:
    return Inbound("requests", 3, 77, AT, envelope)


def test_a_request_has_its_place_and_the_brokers_time() -> None:
    """Partition, offset and time are the record's; ids and the way back are the envelope's."""
    read = decode(inbound(replace(ENVELOPE, time=datetime(2020, 1, 1, tzinfo=UTC))))
    logged = read.logged
    assert (logged.partition, logged.offset, logged.at) == (3, 77, AT)
    assert (logged.request_id, logged.correlation_id, logged.trace_id) == (request_id(USER, "k"), "c", "t")
    assert (read.reply_to, read.traceparent, read.tracestate) == ("reply:door-1", "00-a-b-01", "v=1")
    assert logged.request == deposit("5")


@pytest.mark.parametrize(
    "changes", [{"subject": "mallory"}, {"type": "cnop.account.Gift.v1"}, {"value": b"{}"}], ids=["another's", "no such type", "no such value"]
)
def test_what_is_no_request_is_unreadable(changes: dict[str, object]) -> None:
    """Key, subject and payload name one user, and the payload is of the type that the header names."""
    with pytest.raises(Unreadable):
        decode(inbound(replace(ENVELOPE, **changes)))


@pytest.mark.parametrize("name", ["x" * 1019, "k\x00", "not a uuid"], ids=["too long for a key", "a control sign", "no UUID"])
def test_an_id_that_is_no_request_id_is_unreadable(name: str) -> None:
    """A request id is a UUID: it becomes a key of the store, an id of a result and of a command."""
    with pytest.raises(Unreadable):
        decode(inbound(replace(ENVELOPE, id=name)))
