"""Orders that wait, and what ends their waiting: the market, the clock, or the end of an asset's trade."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from events.bus import Bus
from infra.clock import SystemClock, SystemIds
from infra.market import MarketStore
from processors.market import publish_prices
from processors.prices import Tick
from schemas.instants import parse_rfc3339, rfc3339
from schemas.market import Asset, PriceChanged
from tests.system.running import ANSWER_S, System, User, answered, cnop
from tests.waiting import eventually

COIN = "XMR"
"""No other test here trades it."""
PRICE = Decimal("300.00")
DUE_S = 30.0
LATE_S = 2.0
ORDERS = 3
"""The machine may stand still while one of them ends, or two."""
Move = Callable[[str], Any]


class At:
    """A `PriceSource` with one price."""

    def __init__(self, price: Decimal) -> None:
        self._price = price

    def tick(self, asset: Asset, latest: PriceChanged | None, at: datetime) -> Tick:
        return Tick(self._price)


@pytest.fixture
async def move(system: System) -> AsyncIterator[Move]:
    """Has the market move the coin to a price, as its own process does; in the end it is back where it was."""
    bus = Bus(system.addresses.kafka, client_id="test-market", acknowledge_s=ANSWER_S)
    await bus.start()
    store = MarketStore(system.dynamo)
    asset = (await store.assets())[COIN]

    async def to(price: str) -> None:
        source = At(Decimal(price))  # the market's own process may publish at the same moment, and be the first
        await eventually(lambda: publish_prices([asset], store, bus, source=source, clock=SystemClock(), ids=SystemIds()), ANSWER_S)
        await eventually(lambda: _shows(system, price), ANSWER_S)

    yield to
    await to(str(PRICE))
    await bus.stop(ANSWER_S)


async def _shows(system: System, price: str) -> bool:
    asset = answered(await system.http.get(f"/api/v1/inventory/assets/{COIN}"), 200)["data"]
    return asset["price_usd"] == float(price)


async def place(user: User, order_type: str, price: str, quantity: str = "1", **more: Any) -> str:
    body = {"asset_id": COIN, "order_type": order_type, "quantity": quantity, "price": price} | more
    order = answered(await user.post("/orders", body), 201)["data"]
    assert order["status"] == "open"
    return str(order["order_id"])


async def ended(user: User, order_id: str) -> dict[str, Any]:
    """The order, once it is not open any more."""

    async def closed() -> dict[str, Any] | None:
        order: dict[str, Any] = (await user.read(f"/orders/{order_id}"))["data"]
        return order if order["status"] != "open" else None

    order: dict[str, Any] = await eventually(closed, DUE_S)
    return order


async def test_a_limit_buy_fills_when_the_market_falls_to_it(system: System, move: Move) -> None:
    """At the market's price, which is better than its own: what was held for the difference is free again."""
    user = await system.user("1000.00")
    order_id = await place(user, "limit_buy", "280.00")
    assert (await user.read("/balance"))["held_balance"] == "280.28"
    await move("285.00")
    await move("270.00")
    order = await ended(user, order_id)
    assert (order["status"], order["average_price"], order["total_amount"], order["fee"], order["held_amount"]) == (
        "completed",
        "270.00",
        "270.00",
        "0.27",
        "0.00",
    )
    balance = await user.read("/balance")
    assert (balance["current_balance"], balance["held_balance"]) == ("729.73", "0.00")
    rows = (await user.read("/balance/transactions", limit=3))["transactions"]
    assert [(row["transaction_type"], row["amount"]) for row in rows] == [("order_release", "280.28"), ("order_payment", "-270.00"), ("fee", "-0.27")]


@pytest.mark.parametrize(
    ("order_type", "price", "reached"), [("limit_sell", "320.00", "325.00"), ("take_profit_sell", "320.00", "325.00"), ("stop_loss_sell", "280.00", "270.00")]
)
async def test_a_sale_fills_when_the_market_reaches_it(system: System, move: Move, order_type: str, price: str, reached: str) -> None:
    """At the market's price, above a limit or below a stop; the other direction does not fill it."""
    user = await system.user("1000.00")
    answered(await user.order(COIN, "1"), 201)
    order_id = await place(user, order_type, price)
    await move("290.00" if reached > price else "310.00")
    await move(reached)
    order = await ended(user, order_id)
    assert (order["status"], order["average_price"], order["held_quantity"]) == ("completed", reached, "0")
    assert (await user.read(f"/balance/asset/{COIN}"))["quantity"] == "0"


async def test_an_order_placed_after_a_dip_is_not_filled_by_it(system: System, move: Move) -> None:
    """Only prices later than its quote count."""
    user = await system.user("1000.00")
    await move("250.00")
    await move(str(PRICE))
    late = await place(user, "limit_buy", "280.00")
    await move("279.00")
    assert (await ended(user, late))["average_price"] == "279.00"


async def test_an_order_ends_in_time(system: System) -> None:
    """Within two seconds of `expires_at`; what it held is free again."""
    user = await system.user("1000.00")
    late: list[timedelta] = []
    while not late or (late[-1] > timedelta(seconds=LATE_S) and len(late) < ORDERS):
        end = datetime.now(UTC) + timedelta(seconds=4)
        order_id = await place(user, "limit_buy", "200.00", time_in_force="gtd", expires_at=rfc3339(end))
        order = await ended(user, order_id)
        assert (order["status"], order["held_amount"]) == ("expired", "0.00")
        late.append(parse_rfc3339(order["updated_at"]) - parse_rfc3339(order["expires_at"]))
    assert timedelta(0) <= late[-1] <= timedelta(seconds=LATE_S), late
    assert (await user.read("/balance"))["held_balance"] == "0.00"


async def test_orders_of_an_asset_that_is_not_traded_any_more(system: System) -> None:
    """They are cancelled, with the reason; new ones are refused."""
    user = await system.user("1000.00")
    order_id = await place(user, "limit_buy", "200.00")
    try:
        assert (await cnop(system, "assets", "deactivate", COIN))[0] == 0
        order = await asyncio.wait_for(ended(user, order_id), DUE_S)
        assert (order["status"], order["cancel_reason"], order["held_amount"]) == ("cancelled", "asset-inactive", "0.00")
    finally:
        assert (await cnop(system, "assets", "activate", COIN))[0] == 0
