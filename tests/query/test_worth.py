"""What an account was worth: histories of every kind against a plain recomputation from all of their entries and all prices."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.candles import READS_AT_ONCE
from infra.http import ProblemError
from infra.ledger import Stored, Write
from processors.domain.decide import decide_all
from query_api.portfolio_history import CLOSES_AT_ONCE, ENTRIES_MAX, POINTS_MAX, past
from schemas.candles import Close, Interval
from schemas.instants import EPOCH
from schemas.ledger import Account, Entry, Order
from schemas.market import AssetFacts, PriceChanged, Quote
from schemas.money import HOME_CURRENCY
from schemas.requests import (
    AccountRequest,
    Deposit,
    FenceRequested,
    LimitStamp,
    OrderCancelRequested,
    OrderPlaced,
    OrderStamp,
    OrderTriggered,
    OrderType,
    Withdrawal,
)
from schemas.worth import PERIODS, STEPS, Period, PortfolioPoint, Step, begin_of, moments
from tests.domain.given import MIDNIGHT, NOON, USER, buy, deposit, logged
from tests.fakes.candles import MemoryCandles
from tests.fakes.ledger import MemoryLedger

MS, MINUTE, HOUR, DAY = timedelta(milliseconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ASSETS = ("BTC", "ETH", "SOL")
MUCH = Decimal(10**15)


@dataclass
class Told:
    """An account that is asked one request after the other; its ledger."""

    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    account: Account = field(default_factory=lambda: Account(USER))
    orders: dict[str, Order] = field(default_factory=dict)
    asked: int = 0

    def ask(self, request: AccountRequest, at: datetime) -> None:
        decided = decide_all(self.account, (logged(request, key=str(self.asked), at=at, offset=self.asked),), self.orders)
        self.asked += 1
        if decided.entries:
            write = Write(self.account.version, decided.account, decided.entries, decided.orders, decided.replaces, decided.days)
            assert self.ledger.apply([write]) == [Stored()]
        self.account = decided.account
        self.orders |= {order.order_id: order for order in decided.orders}

    def open_order(self, number: int) -> str | None:
        still = [order.order_id for order in self.orders.values() if order.status == "open"]
        return still[number % len(still)] if still else None


def plainly(entries: Sequence[Entry], prices: Sequence[PriceChanged], at: datetime) -> PortfolioPoint:
    """A point by nothing but its definition: the sum of all legs before it, at the last prices before it."""
    had: dict[str, Fraction] = {}
    for posting in (posting for entry in entries if entry.at < at for posting in entry.postings if posting.account in {"customer", "held"}):
        had[posting.unit] = had.get(posting.unit, Fraction(0)) + Fraction(posting.amount)
    latest = {price.asset_id: Fraction(price.price) for price in prices if price.at < at}
    cash = Decimal(floor(had.pop(HOME_CURRENCY, Fraction(0)) * 100)).scaleb(-2)
    worth = Decimal(floor(100 * sum(had[name] * latest[name] for name in had.keys() & latest.keys()))).scaleb(-2)
    unpriced = sorted(name for name, quantity in had.items() if quantity and name not in latest)
    return PortfolioPoint(at=at, value=cash + worth, cash=cash, asset_value=worth, unpriced_assets=unpriced)


def shown(told: Told, prices: Sequence[PriceChanged], now: datetime, period: Period, interval: Step | None = None) -> tuple[Step, list[PortfolioPoint]]:
    return asyncio.run(past(told.ledger, MemoryCandles(prices), told.account, now, period=period, interval=interval))


GAPS = st.sampled_from([timedelta(0), MS, MINUTE, MINUTE - MS, 17 * MINUTE, HOUR, HOUR + MS, 12 * HOUR, 12 * HOUR - MS, DAY, 9 * DAY])
CENTS = st.integers(1, 10**9).map(lambda number: Decimal(number).scaleb(-2))
QUANTITIES = st.integers(1, 10**10).map(lambda number: Decimal(number).scaleb(-8))
AMOUNTS = st.integers(1, 10**9).map(lambda number: Decimal(number).scaleb(-4))
ORDERS: tuple[OrderType, ...] = ("market_buy", "market_sell", "limit_buy", "limit_sell")
STAMP = LimitStamp(MUCH)
ACTIONS = st.one_of(
    st.builds(Deposit, st.just(USER), CENTS, st.just(STAMP)),
    st.builds(Withdrawal, st.just(USER), CENTS, st.just(STAMP)),
    st.just(FenceRequested(USER)),
    *[st.tuples(st.sampled_from(ORDERS), st.sampled_from(ASSETS), QUANTITIES, AMOUNTS, AMOUNTS)] * 4,
    st.tuples(st.sampled_from(["cancel", "trigger"]), st.integers(0, 9), AMOUNTS),
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Told, datetime]:
    """An account that began with some cash and went on in any way, and the time by then."""
    told, at = Told(), NOON
    told.ask(Deposit(USER, Decimal(10**12), STAMP), at)
    for gap, action in draw(st.lists(st.tuples(GAPS, ACTIONS), max_size=30)):
        at += gap
        _do(told, action, at)
    return told, at


def _do(told: Told, action: Any, at: datetime) -> None:
    match action:
        case ("cancel", int(number), _):
            if order_id := told.open_order(number):
                told.ask(OrderCancelRequested(USER, order_id), at)
        case ("trigger", int(number), price):
            if order_id := told.open_order(number):
                told.ask(OrderTriggered(USER, order_id, price, 10**6, at), at)
        case (kind, asset_id, quantity, price, limit):
            stamp = OrderStamp(Quote(price, 41, at, at + DAY), AssetFacts(8, Decimal("0.00000001"), True, 10), MUCH)
            told.ask(OrderPlaced(USER, asset_id, kind, quantity, stamp, price=limit if kind.startswith("limit") else None), at)
        case request:
            told.ask(request, at)


@st.composite
def markets(draw: st.DrawFn) -> list[PriceChanged]:
    """Prices of some of the assets, from a day before the history on."""
    at, prices = NOON - DAY, []
    for sequence, (gap, asset_id, amount) in enumerate(draw(st.lists(st.tuples(GAPS, st.sampled_from(ASSETS[:2]), AMOUNTS), max_size=30)), 1):
        at += gap
        prices.append(PriceChanged(asset_id, amount, sequence, at))
    return prices


COMBINATIONS: list[tuple[Period, Step | None]] = [(period, step) for period in PERIODS for step in (None, *STEPS)]


@settings(max_examples=150, deadline=None)
@given(history=histories(), prices=markets(), later=GAPS, combination=st.sampled_from(COMBINATIONS))
def test_every_point_is_the_plain_recomputation(
    history: tuple[Told, datetime], prices: list[PriceChanged], later: timedelta, combination: tuple[Period, Step | None]
) -> None:
    """To the cent, over every period at every interval that fits it; the moments are aligned and without a gap up to now."""
    told, last = history
    now = last + later + MS
    period, interval = combination
    if interval and (now - (MIDNIGHT - DAY) if period == "all" else PERIODS[period]) / STEPS[interval] > POINTS_MAX:
        with pytest.raises(ProblemError, match="longer interval"):
            shown(told, prices, now, period, interval)
        return
    step, points = shown(told, prices, now, period, interval)
    assert interval in {step, None}
    entries = told.ledger.entries_now(USER)
    assert points == [plainly(entries, prices, point.at) for point in points]
    assert all(later.at - earlier.at == STEPS[step] for earlier, later in pairwise(points))
    if points:
        assert now - STEPS[step] <= points[-1].at < now
        assert (points[-1].at - datetime(2026, 11, 23, tzinfo=UTC)) % STEPS[step] == timedelta(0)
        assert period == "all" or now - PERIODS[period] <= points[0].at < now - PERIODS[period] + STEPS[step]
    if period == "all" and points:
        assert points[0].at - STEPS[step] <= NOON  # nothing of the history is left out


@pytest.mark.parametrize(("step", "period"), [("1m", "1h"), ("1h", "1d"), ("1d", "1w")])
def test_a_decision_at_exactly_a_moment_is_in_the_next_point(step: Step, period: Period) -> None:
    """As a price of exactly that moment is, whether the point is made of entries or of days; one of a millisecond before is in it."""
    told, end = Told(), MIDNIGHT
    told.ask(deposit("1"), end - MS)
    told.ask(deposit("2"), end)
    told.ask(deposit("4"), end + STEPS[step])
    _, points = shown(told, [], end + STEPS[step] + MS, period, step)
    assert [(point.at, str(point.cash)) for point in points[-3:]] == [(end - STEPS[step], "0.00"), (end, "1.00"), (end + STEPS[step], "3.00")]


def test_too_much_for_points_within_days() -> None:
    """An account with more entries in the period than are read has points of days, and is told so; as soon as they are fewer it has hours again."""
    told = Told()
    for number in range(ENTRIES_MAX + 9):
        told.ask(deposit("0.01"), NOON + number * MINUTE / 2)
    entries = told.ledger.entries_now(USER)
    ninth = entries[8].at
    for now, expected in ((NOON + DAY, "1d"), (ninth + DAY - MS, "1d"), (ninth + DAY, "1d"), (ninth + DAY + MS, "1h"), (told.account.at + DAY, "1h")):
        step, points = shown(told, [], now, "1d", "1h")
        assert (step, points) == (expected, [plainly(entries, [], point.at) for point in points])
        assert points


def test_nothing_ever_happened() -> None:
    """There is a point for every moment of a period, and none of all time."""
    assert [point for point in shown(Told(), [], NOON, "1m")[1] if point.value or point.unpriced_assets] == []
    assert shown(Told(), [], NOON, "all") == ("1h", [])


def test_nothing_happened_for_long() -> None:
    """What was there goes on to be there, and follows the prices."""
    told = Told()
    told.ask(deposit("10000.00"), NOON)
    told.ask(buy("0.1", "1000"), NOON)
    now = NOON + 200 * DAY
    prices = [PriceChanged("BTC", Decimal(1000 + number), number, NOON + number * DAY) for number in range(1, 201)]
    for period, step in (("1h", "1m"), ("1w", "1h"), ("1m", "1d"), ("all", "1d"), ("1y", "1w")):
        chosen, points = shown(told, prices, now, period, step)  # type: ignore[arg-type]
        assert chosen == step
        assert points == [plainly(told.ledger.entries_now(USER), prices, point.at) for point in points]
        assert points[-1].asset_value > 0


class Counted(MemoryCandles):
    """Counts how many reads go on at one time."""

    now = most = 0

    async def closes(self, asset_id: str, interval: Interval, start: datetime, end: datetime) -> list[Close]:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return await super().closes(asset_id, interval, start, end)


def test_one_caller_does_not_take_all_turns() -> None:
    """However many assets there are, the prices of so many are read at one time, and of each once."""
    told, candles = Told(), Counted()
    told.ask(deposit("10000.00"), NOON)
    for number in range(20):
        told.ask(buy("1", "1", asset_id=f"ASSET{number}"), NOON)
        candles.put(PriceChanged(f"ASSET{number}", Decimal(2), 1, NOON))
    _, points = asyncio.run(past(told.ledger, candles, told.account, NOON + 9 * DAY, period="1w", interval="1d"))
    assert {point.asset_value for point in points} == {Decimal(40)}
    assert candles.most == CLOSES_AT_ONCE < READS_AT_ONCE


@given(st.sampled_from(list(STEPS)), st.integers(0, 10**9), st.integers(0, 10**9))
def test_moments(step: Step, first: int, length: int) -> None:
    """All aligned ones from the first on and before the last, weeks on Mondays."""
    start = EPOCH + timedelta(seconds=first)
    end = start + min(timedelta(seconds=length), 50 * STEPS[step])
    found = moments(step, start, end)
    every = [moment for number in range(52) if start <= (moment := begin_of(step, start) + number * STEPS[step]) < end]
    assert found == every
    assert all(moment.strftime("%S") == "00" and (step != "1w" or moment.strftime("%a %H:%M") == "Mon 00:00") for moment in found)
