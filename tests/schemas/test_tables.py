"""Keys of the indexes of open orders: text whose order is the order of what it stands for, exactly."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.instants import EPOCH
from schemas.money import EXACT, INTEGER_DIGITS_MAX, SCALE_MAX
from schemas.tables import ORDER_SHARDS, due_price, due_side, expiry, expiry_shard, order_shard, padded_price

LARGEST = Decimal("9" * INTEGER_DIGITS_MAX + "." + "9" * SCALE_MAX)
SMALLEST = Decimal(1).scaleb(-SCALE_MAX)
ORDER = "ord_" + "0" * 32
prices = st.builds(lambda digits, scale: Decimal(digits).scaleb(-scale), st.integers(1, 10**20 - 1), st.integers(0, SCALE_MAX))
instants = st.integers(-62_135_596_800_000, 253_402_300_799_999).map(lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms))


@given(prices, prices)
@example(Decimal(9), Decimal(10))
@example(Decimal("0.1"), Decimal("0.09"))
@example(LARGEST, EXACT.subtract(LARGEST, SMALLEST))
@example(SMALLEST, Decimal(1))
def test_the_order_of_padded_prices_is_the_order_of_prices(one: Decimal, other: Decimal) -> None:
    """Smaller, equal and larger are the same of the texts, whatever digits the prices have; the text is the price."""
    assert (padded_price(one) < padded_price(other), padded_price(one) == padded_price(other)) == (one < other, one == other)
    assert Decimal(padded_price(one)) == one


@pytest.mark.parametrize("text", ["1", "1.0", "1.000000000000000000", "1E+0", "10E-1"])
def test_a_price_has_one_key(text: str) -> None:
    """However it is written."""
    assert padded_price(Decimal(text)) == "00000000000000000001.000000000000000000"


@pytest.mark.parametrize("price", [Decimal(-1), Decimal(10) ** INTEGER_DIGITS_MAX, Decimal(1).scaleb(-SCALE_MAX - 1), Decimal("0.5") + SMALLEST / 2])
def test_a_price_that_does_not_fit_is_told(price: Decimal) -> None:
    """No digit is cut off, and nothing grows beyond its place: a key that is wrong would fill an order at a wrong price or never."""
    with pytest.raises(ValueError, match="digits"):
        padded_price(price)


@given(st.tuples(prices, st.integers(0, 10**19)), st.tuples(prices, st.integers(0, 10**19)))
def test_due_prices_are_sorted_by_price_and_then_by_sequence(one: tuple[Decimal, int], other: tuple[Decimal, int]) -> None:
    """Of two orders with one price the one placed at the earlier price comes first."""
    assert (due_price(*one, EPOCH, ORDER) < due_price(*other, EPOCH, ORDER)) == (one < other)


def test_a_price_alone_comes_before_the_orders_of_that_price() -> None:
    """A question from or up to a price finds the orders at exactly that price on the side that it means to."""
    assert padded_price(Decimal(5)) < due_price(Decimal(5), 0, EPOCH, ORDER) < padded_price(Decimal(5) + SMALLEST)


@given(instants, instants)
def test_the_order_of_expiries_is_the_order_of_time(one: datetime, other: datetime) -> None:
    """From the year 1 to 9999."""
    assert (expiry(one, ORDER) < expiry(other, ORDER)) == (one < other)


def test_sides_of_assets_never_meet() -> None:
    """Asset, side and shard are told apart: no asset's name has the sign between them."""
    sides = {due_side(asset, side, shard) for asset in ("BTC", "BTC1") for side in ("falls", "rises") for shard in range(ORDER_SHARDS)}  # type: ignore[arg-type]
    assert len(sides) == 4 * ORDER_SHARDS
    assert len({expiry_shard(shard) for shard in range(ORDER_SHARDS)}) == ORDER_SHARDS


@given(st.from_regex(r"\A[a-z0-9_]{6,30}\Z"))
def test_an_account_stays_in_its_shard(username: str) -> None:
    """The shard is a function of the name alone, the same in every process."""
    assert 0 <= order_shard(username) < ORDER_SHARDS
    assert (order_shard("alice_1"), order_shard("bob_123"), order_shard("user_000002")) == (1, 0, 3)
