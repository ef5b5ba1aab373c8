"""Bodies of the write API for money and orders: what a client sends, before a door adds what it knows."""

from decimal import Decimal
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from schemas.identity import Body
from schemas.instants import Instant
from schemas.money import CURRENCY_SCALES, HOME_CURRENCY, Amount, significant_scale
from schemas.requests import AssetId, ClientOrderId, Currency, OrderType, PositiveAmount, TimeInForce

MONEY_MAX: Final = Decimal(1_000_000)
"""The most that one deposit or withdrawal moves, in units of the currency."""


def _in_currency(value: Decimal, info: ValidationInfo) -> Decimal:
    scale = CURRENCY_SCALES[info.data.get("currency", HOME_CURRENCY)]
    if significant_scale(value) > scale:
        raise ValueError(f"must have at most {scale} decimals")
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class MoveMoney(Body):
    """A deposit or a withdrawal."""

    currency: Currency = "USD"  # before the amount, whose decimals depend on it
    amount: Annotated[Amount, Field(gt=0, le=MONEY_MAX), AfterValidator(_in_currency)]


class PlaceOrder(Body):
    """An order. `quantity` is in units of the asset, `price` the limit or the stop, in the home currency; a market order has none."""

    asset_id: Annotated[AssetId, BeforeValidator(_upper)]
    order_type: OrderType
    quantity: PositiveAmount
    price: PositiveAmount | None = None
    client_order_id: ClientOrderId | None = None
    time_in_force: TimeInForce = "gtc"
    expires_at: Instant | None = None


class CancelOrder(Body):
    """Nothing: an order is cancelled as a whole."""
