"""Cursors: good for the list that they were made for and for a day, for nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.http import ProblemError
from query_api.cursors import LIFETIME, ROW_LAST, Cursors, List, Place
from tests.fakes.clock import FakeClock

KEY = b"k" * 32
MINE = List("reader", "orders", {"status": "open", "asset_id": None})
PLACES = st.builds(Place, st.integers(0, 10**18), st.integers(0, ROW_LAST))


@given(place=PLACES)
def test_a_cursor_gives_its_place_back(place: Place) -> None:
    """What was made for a list is read for it."""
    cursors = Cursors(KEY, FakeClock())
    assert cursors.read(MINE, cursors.make(MINE, place)) == place


@given(place=PLACES, data=st.data())
def test_no_change_of_a_cursor_goes_unnoticed(place: Place, data: st.DataObject) -> None:
    """Any character replaced, dropped or added makes it invalid."""
    cursors = Cursors(KEY, FakeClock())
    text = cursors.make(MINE, place)
    at = data.draw(st.integers(0, len(text) - 1))
    sign = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/é "))
    for changed in (text[:at] + sign + text[at + 1 :], text[:at] + text[at + 1 :], text[:at] + sign + text[at:]):
        if changed != text:
            _refused(cursors, MINE, changed)


@given(text=st.text(max_size=200))
def test_no_text_that_was_made_up_is_a_cursor(text: str) -> None:
    """Whatever somebody sends is a 400, never an error of ours."""
    _refused(Cursors(KEY, FakeClock()), MINE, text)


@pytest.mark.parametrize(
    "other",
    [
        List("another", "orders", {"status": "open"}),
        List("reader", "transactions", {"status": "open"}),
        List("reader", "orders", {"status": "completed"}),
        List("reader", "orders", {}),
        List("reader", "orders", {"status": "open", "asset_id": "BTC"}),
    ],
)
def test_a_cursor_is_bound_to_its_list(other: List) -> None:
    """Another user, route or filter does not take it."""
    cursors = Cursors(KEY, FakeClock())
    _refused(cursors, other, cursors.make(MINE, Place(5, 1)))


def test_a_cursor_expires() -> None:
    """A second before its end it is good, at its end it is not."""
    clock = FakeClock()
    cursors = Cursors(KEY, clock)
    text = cursors.make(MINE, Place(5))
    clock.advance(LIFETIME.total_seconds() - 1)
    assert cursors.read(MINE, text) == Place(5)
    clock.advance(1)
    _refused(cursors, MINE, text)


def test_another_installation_does_not_take_it() -> None:
    """The key counts."""
    clock = FakeClock()
    _refused(Cursors(b"x" * 32, clock), MINE, Cursors(KEY, clock).make(MINE, Place(5)))


def _refused(cursors: Cursors, of: List, text: str) -> None:
    with pytest.raises(ProblemError) as refusal:
        cursors.read(of, text)
    assert (refusal.value.code, refusal.value.status) == ("invalid-cursor", 400)
