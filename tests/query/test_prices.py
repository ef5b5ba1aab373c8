"""The public price history over HTTP; the candles themselves are tried in `tests/market`."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from schemas.instants import rfc3339
from schemas.market import PriceChanged
from tests.fakes.clock import START
from tests.query.door import ReadDoor

PATH = "/inventory/assets/BTC/prices"
MINUTES = 1_300
"""Prices of BTC, one a minute, the last one at the door's time; none in the second half of the third hour."""
BEGIN = START - timedelta(minutes=MINUTES - 1)


@pytest.fixture
def filled(door: ReadDoor) -> ReadDoor:
    for number in range(MINUTES):
        if not 150 <= number < 180:
            door.candles.put(PriceChanged("BTC", Decimal(number + 1), number + 1, BEGIN + timedelta(minutes=number), Decimal("0.5")))
    return door


async def shown(door: ReadDoor, **query: Any) -> dict[str, Any]:
    answer = await door.client.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_day_is_shown_by_default(filled: ReadDoor) -> None:
    """By the hour, oldest first, up to the running candle; figures are numbers."""
    body = await shown(filled)
    assert (body["interval"], body["has_more"], body["next_cursor"]) == ("1h", False, None)
    times = [row["at"] for row in body["data"]]
    assert times == sorted(times)
    assert times[-1] == rfc3339(START) == "2026-11-25T08:00:00.000Z"
    hour, running = body["data"][-2:]
    assert hour == {"at": "2026-11-25T07:00:00.000Z", "open": 1240.0, "high": 1299.0, "low": 1240.0, "close": 1299.0, "volume": 30.0}
    assert running == {"at": "2026-11-25T08:00:00.000Z", "open": 1300.0, "high": 1300.0, "low": 1300.0, "close": 1300.0, "volume": 0.5}


@pytest.mark.parametrize(
    ("query", "interval", "rows"),
    [
        ({"from": "2026-11-25T07:30:00Z"}, "1m", 31),
        ({"from": "2026-11-25T07:30:30Z", "to": "2026-11-25T07:40:00.001Z"}, "1m", 11),
        ({"from": "2026-11-25T09:30:00+02:00"}, "1m", 31),
        ({"from": "2026-11-25T07:30:00Z", "interval": "1h"}, "1h", 2),
        ({"from": "2026-11-25T07:30:00Z", "to": "2026-11-25T08:30:00Z", "interval": "1d"}, "1d", 1),
        ({"from": "2026-11-20T00:00:00Z"}, "1h", 23),
        ({"from": "2026-10-20T00:00:00Z"}, "1d", 2),
        ({"from": "1970-01-01T00:00:00Z"}, "1d", 2),
        ({"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z"}, "1d", 2),
        ({"to": "1970-01-01T00:00:01Z"}, "1m", 0),
        ({"to": "2020-01-01T00:00:00Z"}, "1h", 0),
    ],
)
async def test_the_span_chooses_the_interval(filled: ReadDoor, query: dict[str, str], interval: str, rows: int) -> None:
    """The candle into which `from` falls is the first; one that begins at a given `to` is not shown; an interval that is asked for is taken."""
    body = await shown(filled, **query)
    assert (body["interval"], len(body["data"])) == (interval, rows)


async def test_pages_go_on_where_the_last_one_ended(filled: ReadDoor) -> None:
    """All minutes in pages, none twice and none left out, also where prices come meanwhile; no page is longer than the bound."""
    query = {"from": rfc3339(BEGIN), "to": rfc3339(START + timedelta(hours=1)), "interval": "1m"}
    rows, cursor = [], {}
    while True:
        body = await shown(filled, **query, **cursor)
        rows += body["data"]
        filled.candles.put(PriceChanged("BTC", Decimal(1), len(rows) + MINUTES, START + timedelta(minutes=len(rows) // 500)))
        assert body["has_more"] == (body["next_cursor"] is not None)
        assert len(body["data"]) <= 500
        if not body["has_more"]:
            break
        cursor = {"cursor": body["next_cursor"]}
    assert len(rows) > MINUTES - 30
    assert [row["at"] for row in rows] == [rfc3339(BEGIN + timedelta(minutes=number)) for number in range(len(rows) + 30) if not 150 <= number < 180]


async def test_a_cursor_is_bound_to_its_list(filled: ReadDoor) -> None:
    """Of another asset, span or interval it is refused, and so is a made-up one."""
    cursor = (await shown(filled, limit=2, interval="1m"))["next_cursor"]
    assert len((await shown(filled, limit=2, interval="1m", cursor=cursor))["data"]) == 2
    others: tuple[tuple[str, dict[str, Any]], ...] = (
        ("ETH", {"interval": "1m"}),
        ("BTC", {"interval": "1h"}),
        ("BTC", {"interval": "1m", "from": rfc3339(BEGIN)}),
    )
    for asset_id, query in others:
        answer = await filled.client.get(f"/assets/{asset_id}/prices", params={**query, "cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-cursor")
    assert (await filled.client.get(PATH, params={"cursor": "x"})).status_code == 400


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-11-25T07:30:00"}, "from"),
        ({"to": "2026-11-25"}, "to"),
        ({"to": ""}, "to"),
        ({"from": "0001-01-01T00:00:00+05:00"}, "from"),
        ({"from": "2026-11-25T08:00:00Z", "to": "2026-11-25T08:00:00Z"}, "from"),
        ({"from": "2026-11-25T09:00:00Z"}, "from"),
        ({"interval": "5m"}, "interval"),
        ({"interval": ""}, "interval"),
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
    ],
)
async def test_malformed_questions(filled: ReadDoor, query: dict[str, str], pointer: str) -> None:
    """422, and which parameter it is."""
    answer = await filled.client.get(PATH, params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "validation-failed")
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/query/{pointer}"]


async def test_assets_without_prices(filled: ReadDoor) -> None:
    """An empty page for a listed one, 404 for an unknown one, 422 for what cannot be an id; ids in any case, under both paths."""
    empty = await filled.client.get("/assets/sol/prices")
    assert (empty.status_code, empty.json()["data"]) == (200, [])
    assert (await filled.client.get("/assets/NOSUCH/prices")).status_code == 404
    assert (await filled.client.get("/inventory/assets/BTC!/prices")).status_code == 422
    assert (await filled.client.get("/assets/btc/prices")).json() == (await filled.client.get(PATH)).json()


async def test_what_the_caller_has_is_not_sent_again(filled: ReadDoor) -> None:
    """304 until there is another price."""
    first = await filled.client.get(PATH)
    again: Callable[[], Any] = lambda: filled.client.get(PATH, headers={"If-None-Match": first.headers["etag"]})  # noqa: E731
    assert ((await again()).status_code, (await again()).content) == (304, b"")
    filled.candles.put(PriceChanged("BTC", Decimal(9), MINUTES + 1, START))
    assert (await again()).status_code == 200
