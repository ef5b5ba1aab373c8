"""Cursors: where a list goes on, signed, so that a place in one list cannot be used in another's or be made up."""

import hmac
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from infra.clock import Clock
from infra.http import ProblemError

KEY_PURPOSE: Final = "cursor"
"""Name under which the key of cursors is derived from the system's secret (`infra.secrets.derive`)."""
LIFETIME: Final = timedelta(hours=24)
CURSOR_CHARS_MAX: Final = 128
ROW_LAST: Final = 2**31 - 1
"""A row number behind every row of an entry."""
_LAYOUT: Final = struct.Struct(">QQI")
_MAC_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Place:
    """A row of a list that is sorted newest first: the account version of its entry or order, and its number inside that entry."""

    version: int
    row: int = 0

    def is_before(self, other: "Place") -> bool:
        """Whether this row is shown before another one."""
        return (-self.version, self.row) < (-other.version, other.row)


@dataclass(frozen=True, slots=True)
class List:
    """What a cursor is bound to: whose list it is, which one, and how it is filtered."""

    username: str
    route: str
    filters: Mapping[str, str | None]

    def spelled(self) -> bytes:
        """One spelling of it, for the signature."""
        filters = sorted(f"{name}={value}" for name, value in self.filters.items() if value is not None)
        return "\n".join((self.username, self.route, *filters)).encode()


class Cursors:
    """Makes and reads cursors."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def make(self, of: List, place: Place) -> str:
        """A cursor behind a place of a list; it expires after `LIFETIME`."""
        expires = int((self._clock.now() + LIFETIME).timestamp())
        packed = _LAYOUT.pack(expires, place.version, place.row)
        return urlsafe_b64encode(packed + self._mac(of, packed)).decode().rstrip("=")

    def read(self, of: List, text: str | None) -> Place | None:
        """The place behind which to go on; None for no cursor. The problem `invalid-cursor` for anything that was not made for this list, or has expired."""
        if text is None:
            return None
        raw = _decoded(text)
        packed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if len(packed) != _LAYOUT.size or not hmac.compare_digest(mac, self._mac(of, packed)):
            raise _invalid("The cursor is damaged or belongs to another list.")
        expires, version, row = _LAYOUT.unpack(packed)
        if self._clock.now().timestamp() >= expires:
            raise _invalid("The cursor has expired; begin the list again.")
        return Place(version, row)

    def hour(self) -> int:
        """The running hour. A cursor that was made in it and is given out again is good for `LIFETIME` less an hour at least."""
        return int(self._clock.now().timestamp()) // 3600

    def _mac(self, of: List, packed: bytes) -> bytes:
        return hmac.digest(self._key, packed + of.spelled(), "sha256")[:_MAC_BYTES]


def _decoded(text: str) -> bytes:
    try:
        if len(text) > CURSOR_CHARS_MAX:
            raise _invalid("The cursor is too long.")
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:  # UnicodeEncodeError and binascii.Error are ValueErrors
        raise _invalid("The cursor is damaged.") from None
    if urlsafe_b64encode(raw).decode().rstrip("=") != text:
        raise _invalid("The cursor is damaged.")
    return raw


def _invalid(detail: str) -> ProblemError:
    return ProblemError("invalid-cursor", detail, pointer="#/query/cursor")
