"""Money: what is read as an amount, and the one rounding."""

from decimal import Decimal, Inexact, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.money import (
    EXACT,
    Amount,
    currency_scale,
    exact,
    in_currency,
    plain,
    round_down,
    round_up,
    scale_of,
    share_down,
    share_up,
    significant_scale,
)

AMOUNT = TypeAdapter(Amount)

READ = [
    ("5", "5"),
    ("5000.00", "5000.00"),
    (5, "5"),
    (-3, "-3"),
    (Decimal("1.10"), "1.10"),
    ("0", "0"),
    ("-0.5", "-0.5"),
    (Decimal("1E+3"), "1000"),
    ("9" * 20, "9" * 20),
    ("9" * 20 + "." + "9" * 18, "9" * 20 + "." + "9" * 18),
    ("0." + "0" * 17 + "1", "0." + "0" * 17 + "1"),
]

REFUSED = [
    ("a float", 5.0),
    ("a float without a fraction", 1e3),
    ("true", True),
    ("false", False),
    ("null", None),
    ("a list", ["5"]),
    ("an object", {}),
    ("bytes", b"5"),
    ("no text", ""),
    ("words", "five"),
    ("two points", "1.2.3"),
    ("a comma", "1,000"),
    ("not a number", "NaN"),
    ("signalling", "sNaN"),
    ("infinite", "Infinity"),
    ("minus infinite", "-inf"),
    ("not a number as Decimal", Decimal("NaN")),
    ("infinite as Decimal", Decimal("Infinity")),
    ("21 digits before the point", "1" + "0" * 20),
    ("21 digits before the point as int", 10**20),
    ("19 decimals", "0." + "0" * 18 + "1"),
    ("19 decimals that are zeros", "1." + "0" * 19),
    ("a huge exponent", "1e400"),
    ("an exponent beyond all exponents", "1e99999999999999999999"),
    ("a tiny exponent", "1e-400"),
    ("nothing with a huge exponent", "0e400"),
    ("a number of 5,000 digits", "1" * 5000),
    ("an int of 5,000 digits", 10**5000),
]


@pytest.mark.parametrize(("given_value", "text"), READ, ids=[str(row[0])[:24] for row in READ])
def test_an_amount_is_read_exactly(given_value: object, text: str) -> None:
    """Text, whole numbers and decimals are read without losing a digit, and written without an exponent."""
    amount = AMOUNT.validate_python(given_value)
    assert isinstance(amount, Decimal)
    assert plain(amount) == text
    assert AMOUNT.dump_json(amount) == f'"{text}"'.encode()


@pytest.mark.parametrize("value", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_no_amount_is_refused(value: object) -> None:
    """Floats have lost digits already, booleans are no numbers, and nothing is beyond the store's 38 digits."""
    with pytest.raises(ValidationError):
        AMOUNT.validate_python(value)


@pytest.mark.parametrize("text", ["1_000", "1e3", " 5 ", "5\n", "٥", "５", "+5", ".5", "5."])
def test_an_amount_is_spelled_as_the_published_schema_says(text: str) -> None:
    """Digits, one point, a minus sign: another client must not read 1_000 or digits of other scripts differently from us."""
    with pytest.raises(ValidationError):
        AMOUNT.validate_python(text)


def test_json_numbers_never_pass_through_float() -> None:
    """A fraction as a JSON number is refused by the event decoder, since it has become a float by then; text and integers are read."""
    assert AMOUNT.validate_json(b'"0.1"') == Decimal("0.1")
    assert AMOUNT.validate_json(b"7") == 7
    for raw in (b"0.1", b"1e3", b"1" + b"0" * 5000, b"NaN", b"true"):
        with pytest.raises(ValidationError):
            AMOUNT.validate_json(raw)


decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=18)
scales = st.integers(0, 18)


@given(decimals, scales)
def test_rounding_is_the_nearest_on_its_side(value: Decimal, scale: int) -> None:
    """Up is the least number of the scale that is not below, down the greatest that is not above; both are less than a unit away."""
    unit = Fraction(1, 10**scale)
    up, down = Fraction(round_up(value, scale)), Fraction(round_down(value, scale))
    assert down <= Fraction(value) <= up
    assert up - Fraction(value) < unit
    assert Fraction(value) - down < unit
    assert (up / unit).denominator == (down / unit).denominator == 1


@given(decimals, scales)
def test_rounding_again_changes_nothing(value: Decimal, scale: int) -> None:
    """What has the scale already stays; up and down are each other's mirror."""
    with localcontext(EXACT):
        assert round_up(round_up(value, scale), scale) == round_up(value, scale)
        assert round_down(round_down(value, scale), scale) == round_down(value, scale)
        assert round_up(-value, scale) == -round_down(value, scale)


positive = st.decimals(min_value="0.00000001", max_value=10**15, places=8)


@given(positive, positive, positive)
def test_a_share_is_rounded_once(whole: Decimal, part: Decimal, of: Decimal) -> None:
    """Whole × part ÷ of to the cent: exactly the ceiling or the floor of the exact fraction."""
    cents = Fraction(whole) * Fraction(part) / Fraction(of) * 100
    assert Fraction(share_up(whole, part, of, 2)) * 100 == -((-cents.numerator) // cents.denominator)
    assert Fraction(share_down(whole, part, of, 2)) * 100 == cents.numerator // cents.denominator


def test_losing_a_digit_raises_where_it_must_be_exact() -> None:
    """In an exact function a division that does not come out even raises; outside of it Python would have rounded in silence."""
    third = exact(lambda: Decimal(1) / Decimal(3))
    with pytest.raises(Inexact):
        third()
    assert exact(lambda: Decimal(1) / Decimal(8))() == Decimal("0.125")


@pytest.mark.parametrize(
    ("text", "written", "needed"),
    [("5", 0, 0), ("1.50", 2, 1), ("1.00", 2, 0), ("1E+3", 0, 0), ("0.00", 2, 0), ("0.000000000000000001", 18, 18), ("100", 0, 0)],
)
def test_scales(text: str, written: int, needed: int) -> None:
    """Decimals as written, and decimals that are needed."""
    assert scale_of(Decimal(text)) == written
    assert significant_scale(Decimal(text)) == needed


def test_currencies() -> None:
    """USD has two decimals, and always shows them; a currency that is not registered, or a fraction of a cent, is an error."""
    assert currency_scale("USD") == 2
    assert in_currency(Decimal(5000), "USD") == "5000.00"
    assert in_currency(Decimal("1E+3"), "USD") == "1000.00"
    with pytest.raises(KeyError):
        currency_scale("XXX")
    with pytest.raises(Inexact):
        in_currency(Decimal("0.001"), "USD")


def test_numbers_without_a_value_have_no_scale() -> None:
    """Asking for the decimals of NaN is a bug."""
    with pytest.raises(TypeError):
        scale_of(Decimal("NaN"))
