"""The index of open orders: text order is price order, pages are bounded and complete, and every order is where it is looked for."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.open_orders import OpenOrders
from schemas.money import INTEGER_DIGITS_MAX, SCALE_MAX
from schemas.tables import BEHIND, due_price, padded_price, read_due_price
from tests.fakes.clock import START
from tests.triggers.parts import Ledger

PRICES = st.decimals(min_value=0, max_value=Decimal(10) ** INTEGER_DIGITS_MAX - 1, allow_nan=False, allow_infinity=False, places=SCALE_MAX)
SEQUENCES = st.integers(min_value=0, max_value=10**18)


async def everything(read: Any, **arguments: Any) -> list[Any]:
    """All pages of a question, each within its bound."""
    found, after = [], None
    while True:
        page = await read(**arguments, after=after)
        assert len(page.orders) <= arguments["limit"]
        found += page.orders
        if page.after is None:
            return found
        after = page.after


@given(PRICES, PRICES)
def test_text_order_is_price_order(one: Decimal, other: Decimal) -> None:
    """▲ Exactly, for every price that there can be."""
    assert (padded_price(one) < padded_price(other)) == (one < other)
    assert (padded_price(one) == padded_price(other)) == (one == other)


@given(PRICES, PRICES, SEQUENCES)
def test_the_bound_of_a_price_is_exact(price: Decimal, limit: Decimal, sequence: int) -> None:
    """▲ An order is behind the bound of a falling price if its limit is not below it, and before that of a rising one if it is not above it."""
    key = due_price(limit, sequence, START, "ord_f")
    assert (key >= padded_price(price)) == (limit >= price)
    assert (key <= padded_price(price) + BEHIND) == (limit <= price)
    assert read_due_price(key) == (limit, sequence, START)


@pytest.mark.parametrize("limit", [1, 4, 7, 1_000])
async def test_what_is_due_is_found_once(orders: OpenOrders, ledger: Ledger, limit: int) -> None:
    """Of one asset and one side, from the price on, in pages of any size; a price that is met exactly counts."""
    limits = [f"{price}.{cents}" for price in range(95, 105) for cents in ("00", "000000000000000001")]
    buys = await ledger.open_all(limits)
    sales = await ledger.open_all(limits, kind="limit_sell")
    stops = await ledger.open_all(limits, kind="stop_loss_sell")
    await ledger.open_all(limits, asset="BTCX")
    falls = [*zip(buys, map(Decimal, limits), strict=True), *zip(stops, map(Decimal, limits), strict=True)]
    for side, found, wanted in (
        ("falls", 100, {order_id for order_id, price in falls if price >= 100}),
        ("rises", 100, {order_id for order_id, price in zip(sales, map(Decimal, limits), strict=True) if price <= 100}),
    ):
        told = await everything(orders.due, asset_id="BTC", side=side, price=Decimal(found), limit=max(limit, 4))
        assert sorted(order.order_id for order in told) == sorted(wanted)


async def test_a_page_begins_with_what_is_due_first(orders: OpenOrders, ledger: Ledger) -> None:
    """Falling to a price the market meets the highest limit first, rising to it the lowest."""
    await ledger.open_all(["101", "99", "103.5", "100"], sequence=7)
    await ledger.open_all(["101", "99", "103.5", "100"], kind="take_profit_sell")
    falls = await orders.due("BTC", "falls", Decimal(100), limit=100)
    rises = await orders.due("BTC", "rises", Decimal(101), limit=100)
    assert [str(order.price.normalize()) for order in falls.orders] == ["103.5", "101", "1E+2"]
    assert [str(order.price.normalize()) for order in rises.orders] == ["99", "1E+2", "101"]
    assert {order.quote_sequence for order in falls.orders} == {7}
    assert {order.username[:5] for order in falls.orders} == {"user_"}


async def test_within_a_shard_pages_go_on_in_that_order(orders: OpenOrders, ledger: Ledger) -> None:
    """Of one account's orders the first page has those that are due first."""
    prices = [f"{price}" for price in (101, 107, 103, 109, 105, 102, 108, 104, 106, 100)]
    await ledger.open_all(prices, user="ada_lovelace")
    await ledger.open_all(prices, user="ada_lovelace", kind="limit_sell")
    falls = await everything(orders.due, asset_id="BTC", side="falls", price=Decimal(102), limit=8)
    rises = await everything(orders.due, asset_id="BTC", side="rises", price=Decimal(107), limit=8)
    assert [int(order.price) for order in falls] == [*range(109, 101, -1)]
    assert [int(order.price) for order in rises] == [*range(100, 108)]


async def test_everything_is_found_by_asset_and_at_all(orders: OpenOrders, ledger: Ledger) -> None:
    """All orders of an asset and a side, and all of all."""
    mine = await ledger.open_all(["1", "100000"] * 10)
    other = await ledger.open_all(["1", "100000"] * 10, asset="ETH", kind="limit_sell")
    assert sorted(order.order_id for order in await everything(orders.of_asset, asset_id="BTC", side="falls", limit=8)) == sorted(mine)
    assert await everything(orders.of_asset, asset_id="BTC", side="rises", limit=8) == []
    assert sorted(order.order_id for order in await everything(orders.all, limit=7)) == sorted(mine + other)


async def test_orders_are_found_when_their_time_ends(orders: OpenOrders, ledger: Ledger) -> None:
    """At that very millisecond and not before it; orders without an end never."""
    await ledger.open("1")
    ended = await ledger.open_all(["1"] * 6, expires_at=START)
    later = await ledger.open("1", expires_at=START + timedelta(milliseconds=1))
    assert await everything(orders.expiring, until=START - timedelta(milliseconds=1), limit=4) == []
    assert sorted(order.order_id for order in await everything(orders.expiring, until=START, limit=4)) == sorted(ended)
    assert later in [order.order_id for order in await everything(orders.expiring, until=START + timedelta(seconds=1), limit=4)]
