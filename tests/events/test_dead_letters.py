"""Dead letters keep what came, and say why and whence, once."""

from datetime import UTC, datetime

import pytest

from events.dead_letters import IN_ROW_MAX, REASON_CHARACTERS_MAX, DeadLetter, Streak, TooManyUnreadable

AT = datetime(2026, 11, 25, tzinfo=UTC)
ORIGINAL = (("ce_id", b"1"), ("raw", b"\xff\x00"), ("ce_id", b"twice"))


def letter(headers: tuple[tuple[str, bytes], ...] = ORIGINAL, *, topic: str = "requests", offset: int = 5, reason: str = "bad") -> DeadLetter:
    return DeadLetter(topic, 3, offset, b"key", b"\x00raw", headers, reason, AT)


def test_a_letter_keeps_the_original_headers() -> None:
    """Original headers stay in their order, byte for byte, doubles too; the reason and the place come after."""
    headers = letter().headers()
    assert tuple(headers[:3]) == ORIGINAL
    assert dict(headers[3:]) == {
        "dlq_reason": b"bad",
        "dlq_topic": b"requests",
        "dlq_partition": b"3",
        "dlq_offset": b"5",
        "dlq_at": b"2026-11-25T00:00:00.000Z",
        "x-original-topic": b"requests",
    }


def test_a_redriven_letter_is_overwritten() -> None:
    """A letter that fails again has each of our headers once, with the new place and reason, and still the topic it first came from."""
    again = letter(tuple(letter().headers()), topic="redriven", offset=9, reason="worse").headers()
    names = [name for name, _ in again]
    assert len(names) == len(set(names)) + 1  # ce_id came twice
    told = dict(again)
    assert (told["dlq_reason"], told["dlq_topic"], told["dlq_offset"]) == (b"worse", b"redriven", b"9")
    assert told["x-original-topic"] == b"requests"


def test_a_reason_is_bounded() -> None:
    """However long an error's text, the letter stays within its topic's limit."""
    assert len(dict(letter(reason="é" * 10_000).headers())["dlq_reason"].decode()) == REASON_CHARACTERS_MAX


def test_a_run_of_unreadable_records_stops_the_reader() -> None:
    """One more than the bound in a row raises; a readable one between them begins the count anew."""
    streak = Streak()
    streak.note([False] * IN_ROW_MAX)
    streak.note([True])
    streak.note([False] * (IN_ROW_MAX - 1))
    streak.note([False])
    with pytest.raises(TooManyUnreadable):
        streak.note([False])
