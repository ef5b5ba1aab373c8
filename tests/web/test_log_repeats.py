"""A library that says the same again and again gets one line in a while, with the number of those left out."""

import logging

from infra.telemetry import REPEAT_S, TEMPLATES_MAX, Repeats


def record(text: str, at: float, name: str = "aiokafka") -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, __file__, 1, text, (), None)
    made.created = at
    return made


def test_one_line_in_a_while_with_the_count_of_the_others() -> None:
    """The first is written, the next ones are not, and the first after the while says how many there were."""
    repeats = Repeats()
    assert [repeats.filter(record("Unable to connect to node %s", at)) for at in (0.0, 1.0, REPEAT_S - 0.1)] == [True, False, False]
    late = record("Unable to connect to node %s", REPEAT_S + 0.1)
    assert repeats.filter(late)
    assert late.repeats == 2


def test_other_messages_and_other_libraries_are_not_held_back() -> None:
    """Only what is the same is counted as the same."""
    repeats = Repeats()
    assert all(repeats.filter(record(text, 0.0, name)) for text, name in (("a", "aiokafka"), ("b", "aiokafka"), ("a", "botocore")))


def test_memory_is_bounded() -> None:
    """However many different messages there are."""
    repeats = Repeats()
    for number in range(3 * TEMPLATES_MAX):
        repeats.filter(record(f"message {number}", 0.0))
    assert len(repeats._said) <= TEMPLATES_MAX
