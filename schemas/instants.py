"""Points in time: aware UTC datetimes with milliseconds, RFC 3339 with `Z` on every wire."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, PlainSerializer, WithJsonSchema

INSTANTS_KEPT: Final = 4_096
"""Requests that are settled together came at few different moments, and each is written several times."""
DAY_DIGITS: Final = len("2026-11-25")
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(INSTANTS_KEPT)
def rfc3339(instant: datetime) -> str:
    """`2026-11-25T08:21:42.123Z`: millisecond precision, since that is what a broker's append time has."""
    if instant.tzinfo is not UTC:
        instant = instant.astimezone(UTC)
    return instant.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """The inverse of `rfc3339`. ValueError where the text is not a time with an offset, or one that has no form in UTC."""
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("time without an offset")
    return _in_utc(instant)


def day_of(instant: datetime) -> str:
    """The UTC day of a point in time that is in UTC: `2026-11-25`."""
    return instant.isoformat()[:DAY_DIGITS]


@lru_cache(INSTANTS_KEPT)
def from_millis(millis: int) -> datetime:
    """A point in time from milliseconds since the epoch, as Kafka counts."""
    return datetime.fromtimestamp(millis // 1000, tz=UTC).replace(microsecond=millis % 1000 * 1000)


def _in_utc(instant: datetime) -> datetime:
    """The same point in time in UTC, to the millisecond, as it is written. At the ends of the calendar there is none for some offsets."""
    try:
        return instant.astimezone(UTC).replace(microsecond=instant.microsecond // 1000 * 1000)
    except OverflowError:
        raise ValueError("time is outside of the years 1 to 9999 in UTC") from None


Instant = Annotated[
    AwareDatetime,
    AfterValidator(_in_utc),
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-25T08:21:42.123Z"]}),
]
