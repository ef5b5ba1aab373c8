"""The read door over HTTP: every row of the contract that it serves, its refusals, and reading what one has just written."""

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.cache import ORDERS_HELD_MAX
from query_api.cursors import LIFETIME
from schemas.identity import Profile
from schemas.views import read_consistency_token
from tests.fakes.clock import START
from tests.fakes.histories import PRICE, History
from tests.query.door import ReadDoor, read_door
from tests.valkey import valkey

STEPS = ("deposit", "buy", "deposit", "buy", "open", "sell", "refuse", "close", "withdraw", "buy")
PATHS = (
    "/balance",
    "/balance/transactions",
    "/balance/asset/BTC",
    "/assets/balances",
    "/assets/BTC/balance",
    "/assets/BTC/transactions",
    "/portfolio",
    "/portfolio/history",
    "/users/portfolio/summary",
    "/insights/portfolio",
    "/orders",
    "/orders/ord_0123456789",
    "/commands/cmd_x",
    "/auth/profile",
    "/auth/me",
)
VIEWS = ("/balance", "/balance/transactions", "/assets/balances", "/portfolio", "/users/portfolio/summary", "/insights/portfolio", "/orders")


@pytest.mark.parametrize("path", PATHS)
async def test_a_token_is_needed(door: ReadDoor, path: str) -> None:
    """Without one, and with a revoked one, the answer is 401 whatever else is wrong."""
    assert (await door.client.get(path, params={"limit": 0})).status_code == 401
    token = door.signer.sign("reader_x", "family")
    await door.denylist.revoke(token.claims.token_id, token.claims.expires_at)
    answer = await door.client.get(path, headers={"Authorization": f"Bearer {token.text}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_balance(door: ReadDoor) -> None:
    """Available, held and both, with the currency's decimals; zeros for a new user, who has no time of change."""
    history = await door.shown("deposit", "deposit")
    body = (await door.get("/balance", history)).json()
    assert body == {
        "current_balance": "3.00",
        "held_balance": "0.00",
        "total_balance": "3.00",
        "currency": "USD",
        "updated_at": "2026-11-25T00:00:00.002Z",
        "version": 2,
        "status": "active",
        "as_of": {"version": 2, "at": "2026-11-25T00:00:00.002Z"},
    }
    body = (await door.get("/balance", door.user())).json()
    assert (body["current_balance"], body["updated_at"], body["version"], body["as_of"]) == ("0.00", None, 0, {"version": 0, "at": None})


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("is_shown", [True, False], ids=["view", "cold"])
async def test_transactions_page_by_page(door: ReadDoor, limit: int, is_shown: bool) -> None:
    """All movements once, newest first; an entry's two rows may be on two pages; the count is of all."""
    history = door.user(*STEPS)
    if is_shown:
        await door.project(history, *range(1, len(STEPS) + 1))
    rows = await _all(door, "/balance/transactions", "transactions", history, limit)
    expected = [row.model_dump(mode="json") for row in history.rows()]
    assert rows == expected
    body = (await door.get("/balance/transactions", history)).json()
    assert (body["total_count"], body["has_more"], body["next_cursor"]) == (len(expected), False, None)


async def test_transactions_are_signed_amounts(door: ReadDoor) -> None:
    """Money that leaves is negative, and a fee is a row of its own."""
    history = await door.shown("deposit", "buy")
    rows = (await door.get("/balance/transactions", history)).json()["transactions"]
    assert [(row["transaction_type"], row["amount"], row["status"]) for row in rows] == [
        ("order_payment", "-12.34", "completed"),
        ("fee", "-0.01", "completed"),
        ("deposit", "1.00", "completed"),
    ]


async def test_a_row_added_between_two_pages_changes_neither(door: ReadDoor) -> None:
    """The second page goes on where the first one ended, though the list has grown at its head."""
    history = await door.shown(*["deposit"] * 10)
    first = (await door.get("/balance/transactions", history, limit=5)).json()
    history.grow(["deposit"] * 3)
    await door.project(history, 11, 12, 13)
    second = (await door.get("/balance/transactions", history, limit=5, cursor=first["next_cursor"])).json()
    assert [row["version"] for row in first["transactions"] + second["transactions"]] == list(range(10, 0, -1))


async def test_holdings(door: ReadDoor) -> None:
    """All there ever were, by id; one of them under both paths, in any case of letters; figures of value are JSON numbers."""
    history = await door.shown("deposit", "buy", "deposit", "buy", "buy")
    body = (await door.get("/assets/balances", history)).json()
    rows, as_of = body["data"], {"as_of": body["as_of"]}
    assert [row["asset_id"] for row in rows] == sorted(history.accounts[-1].positions)
    for row in rows:
        assert (await door.get(f"/balance/asset/{row['asset_id'].lower()}", history)).json() == row | as_of
        assert (await door.get(f"/assets/{row['asset_id']}/balance", history)).json() == row | as_of
    ether = next(row for row in rows if row["asset_id"] == "ETH")
    assert (ether["asset_name"], ether["quantity"], ether["held_quantity"], ether["average_cost"]) == ("ETH Coin", "1", "0", "12.34")
    assert (ether["current_price"], ether["total_value"]) == (2500.5, 2500.5)


@pytest.mark.parametrize(
    ("path", "status"), [("/balance/asset/DOGE", 404), ("/balance/asset/NONE", 404), ("/assets/BTC!/balance", 422), ("/balance/asset/ABCDEFGHIJK", 422)]
)
async def test_a_holding_that_never_was(door: ReadDoor, path: str, status: int) -> None:
    """Not found for any asset that was never held; 422 for what cannot be an asset's id."""
    history = await door.shown("deposit")
    assert (await door.get(path, history)).status_code == status


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_trades_of_an_asset(door: ReadDoor, limit: int) -> None:
    """Buys and sells of that asset alone, newest first."""
    history = await door.shown(*["buy", "sell", "buy", "buy", "refuse", "sell", "buy"] * 3)
    for asset_id in ("BTC", "ETH", "SOL"):
        rows = await _all(door, f"/assets/{asset_id.lower()}/transactions", "data", history, limit)
        orders = [order for order in history.orders() if order.asset_id == asset_id]
        assert [(row["order_id"], row["transaction_type"].lower()) for row in rows] == [(order.order_id, order.order_type.split("_")[1]) for order in orders]
        assert {(row["status"], row["price"], row["quantity"]) for row in rows} == {("COMPLETED", str(PRICE), "1")}


async def test_trades_of_none_and_of_an_unknown_asset(door: ReadDoor) -> None:
    """Empty where nothing of a listed asset was moved, 404 where no such asset is listed."""
    history = await door.shown("deposit")
    body = (await door.get("/assets/DOGE/transactions", history)).json()
    assert (body["data"], body["has_more"], body["next_cursor"], body["as_of"]["version"]) == ([], False, None, 1)
    assert (await door.get("/assets/NONE/transactions", history)).status_code == 404


async def test_portfolio_and_summary(door: ReadDoor) -> None:
    """Only what is held, the most valuable first; percentages sum to 100; what has no price is named and not counted."""
    history = await door.shown("deposit", "buy", "buy", "buy", "sell", "deposit", "buy", "buy")
    body = (await door.get("/portfolio", history)).json()
    held = {asset_id for asset_id, position in history.accounts[-1].positions.items() if position.quantity > 0}
    assert {row["asset_id"] for row in body["assets"]} == held
    assert body["unpriced_assets"] == (["SOL"] if "SOL" in held else [])
    assert sum(Decimal(row["percentage"]) for row in body["assets"] if row["percentage"]) == 100
    worth = sum(Decimal(row["market_value"]) for row in body["assets"] if row["market_value"])
    assert Decimal(body["total_asset_value"]) == worth
    assert Decimal(body["total_portfolio_value"]) == worth + Decimal(body["cash_balance"]) + Decimal(body["held_cash"])
    assert body["prices_as_of"] == "2026-11-25T07:59:00.000Z"
    del body["assets"]
    assert (await door.get("/users/portfolio/summary", history)).json() == body


async def test_portfolio_without_a_market(door: ReadDoor) -> None:
    """Where no price can be read at all, everything is unpriced and the answer is still 200."""
    history = await door.shown("deposit", "buy", "buy")
    door.market.away = True
    body = (await door.get("/portfolio", history)).json()
    assert body["unpriced_assets"] == sorted(history.accounts[-1].positions)
    assert body["total_asset_value"] == "0.00"
    assert (await door.get("/assets/BTC/transactions", door.user())).status_code == 503


async def test_insights(door: ReadDoor) -> None:
    """Words for an empty portfolio and for a full one."""
    for history in (door.user(), await door.shown("deposit", "buy", "buy", "buy")):
        data = (await door.get("/insights/portfolio", history)).json()["data"]
        assert data["summary"]
        assert (data["generated_at"], data["model"]) == ("2026-11-25T08:00:00.000Z", "rules-1")


@pytest.mark.parametrize("limit", [1, 3, 100])
@pytest.mark.parametrize("filters", [{}, {"asset_id": "btc"}, {"order_type": "market_buy"}, {"status": "open"}, {"status": "completed", "asset_id": "ETH"}])
async def test_orders_page_by_page(door: ReadDoor, limit: int, filters: dict[str, str]) -> None:
    """All orders that are wanted, once, newest first."""
    history = await door.shown(*["buy", "open", "sell", "open", "close", "buy"] * 4)
    rows = await _all(door, "/orders", "data", history, limit, **filters)
    wanted = {name: value.upper() if name == "asset_id" else value for name, value in filters.items()}
    expected = [order.order_id for order in history.orders() if all(getattr(order, name) == value for name, value in wanted.items())]
    assert [row["order_id"] for row in rows] == expected


async def test_orders_deeper_than_the_view(door: ReadDoor) -> None:
    """The view holds the newest orders only; what is behind them comes from the ledger, with and without filters."""
    history = await door.shown("open", "open", *["buy"] * (ORDERS_HELD_MAX + 30))
    rows = await _all(door, "/orders", "data", history, 100)
    assert [row["order_id"] for row in rows] == [order.order_id for order in history.orders()]
    opened = await _all(door, "/orders", "data", history, 1, status="open")
    assert [row["order_id"] for row in opened] == [order.order_id for order in history.orders()[-2:]]
    assert (await door.get(f"/orders/{history.orders()[-1].order_id}", history)).json()["data"]["status"] == "open"


async def test_one_order(door: ReadDoor) -> None:
    """With its fill where it was filled; not found for an unknown one and another user's alike, 422 for what is no id."""
    history, other = await door.shown("buy", "open"), await door.shown("buy")
    opened, filled = history.orders()
    data = (await door.get(f"/orders/{filled.order_id}", history)).json()["data"]
    assert (data["status"], data["filled_quantity"], data["total_amount"]) == ("completed", "1", "12.34")
    assert data["fills"] == [{"quantity": "1", "price": "12.34", "fee": "0.01", "filled_at": "2026-11-25T00:00:00.001Z"}]
    assert (await door.get(f"/orders/{opened.order_id}", history)).json()["data"]["fills"] == []
    foreign, unknown = [await door.get(f"/orders/{order_id}", history) for order_id in (other.orders()[0].order_id, "ord_" + "0" * 32)]
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["detail"] == unknown.json()["detail"]
    malformed = await door.get("/orders/short", history)
    assert (malformed.status_code, malformed.json()["errors"][0]["pointer"]) == (422, "#/path/order_id")


@pytest.mark.parametrize("path", ["/balance/transactions", "/orders", "/assets/BTC/transactions"])
@pytest.mark.parametrize("limit", ["0", "101", "-1", "many", "1.5", ""])
async def test_a_limit_out_of_range(door: ReadDoor, path: str, limit: str) -> None:
    """422, with the parameter named."""
    answer = await door.get(path, await door.shown("deposit"), limit=limit)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/query/limit")


@pytest.mark.parametrize(("name", "value"), [("status", "done"), ("order_type", "stop"), ("asset_id", "B!")])
async def test_an_unknown_filter_value(door: ReadDoor, name: str, value: str) -> None:
    """422, with the parameter named."""
    answer = await door.get("/orders", await door.shown("deposit"), **{name: value})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/query/{name}")


async def test_cursors_of_other_lists(door: ReadDoor) -> None:
    """A cursor of another user, list or filter, a damaged and an expired one are 400 `invalid-cursor`."""
    history, other = await door.shown(*["buy"] * 9), await door.shown(*["buy"] * 9)
    cursor = (await door.get("/orders", history, limit=1)).json()["next_cursor"]
    assert (await door.get("/orders", history, limit=1, cursor=cursor)).status_code == 200
    refused = [
        await door.get("/orders", other, cursor=cursor),
        await door.get("/balance/transactions", history, cursor=cursor),
        await door.get("/assets/BTC/transactions", history, cursor=cursor),
        await door.get("/orders", history, cursor=cursor, status="open"),
        await door.get("/orders", history, cursor=cursor + "A"),
        await door.get("/orders", history, cursor=""),
        await door.get("/orders", history, cursor="%00"),
    ]
    door.clock.advance(LIFETIME.total_seconds())
    refused.append(await door.get("/orders", history, cursor=cursor))
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(400, "invalid-cursor")] * len(refused)


@pytest.mark.parametrize("path", VIEWS)
async def test_a_read_shows_what_was_written(door: ReadDoor, path: str) -> None:
    """With a token the view is waited for, and else loaded from the ledger; the answer says so and which version it shows."""
    history = door.user(*STEPS)
    await door.project(history, 1, 2)
    plain = await door.get(path, history)
    assert read_consistency_token(history.username, plain.headers["Consistency-Token"]) == 2
    assert "Consistency-Satisfied" not in plain.headers
    answer = await door.get(path, history, at_least=len(STEPS))
    assert answer.headers["Consistency-Satisfied"] == "true"
    assert read_consistency_token(history.username, answer.headers["Consistency-Token"]) == len(STEPS)


async def test_a_read_waits_for_the_projector(door: ReadDoor) -> None:
    """What comes while the reader waits needs no load."""
    history = door.user("deposit", "deposit")
    await door.project(history, 1)
    waiting = asyncio.create_task(door.get("/balance", history, at_least=2))
    await asyncio.sleep(0)
    await door.project(history, 2)
    assert (await waiting).json()["current_balance"] == "3.00"
    assert not door.reads.reads


async def test_a_version_that_nobody_has(door: ReadDoor) -> None:
    """The answer is the newest there is and says that it is not enough; a strict reader gets 503 instead."""
    history = await door.shown("deposit")
    answer = await door.get("/balance", history, at_least=9)
    assert (answer.status_code, answer.headers["Consistency-Satisfied"]) == (200, "false")
    strict = await door.client.get("/balance", headers={**door.headers(history, at_least=9), "Prefer": "handling=strict"})
    assert (strict.status_code, strict.json()["code"], strict.headers["Consistency-Satisfied"]) == (503, "projection-behind", "false")
    assert "Retry-After" in strict.headers


@pytest.mark.parametrize("text", ["", "5", "v1.x.00000000", "v1.5.00000000", "v2.5.00000000"])
async def test_a_consistency_token_that_is_none(door: ReadDoor, text: str) -> None:
    """Malformed, or another user's: 400 `invalid-header`."""
    history = await door.shown("deposit")
    answer = await door.client.get("/balance", headers={**door.headers(history), "Consistency-Token": text})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-header")


async def test_profile(door: ReadDoor) -> None:
    """Flat, under both paths; the old one says that it is old; gone with the user."""
    history = door.user()
    assert (await door.get("/auth/profile", history)).status_code == 404
    door.profiles.known[history.username] = Profile(
        username=history.username, email="ann@example.com", first_name="Ann", last_name="Lee", created_at=START, updated_at=START
    )
    new, old = await door.get("/auth/profile", history), await door.get("/auth/me", history)
    assert new.json() == old.json()
    assert new.json() == {
        "username": history.username,
        "email": "ann@example.com",
        "first_name": "Ann",
        "last_name": "Lee",
        "phone": None,
        "date_of_birth": None,
        "marketing_emails_consent": False,
        "created_at": "2026-11-25T08:00:00.000Z",
        "updated_at": "2026-11-25T08:00:00.000Z",
    }
    assert "Deprecation" not in new.headers
    assert {"Deprecation", "Sunset", "Link"} <= {name.title() for name in old.headers}


async def test_commands(door: ReadDoor) -> None:
    """Settled, refused and pending ones; an id that this user was never given is not found."""
    history, other = await door.shown("deposit", "refuse"), door.user()
    settled, refused = [door.command_id(history, entry.request_id) for entry in history.entries]
    body = (await door.get(f"/commands/{settled}", history)).json()
    assert (body["state"], body["version"], body["outcome"]["new_balance"]) == ("settled", 1, "1.00")
    body = (await door.get(f"/commands/{refused}", history)).json()
    assert (body["state"], body["code"], body["outcome"]) == ("refused", "insufficient-funds", None)
    unsent = door.command_id(history, "0" * 8 + "-0000-5000-8000-" + "0" * 12)
    pending = await door.get(f"/commands/{unsent}", history)
    assert (pending.json()["state"], pending.headers["Retry-After"]) == ("pending", "1")
    for command_id, caller in ((settled, other), (settled[:-1] + ("0" if settled[-1] != "0" else "1"), history), ("cmd_1", history)):
        assert (await door.get(f"/commands/{command_id}", caller)).status_code == 404


async def test_the_inventory_needs_no_token_and_paths_do_not_meet(door: ReadDoor) -> None:
    """/assets/{id} and /assets/balances are two things."""
    assert (await door.client.get("/assets/btc")).json()["data"]["asset_id"] == "BTC"
    assert (await door.client.get("/assets/balances")).status_code == 401


async def test_without_redis(tmp_path: Path) -> None:
    """Every read answers from the ledger and says so; without the ledger too it is 503 with Retry-After, or what needs neither."""
    async with valkey(tmp_path) as server, read_door(server.url, tmp_path) as door:
        history = await door.shown(*STEPS)
        expected = {path: (await door.get(path, history)).json() for path in VIEWS}
        await server.stop()
        for path in VIEWS:
            answer = await door.get(path, history, at_least=len(STEPS))
            assert answer.json() == expected[path]
            assert answer.headers["Cache-Status"] == "cnop; fwd=bypass"
            assert answer.headers["Consistency-Satisfied"] == "true"
        assert (await door.get(f"/orders/{history.orders()[0].order_id}", history)).status_code == 200
        door.reads.away = True
        answer = await door.get("/balance", history)
        assert (answer.status_code, answer.json()["code"], "Retry-After" in answer.headers) == (503, "unavailable", True)


@pytest.mark.parametrize("path", VIEWS)
async def test_without_the_store(door: ReadDoor, path: str) -> None:
    """What the view shows needs no ledger."""
    history = await door.shown(*STEPS)
    assert (await door.get("/portfolio", history)).status_code == 200  # the market is in Redis from now on
    door.reads.away = door.market.away = True
    answer = await door.get(path, history, at_least=len(STEPS))
    assert (answer.status_code, answer.headers["Consistency-Satisfied"]) == (200, "true")


async def test_the_description_names_every_route(door: ReadDoor) -> None:
    """OpenAPI: each route with its answer's model."""
    document = (await door.client.get("http://test/docs/openapi.json")).json()
    for path in ("/balance", "/balance/transactions", "/portfolio", "/orders", "/orders/{order_id}", "/commands/{command_id}", "/auth/me"):
        answer = document["paths"][f"/api/v1{path}"]["get"]["responses"]["200"]
        assert "$ref" in answer["content"]["application/json"]["schema"]


async def _all(door: ReadDoor, path: str, name: str, history: History, limit: int, **query: Any) -> list[dict[str, Any]]:
    """The rows of all pages."""
    rows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await door.get(path, history, limit=limit, **query, **cursor)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert len(body[name]) <= limit
        rows += body[name]
        assert body["has_more"] == (body["next_cursor"] is not None)
        if not body["has_more"]:
            return rows
        cursor = {"cursor": body["next_cursor"]}
