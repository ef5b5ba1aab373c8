"""Orders over several requests that are decided at once: what the shell is told to store of them."""

import pytest

from processors.domain.decide import decide_all
from schemas.requests import AccountRequest
from tests.domain.given import Books, account, cancel, code_of, in_order, revocation, trigger, waiting

BEFORE = account("1000")


def opened() -> Books:
    """An account whose order `mine` waits."""
    books = Books(BEFORE)
    books.take(waiting())
    return books


FOLDS: dict[str, tuple[tuple[AccountRequest, ...], str, bool]] = {
    "placed and cancelled": ((waiting(name="new"), cancel("new")), "cancelled", False),
    "placed, filled, and cancelled in vain": ((waiting(name="new"), trigger("80", "new"), cancel("new")), "completed", False),
    "cancelled before it is placed": ((cancel("new"), waiting(name="new")), "open", False),
    "changed once": ((trigger("80"),), "completed", True),
    "changed once, met three times": ((cancel(), trigger("80"), cancel(), revocation()), "cancelled", True),
    "changed, and its name used again": ((cancel(), waiting(), cancel()), "cancelled", True),
    "its name used again before it is changed": ((waiting(limit="80"), cancel()), "cancelled", True),
}


@pytest.mark.parametrize("name", FOLDS)
def test_what_a_fold_says_of_orders(name: str) -> None:
    """Each order once, as it stands at the end; of one that was there before, the version of its last change before the fold, and of a new one nothing."""
    requests, status, was_there = FOLDS[name]
    books = opened()
    done = decide_all(books.account, in_order(requests), books.orders)
    assert [order.status for order in done.orders] == [status]
    assert done.replaces == ({books.order().order_id: books.order().updated_version} if was_there else {})
    one_by_one = Books(books.account, dict(books.orders))
    one_by_one.take(*requests)
    assert one_by_one.account == done.account
    assert one_by_one.orders[done.orders[0].order_id] == done.orders[0]


def test_a_refused_name_replaces_nothing() -> None:
    """An order that is refused since its name was used is no change of the first one."""
    books = opened()
    done = decide_all(books.account, in_order([waiting(limit="80")]), books.orders)
    assert (done.orders, done.replaces, code_of(done.entries[0])) == ((), {}, "duplicate-client-order-id")
