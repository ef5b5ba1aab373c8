"""Orders, holdings and the portfolio over HTTP."""

from decimal import Decimal
from typing import Any

import pytest

from tests.system.running import ANSWER_S, System, User, answered, refused
from tests.waiting import eventually

ORDER = {
    "order_id",
    "order_type",
    "asset_id",
    "quantity",
    "price",
    "status",
    "total_amount",
    "filled_quantity",
    "average_price",
    "fee",
    "held_amount",
    "held_quantity",
    "cancel_reason",
    "client_order_id",
    "time_in_force",
    "expires_at",
    "created_at",
    "updated_at",
}
HOLDING = {
    "as_of",
    "asset_id",
    "asset_name",
    "quantity",
    "held_quantity",
    "average_cost",
    "realized_pnl",
    "current_price",
    "total_value",
    "created_at",
    "updated_at",
}
SUMMARY = {
    "as_of",
    "status",
    "cash_balance",
    "held_cash",
    "total_asset_value",
    "total_portfolio_value",
    "unrealized_pnl",
    "realized_pnl",
    "currency",
    "unpriced_assets",
    "prices_as_of",
    "last_updated",
    "version",
}
LINE = {
    "asset_id",
    "asset_name",
    "quantity",
    "held_quantity",
    "current_price",
    "market_value",
    "percentage",
    "average_cost",
    "unrealized_pnl",
    "realized_pnl",
}
TRADE = {"asset_id", "transaction_type", "quantity", "price", "status", "timestamp", "order_id", "version"}


async def test_buy_and_sell(system: System) -> None:
    """A market order is completed at the quoted price; cash, holding, movements, order and trades agree."""
    user = await system.user("10000.00")
    answer = await user.order("btc", "0.1")
    bought = answered(answer, 201)["data"]
    assert bought.keys() == ORDER
    assert bought["order_id"].startswith("ord_")
    assert bought | {"order_id": "", "created_at": "", "updated_at": ""} == {
        "order_id": "",
        "order_type": "market_buy",
        "asset_id": "BTC",
        "quantity": "0.1",
        "price": "50000.00",
        "status": "completed",
        "total_amount": "5000.00",
        "filled_quantity": "0.1",
        "average_price": "50000.00",
        "fee": "5.00",
        "held_amount": "0.00",
        "held_quantity": "0",
        "cancel_reason": None,
        "client_order_id": None,
        "time_in_force": "gtc",
        "expires_at": None,
        "created_at": "",
        "updated_at": "",
    }
    assert await user.balance() == "4995.00"
    sold = answered(await user.order("BTC", 0.04, "market_sell"), 201)["data"]
    assert (sold["total_amount"], sold["fee"], sold["order_type"], sold["quantity"]) == ("2000.00", "2.00", "market_sell", "0.04")
    assert await user.balance() == "6993.00"

    holding = await user.read("/balance/asset/BTC")
    assert holding.keys() == HOLDING
    assert (holding["quantity"], holding["held_quantity"], holding["average_cost"], holding["realized_pnl"]) == ("0.06", "0", "50050.00", "-4.00")
    assert (holding["current_price"], holding["total_value"]) == (50000.0, 3000.0)
    assert type(holding["current_price"]) is type(holding["total_value"]) is float

    rows = (await user.read("/balance/transactions"))["transactions"]
    assert [(row["transaction_type"], row["amount"], row["order_id"]) for row in rows] == [
        ("order_sale", "2000.00", sold["order_id"]),
        ("fee", "-2.00", sold["order_id"]),
        ("order_payment", "-5000.00", bought["order_id"]),
        ("fee", "-5.00", bought["order_id"]),
        ("deposit", "10000.00", None),
    ]
    assert len({row["transaction_id"] for row in rows}) == len(rows)

    trades = await user.read("/assets/btc/transactions")
    assert trades.keys() == {"data", "has_more", "next_cursor", "as_of"}
    assert all(trade.keys() == TRADE for trade in trades["data"])
    assert [(trade["transaction_type"], trade["quantity"], trade["price"], trade["status"], trade["order_id"]) for trade in trades["data"]] == [
        ("SELL", "0.04", "50000.00", "COMPLETED", sold["order_id"]),
        ("BUY", "0.1", "50000.00", "COMPLETED", bought["order_id"]),
    ]
    as_of = trades["as_of"]
    assert as_of["version"] == 3
    assert await user.read("/orders") == {"data": [sold, bought], "has_more": False, "next_cursor": None, "as_of": as_of}


async def test_one_order(system: System) -> None:
    """An order is shown with its fills; another user's is not found, like one that there is not; an id that cannot be one is 422."""
    user, other = await system.user("1000.00"), await system.user()
    placed = answered(await user.order("BTC", "0.01"), 201)["data"]
    shown = (await user.read(f"/orders/{placed['order_id']}"))["data"]
    assert shown == placed | {"fills": [{"quantity": "0.01", "price": "50000.00", "fee": "0.50", "filled_at": placed["created_at"]}]}
    refused(await other.get(f"/orders/{placed['order_id']}"), 404, "not-found")
    refused(await user.get("/orders/ord_0123456789"), 404, "not-found")
    for malformed in ("short", "x" * 51, "has-hyphen-in", "ord%20with%20space"):
        refused(await user.get(f"/orders/{malformed}"), 422, "validation-failed", "#/path/order_id")


async def test_filters_of_the_list(system: System) -> None:
    """Orders of an asset, a type or a status; what cannot be one of these is 422."""
    user = await system.user("10000.00")
    buys = [answered(await user.order(asset, "0.01"), 201)["data"] for asset in ("BTC", "ETH", "BTC")]
    sale = answered(await user.order("BTC", "0.01", "market_sell"), 201)["data"]
    for params, expected in (
        ({"asset_id": "btc"}, [sale, buys[2], buys[0]]),
        ({"order_type": "market_sell"}, [sale]),
        ({"status": "completed"}, [sale, *reversed(buys)]),
        ({"status": "open"}, []),
        ({"asset_id": "ETH", "order_type": "market_buy", "status": "completed"}, [buys[1]]),
        ({"colour": "red"}, [sale, *reversed(buys)]),
    ):
        assert (await user.read("/orders", **params))["data"] == expected, params
    for name, value in (("asset_id", "B!"), ("order_type", "buy"), ("status", "done")):
        refused(await user.call("GET", "/orders", params={name: value}), 422, "validation-failed", f"#/query/{name}")


@pytest.mark.parametrize(
    ("changes", "code", "pointer"),
    [
        ({"quantity": "1"}, "insufficient-funds", "/quantity"),
        ({"order_type": "market_sell"}, "insufficient-holdings", "/quantity"),
        ({"asset_id": "NOSUCH"}, "unknown-asset", "/asset_id"),
        ({"asset_id": "LUNC"}, "asset-inactive", "/asset_id"),
        ({"quantity": "0.0000001"}, "below-minimum", "/quantity"),
        ({"quantity": "300"}, "above-maximum", "/quantity"),
        ({"order_type": "limit_buy"}, "price-required", "/price"),
        ({"order_type": "stop_loss_sell"}, "price-required", "/price"),
        ({"order_type": "take_profit_sell", "price": "1", "time_in_force": "fok"}, "validation-failed", "/time_in_force"),
        ({"order_type": "limit_buy", "price": "0"}, "validation-failed", "/price"),
        ({"order_type": "limit_buy", "price": "49000", "quantity": "1"}, "insufficient-funds", "/quantity"),
        ({"order_type": "limit_sell", "price": "51000"}, "insufficient-holdings", "/quantity"),
        ({"order_type": "limit_buy", "price": "0.1", "quantity": "0.0001"}, "below-minimum", "/quantity"),
        ({"order_type": "limit_buy", "price": "40000", "quantity": "300"}, "above-maximum", "/quantity"),
        ({"price": "50000"}, "price-not-allowed", "/price"),
        ({"quantity": "0.000000001"}, "validation-failed", "/quantity"),
        ({"quantity": "0"}, "validation-failed", "/quantity"),
        ({"quantity": "-0.01"}, "validation-failed", "/quantity"),
        ({"quantity": "much"}, "validation-failed", "/quantity"),
        ({"quantity": None}, "validation-failed", "/quantity"),
        ({"asset_id": "B!"}, "validation-failed", "/asset_id"),
        ({"asset_id": "<script>"}, "validation-failed", "/asset_id"),
        ({"asset_id": None}, "validation-failed", "/asset_id"),
        ({"order_type": "stop_loss"}, "validation-failed", "/order_type"),
        ({"order_type": None}, "validation-failed", "/order_type"),
        ({"time_in_force": "soon"}, "validation-failed", "/time_in_force"),
        ({"time_in_force": "gtd"}, "validation-failed", "/expires_at"),
        ({"expires_at": "2020-01-01T00:00:00Z", "time_in_force": "gtd"}, "validation-failed", "/expires_at"),
        ({"expires_at": "tomorrow"}, "validation-failed", "/expires_at"),
        ({"client_order_id": "<b>"}, "validation-failed", "/client_order_id"),
        ({"client_order_id": "x" * 65}, "validation-failed", "/client_order_id"),
        ({"side": "buy"}, "validation-failed", "/side"),
    ],
)
async def test_orders_that_are_refused(system: System, changes: dict[str, Any], code: str, pointer: str) -> None:
    """Each refusal has its code and names its field; nothing is held, moved or listed."""
    user = await system.user("1000.00")
    body = {"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.01"} | changes
    answer = await user.post("/orders", {name: value for name, value in body.items() if value is not None})
    refused(answer, 422, code, pointer)
    assert (await user.read("/balance"))["total_balance"] == "1000.00"
    assert (await user.read("/orders"))["data"] == []


async def test_a_client_order_id_is_used_once(system: System) -> None:
    """Under another key it is refused; another user may have the same."""
    user, other = await system.user("1000.00"), await system.user("1000.00")
    body = {"asset_id": "ETH", "order_type": "market_buy", "quantity": "0.01", "client_order_id": "my.order:1"}
    first = answered(await user.post("/orders", body), 201)["data"]
    assert first["client_order_id"] == "my.order:1"
    refused(await user.post("/orders", body), 422, "duplicate-client-order-id", "/client_order_id")
    assert answered(await other.post("/orders", body), 201)["data"]["order_id"] != first["order_id"]
    assert [order["order_id"] for order in (await user.read("/orders"))["data"]] == [first["order_id"]]


async def test_a_category_has_its_own_fee(system: System) -> None:
    """Stablecoins cost a basis point here, all others ten; the fee is rounded up to the cent."""
    user = await system.user("1000.00")
    assert answered(await user.order("USDT", "100.5"), 201)["data"]["fee"] == "0.02"
    assert answered(await user.order("LTC", "1"), 201)["data"]["fee"] == "0.08"


async def test_the_last_sale_takes_all(system: System) -> None:
    """A holding that was sold whole is shown with zero, and is gone from the portfolio; its trades stay."""
    user = await system.user("1000.00")
    answered(await user.order("ETH", "0.07"), 201)
    answered(await user.order("ETH", "0.07", "market_sell"), 201)
    holding = await user.read("/assets/ETH/balance")
    assert (holding["quantity"], holding["average_cost"], holding["total_value"]) == ("0", None, 0.0)
    portfolio = await user.read("/portfolio")
    assert portfolio["assets"] == []
    assert portfolio["total_portfolio_value"] == await user.balance() == "999.58"
    assert (portfolio["realized_pnl"], portfolio["unrealized_pnl"]) == ("-0.42", "0.00")
    assert len((await user.read("/assets/ETH/transactions"))["data"]) == 2


async def test_holdings(system: System) -> None:
    """All holdings and one, under both paths; never held is 404, and so is an asset that there is not."""
    user = await system.user("10000.00")
    assert (await user.read("/assets/balances"))["data"] == []
    for asset, quantity in (("ETH", "0.5"), ("BTC", "0.02")):
        answered(await user.order(asset, quantity), 201)
    body = await user.read("/assets/balances")
    rows, as_of = body["data"], {"as_of": body["as_of"]}
    assert [row["asset_id"] for row in rows] == ["BTC", "ETH"]
    assert [row["asset_name"] for row in rows] == ["Bitcoin", "Ethereum"]
    for row in rows:
        assert row | as_of == await user.read(f"/balance/asset/{row['asset_id']}") == await user.read(f"/assets/{row['asset_id'].lower()}/balance")
    for path in ("/balance/asset/SOL", "/assets/SOL/balance", "/balance/asset/NOSUCH"):
        refused(await user.get(path), 404, "not-found")
    refused(await user.get("/balance/asset/B!"), 422, "validation-failed", "#/path/asset_id")
    assert await user.read("/assets/SOL/transactions") == {"data": [], "has_more": False, "next_cursor": None, **as_of}
    refused(await user.get("/assets/NOSUCH/transactions"), 404, "not-found")
    refused(await user.get("/assets/B!/transactions"), 422, "validation-failed", "#/path/asset_id")


async def test_portfolio_and_summary(system: System) -> None:
    """The value of everything at the current prices; percentages of the holdings sum to exactly 100; the summary says the same."""
    user = await system.user("10000.00")
    for asset, quantity in (("BTC", "0.02"), ("ETH", "0.3333"), ("SOL", "7")):
        answered(await user.order(asset, quantity), 201)
    portfolio, summary = await at_the_same_prices(user)
    assert portfolio.keys() == SUMMARY | {"assets"}
    assert all(line.keys() == LINE for line in portfolio["assets"])
    values = {line["asset_id"]: line["market_value"] for line in portfolio["assets"]}
    assert values == {"BTC": "1000.00", "ETH": "999.90", "SOL": "980.00"}
    assert sum(Decimal(line["percentage"]) for line in portfolio["assets"]) == 100
    assert portfolio["total_asset_value"] == "2979.90"
    assert portfolio["cash_balance"] == await user.balance()
    assert Decimal(portfolio["total_portfolio_value"]) == Decimal(portfolio["cash_balance"]) + Decimal("2979.90")
    assert (portfolio["held_cash"], portfolio["unpriced_assets"]) == ("0.00", [])
    assert summary == {name: portfolio[name] for name in SUMMARY}


async def at_the_same_prices(user: User) -> tuple[dict[str, Any], dict[str, Any]]:
    """Portfolio and summary, between which the market has published nothing."""

    async def both() -> tuple[dict[str, Any], dict[str, Any]] | None:
        portfolio, summary = await user.read("/portfolio"), await user.read("/users/portfolio/summary")
        return (portfolio, summary) if portfolio["prices_as_of"] == summary["prices_as_of"] else None

    return await eventually(both, ANSWER_S)


async def test_an_empty_portfolio(system: System) -> None:
    """A new user has one, with zeros, and words for it."""
    user = await system.user()
    portfolio = await user.read("/portfolio")
    assert (portfolio["assets"], portfolio["total_portfolio_value"], portfolio["currency"]) == ([], "0.00", "USD")
    words = await user.read("/insights/portfolio")
    assert words["data"].keys() == {"summary", "generated_at", "model"}
    assert "empty" in words["data"]["summary"]


async def test_insights(system: System) -> None:
    """The words speak of the caller's holdings."""
    user = await system.user("1000.00")
    answered(await user.order("BTC", "0.01"), 201)
    assert "Bitcoin" in (await user.read("/insights/portfolio"))["data"]["summary"]
