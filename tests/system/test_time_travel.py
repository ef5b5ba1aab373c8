"""A balance of an earlier version, and its explanation, followed into the topics of a running system."""

from events.topics import REQUESTS, RESULTS
from tests.system.running import System, answered


async def test_an_earlier_version_explained(system: System) -> None:
    """What was answered then is answered for that version and time again; each line's request and result are the records in the topics."""
    user = await system.user()
    seen = {}
    for step in ("deposit", "buy", "limit", "deposit", "cancel"):
        match step:
            case "deposit":
                answered(await user.deposit("1000.00", X_Request_ID=f"{user.username}-{len(seen)}"), 201)
            case "buy":
                answered(await user.order("BTC", "0.001"), 201)
            case "limit":
                body = {"asset_id": "ETH", "order_type": "limit_buy", "quantity": "0.1", "price": "1.00"}
                waiting = answered(await user.post("/orders", body), 201)["data"]
            case _:
                answered(await user.call("DELETE", f"/orders/{waiting['order_id']}"), 200)
        balance = await user.read("/balance")
        seen[balance["version"]] = balance
    for version, balance in seen.items():
        for as_of in (str(version), balance["as_of"]["at"]):
            then = await user.read("/balance", as_of=as_of)
            assert {name: then[name] for name in balance} == balance
            assert then["open_orders"] == ([waiting] if version in {3, 4} else [])
            held = await user.read("/portfolio", as_of=as_of)
            assert (held["as_of"], held["cash_balance"], held["open_orders"]) == (balance["as_of"], balance["current_balance"], then["open_orders"])
            assert [row["asset_id"] for row in held["assets"]] == (["BTC"] if version > 1 else [])
    requests = {(record.partition, record.offset): dict(record.headers) for record in await system.records(REQUESTS, user.username)}
    results = {dict(record.headers)["ce_id"]: record for record in await system.records(RESULTS, user.username)}
    body = await user.read("/balance/usd/explain")
    assert (body["sum_matches"], body["closing"]["total"], body["opening"]["total"]) == (True, balance["total_balance"], "0.00")
    assert [line["version"] for line in body["lines"]] == [5, 4, 3, 2, 1]
    for line in body["lines"]:
        request, result = requests[line["partition"], line["offset"]], results[line["event_id"].encode()]
        assert (line["topic"], line["request_id"]) == (REQUESTS, request["x-request-id"].decode())
        assert result.partition == line["partition"]
        assert dict(result.headers)["ce_type"].decode() == line["event_type"]
        assert (await user.read(f"/commands/{line['command_id']}"))["version"] == line["version"]
    assert (await user.read("/balance/btc/explain"))["sum_matches"]
