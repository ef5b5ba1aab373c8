"""Writes over HTTP: one key is one request for ever, the wait is the caller's choice, and a command can be followed and fenced."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from schemas.requests import request_id
from tests.system.running import API, System, User, answered, refused
from tests.waiting import eventually

SETTLED_S = 10.0
COMMAND = {"command_id", "state", "request_type", "version", "decided_at", "outcome", "code", "detail"}


async def settled(user: User, command_id: str) -> dict[str, Any]:
    """The command once it is decided."""

    async def look() -> dict[str, Any] | None:
        body = await user.read(f"/commands/{command_id}")
        return body if body["state"] != "pending" else None

    found: dict[str, Any] = await eventually(look, SETTLED_S)
    return found


@pytest.mark.parametrize("quoted", [False, True])
async def test_a_repetition_answers_the_same(system: System, quoted: bool) -> None:
    """The same key and content: the same status and body, marked as a replay, and one movement; a quoted key is the same key."""
    user = await system.user()
    first = await user.deposit("5.00", Idempotency_Key="a-key")
    assert first.headers["Idempotency-Key"] == "a-key"
    assert "Idempotent-Replayed" not in first.headers
    for amount in ("5.00", 5, "5", 5.0):
        again = await user.deposit(amount, Idempotency_Key='"a-key"' if quoted else "a-key")
        assert answered(again, 201) == answered(first, 201)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.headers["Command-Id"] == first.headers["Command-Id"]
    assert await user.balance() == "5.00"


async def test_a_repeated_order(system: System) -> None:
    """An order under a key is placed once, at its first quote; the answer is the first one."""
    user = await system.user("1000.00")
    first = answered(await user.order("ETH", "0.01", Idempotency_Key="order"), 201)
    assert answered(await user.order("ETH", "0.010", Idempotency_Key="order"), 201) == first
    assert len((await user.read("/orders"))["data"]) == 1


async def test_a_key_for_something_else(system: System) -> None:
    """Other content under a used key is 422 with a pointer to each difference; another operation is told as such; nothing moves."""
    user = await system.user("1000.00")
    answered(await user.deposit("5.00", Idempotency_Key="key"), 201)
    refused(await user.deposit("5.01", Idempotency_Key="key"), 422, "idempotency-key-reused", "/amount")
    refused(await user.withdraw("5.00", Idempotency_Key="key"), 422, "idempotency-key-reused", "#/path")
    answered(await user.order("ETH", "0.01", Idempotency_Key="order"), 201)
    body = {"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.001", "client_order_id": "mine"}
    answer = await user.post("/orders", body, Idempotency_Key="order")
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert (answer.status_code, answer.json()["code"], pointers) == (422, "idempotency-key-reused", {"/asset_id", "/quantity", "/client_order_id"})
    assert (await user.read("/balance"))["version"] == 3


async def test_keys_belong_to_users(system: System) -> None:
    """Two users may use the same key for different things."""
    first, second = await system.user(), await system.user()
    answered(await first.deposit("5.00", Idempotency_Key="key"), 201)
    answered(await second.deposit("7.00", Idempotency_Key="key"), 201)
    assert (await first.balance(), await second.balance()) == ("5.00", "7.00")


async def test_a_made_key_can_be_used(system: System) -> None:
    """Without a key one is made and told; a retry with it is a replay."""
    user = await system.user()
    first = await user.deposit("5.00")
    again = await user.deposit("5.00", Idempotency_Key=first.headers["Idempotency-Key"])
    assert answered(again, 201) == first.json()
    assert await user.balance() == "5.00"


@pytest.mark.parametrize("key", ["", "x" * 256, "has space", "ü"])
async def test_unusable_keys(system: System, key: str) -> None:
    """A key that is none is 400, and nothing happens."""
    user = await system.user()
    answer = await user.call("POST", "/balance/deposit", json={"amount": "5"}, headers={"Idempotency-Key": key.encode()})  # type: ignore[dict-item]
    refused(answer, 400, "invalid-header", "#/header/Idempotency-Key")
    assert await user.balance() == "0.00"


async def test_one_key_many_times_at_once(system: System) -> None:
    """Of twenty posts at once with one key there is one entry; all answer the same outcome, or that it is pending."""
    user = await system.user()
    answers = await asyncio.gather(*(user.deposit("5.00", Idempotency_Key="at-once") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert await user.balance() == "5.00"
    assert [entry.request_id for entry in await system.entries(user.username)] == [request_id(user.username, "at-once")]


async def test_two_payloads_of_one_key_at_once(system: System) -> None:
    """The first in the log wins; the others are told what differs."""
    user = await system.user()
    answers = await asyncio.gather(*(user.deposit(f"{number}.00", Idempotency_Key="race") for number in range(1, 9)))
    won = [answer for answer in answers if answer.status_code == 201]
    assert len(won) == 1
    for answer in answers:
        if answer is not won[0]:
            refused(answer, 422, "idempotency-key-reused", "/amount")
    assert await user.balance() == won[0].json()["new_balance"]


async def test_respond_async(system: System) -> None:
    """202 at once with the command and where to ask; the command settles with what the call would have answered."""
    user = await system.user()
    answer = await user.deposit("5.00", Prefer="respond-async")
    body = answered(answer, 202)
    assert body.keys() == COMMAND
    assert (body["state"], body["outcome"]) == ("pending", None)
    assert answer.headers["Location"] == f"{API}/commands/{body['command_id']}"
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Command-Id"] == body["command_id"]
    command = await settled(user, body["command_id"])
    assert command.keys() == COMMAND
    assert (command["state"], command["request_type"], command["version"], command["code"]) == ("settled", "Deposit", 1, None)
    again = await user.deposit("5.00", Idempotency_Key=answer.headers["Idempotency-Key"])
    assert command["outcome"] == answered(again, 201)
    assert command["outcome"]["new_balance"] == "5.00"


async def test_a_refused_command(system: System) -> None:
    """A command that the rules refuse says so, with code and sentence."""
    user = await system.user()
    answer = await user.withdraw("5.00", Prefer="respond-async")
    command = await settled(user, answered(answer, 202)["command_id"])
    assert (command["state"], command["code"], command["outcome"]) == ("refused", "insufficient-funds", None)
    assert command["detail"]


@pytest.mark.parametrize(
    ("prefer", "status", "applied"),
    [("wait=0", 202, "wait=0"), ("wait=10", 201, "wait=10"), ("respond-async, wait=10", 201, "wait=10"), ("return=minimal", 201, None)],
)
async def test_waits(system: System, prefer: str, status: int, applied: str | None) -> None:
    """The wait is the caller's; what is followed is told."""
    user = await system.user()
    answer = await user.deposit("5.00", Prefer=prefer)
    answered(answer, status)
    assert answer.headers.get("Preference-Applied") == applied
    await eventually(lambda: balance_is(user, "5.00"), SETTLED_S)


async def test_other_peoples_commands(system: System) -> None:
    """A made-up id and another user's are 404, to ask for and to fence."""
    user, other = await system.user(), await system.user()
    command_id = (await user.deposit("5.00")).headers["Command-Id"]
    forged = command_id[:-1] + ("0" if command_id[-1] != "0" else "1")
    for caller, asked in ((other, command_id), (user, forged), (user, "cmd_x"), (user, f"cmd_{uuid4().hex}_{'0' * 16}")):
        refused(await caller.get(f"/commands/{asked}"), 404, "not-found")
        refused(await caller.call("POST", f"/commands/{asked}/fence"), 404, "not-found")


async def test_a_fence_after(system: System) -> None:
    """Fencing what was decided answers its outcome and changes nothing."""
    user = await system.user()
    command_id = (await user.deposit("5.00")).headers["Command-Id"]
    body = answered(await user.call("POST", f"/commands/{command_id}/fence"), 200)
    assert body == await user.read(f"/commands/{command_id}")
    assert body["state"] == "settled"
    assert (await user.read("/balance"))["version"] == 1


async def test_a_fence_before(system: System) -> None:
    """While settlement is away a fence is 202; when it is back the first in the log has won: here the request, whose id the fence shares."""
    user = await system.user("1.00")
    await system.stop("settlement")
    try:
        answer = await user.deposit("5.00", Prefer="respond-async", Idempotency_Key="fenced")
        command_id = answered(answer, 202)["command_id"]
        fence = await user.call("POST", f"/commands/{command_id}/fence", headers={"Prefer": "wait=0"})
        assert answered(fence, 202)["state"] == "pending"
        assert (await user.read(f"/commands/{command_id}"))["state"] == "pending"
    finally:
        await system.start("settlement")
    command = await settled(user, command_id)
    assert (command["state"], command["outcome"]["new_balance"]) == ("settled", "6.00")
    assert len(await system.entries(user.username)) == 2


async def test_a_fence_that_wins(system: System) -> None:
    """A request that comes into the log behind its fence never happens: 409 for its key, for ever."""
    user = await system.user("1.00")
    command_id = system.command_id(user.username, "never")
    assert (await user.read(f"/commands/{command_id}"))["state"] == "pending"
    fence = answered(await user.call("POST", f"/commands/{command_id}/fence"), 200)
    assert (fence["state"], fence["outcome"]) == ("fenced", None)
    for _ in range(2):
        refused(await user.deposit("5.00", Idempotency_Key="never"), 409, "fenced")
    assert (await user.read(f"/commands/{command_id}"))["state"] == "fenced"
    assert await user.balance() == "1.00"


async def balance_is(user: User, amount: str) -> bool:
    return await user.balance() == amount
