"""Orders: what can be told without the account is checked here; the rest is settlement's to decide, on the quote and facts stamped here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from litestar import Response, post

from command_api.balances import PENDING
from command_api.call import Call
from command_api.outcome import Door
from infra.clock import Clock
from infra.http import ProblemError
from infra.market import MarketCache
from schemas.bodies import PlaceOrder
from schemas.instants import EPOCH, rfc3339
from schemas.market import Asset, AssetFacts, Quote
from schemas.money import ZERO, plain, significant_scale
from schemas.requests import OrderPlaced, OrderStamp
from schemas.views import OrderAnswer

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
        price = await self._market.price(order.asset_id)
        if price is None:
            raise ProblemError("price-unavailable", f"There is no price of {asset.asset_id} now.")
        if now - price.at > self._price_age_max:
            raise ProblemError("price-unavailable", f"The last price of {asset.asset_id} is of {rfc3339(price.at)}: too old to trade at.")
        quote = Quote(price.price, price.sequence, now, now + self._quote_age_max)
        facts = AssetFacts(asset.quantity_scale, asset.minimum_quantity, asset.is_active, self._fees.of(asset))
        return replace(order, stamp=OrderStamp(quote, facts, self._total_max))


@post("/orders", tags=["orders"], status_code=201, responses=PENDING)
async def place_order(data: PlaceOrder, call: Call, door: Door, desk: OrderDesk) -> Response[OrderAnswer]:
    """Place an order. 201 once it is settled and visible, 202 when the wait ran out; the order is on its way then."""
    check_terms(data)
    return await door.submit(call, _unstamped(call.username, data), desk.stamped)


ROUTES: Final[tuple[Any, ...]] = (place_order,)


def check_terms(order: PlaceOrder) -> None:
    """Rules between the fields of an order; raises the problem of the first one broken."""
    is_limit = order.order_type.startswith("limit_")
    if is_limit and order.price is None:
        raise ProblemError("price-required", "A limit order names its price.", pointer="/price")
    if not is_limit and order.price is not None:
        raise ProblemError("price-not-allowed", "A market order is filled at the market's price.", pointer="/price")
    if (order.time_in_force == "gtd") != (order.expires_at is not None):
        raise ProblemError("validation-failed", "expires_at belongs to time_in_force gtd, and gtd needs it.", pointer="/expires_at")
    if is_limit:
        raise ProblemError("order-type-unsupported", "Limit orders are not offered yet.", pointer="/order_type")


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
