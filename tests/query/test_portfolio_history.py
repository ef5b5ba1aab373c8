"""The portfolio's history over HTTP: what it says, what it refuses, and what it says where prices or the store are away."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from schemas.instants import rfc3339
from schemas.market import PriceChanged
from schemas.worth import PERIODS, STEPS
from tests.fakes.clock import START
from tests.fakes.histories import BEGIN, PRICE, History
from tests.query.door import ReadDoor

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


async def rows(door: ReadDoor, history: History, **query: Any) -> dict[str, Any]:
    answer = await door.get("/portfolio/history", history, **query)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def settled(door: ReadDoor, every: timedelta, *steps: str) -> History:
    """A user with a decision at each such time after midnight, and the clock an hour and a half after the last one."""
    history = door.user()
    history.every = every
    history.grow(steps)  # type: ignore[arg-type]
    door.clock.advance((history.accounts[-1].at + HOUR + HOUR / 2 - door.clock.now()).total_seconds())
    return history


async def test_a_day_by_hours(door: ReadDoor) -> None:
    """Cash and holdings as they were just before each hour at the prices of then, and now as the portfolio shows it."""
    history = settled(door, HOUR, "deposit", "buy", "buy", "deposit")  # at 01:00, 02:00 (SOL), 03:00 (BTC), 04:00
    door.candles.put(PriceChanged("BTC", Decimal("10.005"), 1, BEGIN + 2 * HOUR))
    door.candles.put(PriceChanged("BTC", Decimal(20), 2, BEGIN + 4 * HOUR))
    body = await rows(door, history, period="1d")
    assert (body["period"], body["interval"], body["currency"], body["version"]) == ("1d", "1h", "USD", 4)
    assert [row["at"] for row in body["data"]] == [rfc3339(BEGIN + number * HOUR) for number in range(-18, 6)] + [rfc3339(door.clock.now())]
    assert all(list(row.values())[1:] == ["0.00", "0.00", "0.00", []] for row in body["data"][:20])
    bought = PRICE + Decimal("0.01")
    assert [list(row.values())[1:] for row in body["data"][20:]] == [
        ["1.00", "1.00", "0.00", []],
        [f"{1 - bought}", f"{1 - bought}", "0.00", ["SOL"]],
        [f"{1 - 2 * bought + 10}", f"{1 - 2 * bought}", "10.00", ["SOL"]],
        [f"{5 - 2 * bought + 20}", f"{5 - 2 * bought}", "20.00", ["SOL"]],
        [f"{5 - 2 * bought + 50000}", f"{5 - 2 * bought}", "50000.00", ["SOL"]],
    ]
    now = (await door.get("/portfolio", history)).json()
    assert (now["total_portfolio_value"], now["unpriced_assets"]) == (body["data"][-1]["value"], body["data"][-1]["unpriced_assets"])


async def test_months_by_days(door: ReadDoor) -> None:
    """Thirty days is what is shown without a word; a day without a decision is as the one before it."""
    history = settled(door, 3 * DAY, "deposit", "deposit", "refuse")
    body = await rows(door, history)
    assert (body["period"], body["interval"], len(body["data"])) == ("1m", "1d", 31)
    cash = {row["at"]: row["cash"] for row in body["data"]}
    shown = [cash[rfc3339(BEGIN + number * DAY)] for number in range(2, 10)]
    assert shown == ["0.00", "0.00", "1.00", "1.00", "1.00", "3.00", "3.00", "3.00"]
    everything = (await rows(door, history, period="all"))["data"]  # by hours, from midnight of the day of the first decision on
    assert (everything[0]["at"], len(everything)) == (rfc3339(BEGIN + 3 * DAY), 6 * 24 + 2 + 1)
    assert [row["cash"] for row in (await rows(door, history, period="all", interval="1w"))["data"]] == ["1.00", "3.00"]


async def test_an_account_in_which_nothing_happened(door: ReadDoor) -> None:
    """Nothing, at every moment."""
    body = await rows(door, door.user())
    assert {(row["value"], row["cash"], row["asset_value"]) for row in body["data"]} == {("0.00", "0.00", "0.00")}
    assert [row["at"] for row in (await rows(door, door.user(), period="all"))["data"]] == [rfc3339(START)]


@pytest.mark.parametrize("period", PERIODS)
@pytest.mark.parametrize("interval", STEPS)
async def test_every_period_at_every_interval(door: ReadDoor, period: str, interval: str) -> None:
    """An answer, or 422 with the interval named where that is too many points."""
    history = await door.shown("deposit", "buy", "open", "buy")
    answer = await door.get("/portfolio/history", history, period=period, interval=interval)
    too_many = (period, interval) in {("1d", "1m"), ("1w", "1m"), ("1m", "1m"), ("1y", "1m"), ("1y", "1h")}
    assert answer.status_code == (422 if too_many else 200)
    if too_many:
        assert (answer.json()["code"], answer.json()["errors"][0]["pointer"]) == ("validation-failed", "#/query/interval")


@pytest.mark.parametrize(("name", "value"), [("period", "2d"), ("period", ""), ("interval", "5m"), ("interval", "1M")])
async def test_words_that_mean_nothing(door: ReadDoor, name: str, value: Any) -> None:
    """422, with the parameter named."""
    answer = await door.get("/portfolio/history", await door.shown("deposit"), **{name: value})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"#/query/{name}")


async def test_without_machines(door: ReadDoor) -> None:
    """Without current prices the point of now names what is unpriced; without the ledger there is no history: 503, and not an empty one."""
    history = await door.shown("deposit", "buy", "buy")
    door.market.away = True
    assert (await rows(door, history))["data"][-1]["unpriced_assets"] == ["BTC", "SOL"]
    door.reads.away = True
    answer = await door.get("/portfolio/history", history)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_a_view_that_is_behind(door: ReadDoor) -> None:
    """What is not shown yet is not in points within days either; a token brings all of it."""
    history = settled(door, HOUR, "deposit", "deposit", "deposit")
    await door.project(history, 1, 2)
    assert [row["cash"] for row in (await rows(door, history, period="1d"))["data"]][-5:] == ["0.00", "1.00", "3.00", "3.00", "3.00"]
    answer = await door.get("/portfolio/history", history, at_least=3, period="1d")
    assert [row["cash"] for row in answer.json()["data"]][-5:] == ["0.00", "1.00", "3.00", "6.00", "6.00"]
    assert answer.headers["Consistency-Satisfied"] == "true"
