"""The inventory over HTTP: for everybody, as numbers, in a stable order."""

import json
import re
from typing import Any

import httpx
import pytest

from tests.system.running import API, System, answered, cnop, refused

ROW = {
    "asset_id",
    "name",
    "description",
    "category",
    "price_usd",
    "is_active",
    "symbol",
    "image",
    "market_cap_rank",
    "price_change_percentage_24h",
    "market_cap",
    "total_volume_24h",
}
DETAIL = ROW | {
    "availability_status",
    "price_change_24h",
    "price_change_percentage_7d",
    "price_change_percentage_30d",
    "high_24h",
    "low_24h",
    "circulating_supply",
    "total_supply",
    "max_supply",
    "ath",
    "ath_change_percentage",
    "ath_date",
    "atl",
    "atl_change_percentage",
    "atl_date",
    "last_updated",
}


async def get(system: System, path: str, **params: Any) -> httpx.Response:
    return await system.http.get(API + path, params=params)


@pytest.mark.parametrize("path", ["/inventory/assets", "/assets"])
async def test_list(system: System, path: str) -> None:
    """Every key of every row is there, figures are numbers, and the order is the rank's; both paths answer alike."""
    body = answered(await get(system, path), 200)
    assert body.keys() == {"data", "total_count", "active_count"}
    assert len(body["data"]) == 50
    assert body["total_count"] >= 100
    assert body["active_count"] < body["total_count"]
    assert all(row.keys() == ROW for row in body["data"])
    ranks = [row["market_cap_rank"] for row in body["data"]]
    assert ranks == sorted(ranks)
    bitcoin = body["data"][0]
    assert (bitcoin["asset_id"], bitcoin["name"], bitcoin["price_usd"], bitcoin["is_active"]) == ("BTC", "Bitcoin", 50000.0, True)
    assert isinstance(bitcoin["price_usd"], float)
    assert isinstance(bitcoin["market_cap"], float)


async def test_parameters_of_the_list(system: System) -> None:
    """Limit, active ones only, search by name and symbol; unknown parameters are ignored; counts are of all that match."""
    whole = answered(await get(system, "/inventory/assets", limit=250), 200)
    assert len(whole["data"]) == whole["total_count"] or len(whole["data"]) == 250
    assert answered(await get(system, "/inventory/assets", limit=250, page=7, sort="name"), 200) == whole
    active = answered(await get(system, "/inventory/assets", limit=250, active_only="true"), 200)
    assert active["total_count"] == active["active_count"] == whole["active_count"]
    assert all(row["is_active"] for row in active["data"])
    found = answered(await get(system, "/inventory/assets", search="BITCOIN"), 200)
    assert found["data"][0]["asset_id"] == "BTC"
    assert all("bitcoin" in f"{row['name']} {row['symbol']}".lower() for row in found["data"])
    assert found["total_count"] == len(found["data"])
    assert answered(await get(system, "/inventory/assets", search="no such asset"), 200) == {"data": [], "total_count": 0, "active_count": 0}


@pytest.mark.parametrize(
    ("name", "value"), [("limit", 0), ("limit", 251), ("limit", "many"), ("limit", "1.5"), ("active_only", "perhaps"), ("search", "x" * 101)]
)
async def test_parameters_that_are_refused(system: System, name: str, value: Any) -> None:
    """Out of range or of another type: 422, and the parameter is named."""
    refused(await get(system, "/inventory/assets", **{name: value}), 422, "validation-failed", f"#/query/{name}")


@pytest.mark.parametrize("path", ["/inventory/assets/BTC", "/inventory/assets/btc", "/assets/Btc"])
async def test_one_asset(system: System, path: str) -> None:
    """The id is read in any case; every key is there, nullable."""
    body = answered(await get(system, path), 200)
    assert body.keys() == {"data"}
    assert body["data"].keys() == DETAIL
    asset = body["data"]
    assert (asset["asset_id"], asset["price_usd"], asset["availability_status"], asset["max_supply"]) == ("BTC", 50000.0, "available", 21000000.0)
    assert asset["last_updated"].endswith("Z")


async def test_an_asset_that_is_not_traded(system: System) -> None:
    """It is shown as unavailable."""
    asset = answered(await get(system, "/inventory/assets/LUNC"), 200)["data"]
    assert (asset["is_active"], asset["availability_status"]) == (False, "unavailable")


@pytest.mark.parametrize("text", ["ABCDEFGHIJKLM", "%20", "BTC!", "B-T", "%3Cscript%3E", "ÄÖÜ"])
async def test_ids_that_are_refused(system: System, text: str) -> None:
    """What cannot be an id is 422; one that there is not is 404."""
    refused(await get(system, f"/inventory/assets/{text}"), 422, "validation-failed", "#/path/asset_id")
    refused(await get(system, "/inventory/assets/NOSUCH"), 404, "not-found")


async def test_a_bad_token_is_ignored(system: System) -> None:
    """Public routes look at no token."""
    answer = await system.http.get(f"{API}/inventory/assets", headers={"Authorization": "Bearer nonsense"})
    answered(answer, 200)


async def test_unchanged_since(system: System) -> None:
    """The ETag of a body is answered 304 until the body changes."""
    first = await get(system, "/inventory/assets/ETH")
    etag = first.headers["ETag"]
    again = await system.http.get(f"{API}/inventory/assets/ETH", headers={"If-None-Match": etag})
    if again.status_code == 200:  # a price was published meanwhile
        assert again.headers["ETag"] != etag
        again = await system.http.get(f"{API}/inventory/assets/ETH", headers={"If-None-Match": again.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await system.http.get(f"{API}/inventory/assets/ETH", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


async def test_an_operator_stops_and_starts_trading(system: System) -> None:
    """Refused from the moment the command is done, and not before; what is held stays; and a restart of the market does not undo it."""
    user = await system.user("1000.00")
    answered(await user.order("LTC", "1"), 201)
    status, _, told = await cnop(system, "assets", "deactivate", "ltc", "DOGE")
    assert (status, told.strip()) == (0, "LTC, DOGE: not traded any more.")
    refused(await user.order("LTC", "1"), 422, "asset-inactive", "/asset_id")
    assert answered(await get(system, "/inventory/assets/DOGE"), 200)["data"]["availability_status"] == "unavailable"
    assert (await user.read("/balance/asset/LTC"))["quantity"] == "1"
    await system.stop("market")
    await system.start("market")
    rows = [json.loads(row) for row in re.findall(r"\{.*?\}", (await cnop(system, "assets", "--json"))[1], re.DOTALL)]
    assert {row["asset_id"]: row["is_active"] for row in rows if row["asset_id"] in {"LTC", "DOGE", "BTC"}} == {"BTC": True, "LTC": False, "DOGE": False}
    status, _, told = await cnop(system, "assets", "activate", "LTC", "DOGE")
    assert (status, told.strip()) == (0, "LTC, DOGE: traded.")
    answered(await user.order("LTC", "1"), 201)


async def test_an_unknown_asset_changes_nothing(system: System) -> None:
    """The command names it and ends with status 1; the others that were named are as they were."""
    status, _, told = await cnop(system, "assets", "deactivate", "BTC", "NOSUCH")
    assert (status, told.strip()) == (1, "There is no asset NOSUCH. Nothing was changed.")
    assert answered(await get(system, "/inventory/assets/BTC"), 200)["data"]["is_active"] is True


async def test_price_history(system: System) -> None:
    """The running candle has the price that is shown; both paths answer alike, and an asset that is not listed is 404."""
    price = answered(await get(system, "/assets/ETH"), 200)["data"]["price_usd"]
    body = answered(await get(system, "/inventory/assets/eth/prices", interval="1d"), 200)
    assert body.keys() == {"data", "interval", "has_more", "next_cursor"}
    row = body["data"][-1]
    assert row.keys() == {"at", "open", "high", "low", "close", "volume"}
    assert row["low"] <= price <= row["high"]
    assert answered(await get(system, "/assets/ETH/prices", interval="1d"), 200)["data"][0]["at"] == body["data"][0]["at"]
    refused(await get(system, "/inventory/assets/NOSUCH/prices"), 404, "not-found")
    refused(await get(system, "/inventory/assets/ETH/prices", interval="2d"), 422, "validation-failed", "#/query/interval")
