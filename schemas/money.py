"""Money and quantities: decimals of a known scale, and the one place that rounds.

Arithmetic runs in a context of 80 digits in which an inexact result raises: outside `round_to_scale` nothing may
lose a digit. Rounding is always against the customer, so a caller names the direction, never a mode.
"""

import functools
import re
from collections.abc import Callable
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    localcontext,
)
from typing import Annotated, Final, ParamSpec, TypeVar

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

P = ParamSpec("P")
R = TypeVar("R")

DIGITS: Final = 80
EXACT: Final = Context(prec=DIGITS, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact])
_UP: Final = Context(prec=DIGITS, rounding=ROUND_CEILING, traps=[InvalidOperation, DivisionByZero, Overflow])
_DOWN: Final = Context(prec=DIGITS, rounding=ROUND_FLOOR, traps=[InvalidOperation, DivisionByZero, Overflow])

ZERO: Final = Decimal(0)
INTEGER_DIGITS_MAX: Final = 20
SCALE_MAX: Final = 18
"""A DynamoDB Number has 38 digits, and a product of two numbers must fit the context."""

CURRENCY_SCALES: Final = {"USD": 2}
"""Decimals of each currency. The scale of an asset is a fact of the asset (`schemas.market.AssetFacts`)."""
HOME_CURRENCY: Final = "USD"


AMOUNT_PATTERN: Final = r"^-?\d+(\.\d+)?$"
"""How an amount is written as text, on every wire."""


def exact(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function in the context in which losing a digit raises `decimal.Inexact`."""

    @functools.wraps(function)
    def in_context(*args: P.args, **kwargs: P.kwargs) -> R:
        with localcontext(EXACT):
            return function(*args, **kwargs)

    return in_context


def round_up(value: Decimal, scale: int) -> Decimal:
    """The smallest decimal of that scale that is not below the value: for what a customer pays."""
    return value.quantize(Decimal((0, (1,), -scale)), context=_UP)


def round_down(value: Decimal, scale: int) -> Decimal:
    """The largest decimal of that scale that is not above the value: for what a customer gets."""
    return value.quantize(Decimal((0, (1,), -scale)), context=_DOWN)


def share_up(whole: Decimal, part: Decimal, of: Decimal, scale: int) -> Decimal:
    """Whole × part ÷ of, rounded up once: the division itself would otherwise round a first time."""
    return round_up(_UP.divide(_UP.multiply(whole, part), of), scale)


def share_down(whole: Decimal, part: Decimal, of: Decimal, scale: int) -> Decimal:
    """Whole × part ÷ of, rounded down once."""
    return round_down(_DOWN.divide(_DOWN.multiply(whole, part), of), scale)


def scale_of(value: Decimal) -> int:
    """Decimals that the value really uses: 2 for 1.50 and 0 for 1E+3 (trailing zeros do count: 1.50 has 2)."""
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise TypeError("not a finite number")
    return max(0, -exponent)


def significant_scale(value: Decimal) -> int:
    """Decimals needed to write the value: 1 for 1.50."""
    return scale_of(value.normalize(EXACT))


def plain(value: Decimal) -> str:
    """The decimal without an exponent, as it stands on every wire."""
    return f"{value:f}"


def short(value: Decimal) -> str:
    """The decimal in its one spelling as text: `plain(trimmed(value))`, at a fifth of its cost, since ledger events are made of little else."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def trimmed(value: Decimal, decimals_min: int = 0) -> Decimal:
    """The same number in its one spelling: no zeros at the end of its decimals but those that make up a least number of them.

    A store may give 1.5 back for 1.50; what is shown must not depend on where it was read.
    """
    decimals = max(significant_scale(value), decimals_min)
    return value.quantize(Decimal((0, (1,), -decimals)), context=EXACT)


def currency_scale(currency: str) -> int:
    """Decimals of a currency. KeyError for one that is not registered."""
    return CURRENCY_SCALES[currency]


def in_currency(value: Decimal, currency: str) -> str:
    """A value that is exact in a currency, written with that currency's decimals: "5000.00"."""
    return plain(value.quantize(Decimal((0, (1,), -currency_scale(currency))), context=EXACT))


_SPELLING: Final = re.compile(AMOUNT_PATTERN, re.ASCII)


def read_decimal(value: object) -> Decimal:
    """Parse text, int or Decimal. ValueError names the rule that is broken; float is refused since it has lost digits already."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("must be a decimal number, written as text or as a JSON number")  # noqa: TRY004 - pydantic reports ValueError by field
    if isinstance(value, str) and not _SPELLING.fullmatch(value):
        raise ValueError("must be a decimal number such as 5000.00: digits, perhaps a point and more digits")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("must be a finite number")
    if number.adjusted() >= INTEGER_DIGITS_MAX or scale_of(number) > SCALE_MAX:
        raise ValueError(f"must have at most {INTEGER_DIGITS_MAX} digits before and {SCALE_MAX} after the point")
    return number


Amount = Annotated[
    Decimal,
    BeforeValidator(read_decimal),
    PlainSerializer(plain, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": AMOUNT_PATTERN, "examples": ["5000.00"]}, mode="serialization"),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": AMOUNT_PATTERN}, {"type": "number"}], "examples": ["5000.00"]},
        mode="validation",
    ),
]
"""A decimal: string in JSON, read from a string or a JSON number that was parsed without float."""

Figure = Annotated[
    Decimal,
    BeforeValidator(read_decimal),
    PlainSerializer(short, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": AMOUNT_PATTERN, "examples": ["5000"]}),
]
"""A decimal of the ledger: written without trailing zeros, since the store does not keep them, and an event made again must be the same to the byte."""
