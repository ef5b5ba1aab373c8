"""Results: made from an entry alone, and the same to the byte however often and from wherever they are made."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ledger import CashLine, Counters, Entry, Lines, Order, Position, Posting, Refusal
from schemas.money import plain, short, trimmed
from schemas.results import UnreadableResult, decode_result, encode_result, entry_of, result_of, result_value

AT = datetime(2026, 11, 25, 8, 21, 42, 123000, tzinfo=UTC)
ORDER = Order("ord_1", "BTC", "market_buy", Decimal("1.50"), "completed", 7, AT, AT, Decimal("2.0"), 4, 10, fee=Decimal("0.10"))
FILLED = Entry(
    request_id="4d4a1d3c-8d1c-5f8e-9d53-0b1f6c1f3a10",
    username="user_000001",
    version=7,
    at=AT,
    kind="OrderPlaced",
    payload={"type": "OrderPlaced", "asset_id": "BTC"},
    partition=3,
    offset=41,
    correlation_id="c",
    trace_id="t",
    lines=Lines(
        Counters("2026-11-25", Decimal("5.00")),
        {"USD": CashLine(Decimal("10.10"), updated_at=AT)},
        {"BTC": Position(Decimal("1.50"), cost_basis=Decimal("3.10"), created_at=AT, updated_at=AT)},
        ORDER,
    ),
    postings=(Posting("customer", "USD", Decimal("-3.00")), Posting("market", "USD", Decimal("3.00"))),
)
REFUSED = replace(FILLED, lines=Lines(Counters()), postings=(), refusal=Refusal("insufficient-funds", "0.00 USD are available", "/quantity"))


def _stored(value: bytes) -> Entry:
    return entry_of(value, partition=3, offset=41, correlation_id="c", trace_id="t")


@pytest.mark.parametrize("entry", [FILLED, REFUSED], ids=["filled", "refused"])
def test_an_entry_comes_back_from_its_result(entry: Entry) -> None:
    """Nothing of an entry is lost in the text that is stored for it."""
    assert _stored(result_value(entry)) == entry


@pytest.mark.parametrize("entry", [FILLED, REFUSED], ids=["filled", "refused"])
def test_a_stored_entry_gives_the_same_bytes(entry: Entry) -> None:
    """A result that is sent again is the first one to the byte, and what is read back would be written the same."""
    value = result_value(entry)
    assert result_value(_stored(value)) == value
    assert encode_result(result_of(_stored(value))) == value


def test_what_was_stored_is_what_is_sent() -> None:
    """An entry of an earlier release, written in another way, is sent again as it was written then."""
    earlier = b" " + result_value(FILLED)
    assert result_value(_stored(earlier)) == earlier


def test_the_order_of_maps_does_not_show() -> None:
    """Two entries that differ in nothing but the order of a map give the same bytes."""
    turned = replace(FILLED, payload=dict(sorted(FILLED.payload.items(), reverse=True)))
    assert result_value(turned) == result_value(FILLED)


def test_an_entry_that_was_changed_is_written_anew() -> None:
    """The kept text belongs to the entry it was made from: a copy with another version must not carry it."""
    result_value(FILLED)
    assert decode_result(result_value(replace(FILLED, version=8))).version == 8


def test_a_text_that_is_no_result_is_told() -> None:
    """What is wrong is named by field."""
    with pytest.raises(UnreadableResult, match="version"):
        _stored(result_value(FILLED).replace(b'"version":7', b'"version":"seven"'))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**19), max_value=10**19, places=18))
def test_the_short_spelling_is_the_trimmed_one(value: Decimal) -> None:
    """The quick way of writing a figure is the same as the careful one."""
    assert short(value) == plain(trimmed(value))
