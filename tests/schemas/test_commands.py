"""What callers are told of orders that they place and cancel, and the types of the results: made from entries alone."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from schemas.commands import answer_of, command_view, refusal_of
from schemas.ledger import Entry
from schemas.requests import AccountRequest, OrderPlaced
from schemas.results import decode_result, encode_result, entry_of, result_of, result_type, result_value
from schemas.rows import order_view
from schemas.views import OrderAnswer
from tests.domain.given import NOON, Books, account, buy, cancel, expiry, fence, revocation, trigger, waiting

END = NOON + timedelta(seconds=10)
GTD = waiting(tif="gtd", until=END)


def asked(*requests: AccountRequest, at: datetime = NOON) -> tuple[Books, Entry]:
    """The order was placed at noon, the others are decided at a time; the entry of the last."""
    books = Books(account("1000", btc="2", cost="30"))
    entry = books.take(requests[0])
    entry = books.take(*requests[1:], at=at) if requests[1:] else entry
    assert entry
    return books, entry


TYPES: dict[str, tuple[str, tuple[AccountRequest, ...], datetime]] = {
    "placed": ("OrderAccepted", (GTD,), NOON),
    "filled at once": ("OrderFilled", (waiting(limit="100"),), NOON),
    "not filled at once": ("OrderCancelled", (waiting(tif="ioc"),), NOON),
    "refused": ("OrderRejected", (waiting(quantity="99"),), NOON),
    "triggered": ("OrderFilled", (GTD, trigger("80")), NOON),
    "triggered for nothing": ("OrderCancelled", (waiting("stop_loss_sell", "0.001", "90"), trigger("1")), NOON),
    "triggered past its time": ("OrderExpired", (GTD, trigger("80")), END),
    "its time ended": ("OrderExpired", (GTD, expiry()), END),
    "revoked": ("OrderCancelled", (GTD, revocation()), NOON),
    "cancelled": ("OrderCancelled", (GTD, cancel()), NOON),
    "cancelled past its time": ("OrderExpired", (GTD, cancel()), END),
    "cancelled in vain": ("OrderCancelRejected", (GTD, cancel(), cancel()), NOON),
    "an unknown one cancelled": ("OrderCancelRejected", (GTD, cancel("other")), NOON),
}


@pytest.mark.parametrize("name", TYPES)
def test_the_type_of_a_result_tells_what_became_of_the_order(name: str) -> None:
    """Whoever asked: the type is that of the order's new status; the result comes back from the wire whole, and its entry from its text."""
    kind, requests, at = TYPES[name]
    _, entry = asked(*requests, at=at)
    result = result_of(entry)
    assert result_type(entry) == result_type(result) == f"cnop.account.{kind}.v1"
    assert decode_result(encode_result(result)) == result
    ids = {"correlation_id": entry.correlation_id, "trace_id": entry.trace_id}
    assert entry_of(result_value(entry), partition=entry.partition, offset=entry.offset, **ids) == entry  # type: ignore[arg-type]


def test_an_order_that_is_placed_is_answered() -> None:
    """Open, filled or not filled at all: it happened, and the order is told."""
    for request in (GTD, waiting(limit="100"), waiting(tif="ioc"), buy("1", "10", client_order_id="mine")):
        books, entry = asked(request)
        assert refusal_of(entry) is None
        assert answer_of(entry) == answer_of(result_of(entry)) == OrderAnswer(data=order_view(books.order()))
        assert command_view(entry, "cmd").state == "settled"


def test_a_cancel_is_answered_with_the_order() -> None:
    """It happened: the order is cancelled at its owner's request."""
    books, entry = asked(GTD, cancel())
    assert refusal_of(entry) is None
    assert answer_of(entry) == OrderAnswer(data=order_view(books.order()))
    view = command_view(entry, "cmd")
    assert (view.state, view.request_type, view.code) == ("settled", "OrderCancelRequested", None)
    assert view.outcome
    assert view.outcome["data"]["status"] == "cancelled"


IN_VAIN: dict[str, tuple[OrderPlaced, AccountRequest | None, str, datetime]] = {
    "filled": (GTD, trigger("80"), "completed", NOON),
    "cancelled before": (GTD, cancel(), "cancelled", NOON),
    "expired before": (GTD, expiry(), "expired", END),
    "revoked": (GTD, revocation(), "cancelled", NOON),
    "its time had ended when the cancel came": (GTD, None, "expired", END),
    "filled when it was placed": (waiting(limit="100"), None, "completed", NOON),
    "never open": (waiting(tif="ioc"), None, "cancelled", NOON),
}


@pytest.mark.parametrize("name", IN_VAIN)
def test_a_cancel_in_vain_is_told_the_order_as_it_stands(name: str) -> None:
    """`order-not-open`, with the status in words and the order in full, also where it was this cancel that let it expire; there is no answer beside it."""
    request, then, status, at = IN_VAIN[name]
    books, entry = asked(*([request, then] if then else [request]), cancel(), at=at)
    for outcome in (entry, result_of(entry)):
        refusal = refusal_of(outcome)
        assert refusal
        assert (refusal.code, refusal.detail, refusal.order) == ("order-not-open", f"the order is {status}", books.order())
        assert answer_of(outcome) is None
        view = command_view(outcome, "cmd")
        assert (view.state, view.outcome, view.code, view.detail) == ("refused", None, "order-not-open", refusal.detail)


def test_a_cancel_of_an_unknown_order_is_told() -> None:
    """`not-found`, and no order."""
    _, entry = asked(GTD, cancel("other"))
    refusal = refusal_of(entry)
    assert refusal
    assert (refusal.code, refusal.pointer, refusal.order) == ("not-found", "#/path/order_id", None)


def test_a_fenced_cancel_never_happens() -> None:
    """A fence in the place of a cancel answers as any fence does, and the order is open."""
    books, entry = asked(GTD, fence())
    assert (command_view(entry, "cmd").state, books.order().status) == ("fenced", "open")


def test_an_expiry_from_inside_is_no_refusal() -> None:
    """Only a cancel is refused by an order that expires: what expired it from inside has done what it came for."""
    _, entry = asked(GTD, expiry(), at=END)
    assert refusal_of(entry) is None
    assert refusal_of(replace(entry, kind="OrderCancelRequested")) is not None
