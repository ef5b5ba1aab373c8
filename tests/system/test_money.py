"""Cash over HTTP: deposits, withdrawals, the balance and its movements."""

import re
from decimal import Decimal
from typing import Any

import pytest

from schemas.requests import request_id
from tests.system.running import System, answered, refused

NOTHING_YET = {"version": 0, "at": None}
MOVED = {"success", "message", "transaction_id", "timestamp", "new_balance", "currency"}
BALANCE = {"current_balance", "held_balance", "total_balance", "currency", "updated_at", "version", "status", "as_of"}
ROW = {"transaction_id", "transaction_type", "amount", "currency", "status", "created_at", "order_id", "version"}


async def test_a_new_user_has_nothing(system: System) -> None:
    """All amounts are texts with the currency's decimals, also where there is no account yet."""
    user = await system.user()
    assert await user.read("/balance") == {
        "current_balance": "0.00",
        "held_balance": "0.00",
        "total_balance": "0.00",
        "currency": "USD",
        "updated_at": None,
        "version": 0,
        "status": "active",
        "as_of": NOTHING_YET,
    }
    assert await user.read("/balance/transactions") == {"transactions": [], "total_count": 0, "has_more": False, "next_cursor": None, "as_of": NOTHING_YET}


async def test_deposit_and_withdraw(system: System) -> None:
    """Both are answered with what happened and the new balance, and stand in balance and list with their signs."""
    user = await system.user()
    paid_in = await user.deposit("5000.00")
    body = answered(paid_in, 201)
    assert body.keys() == MOVED
    assert body["success"] is True
    assert (body["message"], body["new_balance"], body["currency"]) == ("Successfully deposited 5000.00 USD", "5000.00", "USD")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["timestamp"])
    assert body["transaction_id"] == "txn_" + request_id(user.username, paid_in.headers["Idempotency-Key"]).replace("-", "")
    out = answered(await user.withdraw("1.5"), 201)
    assert (out["message"], out["new_balance"]) == ("Successfully withdrew 1.50 USD", "4998.50")
    balance = await user.read("/balance")
    assert balance.keys() == BALANCE
    assert (balance["current_balance"], balance["held_balance"], balance["total_balance"]) == ("4998.50", "0.00", "4998.50")
    page = await user.read("/balance/transactions")
    assert all(row.keys() == ROW for row in page["transactions"])
    assert [(row["transaction_type"], row["amount"], row["status"], row["transaction_id"]) for row in page["transactions"]] == [
        ("withdraw", "-1.50", "completed", out["transaction_id"]),
        ("deposit", "5000.00", "completed", body["transaction_id"]),
    ]
    assert (page["total_count"], page["has_more"], page["next_cursor"]) == (2, False, None)


@pytest.mark.parametrize(
    ("written", "balance"),
    [
        (b"0.1", "0.10"),
        (b'"0.1"', "0.10"),
        (b"1e2", "100.00"),
        (b"100", "100.00"),
        (b"0.29", "0.29"),
        (b"1000000", "1000000.00"),
        (b"10.500000000000000000", "10.50"),
        (b'"00012.30"', "12.30"),
        (b"123456.780000000000", "123456.78"),
    ],
)
async def test_amounts_are_exact(system: System, written: bytes, balance: str) -> None:
    """A number and a text are read alike, digit by digit, and never through a float."""
    user = await system.user()
    answer = await user.call("POST", "/balance/deposit", content=b'{"amount":%b}' % written, headers={"Content-Type": "application/json"})
    assert answered(answer, 201)["new_balance"] == balance
    assert await user.balance() == balance


async def test_ten_tenths_are_one(system: System) -> None:
    """What a float cannot add is added."""
    user = await system.user()
    for _ in range(10):
        last = answered(await user.deposit(0.1), 201)
    assert last["new_balance"] == await user.balance() == "1.00"


@pytest.mark.parametrize("path", ["/balance/deposit", "/balance/withdraw"])
@pytest.mark.parametrize(
    "written",
    [
        b"0",
        b"-1",
        b'"-0.01"',
        b"0.001",
        b"0.10000000000000001",
        b"1000000.01",
        b"100000000000000000000000",
        b"1e400",
        b'"NaN"',
        b'"Infinity"',
        b'"five"',
        b'""',
        b"null",
        b"true",
        b"[1]",
        b'{"value":1}',
        b'"<b>5</b>"',
        b'"1,000"',
        b'"0x10"',
        b'"1E+2"',
        b'" 5 "',
    ],
)
async def test_amounts_that_are_refused(system: System, path: str, written: bytes) -> None:
    """Zero, negative, finer than a cent, over the bound, and what is no number: 422 at /amount, and nothing moves."""
    user = await system.user()
    answer = await user.call("POST", path, content=b'{"amount":%b}' % written, headers={"Content-Type": "application/json"})
    refused(answer, 422, "validation-failed", "/amount")
    assert (await user.read("/balance"))["version"] == 0


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/amount"]),
        ({"amount": "5", "note": "x"}, ["/note"]),
        ({"amount": "5", "user_id": "x", "username": "y"}, ["/user_id", "/username"]),
        ({"amount": "5", "currency": "EUR"}, ["/currency"]),
    ],
)
async def test_bodies_that_are_refused(system: System, body: dict[str, Any], pointers: list[str]) -> None:
    """Missing and unknown fields are named."""
    user = await system.user()
    refused(await user.post("/balance/deposit", body), 422, "validation-failed", *pointers)


async def test_no_more_than_there_is(system: System) -> None:
    """A withdrawal over the balance is refused with its command, moves nothing, and stays refused for its key when there is money later."""
    user = await system.user("10.00")
    answer = await user.withdraw("10.01", Idempotency_Key="too-much")
    body = refused(answer, 422, "insufficient-funds", "/amount")
    assert body["command_id"] == answer.headers["Command-Id"]
    assert body["retryable"] is False
    assert await user.balance() == "10.00"
    answered(await user.deposit("100.00"), 201)
    refused(await user.withdraw("10.01", Idempotency_Key="too-much"), 422, "insufficient-funds", "/amount")
    answered(await user.withdraw("110.00"), 201)
    assert await user.balance() == "0.00"


async def test_day_limits(system: System) -> None:
    """More than the day's limit is refused; what is refused does not count."""
    user = await system.user()
    for _ in range(10):
        answered(await user.deposit("1000000"), 201)
    refused(await user.deposit("0.01"), 422, "limit-exceeded", "/amount")
    for _ in range(4):
        answered(await user.withdraw("1000000"), 201)
    answered(await user.withdraw("999999.99"), 201)
    refused(await user.withdraw("0.02"), 422, "limit-exceeded", "/amount")
    answered(await user.withdraw("0.01"), 201)
    assert Decimal(await user.balance()) == 5_000_000
