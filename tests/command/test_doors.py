"""The write door over HTTP: what a caller is told of money and orders, whatever happens behind the door."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.local.stack import Addresses
from schemas.ledger import Entry
from schemas.requests import request_id
from schemas.views import read_consistency_token
from tests.command.conftest import in_own_task
from tests.command.system import System, running
from tests.waiting import eventually

DEADLINE_S = 10.0


@pytest.fixture
async def slow(provisioned: Addresses, tmp_path: Path) -> AsyncIterator[System]:
    """A door whose callers wait a quarter of a second, and one of them at once."""
    async with in_own_task(running(provisioned, tmp_path, wait_s=0.25, waiters_max=1)) as system:
        yield system
        system.settles.set()


async def post(system: System, path: str, headers: dict[str, str], body: dict[str, Any] | None = None, **more: str) -> httpx.Response:
    return await system.client.post(path, json=body, headers=headers | {name.replace("_", "-"): value for name, value in more.items()})


async def deposit(system: System, headers: dict[str, str], amount: str = "5", **more: str) -> httpx.Response:
    return await post(system, "/balance/deposit", headers, {"amount": amount}, **more)


async def entry_of(system: System, name: str, key: str) -> Entry:
    """The entry of a request, when it is decided."""
    entry: Entry = await eventually(lambda: system.ledger.entry(name, request_id(name, key)), DEADLINE_S)
    return entry


def problem(answer: httpx.Response) -> tuple[int, str, list[str]]:
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text
    body = answer.json()
    return answer.status_code, body["code"], [error["pointer"] for error in body.get("errors", [])]


async def test_deposit_and_withdraw(system: System) -> None:
    """A settled deposit is a 201 with the new balance, and the view shows it by then; the headers say how to follow it."""
    name, headers = await system.user()
    answer = await post(system, "/balance/deposit", headers, {"amount": 5000.5})
    assert answer.status_code == 201, answer.text
    assert answer.json() | {"timestamp": "", "transaction_id": ""} == {
        "success": True,
        "message": "Successfully deposited 5000.50 USD",
        "transaction_id": "",
        "timestamp": "",
        "new_balance": "5000.50",
        "currency": "USD",
    }
    assert (await system.views.account(name)).version == 1
    assert read_consistency_token(name, answer.headers["consistency-token"]) == 1
    assert read_consistency_token("somebody", answer.headers["consistency-token"]) is None
    assert answer.headers["idempotency-key"]
    answer = await post(system, "/balance/withdraw", headers, {"amount": "0.50"})
    assert (answer.status_code, answer.json()["new_balance"]) == (201, "5000.00")


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"amount": "0"}, ["/amount"]),
        ({"amount": "-1"}, ["/amount"]),
        ({"amount": "1.001"}, ["/amount"]),
        ({"amount": "1000000.01"}, ["/amount"]),
        ({"amount": "NaN"}, ["/amount"]),
        ({"amount": True}, ["/amount"]),
        ({}, ["/amount"]),
        ({"amount": "1", "currency": "EUR"}, ["/currency"]),
        ({"amount": "1", "user_id": "x"}, ["/user_id"]),
    ],
)
async def test_invalid_amounts(system: System, body: dict[str, Any], pointers: list[str]) -> None:
    """An invalid body is a 422 that names the field, and nothing is sent."""
    _, headers = await system.user()
    sent = len(system.bus.log)
    for path in ("/balance/deposit", "/balance/withdraw"):
        assert problem(await post(system, path, headers, body)) == (422, "validation-failed", pointers)
    assert len(system.bus.log) == sent


async def test_no_token_no_answer(system: System) -> None:
    """401 comes before the body is looked at, on every route that needs a caller."""
    for path in (
        "/balance/deposit",
        "/balance/withdraw",
        "/orders",
        f"/orders/ord_{'0' * 32}/cancel",
        "/auth/logout",
        f"/commands/cmd_{'0' * 32}_{'0' * 16}/fence",
    ):
        assert problem(await system.client.post(path, json={"nonsense": 1}))[:2] == (401, "unauthorized")
    assert problem(await system.client.put("/auth/profile", json={}))[:2] == (401, "unauthorized")


async def test_buy_and_sell(system: System) -> None:
    """A market order is a 201 with the order, filled at the quoted price and stamped by the door."""
    _, headers = await system.rich_user()
    bought = await post(system, "/orders", headers, {"asset_id": "btc", "order_type": "market_buy", "quantity": 0.5})
    assert bought.status_code == 201, bought.text
    order = bought.json()["data"]
    assert (order["asset_id"], order["status"], order["quantity"], order["price"]) == ("BTC", "completed", "0.5", "50000.00")
    assert (order["total_amount"], order["filled_quantity"]) == ("25000.00", "0.5")
    sold = await post(system, "/orders", headers, {"asset_id": "BTC", "order_type": "market_sell", "quantity": "0.1", "client_order_id": "mine-1"})
    assert (sold.status_code, sold.json()["data"]["client_order_id"]) == (201, "mine-1")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"asset_id": "NOPE"}, (422, "unknown-asset", ["/asset_id"])),
        ({"asset_id": "OFF"}, (422, "asset-inactive", ["/asset_id"])),
        ({"asset_id": "NEW"}, (503, "price-unavailable", [])),
        ({"asset_id": "OLD"}, (503, "price-unavailable", [])),
        ({"asset_id": "B!"}, (422, "validation-failed", ["/asset_id"])),
        ({"quantity": "0.00001"}, (422, "below-minimum", ["/quantity"])),
        ({"quantity": "0.123456789"}, (422, "validation-failed", ["/quantity"])),
        ({"quantity": "0"}, (422, "validation-failed", ["/quantity"])),
        ({"price": "50000"}, (422, "price-not-allowed", ["/price"])),
        ({"order_type": "limit_buy"}, (422, "price-required", ["/price"])),
        ({"order_type": "limit_sell"}, (422, "price-required", ["/price"])),
        ({"order_type": "stop_loss_sell"}, (422, "price-required", ["/price"])),
        ({"order_type": "take_profit_sell"}, (422, "price-required", ["/price"])),
        ({"order_type": "limit_buy", "price": "0"}, (422, "validation-failed", ["/price"])),
        ({"order_type": "stop_loss_sell", "price": "1", "time_in_force": "ioc"}, (422, "validation-failed", ["/time_in_force"])),
        ({"order_type": "take_profit_sell", "price": "1", "time_in_force": "fok"}, (422, "validation-failed", ["/time_in_force"])),
        ({"order_type": "limit_buy", "price": "1", "time_in_force": "gtd"}, (422, "validation-failed", ["/expires_at"])),
        ({"order_type": "limit_buy", "price": "1", "asset_id": "NEW"}, (503, "price-unavailable", [])),
        ({"order_type": "limit_buy", "price": "1", "asset_id": "OLD", "time_in_force": "ioc"}, (503, "price-unavailable", [])),
        ({"order_type": "limit_buy", "price": "1", "asset_id": "OFF"}, (422, "asset-inactive", ["/asset_id"])),
        ({"order_type": "stop"}, (422, "validation-failed", ["/order_type"])),
        ({"expires_at": "2030-01-01T00:00:00Z"}, (422, "validation-failed", ["/expires_at"])),
        ({"time_in_force": "gtd"}, (422, "validation-failed", ["/expires_at"])),
        ({"time_in_force": "gtd", "expires_at": "2020-01-01T00:00:00Z"}, (422, "validation-failed", ["/expires_at"])),
        ({"client_order_id": "<b>"}, (422, "validation-failed", ["/client_order_id"])),
        ({"username": "else"}, (422, "validation-failed", ["/username"])),
    ],
)
async def test_orders_refused_at_the_door(system: System, change: dict[str, Any], told: tuple[int, str, list[str]]) -> None:
    """What can be told without the account is told by the door: nothing is sent, and nothing is left in the ledger."""
    _, headers = await system.user()
    sent = len(system.bus.log)
    body = {"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.5"} | change
    assert problem(await post(system, "/orders", headers, body)) == told
    assert len(system.bus.log) == sent


async def test_refused_by_settlement(system: System) -> None:
    """A refusal is told with its code, its command and the version that its entry has; a repetition is refused the same for ever."""
    name, headers = await system.user()
    first = await post(system, "/balance/withdraw", headers, {"amount": "1"}, Idempotency_Key="once")
    assert problem(first)[:2] == (422, "insufficient-funds")
    assert first.json()["command_id"] == first.headers["command-id"]
    assert read_consistency_token(name, first.headers["consistency-token"]) == 1
    await deposit(system, headers)
    again = await post(system, "/balance/withdraw", headers, {"amount": "1"}, Idempotency_Key="once")
    assert problem(again)[:2] == (422, "insufficient-funds")
    assert again.headers["idempotent-replayed"] == "true"


async def test_the_same_key_is_the_same_request(system: System) -> None:
    """A repeated call answers the first outcome, with or without quotation marks around the key, and sends and moves nothing."""
    _, headers = await system.user()
    first = await deposit(system, headers, "5", Idempotency_Key="abc")
    await deposit(system, headers, "7")
    sent = len(system.bus.log)
    for key, amount in (("abc", "5.00"), ('"abc"', "5")):
        again = await deposit(system, headers, amount, Idempotency_Key=key)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["command-id"] == first.headers["command-id"]
    assert len(system.bus.log) == sent
    assert "idempotent-replayed" not in first.headers


async def test_a_replay_asks_the_market_nothing(system: System) -> None:
    """A repeated order answers its outcome even where the same order would not be taken any more."""
    name, headers = await system.rich_user()
    body = {"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.5"}
    first = await post(system, "/orders", headers, body, Idempotency_Key="o")
    other = await post(system, "/orders", headers, body | {"asset_id": "NOPE"}, Idempotency_Key="o")
    assert problem(other) == (422, "idempotency-key-reused", ["/asset_id"])
    assert (await post(system, "/orders", headers, body, Idempotency_Key="o")).json() == first.json()
    assert (await system.views.account(name)).version == 2


async def test_a_key_used_for_something_else(system: System) -> None:
    """422 with a pointer for each field that differs; of another operation altogether the path."""
    _, headers = await system.rich_user()
    await deposit(system, headers, "5", Idempotency_Key="abc")
    assert problem(await deposit(system, headers, "6", Idempotency_Key="abc")) == (422, "idempotency-key-reused", ["/amount"])
    other = await post(system, "/balance/withdraw", headers, {"amount": "5"}, Idempotency_Key="abc")
    assert problem(other) == (422, "idempotency-key-reused", ["#/path"])
    _, somebody = await system.user()
    assert (await deposit(system, somebody, "6", Idempotency_Key="abc")).status_code == 201


async def test_racing_calls_with_one_key(system: System) -> None:
    """Of calls with one key at once one request is settled; each of them is told its outcome, and one that asked for something else is told so."""
    name, headers = await system.user()
    calls = [deposit(system, headers, "6" if number == 4 else "5", Idempotency_Key="race") for number in range(5)]
    answers = await asyncio.gather(*calls)
    account = (await system.ledger.account(name)).cash["USD"]
    winner = f"{account.available:.2f}"
    assert winner in {"5.00", "6.00"}
    for number, answer in enumerate(answers):
        asked = "6.00" if number == 4 else "5.00"
        assert answer.status_code == (201 if asked == winner else 422), answer.text


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "grün", '"a b"', "a\x7f"])
async def test_invalid_keys(system: System, key: str) -> None:
    """A key is 1 to 255 visible ASCII characters, once."""
    _, headers = await system.user()
    raw = [*[(name.encode(), value.encode()) for name, value in headers.items()], (b"idempotency-key", key.encode())]
    answer = await system.client.post("/balance/deposit", json={"amount": "1"}, headers=raw)
    assert problem(answer) == (400, "invalid-header", ["#/header/Idempotency-Key"])
    twice = [*raw[:-1], (b"idempotency-key", b"a"), (b"idempotency-key", b"b")]
    assert problem(await system.client.post("/balance/deposit", json={"amount": "1"}, headers=twice))[0] == 400


async def test_respond_async(system: System) -> None:
    """202 at once, with the command to ask for; nobody waits for a reply, and the same key tells the outcome later."""
    name, headers = await system.user()
    answer = await deposit(system, headers, Idempotency_Key="later", Prefer="respond-async")
    assert answer.status_code == 202
    assert answer.json()["state"] == "pending"
    assert answer.headers["location"] == f"/api/v1/commands/{answer.json()['command_id']}"
    assert (answer.headers["retry-after"], answer.headers["preference-applied"]) == ("1", "respond-async")
    assert system.bus.log[-1][1].reply_to is None
    await entry_of(system, name, "later")
    assert (await deposit(system, headers, Idempotency_Key="later")).status_code == 201


async def test_the_record(system: System) -> None:
    """The record carries who, what, under which id, the caller's X-Request-ID, the trace and where to reply."""
    name, headers = await system.user()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await deposit(system, headers, Idempotency_Key="k1", X_Request_ID="call-1", traceparent=traceparent)
    topic, record = system.bus.log[-1]
    assert topic == "cnop.account.requests.v1"
    assert (record.id, record.subject, record.type) == (request_id(name, "k1"), name, "cnop.account.Deposit.v1")
    assert (record.trace_id, record.correlation_id, record.source) == ("call-1", "call-1", "urn:cnop:command-api")
    assert record.traceparent
    assert record.traceparent.split("-")[1] == traceparent.split("-")[1]
    assert record.reply_to == system.machines.replies.channel
    assert answer.headers["x-request-id"] == "call-1"


async def test_the_wait_ends(slow: System) -> None:
    """202 where the outcome did not come in time; the request is settled all the same, once."""
    name, headers = await slow.user()
    slow.settles.clear()
    answer = await deposit(slow, headers, Idempotency_Key="k")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    waited = await deposit(slow, headers, Idempotency_Key="k", Prefer="wait=0")
    assert (waited.status_code, waited.headers["preference-applied"]) == (202, "wait=0")
    slow.settles.set()
    await entry_of(slow, name, "k")
    answer = await deposit(slow, headers, Idempotency_Key="k")
    assert (answer.status_code, answer.json()["new_balance"]) == (201, "5.00")
    assert slow.machines.replies.waiting == 0


async def test_lost_reply(slow: System) -> None:
    """Without a reply the ledger is asked at the end of the wait, and the view shows the outcome before the 201 is sent."""
    name, headers = await slow.user()
    slow.replies = False
    answer = await deposit(slow, headers)
    assert (answer.status_code, answer.json()["new_balance"]) == (201, "5.00")
    shown = await slow.views.account(name)
    assert (shown.version, shown.bypassed) == (1, False)
    slow.replies = True


async def test_ignored_repetition(system: System) -> None:
    """A repetition that was sent while the first was on its way gets no reply of its own, and is answered from the ledger well before its wait ends."""
    _, headers = await system.user()
    system.settles.clear()
    system.replies = False
    first = await deposit(system, headers, Idempotency_Key="k", Prefer="respond-async")
    assert first.status_code == 202
    second = asyncio.create_task(deposit(system, headers, Idempotency_Key="k", Prefer="wait=30"))
    await eventually(lambda: system.machines.replies.waiting, DEADLINE_S)
    system.settles.set()
    answer = await asyncio.wait_for(second, DEADLINE_S)
    system.replies = True
    assert (answer.status_code, answer.json()["new_balance"]) == (201, "5.00")


async def test_too_many_waiters(slow: System) -> None:
    """A caller over the bound is told 503 before anything is sent; one that does not wait is taken."""
    _, headers = await slow.user()
    slow.settles.clear()
    waiting = asyncio.create_task(deposit(slow, headers, Prefer="wait=30"))
    await eventually(lambda: slow.machines.replies.waiting, DEADLINE_S)
    sent = len(slow.bus.log)
    shed = await deposit(slow, headers)
    assert problem(shed)[:2] == (503, "overloaded")
    assert shed.headers["retry-after"]
    assert len(slow.bus.log) == sent
    assert (await deposit(slow, headers, Prefer="respond-async")).status_code == 202
    slow.settles.set()
    assert (await asyncio.wait_for(waiting, DEADLINE_S)).status_code == 201


async def test_a_refusal_by_the_door_is_of_this_call_alone(system: System) -> None:
    """The first call may be on its way when its repetition meets other facts: the answer says so, and where to ask; without an own key it need not."""
    _, headers = await system.user()
    order = {"asset_id": "OFF", "order_type": "market_buy", "quantity": "1"}
    repeated = await post(system, "/orders", headers | {"Idempotency-Key": "mine"}, order)
    assert problem(repeated)[:2] == (422, "asset-inactive")
    assert repeated.headers["location"].endswith(repeated.json()["command_id"])
    assert "An earlier call with this key may still be on its way" in repeated.json()["detail"]
    single = await post(system, "/orders", headers, order)
    assert "location" not in single.headers
    assert "earlier" not in single.json()["detail"]


async def test_settlement_is_behind(system: System) -> None:
    """Writes are refused with the time to come back and nothing sent, waiting or not, repeated or not; what is decided is told, and a fence is taken."""
    _, headers = await system.user()
    first = await deposit(system, headers, Idempotency_Key="first")
    assert first.status_code == 201
    sent = len(system.bus.log)
    system.backlog.retry_after = 7
    try:
        for more in ({}, {"Prefer": "respond-async"}, {"Idempotency_Key": "second"}):
            shed = await deposit(system, headers, **more)
            assert problem(shed)[:2] == (503, "overloaded")
            assert (shed.headers["retry-after"], shed.json()["retryable"]) == ("7", True)
            assert "This call sent nothing." in shed.json()["detail"]
        order = {"asset_id": "NOPE", "order_type": "market_buy", "quantity": "1"}
        assert problem(await post(system, "/orders", headers, order))[:2] == (503, "overloaded")
        assert len(system.bus.log) == sent
        again = await deposit(system, headers, Idempotency_Key="first")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
        assert (await post(system, f"/commands/{shed.headers['command-id']}/fence", headers)).json()["state"] == "fenced"
    finally:
        system.backlog.retry_after = None
    assert (await deposit(system, headers)).status_code == 201


async def test_the_log_is_away(system: System) -> None:
    """503 `unavailable`, nothing sent, with the key to repeat it under."""
    _, headers = await system.user()
    sent = len(system.bus.log)
    system.bus.state = "away"
    answer = await deposit(system, headers)
    system.bus.state = "up"
    assert problem(answer)[:2] == (503, "unavailable")
    assert answer.json()["retryable"] is True
    assert answer.headers["retry-after"]
    assert len(system.bus.log) == sent
    again = await deposit(system, headers, Idempotency_Key=answer.headers["idempotency-key"])
    assert (again.status_code, again.json()["new_balance"]) == (201, "5.00")


async def test_an_unknown_outcome(system: System) -> None:
    """503 `outcome-unknown` with command and key; the repetition under that key tells what happened and does not double it."""
    name, headers = await system.user()
    system.bus.state = "silent"
    answer = await deposit(system, headers)
    system.bus.state = "up"
    assert problem(answer)[:2] == (503, "outcome-unknown")
    assert answer.headers["location"] == f"/api/v1/commands/{answer.json()['command_id']}"
    key = answer.headers["idempotency-key"]
    await entry_of(system, name, key)
    again = await deposit(system, headers, Idempotency_Key=key)
    assert (again.status_code, again.json()["new_balance"]) == (201, "5.00")


async def test_fence_before_the_decision(system: System) -> None:
    """A fence that is first in the log wins: the command never happens, and its call is told so from then on."""
    name, headers = await system.user()
    system.bus.state = "away"
    lost = await deposit(system, headers, Idempotency_Key="f")
    system.bus.state = "up"
    command = lost.json()["command_id"]
    for _ in range(2):
        answer = await post(system, f"/commands/{command}/fence", headers)
        assert (answer.status_code, answer.json()["state"], answer.json()["command_id"]) == (200, "fenced", command)
    assert problem(await deposit(system, headers, Idempotency_Key="f"))[:2] == (409, "fenced")
    assert "USD" not in (await system.ledger.account(name)).cash


async def test_fence_after_the_decision(system: System) -> None:
    """A fence that comes too late answers the outcome that holds, settled or refused."""
    name, headers = await system.user()
    first = await deposit(system, headers)
    answer = await post(system, f"/commands/{first.headers['command-id']}/fence", headers)
    assert (answer.status_code, answer.json()["state"], answer.json()["outcome"]) == (200, "settled", first.json())
    assert read_consistency_token(name, answer.headers["consistency-token"]) == 1
    refused = await post(system, "/balance/withdraw", headers, {"amount": "50"})
    answer = await post(system, f"/commands/{refused.headers['command-id']}/fence", headers)
    assert (answer.json()["state"], answer.json()["code"]) == ("refused", "insufficient-funds")


async def test_fence_against_a_waiting_call(system: System) -> None:
    """A call that waits while its command is fenced behind it gets its own outcome: the first in the log wins for both."""
    _, headers = await system.user()
    system.settles.clear()
    first = asyncio.create_task(deposit(system, headers, Idempotency_Key="w"))
    await eventually(lambda: system.machines.replies.waiting, DEADLINE_S)
    command = (await deposit(system, headers, Idempotency_Key="w", Prefer="respond-async")).json()["command_id"]
    fence = asyncio.create_task(post(system, f"/commands/{command}/fence", headers))
    await eventually(lambda: system.machines.replies.waiting == 2, DEADLINE_S)
    system.settles.set()
    assert (await asyncio.wait_for(first, DEADLINE_S)).status_code == 201
    assert (await asyncio.wait_for(fence, DEADLINE_S)).json()["state"] == "settled"


async def test_command_ids_are_bound_to_their_user(system: System) -> None:
    """404 for a command of somebody else, a made-up one and a malformed one alike."""
    _, mine = await system.user()
    _, other = await system.user()
    command = (await deposit(system, mine)).headers["command-id"]
    assert (await post(system, f"/commands/{command}/fence", mine)).status_code == httpx.codes.OK
    forged = f"cmd_{uuid4().hex}_{command[-16:]}"
    for headers, text in ((other, command), (mine, forged), (mine, "cmd_1"), (mine, command.upper())):
        assert problem(await post(system, f"/commands/{text}/fence", headers))[:2] == (404, "not-found")
