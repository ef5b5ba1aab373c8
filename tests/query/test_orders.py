"""Orders that change after they were placed, as their owner reads them."""

from pathlib import Path
from typing import Any

import pytest

from infra.cache import ORDERS_HELD_MAX
from schemas.rows import order_view
from tests.fakes.histories import History, Step
from tests.query.door import ReadDoor, read_door
from tests.valkey import valkey

OPEN = ("deposit", "open")


async def grown(door: ReadDoor, history: History, *steps: Step) -> None:
    """More happens, and is projected."""
    first = len(history.entries) + 1
    history.grow(steps)
    await door.project(history, *range(first, len(history.entries) + 1))


async def shown(door: ReadDoor, history: History) -> dict[str, Any]:
    """The newest order, which the list and the order's own route tell alike."""
    order: dict[str, Any] = (await door.get("/orders", history)).json()["data"][0]
    alone = (await door.get(f"/orders/{order['order_id']}", history)).json()["data"]
    assert alone.items() >= order.items()
    return alone


@pytest.mark.parametrize(("step", "status"), [("close", "cancelled"), ("fill", "completed")])
async def test_a_change_is_shown_in_its_place(door: ReadDoor, step: Step, status: str) -> None:
    """By the next read: the order itself, its fill, and what it held; no row is added to the list."""
    history = await door.shown(*OPEN)
    before = await shown(door, history)
    assert (before["status"], before["held_amount"], before["fills"]) == ("open", "12.34", [])
    assert (await door.get("/balance", history)).json()["held_balance"] == "12.34"
    await grown(door, history, step)
    after = await shown(door, history)
    assert (after["order_id"], after["status"], after["held_amount"]) == (before["order_id"], status, "0.00")
    assert after["cancel_reason"] == ("requested" if step == "close" else None)
    assert [fill["price"] for fill in after["fills"]] == (["12.34"] if step == "fill" else [])
    assert len((await door.get("/orders", history)).json()["data"]) == 1
    balance = (await door.get("/balance", history)).json()
    assert (balance["held_balance"], balance["current_balance"]) == ("0.00", "-11.35" if step == "fill" else "1.00")


@pytest.mark.parametrize("step", ["close", "fill"])
async def test_a_change_of_an_order_behind_the_recent_ones(door: ReadDoor, step: Step) -> None:
    """It is told from the ledger, by its id and in its list, with a filter and without; the recent ones keep no hole."""
    history = await door.shown(*OPEN, *["buy"] * (ORDERS_HELD_MAX + 5))
    oldest = history.orders()[-1]
    await grown(door, history, step)
    expected = [order_view(order).model_dump(mode="json") for order in history.orders()]
    assert expected[-1]["status"] == history.orders()[-1].status != oldest.status
    assert (await door.get(f"/orders/{oldest.order_id}", history)).json()["data"]["status"] == history.orders()[-1].status
    assert await everything(door, history) == expected
    assert await everything(door, history, status="open") == []
    assert await everything(door, history, order_type="limit_buy") == expected[-1:]


@pytest.mark.parametrize("status", ["open", "completed", "cancelled", "expired"])
@pytest.mark.parametrize("order_type", [None, "limit_buy", "market_buy", "stop_loss_sell", "take_profit_sell"])
async def test_filters(door: ReadDoor, status: str, order_type: str | None) -> None:
    """Every status and type can be asked for, together too."""
    history = await door.shown(*["open", "buy", "close", "open", "fill", "open", "sell"] * 3)
    wanted = {"status": status} | ({"order_type": order_type} if order_type else {})
    orders = [order for order in history.orders() if all(getattr(order, name) == value for name, value in wanted.items())]
    assert await everything(door, history, **wanted) == [order_view(order).model_dump(mode="json") for order in orders]


async def test_holds_and_releases_are_movements(door: ReadDoor) -> None:
    """Each is a row of its own, is counted, and names its order; a fill releases the whole hold before it pays."""
    history = await door.shown("deposit", "open", "close", "open", "fill")
    cancelled, filled = (order.order_id for order in reversed(history.orders()))
    for path in ("view", "ledger"):
        body = (await door.get("/balance/transactions", history)).json()
        assert [(row["transaction_type"], row["amount"], row["order_id"]) for row in body["transactions"]] == [
            ("order_release", "12.34", filled),
            ("order_payment", "-12.34", filled),
            ("fee", "-0.01", filled),
            ("order_hold", "-12.34", filled),
            ("order_release", "12.34", cancelled),
            ("order_hold", "-12.34", cancelled),
            ("deposit", "1.00", None),
        ], path
        assert (body["total_count"], body["has_more"]) == (7, False)
        assert len({row["transaction_id"] for row in body["transactions"]}) == 7
        await door.cache.client.flushdb()


async def test_an_assets_movements_are_its_trades_alone(door: ReadDoor) -> None:
    """What is held for a sale and released again was neither bought nor sold."""
    history = await door.shown("deposit", "open", "close", "open", "fill")
    asset_id = history.orders()[0].asset_id
    rows = (await door.get(f"/assets/{asset_id}/transactions", history)).json()["data"]
    assert [(row["transaction_type"], row["order_id"]) for row in rows] == [("BUY", history.orders()[0].order_id)]


async def test_a_cancel_without_redis(tmp_path: Path) -> None:
    """The very next read shows it: past the cache while that is away, and by a load when it is back empty or missed the result."""
    async with valkey(tmp_path) as server, read_door(server.url, tmp_path) as door:
        history = await door.shown(*OPEN)
        history.grow(["close"])
        for _ in range(2):
            answer = await door.get("/orders", history, at_least=3)
            assert (answer.json()["data"][0]["status"], answer.headers["Consistency-Satisfied"]) == ("cancelled", "true")
            assert (await shown(door, history))["status"] == "cancelled"
            await server.stop()


async def test_a_cancel_as_a_command(door: ReadDoor) -> None:
    """Settled with the order as the call answered it."""
    history = await door.shown(*OPEN, "close")
    body = (await door.get(f"/commands/{door.command_id(history, history.entries[-1].request_id)}", history)).json()
    assert (body["state"], body["request_type"], body["outcome"]["data"]["status"]) == ("settled", "OrderCancelRequested", "cancelled")


async def everything(door: ReadDoor, history: History, **query: str) -> list[dict[str, Any]]:
    """The rows of all pages."""
    rows: list[dict[str, Any]] = []
    more: dict[str, str] = {}
    while True:
        body = (await door.get("/orders", history, limit=100, **query, **more)).json()
        rows += body["data"]
        if not body["has_more"]:
            return rows
        more = {"cursor": body["next_cursor"]}
