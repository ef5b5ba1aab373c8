"""When a partition takes more, and what is told while it does not."""

import pytest

from events.lag import RETRY_AFTER_S_MAX, STALE_S, Gate, Place

BOUND = 100


def gate(*lags: int, per_s: int = 10) -> Gate:
    """A gate that saw these lags, a second apart, while so many records a second were taken."""
    seen = Gate(BOUND)
    for second, lag in enumerate(lags):
        seen.note(Place(per_s * second, per_s * second + lag), float(second))
    return seen


@pytest.mark.parametrize(
    ("lags", "closed"),
    [
        ([0], False),
        ([BOUND], False),
        ([BOUND + 1], True),
        ([BOUND + 1, BOUND], True),
        ([BOUND + 1, BOUND // 2 + 1], True),
        ([BOUND + 1, BOUND // 2], False),
        ([BOUND + 1, BOUND // 2, BOUND], False),
        ([BOUND + 1, BOUND // 2, BOUND + 1], True),
    ],
)
def test_it_does_not_flap(lags: list[int], closed: bool) -> None:
    """It closes over the bound, and opens at half of it and not before."""
    assert gate(*lags).closed is closed


def test_the_time_to_come_back() -> None:
    """It is the time until the gate opens at the speed that was measured, of seconds in which there was something to do."""
    assert gate(BOUND + 50, BOUND + 50).retry_after_s(1.0) == 10
    assert gate(0, 0, BOUND + 50).retry_after_s(2.0) == RETRY_AFTER_S_MAX
    assert gate(0, BOUND + 50, BOUND + 50, per_s=1000).retry_after_s(2.0) == 1
    assert gate(BOUND + 1, BOUND + 1, per_s=0).retry_after_s(1.0) == RETRY_AFTER_S_MAX
    assert gate(BOUND * 1000, BOUND * 1000).retry_after_s(1.0) == RETRY_AFTER_S_MAX
    assert gate(BOUND).retry_after_s(0.0) is None


def test_an_old_figure_counts_for_nothing() -> None:
    """Who cannot be measured any more turns nobody away."""
    closed = gate(BOUND + 1)
    assert closed.retry_after_s(STALE_S)
    assert closed.retry_after_s(STALE_S + 0.1) is None


def test_a_log_that_was_cut_has_no_negative_lag() -> None:
    """A committed offset past the end, as after a loss of the log, is no lag and no speed below zero."""
    seen = gate(BOUND + 1)
    seen.note(Place(-50, BOUND), 1.0)
    assert seen.retry_after_s(1.0) == RETRY_AFTER_S_MAX
    seen.note(Place(500, 10), 2.0)
    assert not seen.closed
