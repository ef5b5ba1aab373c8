"""Records as the Kafka client hands them out, turned into what the rest of the system works with."""

from aiokafka.structs import ConsumerRecord

from events.dead_letters import DeadLetter
from events.envelope import Inbound, Unreadable, read
from schemas.instants import EPOCH, from_millis


def inbound(record: ConsumerRecord) -> Inbound:
    """A record with its envelope. Unreadable where it has none."""
    envelope = read(record.key, record.value, record.headers)
    try:
        at = from_millis(record.timestamp)
    except (ValueError, OverflowError, OSError):
        raise Unreadable("the record's timestamp is no point in time") from None
    return Inbound(record.topic, record.partition, record.offset, at, envelope)


def dead_letter(record: ConsumerRecord, reason: str) -> DeadLetter:
    """A record as a dead letter: key, value and headers byte for byte, one without a value too."""
    try:
        at = from_millis(record.timestamp)
    except (ValueError, OverflowError, OSError):
        at = EPOCH
    return DeadLetter(record.topic, record.partition, record.offset, record.key, record.value, tuple(record.headers), reason, at)


def size_of(record: ConsumerRecord) -> int:
    """Bytes of key and value: what the bounds of a batch count."""
    return len(record.key or b"") + len(record.value or b"")
