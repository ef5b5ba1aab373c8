"""Working orders over HTTP: what a caller is told of one that waits, that is filled at once, or that is cancelled, whatever happens behind the door."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.clock import SystemClock
from schemas.instants import parse_rfc3339, rfc3339
from schemas.requests import OrderPlaced, OrderTriggered, decode_request, trigger_id
from schemas.views import read_consistency_token
from tests.command.system import PRICE, System
from tests.waiting import eventually

DEADLINE_S = 10.0
BUY = {"asset_id": "BTC", "order_type": "limit_buy", "quantity": "0.5", "price": "40000"}


async def place(system: System, headers: dict[str, str], **changes: Any) -> dict[str, Any]:
    answer = await system.client.post("/orders", json=BUY | changes, headers=headers)
    assert answer.status_code == 201, answer.text
    order: dict[str, Any] = answer.json()["data"]
    return order


async def cancel(system: System, headers: dict[str, str], order_id: str, method: str = "DELETE", **more: str) -> httpx.Response:
    path = f"/orders/{order_id}" if method == "DELETE" else f"/orders/{order_id}/cancel"
    return await system.client.request(method, path, headers=headers | {name.replace("_", "-"): value for name, value in more.items()})


def problem(answer: httpx.Response) -> tuple[int, str, list[str]]:
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    body = answer.json()
    return answer.status_code, body["code"], [error["pointer"] for error in body.get("errors", [])]


async def held(system: System, name: str) -> tuple[Decimal, Decimal]:
    """Cash as the view shows it: available and held."""
    line = (await system.views.account(name)).value.cash["USD"]
    return line.available, line.held


async def test_an_order_that_waits(system: System) -> None:
    """201 `open` with what it holds, at its own worth; the view shows the hold by then."""
    name, headers = await system.rich_user("100000")
    order = await place(system, headers, client_order_id="waits")
    assert (order["status"], order["price"], order["average_price"], order["filled_quantity"]) == ("open", "40000.00", None, "0")
    assert (order["total_amount"], order["held_amount"], order["held_quantity"], order["cancel_reason"]) == ("20000.00", "20000.00", "0", None)
    assert (order["client_order_id"], order["time_in_force"], order["expires_at"]) == ("waits", "gtc", None)
    assert await held(system, name) == (80_000, 20_000)


async def test_an_order_that_the_market_has_reached(system: System) -> None:
    """It is filled in the same decision at the quote, which is better than its own price, and holds nothing."""
    name, headers = await system.rich_user("100000")
    order = await place(system, headers, price="60000")
    assert (order["status"], order["price"], order["average_price"]) == ("completed", "60000.00", "50000.00")
    assert (order["total_amount"], order["held_amount"]) == ("25000.00", "0.00")
    assert await held(system, name) == (75_000, 0)
    sold = await place(system, headers, order_type="limit_sell", price="40000", quantity="0.1")
    assert (sold["status"], sold["average_price"], sold["total_amount"]) == ("completed", "50000.00", "5000.00")
    stopped = await place(system, headers, order_type="stop_loss_sell", price="50000", quantity="0.1")
    assert (stopped["status"], stopped["average_price"]) == ("completed", "50000.00")


@pytest.mark.parametrize("order_type", ["limit_sell", "take_profit_sell", "stop_loss_sell"])
async def test_a_sale_that_waits_holds_what_it_would_sell(system: System, order_type: str) -> None:
    """Units of the asset, no cash."""
    name, headers = await system.rich_user("100000")
    await place(system, headers, order_type="market_buy", price=None)
    order = await place(system, headers, order_type=order_type, price="40000" if order_type == "stop_loss_sell" else "60000", quantity="0.2")
    assert (order["status"], order["held_quantity"], order["held_amount"]) == ("open", "0.2", "0.00")
    position = (await system.views.account(name)).value.positions["BTC"]
    assert (position.available, position.held) == (Decimal("0.3"), Decimal("0.2"))


@pytest.mark.parametrize("time_in_force", ["ioc", "fok"])
async def test_at_once_or_not_at_all(system: System, time_in_force: str) -> None:
    """201 in both cases: filled at the quote, or cancelled with the reason and nothing held."""
    name, headers = await system.rich_user("100000")
    missed = await place(system, headers, time_in_force=time_in_force)
    assert (missed["status"], missed["cancel_reason"], missed["held_amount"]) == ("cancelled", "unmarketable", "0.00")
    assert await held(system, name) == (100_000, 0)
    filled = await place(system, headers, time_in_force=time_in_force, price="50000")
    assert (filled["status"], filled["average_price"]) == ("completed", "50000.00")


async def test_an_end_of_time(system: System) -> None:
    """`gtd` names it, `day` ends at the next midnight UTC."""
    _, headers = await system.rich_user("100000")
    named = await place(system, headers, time_in_force="gtd", expires_at="2099-01-01T00:00:00Z")
    assert (named["status"], named["expires_at"]) == ("open", "2099-01-01T00:00:00.000Z")
    day = await place(system, headers, time_in_force="day")
    assert day["expires_at"].endswith("T00:00:00.000Z")
    assert day["expires_at"] > day["created_at"]


async def test_a_price_that_is_too_old_fills_nothing(system: System) -> None:
    """An order that may wait is taken with it, as a quote that has ended: it waits for a newer price, although it would be due at this one."""
    _, headers = await system.rich_user("100000")
    for time_in_force in ("gtc", "day"):
        order = await place(system, headers, asset_id="OLD", price="60000", time_in_force=time_in_force)
        assert (order["status"], order["average_price"]) == ("open", None)
    sent = decode_request(system.bus.log[-1][1].type, system.bus.log[-1][1].value)
    assert isinstance(sent, OrderPlaced)
    assert (sent.stamp.quote.price, sent.stamp.quote.sequence) == (PRICE, 1)
    assert sent.stamp.quote.valid_until < SystemClock().now()


@pytest.mark.parametrize("method", ["DELETE", "POST"])
async def test_cancel(system: System, method: str) -> None:
    """200 with the order, its hold released by the time of the answer; the same key answers the same for ever, a new one is told that it is too late."""
    name, headers = await system.rich_user("100000")
    order = await place(system, headers)
    answer = await cancel(system, headers, order["order_id"], method, Idempotency_Key="stop")
    assert answer.status_code == 200, answer.text
    cancelled = answer.json()["data"]
    assert cancelled == order | {"status": "cancelled", "cancel_reason": "requested", "held_amount": "0.00", "updated_at": cancelled["updated_at"]}
    assert await held(system, name) == (100_000, 0)
    assert (await system.views.order(name, order["order_id"])).value.status == "cancelled"
    assert read_consistency_token(name, answer.headers["consistency-token"]) == 3
    assert answer.headers["command-id"]
    again = await cancel(system, headers, order["order_id"], method, Idempotency_Key="stop")
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (200, answer.json(), "true")
    late = await cancel(system, headers, order["order_id"], method)
    assert problem(late) == (409, "order-not-open", [])
    assert late.json()["order"] == cancelled
    assert late.json()["detail"] == "the order is cancelled"
    assert late.json()["command_id"] == late.headers["command-id"]


async def test_both_ways_to_cancel_are_one_request(system: System) -> None:
    """Under one key; for another order it is a reuse that names the path."""
    _, headers = await system.rich_user("100000")
    first, second = await place(system, headers), await place(system, headers)
    assert (await cancel(system, headers, first["order_id"], "DELETE", Idempotency_Key="c")).status_code == 200
    again = await cancel(system, headers, first["order_id"], "POST", Idempotency_Key="c")
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert problem(await cancel(system, headers, second["order_id"], "POST", Idempotency_Key="c")) == (422, "idempotency-key-reused", ["#/path/order_id"])
    deposit = await system.client.post("/balance/deposit", json={"amount": "1"}, headers=headers | {"Idempotency-Key": "c"})
    assert problem(deposit) == (422, "idempotency-key-reused", ["#/path"])


async def test_what_was_filled_is_not_cancelled(system: System) -> None:
    """409 with the order as it stands: at placement, or by a price that came first in the log."""
    _, headers = await system.rich_user("100000")
    filled = await place(system, headers, price="60000")
    answer = await cancel(system, headers, filled["order_id"])
    assert problem(answer)[:2] == (409, "order-not-open")
    assert answer.json()["order"] == filled
    assert answer.json()["detail"] == "the order is completed"


async def test_a_trigger_that_is_first_wins(system: System) -> None:
    """The cancel behind it is told the fill, and what it did not need is free again."""
    name, headers = await system.rich_user("100000")
    order = await place(system, headers)
    await system.publish(OrderTriggered(name, order["order_id"], Decimal(39_000), 2, parse_rfc3339(order["created_at"])), trigger_id(order["order_id"], 2))
    answer = await cancel(system, headers, order["order_id"])
    assert problem(answer)[:2] == (409, "order-not-open")
    told = answer.json()["order"]
    assert (told["status"], told["average_price"], told["total_amount"], told["held_amount"]) == ("completed", "39000.00", "19500.00", "0.00")
    assert await held(system, name) == (80_500, 0)


async def test_a_cancel_that_finds_the_time_over(system: System) -> None:
    """It closes the order as expired and is told so, 409 with the order as it stands then, at every repetition; nothing is held any more."""
    name, headers = await system.rich_user("100000")
    end = SystemClock().now() + timedelta(seconds=3)
    order = await place(system, headers, time_in_force="gtd", expires_at=rfc3339(end))
    await eventually(lambda: SystemClock().now() > end, DEADLINE_S)
    for _ in range(2):
        answer = await cancel(system, headers, order["order_id"], Idempotency_Key="late")
        assert problem(answer) == (409, "order-not-open", [])
        assert (answer.json()["order"]["status"], answer.json()["order"]["held_amount"]) == ("expired", "0.00")
    assert await held(system, name) == (100_000, 0)


async def test_no_such_order(system: System) -> None:
    """404 for an id that nobody has, somebody else's, and one of a form that none has, all alike; 422 for what cannot be one."""
    _, mine = await system.rich_user("100000")
    _, other = await system.user()
    order = await place(system, mine)
    told = [await cancel(system, other, order_id) for order_id in (order["order_id"], f"ord_{uuid4().hex}", "ord_0123456789", "x" * 50)]
    assert {answer.status_code for answer in told} == {404}
    assert {(answer.json()["code"], answer.json()["detail"], str(answer.json()["errors"])) for answer in told} == {
        ("not-found", "the account has no such order", str([{"pointer": "#/path/order_id", "detail": "the account has no such order"}]))
    }
    sent = len(system.bus.log)
    for malformed in ("short", "x" * 51, "has-hyphen-in", "ord%20with%20space"):
        for method in ("DELETE", "POST"):
            assert problem(await cancel(system, mine, malformed, method)) == (422, "validation-failed", ["#/path/order_id"])
    assert len(system.bus.log) == sent


async def test_a_body_of_nothing(system: System) -> None:
    """POST …/cancel takes no body or an empty object, and nothing else."""
    _, headers = await system.rich_user("100000")
    path = f"/orders/{(await place(system, headers))['order_id']}/cancel"
    assert problem(await system.client.post(path, json={"reason": "x"}, headers=headers)) == (422, "validation-failed", ["/reason"])
    assert problem(await system.client.post(path, content=b"[]", headers=headers | {"Content-Type": "application/json"}))[:2] == (400, "malformed-body")
    assert (await system.client.post(path, json={}, headers=headers)).status_code == 200


async def test_cancel_without_waiting(system: System) -> None:
    """202 with the command; the same key tells the outcome, and a fence that came too late tells it as well."""
    _, headers = await system.rich_user("100000")
    order = await place(system, headers)
    answer = await cancel(system, headers, order["order_id"], Prefer="respond-async", Idempotency_Key="later")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    assert answer.headers["location"] == f"/api/v1/commands/{answer.json()['command_id']}"

    async def settled() -> bool:
        return (await cancel(system, headers, order["order_id"], Idempotency_Key="later", Prefer="wait=0")).status_code == 200

    await eventually(settled, DEADLINE_S)
    fenced = await system.client.post(f"/commands/{answer.json()['command_id']}/fence", headers=headers)
    assert (fenced.json()["state"], fenced.json()["request_type"]) == ("settled", "OrderCancelRequested")
    assert fenced.json()["outcome"]["data"]["status"] == "cancelled"


async def test_racing_cancels(system: System) -> None:
    """Of cancels at once one is told 200; the others are told what it made of the order."""
    name, headers = await system.rich_user("100000")
    order = await place(system, headers)
    answers = await asyncio.gather(*(cancel(system, headers, order["order_id"]) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert all(answer.json()["order"]["status"] == "cancelled" for answer in answers if answer.status_code == 409)
    assert await held(system, name) == (100_000, 0)
