"""Orders with a price of their own over HTTP: held for, filled, cancelled, and found again."""

from decimal import Decimal
from random import Random
from typing import Any

import pytest

from tests.soak.races import races
from tests.system.running import System, User, answered, refused

RACES_USERS, RACES_EACH = 4, 5


async def place(user: User, order_type: str, price: str, quantity: str = "0.01", **more: Any) -> dict[str, Any]:
    body = {"asset_id": "BTC", "order_type": order_type, "quantity": quantity, "price": price} | more
    order: dict[str, Any] = answered(await user.post("/orders", body), 201)["data"]
    return order


async def cash(user: User) -> tuple[str, str, str]:
    """Available, held and both."""
    balance = await user.read("/balance")
    return balance["current_balance"], balance["held_balance"], balance["total_balance"]


async def test_a_buy_that_waits_and_is_cancelled(system: System) -> None:
    """What it may cost, fee included, is held from the 201 on, and free again from the 200 on; both are rows of the cash movements."""
    user = await system.user("1000.00")
    order = await place(user, "limit_buy", "40000")
    assert (order["status"], order["total_amount"], order["held_amount"], order["fee"]) == ("open", "400.00", "400.40", "0.00")
    assert await cash(user) == ("599.60", "400.40", "1000.00")
    assert (await user.read("/users/portfolio/summary"))["held_cash"] == "400.40"
    refused(await user.withdraw("600.00"), 422, "insufficient-funds", "/amount")

    cancelled = answered(await user.call("DELETE", f"/orders/{order['order_id']}"), 200)["data"]
    assert (cancelled["status"], cancelled["cancel_reason"], cancelled["held_amount"]) == ("cancelled", "requested", "0.00")
    assert await cash(user) == ("1000.00", "0.00", "1000.00")
    assert (await user.read(f"/orders/{order['order_id']}"))["data"] == cancelled | {"fills": []}
    rows = (await user.read("/balance/transactions"))["transactions"]
    assert [(row["transaction_type"], row["amount"], row["order_id"]) for row in rows] == [
        ("order_release", "400.40", order["order_id"]),
        ("order_hold", "-400.40", order["order_id"]),
        ("deposit", "1000.00", None),
    ]


@pytest.mark.parametrize(("order_type", "price"), [("limit_sell", "60000"), ("take_profit_sell", "60000"), ("stop_loss_sell", "40000")])
async def test_a_sale_that_waits_and_is_cancelled(system: System, order_type: str, price: str) -> None:
    """What it would sell is held, and cannot be sold twice; a cancel with POST and an empty body frees it."""
    user = await system.user("1000.00")
    answered(await user.order("BTC", "0.01"), 201)
    order = await place(user, order_type, price, "0.008")
    assert (order["status"], order["held_quantity"], order["held_amount"]) == ("open", "0.008", "0.00")
    holding = await user.read("/balance/asset/BTC")
    assert (holding["quantity"], holding["held_quantity"]) == ("0.01", "0.008")
    refused(await user.order("BTC", "0.005", "market_sell"), 422, "insufficient-holdings", "/quantity")
    answered(await user.post(f"/orders/{order['order_id']}/cancel", {}), 200)
    assert (await user.read("/balance/asset/BTC"))["held_quantity"] == "0"
    answered(await user.order("BTC", "0.01", "market_sell"), 201)


async def test_an_order_that_the_market_has_reached(system: System) -> None:
    """It fills whole at the quote, not at its own price, and nothing is held for a moment."""
    user = await system.user("1000.00")
    bought = await place(user, "limit_buy", "60000")
    assert (bought["status"], bought["price"], bought["average_price"], bought["total_amount"], bought["fee"]) == (
        "completed",
        "60000.00",
        "50000.00",
        "500.00",
        "0.50",
    )
    assert await cash(user) == ("499.50", "0.00", "499.50")
    sold = await place(user, "limit_sell", "40000", "0.004")
    assert (sold["status"], sold["average_price"], sold["total_amount"]) == ("completed", "50000.00", "200.00")
    rows = (await user.read("/balance/transactions"))["transactions"]
    assert [row["transaction_type"] for row in rows] == ["order_sale", "fee", "order_payment", "fee", "deposit"]
    fills = (await user.read(f"/orders/{bought['order_id']}"))["data"]["fills"]
    assert fills == [{"quantity": "0.01", "price": "50000.00", "fee": "0.50", "filled_at": bought["created_at"]}]


@pytest.mark.parametrize("time_in_force", ["ioc", "fok"])
async def test_at_once_or_not_at_all(system: System, time_in_force: str) -> None:
    """201 with the order completed or cancelled; one that was not filled moved nothing."""
    user = await system.user("1000.00")
    missed = await place(user, "limit_buy", "40000", time_in_force=time_in_force)
    assert (missed["status"], missed["cancel_reason"]) == ("cancelled", "unmarketable")
    assert (await user.read("/balance/transactions"))["total_count"] == 1
    assert (await place(user, "limit_buy", "50000", time_in_force=time_in_force))["status"] == "completed"


async def test_filters_of_the_list(system: System) -> None:
    """Every type and status."""
    user = await system.user("10000.00")
    market = answered(await user.order("BTC", "0.02"), 201)["data"]
    waiting = await place(user, "limit_buy", "40000")
    missed = await place(user, "limit_buy", "40000", time_in_force="ioc")
    stop = await place(user, "stop_loss_sell", "40000")
    target = await place(user, "take_profit_sell", "60000")
    dropped = answered(await user.call("DELETE", f"/orders/{target['order_id']}"), 200)["data"]
    for params, expected in (
        ({}, [dropped, stop, missed, waiting, market]),
        ({"status": "open"}, [stop, waiting]),
        ({"status": "cancelled"}, [dropped, missed]),
        ({"status": "completed"}, [market]),
        ({"status": "expired"}, []),
        ({"order_type": "limit_buy"}, [missed, waiting]),
        ({"order_type": "stop_loss_sell", "status": "open"}, [stop]),
        ({"order_type": "take_profit_sell"}, [dropped]),
        ({"order_type": "limit_sell"}, []),
    ):
        assert (await user.read("/orders", **params))["data"] == expected, params


async def test_a_cancel_that_is_repeated(system: System) -> None:
    """Under its key it answers the same for ever; under another one it is too late, and told the order as it stands, which its command tells too."""
    user = await system.user("1000.00")
    order = await place(user, "limit_buy", "40000")
    path = f"/orders/{order['order_id']}"
    first = await user.call("DELETE", path, headers={"Idempotency-Key": "stop"})
    again = await user.call("DELETE", path, headers={"Idempotency-Key": "stop"})
    assert answered(first, 200) == answered(again, 200)
    assert again.headers["Idempotent-Replayed"] == "true"
    late = await user.call("DELETE", path)
    body = refused(late, 409, "order-not-open")
    assert body["order"] == first.json()["data"]
    assert "cancelled" in body["detail"]
    command = await user.read(f"/commands/{first.headers['Command-Id']}")
    assert (command["state"], command["request_type"], command["outcome"]) == ("settled", "OrderCancelRequested", first.json())
    command = await user.read(f"/commands/{late.headers['Command-Id']}")
    assert (command["state"], command["code"], command["detail"]) == ("refused", "order-not-open", body["detail"])
    assert await cash(user) == ("1000.00", "0.00", "1000.00")


async def test_orders_that_cannot_be_cancelled(system: System) -> None:
    """A filled one is 409 with its state; another user's is not found, like one that there is not; an id that cannot be one is 422."""
    user, other = await system.user("1000.00"), await system.user()
    filled = answered(await user.order("BTC", "0.01"), 201)["data"]
    assert refused(await user.call("DELETE", f"/orders/{filled['order_id']}"), 409, "order-not-open")["order"] == filled
    for person, order_id in ((other, filled["order_id"]), (user, f"ord_{'0' * 32}"), (user, "ord_0123456789")):
        refused(await person.call("DELETE", f"/orders/{order_id}"), 404, "not-found", "#/path/order_id")
        refused(await person.post(f"/orders/{order_id}/cancel", {}), 404, "not-found", "#/path/order_id")
    for malformed in ("short", "x" * 51, "has-hyphen-in"):
        refused(await user.call("DELETE", f"/orders/{malformed}"), 422, "validation-failed", "#/path/order_id")
    refused(await user.post(f"/orders/{filled['order_id']}/cancel", {"why": "x"}), 422, "validation-failed", "/why")
    refused(await system.http.delete(f"/api/v1/orders/{filled['order_id']}"), 401, "unauthorized")


async def test_a_cancel_without_waiting(system: System) -> None:
    """202 with the command, which tells the outcome."""
    user = await system.user("1000.00")
    order = await place(user, "limit_buy", "40000")
    answer = await user.call("DELETE", f"/orders/{order['order_id']}", headers={"Prefer": "respond-async"})
    command = answered(answer, 202)["command_id"]
    fenced = answered(await user.post(f"/commands/{command}/fence", None), 200)
    assert (fenced["state"], fenced["outcome"]["data"]["status"]) == ("settled", "cancelled")


async def test_orders_hold_no_more_than_there_is(system: System) -> None:
    """What is held is the sum over the open orders at every step, and never more than there was."""
    user = await system.user("1000.00")
    held = Decimal(0)
    for price in ("10000", "20000", "30000"):
        held += Decimal((await place(user, "limit_buy", price))["held_amount"])
        assert await cash(user) == (str(1000 - held), str(held), "1000.00")
    refused(
        await user.post("/orders", {"asset_id": "BTC", "order_type": "limit_buy", "quantity": "0.01", "price": "45000"}),
        422,
        "insufficient-funds",
        "/quantity",
    )


async def test_a_cancel_races_a_fill(system: System) -> None:
    """Exactly one of both wins, the other is told what it made of the order, and the books add up."""
    figures = await races(system, Random(7), users=RACES_USERS, each=RACES_EACH)  # noqa: S311 - a plan that can be had again
    assert figures.faults == []
    assert figures.won["OrderCancelRequested"] + figures.won["OrderTriggered"] == RACES_USERS * RACES_EACH
