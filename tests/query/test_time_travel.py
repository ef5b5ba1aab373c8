"""Accounts as they were: histories of every kind at every version and time against the plain fold of their entries, and what the answers say."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.candles import MINUTES_KEPT
from infra.http import ProblemError
from infra.ledger import Stored, Write
from query_api.time_travel import ENTRIES_EXAMINED_MAX, ORDERS_EXAMINED_MAX, account_at, close_at, line_at, open_at, parse_as_of, version_at
from schemas.candles import Close
from schemas.instants import rfc3339
from schemas.ledger import Account, Entry, Order
from schemas.market import AssetFacts, PriceChanged, Quote
from schemas.money import HOME_CURRENCY
from schemas.requests import OrderCancelRequested, OrderPlaced, OrderStamp
from schemas.rows import order_view
from tests.domain.given import NOON, USER, buy, deposit, fence
from tests.fakes.candles import MemoryCandles
from tests.fakes.histories import BEGIN, PRICE, STEPS, History, HistoryReads
from tests.fakes.ledger import MemoryLedger
from tests.query.door import ReadDoor
from tests.query.test_portfolio_history import settled
from tests.query.test_worth import Told, histories

MS, MINUTE, HOUR, DAY = timedelta(milliseconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def folded(entries: Sequence[Entry], version: int, username: str = USER) -> Account:
    """The account after a version by nothing but its entries."""
    account = Account(username)
    for entry in entries[:version]:
        lines = entry.lines
        at = entry.at if lines.cash or lines.positions else account.at
        cash, positions = {**account.cash, **lines.cash}, {**account.positions, **lines.positions}
        account = replace(account, version=entry.version, at=at, cash=cash, positions=positions, counters=lines.counters)
    return account


def opened(entries: Sequence[Entry], version: int) -> list[Order]:
    """The orders that were open after a version, newest first, as they stood."""
    latest = {entry.lines.order.order_id: entry.lines.order for entry in entries[:version] if entry.lines.order}
    return sorted((order for order in latest.values() if order.status == "open"), key=lambda order: -order.created_version)


def must_equal(then: Account, plain: Account, now: Account) -> None:
    assert (then.cash, then.positions, then.version) == (plain.cash, plain.positions, plain.version)
    assert (then.counters.open_orders, then.counters.transactions) == (plain.counters.open_orders, plain.counters.transactions)
    assert then.at == (now.at if then.version == now.version else plain.at)


@settings(max_examples=60, deadline=None)
@given(histories())
def test_every_version_is_the_plain_fold(history: tuple[Told, datetime]) -> None:
    """Cash, positions, open orders as they stood and the time, of whatever was decided; and every single line of it."""
    told, _ = history
    entries = told.ledger.entries_now(USER)

    async def look() -> None:
        for version in range(told.account.version + 1):
            then, plain = await account_at(told.ledger, told.account, version), folded(entries, version)
            must_equal(then, plain, told.account)
            open_then = await open_at(told.ledger, then)
            assert open_then.orders == opened(entries, version)
            assert open_then.count == len(open_then.orders)
            for unit in ("USD", "BTC", "ETH", "SOL"):
                assert await line_at(told.ledger, USER, unit, version) == (plain.cash.get(unit) or plain.positions.get(unit))

    asyncio.run(look())


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_a_time_is_the_last_version_by_then(history: tuple[Told, datetime], data: st.DataObject) -> None:
    """It was decided by then, and whatever was decided by then and is not in it moved nothing. A time to come is now."""
    told, last = history
    entries = told.ledger.entries_now(USER)
    moments = sorted({entry.at + shift for entry in entries for shift in (-MS, timedelta(0), MS, DAY / 2)})
    for at in data.draw(st.lists(st.sampled_from(moments), max_size=8)):
        version = asyncio.run(version_at(told.ledger, told.account, at))
        decided = sum(entry.at <= at for entry in entries)
        assert version <= decided
        assert not any(entry.lines.cash or entry.lines.positions for entry in entries[version:decided])
    assert asyncio.run(version_at(told.ledger, told.account, last + DAY)) == told.account.version
    assert asyncio.run(version_at(told.ledger, told.account, entries[0].at - MS)) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=40), st.sampled_from([MS, timedelta(0), HOUR, DAY]))
def test_histories_by_hand(steps: Sequence[Any], every: timedelta) -> None:
    """The same of histories that the rules did not make: all of one moment, or a day apart."""
    history = History(USER, every=every).grow(steps)
    reads = HistoryReads({USER: history})

    async def look() -> None:
        for version in range(len(history.entries) + 1):
            then = await account_at(reads, history.accounts[-1], version)
            assert (then.cash, then.positions) == (history.accounts[version].cash, history.accounts[version].positions)
            counted = replace(then, counters=replace(then.counters, open_orders=len(opened(history.entries, version))))  # the fake does not count them
            assert (await open_at(reads, counted)).orders == opened(history.entries, version)

    asyncio.run(look())


def sale(told: Told, at: datetime, quantity: str = "0.1") -> None:
    """A sale that waits: it holds some of the asset and leaves cash as it is."""
    stamp = OrderStamp(Quote(Decimal(1), 41, at, at + DAY), AssetFacts(8, Decimal("0.00000001"), True, 10), Decimal(10**9))
    told.ask(OrderPlaced(USER, "BTC", "limit_sell", Decimal(quantity), stamp, price=Decimal(10**6)), at)


def cancel(told: Told, at: datetime) -> None:
    told.ask(OrderCancelRequested(USER, told.open_order(0) or ""), at)


def with_sales(count: int, every: timedelta) -> Told:
    """Cash, some BTC, and then so many times a sale that is placed and cancelled."""
    told = Told()
    told.ask(deposit("5000.00"), NOON)
    told.ask(buy("1", "1000"), NOON)
    for number in range(1, count + 1):
        sale(told, NOON + number * every)
        cancel(told, NOON + number * every)
    told.ask(deposit("1.00"), told.account.at)
    return told


def test_cash_behind_many_holds_of_sales() -> None:
    """Entries that left cash alone are passed over, up to the end of an earlier day; behind more than the bound of one day it is a problem, never a guess."""
    across = with_sales(60, HOUR)
    for version in (3, 30, across.account.version - 1):
        then = asyncio.run(account_at(across.ledger, across.account, version))
        assert then.cash == asyncio.run(account_at(across.ledger, across.account, 2)).cash
    within = with_sales(ENTRIES_EXAMINED_MAX // 2 + 1, MS)
    assert asyncio.run(account_at(within.ledger, within.account, ENTRIES_EXAMINED_MAX)).cash
    with pytest.raises(ProblemError) as raised:
        asyncio.run(account_at(within.ledger, within.account, within.account.version - 1))
    assert (raised.value.code, raised.value.errors[0].pointer) == ("validation-failed", "#/query/as_of")


def test_open_orders_behind_many_others() -> None:
    """Old ones are counted and not shown behind the bound."""
    told = with_sales(0, MS)
    sale(told, NOON)
    old = next(iter(opened(told.ledger.entries_now(USER), told.account.version)))
    filled = replace(old, status="completed", held=Decimal(0))
    version, account = told.account.version, replace(told.account, version=told.account.version + ORDERS_EXAMINED_MAX)
    for first in range(version, account.version, 50):
        placed = (replace(filled, order_id=f"ord_{number:032x}", created_version=number + 1, updated_version=number + 1) for number in range(first, first + 50))
        write = Write(first, replace(account, version=first + 50), (), tuple(placed))
        assert told.ledger.apply([write]) == [Stored()]
    assert [asyncio.run(open_at(told.ledger, replace(account, version=last))).orders for last in (account.version, account.version - 1)] == [[], [old]]
    assert asyncio.run(open_at(told.ledger, account)).count == 1


@dataclass
class Reads:
    """Counts the reads of a ledger in memory, and what they gave."""

    calls: list[str] = field(default_factory=list)

    async def __call__(self, name: str) -> None:
        self.calls.append(name)


def test_reads_do_not_grow_with_history() -> None:
    """In an account of 3,000 entries on one day, any version takes as few reads as in one of 30, and a time a few more."""
    counted: dict[int, list[int]] = {}
    for size in (30, 3_000):
        reads = Reads()
        told = Told(MemoryLedger(step=reads))
        told.ask(deposit("10000.00"), NOON)
        for number in range(size // 3):
            told.ask(buy("0.1", "1", asset_id=("BTC", "ETH", "SOL")[number % 3]), NOON + number * MS)
            told.ask(deposit("0.01"), NOON + number * MS)
            told.ask(fence(), NOON + number * MS)
        for version in (1, told.account.version // 2, told.account.version - 1):
            reads.calls.clear()
            then = asyncio.run(account_at(told.ledger, told.account, version))
            asyncio.run(open_at(told.ledger, then))
            counted.setdefault(size, []).append(len(reads.calls))
        reads.calls.clear()
        asyncio.run(version_at(told.ledger, told.account, NOON + size // 6 * MS))
        assert len(reads.calls) <= 1 + size.bit_length()
    assert counted[3_000] == counted[30]
    assert max(counted[3_000]) <= 1 + 1 + 3


def test_a_price_of_then() -> None:
    """The close of the last minute that ended by then; where minutes may be gone it is that of the last hour."""
    prices = [PriceChanged("BTC", Decimal(1 + number), number, NOON + number * 20 * MINUTE) for number in range(10)]
    candles = MemoryCandles(prices)
    at = NOON + 95 * MINUTE
    assert asyncio.run(close_at(candles, "BTC", at, at + HOUR)) == Close(NOON + 81 * MINUTE, Decimal(5))
    assert asyncio.run(close_at(candles, "BTC", at, at + MINUTES_KEPT)) == Close(NOON + 60 * MINUTE, Decimal(3))
    assert asyncio.run(close_at(candles, "BTC", NOON, NOON + HOUR)) is None
    assert asyncio.run(close_at(candles, "ETH", at, at + HOUR)) is None


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("17", 17), (rfc3339(NOON), NOON), ("2026-11-25T13:00:00 01:00", NOON), ("2026-11-25T13:00:00+01:00", NOON)]
)
def test_what_may_be_asked(text: str, expected: int | datetime) -> None:
    """A version, or a time; a `+` that became a space is one."""
    assert parse_as_of(text) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "9" * 19, "x", "2026-11-25T12:00:00", "2026-13-25T12:00:00Z", "\u0663", "now", "0001-01-01T00:00:00+23:00"])
def test_what_means_nothing(text: str) -> None:
    """422, with the parameter named."""
    with pytest.raises(ProblemError) as raised:
        parse_as_of(text)
    assert (raised.value.code, raised.value.errors[0].pointer) == ("validation-failed", "#/query/as_of")


async def test_the_answers(door: ReadDoor) -> None:
    """Balance and portfolio as they were: amounts, orders as they stood, version and time, at the prices of then. Without the parameter, nothing of it."""
    history = settled(door, HOUR, "deposit", "buy", "open", "deposit", "close", "refuse", "buy", "deposit")  # SOL at 02:00, an order on BTC at 03:00
    door.candles.put(PriceChanged("SOL", Decimal(10), 1, BEGIN + 2 * HOUR - MINUTE))
    door.candles.put(PriceChanged("SOL", Decimal(20), 2, BEGIN + 4 * HOUR - MINUTE))
    history.accounts[:] = [replace(one, counters=replace(one.counters, open_orders=1 if 3 <= one.version < 5 else 0)) for one in history.accounts]
    history.entries[:] = [
        replace(entry, lines=replace(entry.lines, counters=account.counters)) for entry, account in zip(history.entries, history.accounts[1:], strict=True)
    ]
    await door.project(history, *range(1, 9))
    for as_of in ("4", rfc3339(BEGIN + 4 * HOUR), rfc3339(BEGIN + 5 * HOUR - MS)):
        body = (await door.get("/balance", history, as_of=as_of)).json()
        cash = history.accounts[4].cash[HOME_CURRENCY]
        assert body["as_of"] == {"version": 4, "at": rfc3339(BEGIN + 4 * HOUR)}
        assert (body["version"], body["current_balance"], body["held_balance"]) == (4, f"{cash.available:.2f}", f"{PRICE:.2f}")
        assert body["open_orders"] == [order_view(history.orders(3)[0]).model_dump(mode="json")]
        assert (body["open_order_count"], body["open_orders_complete"]) == (1, True)
        held = (await door.get("/portfolio", history, as_of=as_of)).json()
        assert (held["as_of"], held["open_orders"]) == (body["as_of"], body["open_orders"])
        assert (held["cash_balance"], held["held_cash"]) == (body["current_balance"], body["held_balance"])
        assert [(row["asset_id"], row["quantity"], row["current_price"], row["percentage"]) for row in held["assets"]] == [("SOL", "1", "20.00", "100.00")]
        assert (held["prices_as_of"], held["unpriced_assets"]) == (rfc3339(BEGIN + 4 * HOUR), [])
    early = (await door.get("/portfolio", history, as_of=rfc3339(BEGIN + 2 * HOUR - MS))).json()
    assert (early["as_of"]["version"], early["assets"], early["total_portfolio_value"]) == (1, [], "1.00")
    refused = (await door.get("/balance", history, as_of="6")).json()
    assert refused["as_of"] == {"version": 6, "at": rfc3339(BEGIN + 5 * HOUR)}
    assert (refused["version"], refused["open_orders"]) == (6, [])
    first = (await door.get("/balance", history, as_of="0")).json()
    assert (first["as_of"], first["total_balance"], first["updated_at"]) == ({"version": 0, "at": None}, "0.00", None)
    assert "open_orders" not in (await door.get("/balance", history)).json()
    assert "open_orders" not in (await door.get("/portfolio", history)).json()


async def test_now_and_later(door: ReadDoor) -> None:
    """The newest version is what is shown without the parameter, at the prices of now for a time to come; a version to come is 422."""
    history = await door.shown("deposit", "buy", "open", "refuse")
    plain = (await door.get("/portfolio", history)).json()
    for as_of in ("9999-12-31T00:00:00Z", rfc3339(door.clock.now() + DAY)):
        body = (await door.get("/portfolio", history, as_of=as_of)).json()
        assert {name: body[name] for name in plain} == plain
    assert (await door.get("/balance", history, as_of="4")).json()["version"] == 4
    for path in ("/balance", "/portfolio", "/balance/usd/explain"):
        answer = await door.get(path, history, as_of="5")
        assert (answer.status_code, answer.json()["code"], answer.json()["errors"][0]["pointer"]) == (422, "validation-failed", "#/query/as_of")
        assert (await door.get(path, history, as_of="soon")).json()["errors"][0]["pointer"] == "#/query/as_of"


async def test_a_view_that_is_behind(door: ReadDoor) -> None:
    """What the view does not show yet is read from the ledger, for a version as for a time; headers tell of the account, the body of the version."""
    history = door.user("deposit", "deposit", "deposit", "deposit")
    await door.project(history, 1, 2)
    answer = await door.get("/balance", history, as_of="3")
    assert (answer.json()["version"], answer.json()["current_balance"]) == (3, "6.00")
    assert answer.headers["Consistency-Token"].startswith("v1.4.")
    at = rfc3339(history.entries[3].at)
    assert (await door.get("/balance", history, as_of=at)).json()["version"] == 4
    satisfied = await door.get("/balance", history, at_least=4, as_of="1")
    assert (satisfied.headers["Consistency-Satisfied"], satisfied.json()["current_balance"]) == ("true", "1.00")


async def test_another_users_history(door: ReadDoor) -> None:
    """A version of an account that has none is 422, whatever others did."""
    await door.shown("deposit", "deposit")
    nobody = door.user()
    assert (await door.get("/balance", nobody, as_of="1")).status_code == 422
    body = (await door.get("/portfolio", nobody, as_of=rfc3339(NOON))).json()
    assert (body["as_of"], body["assets"], body["total_portfolio_value"]) == ({"version": 0, "at": None}, [], "0.00")


async def test_without_the_ledger(door: ReadDoor) -> None:
    """503, and nothing that may be wrong."""
    history = await door.shown("deposit", "deposit")
    door.reads.away = True
    answer = await door.get("/balance", history, as_of="1")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
