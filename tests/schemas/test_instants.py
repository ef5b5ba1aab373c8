"""Points in time: milliseconds in UTC on every wire."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.instants import EPOCH, Instant, from_millis, parse_rfc3339, rfc3339

INSTANT = TypeAdapter(Instant)


@given(st.integers(0, 4_102_444_800_000))
def test_milliseconds_survive_the_wire(millis: int) -> None:
    """A broker's time is written, read and written again without a change, and keeps its order as text."""
    instant = from_millis(millis)
    assert parse_rfc3339(rfc3339(instant)) == instant
    assert (instant - EPOCH) // timedelta(milliseconds=1) == millis
    assert rfc3339(instant) < rfc3339(from_millis(millis + 1))


def test_one_spelling() -> None:
    """Three decimals and a Z, whatever the offset was; what is below a millisecond is cut off."""
    instant = datetime(2026, 11, 25, 9, 21, 42, 123_999, tzinfo=timezone(timedelta(hours=1)))
    assert rfc3339(instant) == "2026-11-25T08:21:42.123Z"
    assert rfc3339(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"
    assert INSTANT.dump_json(instant) == b'"2026-11-25T08:21:42.123Z"'


def test_offsets_are_read_as_utc() -> None:
    """An offset is taken into account and is gone afterwards."""
    instant = parse_rfc3339("2026-11-25T09:21:42.123+01:00")
    assert instant == datetime(2026, 11, 25, 8, 21, 42, 123_000, tzinfo=UTC)
    assert instant.tzinfo is UTC


@pytest.mark.parametrize("text", ["2026-11-25T08:21:42", "2026-11-25", "yesterday", "", "2026-13-01T00:00:00Z", "2026-11-25T25:00:00Z"])
def test_what_is_no_point_in_time_is_refused(text: str) -> None:
    """A time without an offset is nobody's time."""
    with pytest.raises(ValueError):  # noqa: PT011 - the class is the contract
        parse_rfc3339(text)
    with pytest.raises(ValidationError):
        INSTANT.validate_python(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_that_has_no_utc_form_is_refused(text: str) -> None:
    """A time whose UTC form would be outside the calendar is refused like any other text that is no time."""
    with pytest.raises(ValueError):  # noqa: PT011 - the class is the contract
        parse_rfc3339(text)
