"""Orders: what can be told without the account is checked here; the rest is settlement's to decide, on the quote and facts stamped here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

from litestar import Response, delete, post
from litestar.params import Parameter
from pydantic import ValidationError

from command_api.balances import PENDING
from command_api.call import Call
from command_api.outcome import Door
from infra.clock import Clock
from infra.http import REFUSES, JsonRequest, ProblemError, invalid_fields
from infra.market import MarketCache
from schemas.bodies import CancelOrder, PlaceOrder
from schemas.instants import EPOCH, rfc3339
from schemas.market import Asset, AssetFacts, PriceChanged, Quote
from schemas.money import ZERO, plain, significant_scale
from schemas.requests import (
    DUE_SIDES,
    ORDER_ID_ASKED_PATTERN,
    ORDER_ID_PATTERN,
    OrderCancelRequested,
    OrderPlaced,
    OrderStamp,
    OrderType,
    TimeInForce,
)
from schemas.views import OrderAnswer

STOPS: Final[tuple[OrderType, ...]] = ("stop_loss_sell", "take_profit_sell")
AT_ONCE: Final[tuple[TimeInForce, ...]] = ("ioc", "fok")
OrderIdPath = Annotated[str, Parameter(pattern=ORDER_ID_ASKED_PATTERN, description="As told by the answer that placed the order")]

UNSTAMPED: Final = OrderStamp(Quote(ZERO, 0, EPOCH, EPOCH), AssetFacts(0, ZERO, is_active=False, fee_bps=0), ZERO)
"""Stands in an order until its desk stamps it; it is never sent."""


@dataclass(frozen=True, slots=True)
class Fees:
    """Fees in basis points: those of some categories of assets, and the one of all others."""

    others: int
    by_category: Mapping[str, int]

    def of(self, asset: Asset) -> int:
        """The fee on orders of an asset."""
        return self.by_category.get(asset.category, self.others)


class OrderDesk:
    """Checks orders against the market and stamps them. `fees` in basis points, `total_max` in the home currency."""

    def __init__(self, market: MarketCache, clock: Clock, *, price_age_max_s: float, quote_age_max_s: float, fees: Fees, total_max: Decimal) -> None:
        self._market = market
        self._clock = clock
        self._price_age_max = timedelta(seconds=price_age_max_s)
        self._quote_age_max = timedelta(seconds=quote_age_max_s)
        self._fees = fees
        self._total_max = total_max

    async def stamped(self, order: OrderPlaced) -> OrderPlaced:
        """The order with facts and quote, which holds from now on. Raises the problem of the first rule it breaks, or 503 without a price."""
        now = self._clock.now()
        if order.expires_at is not None and order.expires_at <= now:
            raise ProblemError("validation-failed", "expires_at is not in the future.", pointer="/expires_at")
        asset = check_asset(order, await self._market.asset(order.asset_id))
        quote = self._quote(order, await self._market.price(order.asset_id), now)
        facts = AssetFacts(asset.quantity_scale, asset.minimum_quantity, asset.is_active, self._fees.of(asset))
        return replace(order, stamp=OrderStamp(quote, facts, self._total_max))

    def _quote(self, order: OrderPlaced, price: PriceChanged | None, now: datetime) -> Quote:
        """The price to fill at. One that is too old for that still tells an order that may wait which prices came before it: such a quote has ended."""
        if price is None:
            raise ProblemError("price-unavailable", f"There is no price of {order.asset_id} now.")
        if now - price.at <= self._price_age_max:
            return Quote(price.price, price.sequence, now, now + self._quote_age_max)
        if may_wait(order.order_type, order.time_in_force):
            return Quote(price.price, price.sequence, price.at, price.at)
        raise ProblemError("price-unavailable", f"The last price of {order.asset_id} is of {rfc3339(price.at)}: too old to trade at.")


@post("/orders", tags=["orders"], status_code=201, responses=PENDING)
async def place_order(data: PlaceOrder, call: Call, door: Door, desk: OrderDesk) -> Response[OrderAnswer]:
    """Place an order. 201 once it is settled and visible, be it filled, open or not filled at all; 202 when the wait ran out: it is on its way then."""
    check_terms(data)
    return await door.submit(call, _unstamped(call.username, data), desk.stamped)


@delete("/orders/{order_id:str}", tags=["orders"], summary="Cancel an order", status_code=200, responses=PENDING, opt={REFUSES: ("order-not-open",)})
async def delete_order(order_id: OrderIdPath, call: Call, door: Door) -> Response[OrderAnswer]:
    """Cancel an open order. 200 once it is cancelled, what it held is free, and reads show it; 409 with the order as it stands where it was not open."""
    return await door.submit(call, _cancel(call.username, order_id))


@post(
    "/orders/{order_id:str}/cancel",
    tags=["orders"],
    summary="Cancel an order",
    status_code=200,
    responses=PENDING,
    opt={REFUSES: ("order-not-open", "malformed-body", "body-too-large", "unsupported-media-type")},
)
async def cancel_order(order_id: OrderIdPath, request: JsonRequest, call: Call, door: Door) -> Response[OrderAnswer]:
    """The same as `DELETE /orders/{order_id}`, for clients that cannot send that. The body may be missing, or is an empty object."""
    _check_empty(await request.json())
    return await door.submit(call, _cancel(call.username, order_id))


ROUTES: Final[tuple[Any, ...]] = (place_order, delete_order, cancel_order)


def check_terms(order: PlaceOrder) -> None:
    """Rules between the fields of an order; raises the problem of the first one broken."""
    waits = order.order_type in DUE_SIDES
    if waits and order.price is None:
        raise ProblemError("price-required", f"An order of type {order.order_type} names its price.", pointer="/price")
    if not waits and order.price is not None:
        raise ProblemError("price-not-allowed", "A market order is filled at the market's price.", pointer="/price")
    if order.order_type in STOPS and order.time_in_force in AT_ONCE:
        raise ProblemError("validation-failed", "An order of this type waits for its price: gtc, gtd or day.", pointer="/time_in_force")
    if (order.time_in_force == "gtd") != (order.expires_at is not None):
        raise ProblemError("validation-failed", "expires_at belongs to time_in_force gtd, and gtd needs it.", pointer="/expires_at")


def may_wait(order_type: OrderType, time_in_force: TimeInForce) -> bool:
    """Whether an order stays open where it cannot be filled at once."""
    return order_type in DUE_SIDES and time_in_force not in AT_ONCE


def check_asset(order: OrderPlaced, asset: Asset | None) -> Asset:
    """The asset of an order, where it is traded in such a quantity; raises the problem of the first rule broken."""
    if asset is None:
        raise ProblemError("unknown-asset", f"There is no asset {order.asset_id}.", pointer="/asset_id")
    if not asset.is_active:
        raise ProblemError("asset-inactive", f"{asset.asset_id} is not traded now.", pointer="/asset_id")
    if significant_scale(order.quantity) > asset.quantity_scale:
        raise ProblemError("validation-failed", f"A quantity of {asset.asset_id} has at most {asset.quantity_scale} decimals.", pointer="/quantity")
    if order.quantity < asset.minimum_quantity:
        raise ProblemError("below-minimum", f"The smallest quantity of {asset.asset_id} is {plain(asset.minimum_quantity)}.", pointer="/quantity")
    return asset


def _check_empty(body: Any) -> None:
    # Not a handler's `data`: Litestar then calls a missing body an error of its own, beside any other one.
    try:
        CancelOrder.model_validate(body or {})
    except ValidationError as error:
        raise invalid_fields(error) from None


def _cancel(username: str, order_id: str) -> OrderCancelRequested:
    """The request, which takes ids of our own form only; the problem `not-found` for another one, as settlement tells it."""
    if not re.fullmatch(ORDER_ID_PATTERN, order_id):
        raise ProblemError("not-found", "the account has no such order", pointer="#/path/order_id")
    return OrderCancelRequested(username, order_id)


def _unstamped(username: str, order: PlaceOrder) -> OrderPlaced:
    return OrderPlaced(
        username=username,
        asset_id=order.asset_id,
        order_type=order.order_type,
        quantity=order.quantity,
        stamp=UNSTAMPED,
        price=order.price,
        client_order_id=order.client_order_id,
        time_in_force=order.time_in_force,
        expires_at=order.expires_at,
    )
