"""Requests of every kind, valid and absurd, as hypothesis makes them, and histories in which they are about the same few orders."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Final, TypeVar

from hypothesis import strategies as st

from schemas.market import AssetFacts, Quote
from schemas.requests import (
    NAMES_ORDER,
    Deposit,
    FenceRequested,
    LimitStamp,
    LoggedRequest,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderStamp,
    OrderTriggered,
    Withdrawal,
    order_id,
    request_id,
)
from tests.domain.given import LATER, MS, NOON, USER

STEP_MS = 20_000_000
"""Longest pause between two records: a day passes within a few."""
T = TypeVar("T")

NAMES: Final = ("a", "b", "c:1", "d.2")


def mostly(usual: st.SearchStrategy[T], rare: st.SearchStrategy[T], *, one_in: int = 10) -> st.SearchStrategy[T]:
    """One of both, the second seldom: `one_of` takes a strategy that is named twice for one."""
    return st.integers(0, one_in - 1).flatmap(lambda n: rare if n == one_in // 2 else usual)


def _decimal(digits: int, scale: int) -> Decimal:
    return Decimal((0, tuple(int(digit) for digit in str(digits)), -scale))


cents = st.integers(1, 2_000_000).map(lambda digits: _decimal(digits, 2))
absurd = st.builds(_decimal, st.integers(1, 10**38 - 1), st.integers(18, 18)) | st.builds(_decimal, st.integers(1, 10**20 - 1), st.integers(0, 18))
"""Everything that `Amount` reads and that is more than nothing: up to 20 digits before and 18 after the point."""
tidy = st.sampled_from(["0.00000001", "0.1", "0.3", "0.5", "1", "1.00", "2", "7", "0.33333333", "1E+1"]).map(Decimal)
near = st.sampled_from(["9.99", "10", "10.005", "10.333333", "11", "12.5"]).map(Decimal)
"""Prices around which a market moves: what is asked for and what is paid meet."""
prices = mostly(near, st.sampled_from(["0.000001", "0.01", "0.335", "50000.00", "1000001"]).map(Decimal) | absurd)
limits = mostly(st.just(Decimal(1000000)), st.sampled_from(["100", "10000.00", "9" * 18]).map(Decimal), one_in=5)
sometimes = st.integers(0, 19).map(lambda n: n == 13)
"""Not 0, which comes more often than another number."""
sequences = mostly(st.integers(0, 30), st.integers(0, 10**9))
quantities = mostly(st.sampled_from(["0.5", "1", "1.00", "2", "7", "1E+1"]).map(Decimal), tidy | absurd, one_in=5)
scales = mostly(st.just(8), st.sampled_from([0, 2, 18]))
least = mostly(st.just(Decimal("0.00000001")), st.sampled_from(["0.1", "1"]).map(Decimal))
names = st.none() | st.sampled_from(NAMES)
lives_ms = st.sampled_from([-1, 1, 1000, STEP_MS // 2, STEP_MS])
kinds = st.sampled_from(["market_buy", "market_sell", "limit_buy", "limit_buy", "limit_buy", "limit_sell", "stop_loss_sell", "take_profit_sell"])


@st.composite
def orders(draw: st.DrawFn) -> OrderPlaced:
    """An order that is quoted at noon and ends around it; seldom one that breaks a rule between its fields."""
    facts = AssetFacts(
        draw(scales),
        draw(least),
        not draw(sometimes),
        draw(st.integers(0, 1000)),
    )
    kind = draw(kinds)
    market = kind.startswith("market")
    tif = draw(st.sampled_from(["gtc", "gtc", "gtd", "gtd", "day", "ioc", "fok"]))
    return OrderPlaced(
        USER,
        draw(st.sampled_from(["BTC", "ETH"])),
        kind,
        draw(quantities),
        OrderStamp(Quote(draw(prices), draw(sequences), NOON, NOON + timedelta(seconds=-1 if draw(sometimes) else 30)), facts, draw(limits)),
        price=draw(prices) if market == draw(sometimes) else None,
        client_order_id=draw(names),
        time_in_force=tif,
        expires_at=NOON + timedelta(milliseconds=draw(lives_ms)) if tif == "gtd" else None,
    )


amounts = mostly(cents, absurd)
_day_limits = st.builds(LimitStamp, limits)
money = st.builds(Deposit, st.just(USER), amounts, _day_limits) | st.builds(Withdrawal, st.just(USER), amounts, _day_limits)


NAMED: Final = tuple(order_id(USER, name) for name in NAMES)
_user, _order = st.just(USER), st.sampled_from(NAMED)
_priced = mostly(st.just(LATER), lives_ms.map(lambda ms: NOON + timedelta(milliseconds=ms)))
about_orders = mostly(
    st.builds(
        OrderTriggered,
        _user,
        _order,
        prices,
        sequences.map(lambda n: n + 10),
        _priced,
    ),
    st.one_of(
        st.builds(OrderCancelRequested, _user, _order),
        st.builds(OrderExpiryReached, _user, _order),
        st.builds(OrderRevoked, _user, _order, st.just("asset-inactive")),
    ),
    one_in=3,
)
"""What can be asked about an order, by its owner and from inside."""
requests = mostly(mostly(orders(), about_orders, one_in=2), mostly(money, st.builds(FenceRequested, _user)), one_in=5)


BEGIN: Final = (
    Deposit(USER, Decimal(10_000), LimitStamp(Decimal(10_000))),
    *(
        OrderPlaced(
            USER, asset, "market_buy", Decimal(20), OrderStamp(Quote(Decimal("3.333"), 1, NOON, NOON), AssetFacts(8, Decimal(1), True, 7), Decimal(999))
        )
        for asset in ("BTC", "ETH")
    ),
)
NEWEST: Final = 4
"""Orders that are asked about: those that were placed last, and mostly such as may wait."""


@st.composite
def histories(draw: st.DrawFn, max_size: int = 25) -> tuple[LoggedRequest, ...]:
    """Records of one partition: each request under an id of its own, times mostly forward and sometimes back, and to the very ends of days and orders.

    Most have money and holdings to begin with, so that orders wait; what is about orders is mostly about those that were asked for.
    """
    size = draw(st.sampled_from([0, max_size // 2, max_size]))
    asked = draw(st.lists(st.tuples(requests, st.integers(0, 9), st.integers(0, 1000)), min_size=size, max_size=max_size))
    asked[:0] = [] if draw(sometimes) else [(request, 9, 0) for request in BEGIN]
    at, logged, ends, placed = NOON, list[LoggedRequest](), list[datetime](), list[str]()
    for offset, (request, way, number) in enumerate(asked):
        at = _next(at, way, number, ends)
        one = LoggedRequest(request, request_id(USER, str(offset)), at, 3, offset, f"c{offset}", f"t{offset}")
        if isinstance(request, OrderPlaced):
            one = replace(one, request=_moved(request, at - NOON))
            placed += [order_id(USER, request.client_order_id or f"request/{one.request_id}")] if request.price or not number % 8 else []
            ends += [request.expires_at + (at - NOON)] if request.expires_at else []
        elif isinstance(request, NAMES_ORDER) and placed and number % 16:
            one = replace(one, request=replace(request, order_id=placed[-1 - number % min(len(placed), NEWEST)]))
        logged.append(one)
    return tuple(logged)


def _moved(order: OrderPlaced, by: timedelta) -> OrderPlaced:
    """The order as it is when it is quoted so much later."""
    quote = order.stamp.quote
    stamp = replace(order.stamp, quote=replace(quote, quoted_at=quote.quoted_at + by, valid_until=quote.valid_until + by))
    return replace(order, stamp=stamp, expires_at=order.expires_at and order.expires_at + by)


def _next(at: datetime, way: int, number: int, ends: Sequence[datetime]) -> datetime:
    """The time of the next record: a little back, to a midnight, to the end of an order, on by hours, or a little on."""
    match way:
        case 0:
            return at - number * MS
        case 1:
            return datetime.combine(at.date() + timedelta(days=1), time(), UTC) - number % 2 * MS
        case 2 | 3 if ends:
            return ends[number % len(ends)] + (number % 3 - 1) * MS
        case 4:
            return at + number * STEP_MS // 1000 * MS
        case _:
            return at + number * MS
