"""What the demo makes of its outcomes."""

import pytest

from ops.client import Outcome
from ops.demo import Result
from ops.demo_plan import Step

DEPOSIT = Step("/balance/deposit", {"amount": "1"})
LIMIT = Step("/orders", {"order_type": "limit_buy"}, "open")
TOO_MUCH = Step("/balance/withdraw", {"amount": "1"}, "insufficient-funds")


def _result(*rows):
    return Result([("user", step, outcome) for step, outcome in rows])


def test_the_figures():
    """Every request is settled, refused, unanswered or failed; the accepted ones are all but the failed."""
    rows = [(DEPOSIT, Outcome("settled", number / 1000)) for number in range(1, 100)]
    told = _result(
        *rows,
        (TOO_MUCH, Outcome("refused", 0.1, "insufficient-funds")),
        (DEPOSIT, Outcome("unknown", 9.0, "pending")),
        (DEPOSIT, Outcome("failed", 9.0, "unavailable")),
    ).as_dict()
    assert told == told | {"sent": 102, "accepted": 101, "settled": 99, "refused": 1, "unanswered": 1, "failed": 1}
    assert (told["p50_ms"], told["p95_ms"], told["p99_ms"]) == (50.0, 95.0, 99.0)
    assert told["refused_by_code"] == {"insufficient-funds": 1}
    assert told["settled_by_kind"] == {"deposit": 99}


def test_nothing_done():
    """No percentiles of nothing."""
    told = Result().as_dict()
    assert (told["sent"], told["p50_ms"], told["books_balanced"]) == (0, None, True)


@pytest.mark.parametrize(
    ("step", "outcome", "good"),
    [
        (DEPOSIT, Outcome("settled", 0.1), True),
        (TOO_MUCH, Outcome("refused", 0.1, "insufficient-funds"), True),
        (TOO_MUCH, Outcome("settled", 0.1), False),
        (TOO_MUCH, Outcome("refused", 0.1, "limit-exceeded"), False),
        (DEPOSIT, Outcome("refused", 0.1, "limit-exceeded"), False),
        (LIMIT, Outcome("settled", 0.1, body={"data": {"status": "open"}}), True),
        (LIMIT, Outcome("settled", 0.1, body={"data": {"status": "completed"}}), False),
        (DEPOSIT, Outcome("unknown", 0.1), False),
        (DEPOSIT, Outcome("failed", 0.1), False),
    ],
)
def test_a_run_is_good_only_where_all_ended_as_planned(step, outcome, good):
    """Otherwise the exit status tells."""
    assert _result((step, outcome)).is_good is good


def test_books_that_do_not_add_up_are_not_good():
    """However well everything else went."""
    result = _result((DEPOSIT, Outcome("settled", 0.1)))
    result.books.faults.append("x")
    assert not result.is_good
    assert not result.as_dict()["books_balanced"]


def test_a_repeat_that_is_answered_differently_is_not_good():
    """The same key must answer the same."""
    result = _result((DEPOSIT, Outcome("settled", 0.1)))
    result.repeats_differing = 1
    assert not result.is_good
