"""The wire form of the live stream: server-sent events (HTML Living Standard, section 9.2), each made once for all who get it."""

from collections.abc import Iterable
from typing import Final
from zlib import crc32

from prometheus_client import Counter
from pydantic import BaseModel

from schemas.stream import ResumeReason, StreamAccount, StreamChange, StreamPrice, StreamResume

RETRY_MS: Final = 1_000
"""How long a client is to wait at least before it connects again."""
RETRY_SPREAD_MS: Final = 4_000
"""So much longer at most, by token, so that those who were cut off together do not come back together."""
HEARTBEAT: Final = b": heartbeat\n\n"

EVENTS: Final = Counter("cnop_stream_events_total", "Events handed to listeners, by name", ["event"])


def opening(token_id: str) -> bytes:
    """What a stream begins with: when to come back if it breaks."""
    return b"retry: %d\n\n" % _retry_ms(token_id)


def snapshot(account: bytes, version: int, prices: Iterable[bytes]) -> bytes:
    """From the JSON of a `StreamAccount` and of prices."""
    return _event(b"snapshot", b'%b,"prices":[%b]}' % (account[:-1], b",".join(prices)), version)


def account_json(account: StreamAccount) -> bytes:
    """The part of a snapshot that is the same for all listeners of an account."""
    return _json(account)


def change(told: StreamChange) -> bytes:
    """One version of an account."""
    return _event(b"change", _json(told), told.version)


def price_json(told: StreamPrice) -> bytes:
    """A price inside of a snapshot."""
    return _json(told)


def price(told: bytes) -> bytes:
    """A price by itself. It has no id, so that the last id stays the account's version."""
    return _event(b"price", told)


def resume(reason: ResumeReason, token_id: str) -> bytes:
    """The last event, where the server ends the stream."""
    return b"retry: %d\n%b" % (_retry_ms(token_id), _event(b"resume", _json(StreamResume(reason=reason))))


def _event(name: bytes, data: bytes, version: int | None = None) -> bytes:
    """The data is JSON without line ends."""
    line = b"" if version is None else b"id: %d\n" % version
    return b"event: %b\n%bdata: %b\n\n" % (name, line, data)


def _json(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def _retry_ms(token_id: str) -> int:
    return RETRY_MS + crc32(token_id.encode()) % RETRY_SPREAD_MS
