"""Requests of every kind, valid and absurd, as hypothesis makes them."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import strategies as st

from schemas.market import AssetFacts, Quote
from schemas.requests import Deposit, FenceRequested, LimitStamp, LoggedRequest, OrderPlaced, OrderStamp, Withdrawal, request_id
from tests.domain.given import NOON, USER

DAYS_MS = 3 * 86_400_000


def _decimal(digits: int, scale: int) -> Decimal:
    return Decimal((0, tuple(int(digit) for digit in str(digits)), -scale))


cents = st.integers(1, 2_000_000).map(lambda digits: _decimal(digits, 2))
absurd = st.builds(_decimal, st.integers(1, 10**38 - 1), st.integers(18, 18)) | st.builds(_decimal, st.integers(1, 10**20 - 1), st.integers(0, 18))
"""Everything that `Amount` reads and that is more than nothing: up to 20 digits before and 18 after the point."""
tidy = st.sampled_from(["0.00000001", "0.1", "0.3", "0.5", "1", "1.00", "2", "7", "0.33333333", "1E+1"]).map(Decimal)
prices = st.sampled_from(["0.000001", "0.01", "0.335", "1", "3.333333", "99.99", "50000.00", "1000001"]).map(Decimal) | absurd
limits = st.sampled_from(["100", "10000.00", "1000000", "9" * 18]).map(Decimal)
instants = st.integers(-DAYS_MS, DAYS_MS).map(lambda ms: NOON + timedelta(milliseconds=ms))
sometimes = st.integers(0, 9).map(lambda n: n == 0)


@st.composite
def orders(draw: st.DrawFn) -> OrderPlaced:
    quoted_at = draw(instants)
    late = timedelta(days=-1) if draw(sometimes) else timedelta(days=7)
    facts = AssetFacts(
        draw(st.sampled_from([8, 8, 8, 2, 0, 18])),
        draw(st.sampled_from(["0.00000001", "0.1", "1"]).map(Decimal)),
        not draw(sometimes),
        draw(st.integers(0, 1000)),
    )
    return OrderPlaced(
        USER,
        draw(st.sampled_from(["BTC", "ETH"])),
        draw(st.sampled_from(["market_buy", "market_buy", "market_sell", "market_sell", "limit_buy", "limit_sell"])),
        draw(tidy | tidy | tidy | absurd),
        OrderStamp(Quote(draw(prices), draw(st.integers(0, 10**9)), quoted_at, quoted_at + late), facts, draw(limits)),
        client_order_id=draw(st.none() | st.sampled_from(["a", "b", "c:1", "d.2"])),
    )


amounts = cents | cents | cents | absurd
requests = st.one_of(
    st.builds(Deposit, st.just(USER), amounts, st.builds(LimitStamp, limits)),
    st.builds(Withdrawal, st.just(USER), amounts, st.builds(LimitStamp, limits)),
    orders(),
    orders(),
    orders(),
    st.builds(FenceRequested, st.just(USER)),
)


@st.composite
def histories(draw: st.DrawFn, max_size: int = 25) -> tuple[LoggedRequest, ...]:
    """Records of one partition: each request under an id of its own, times mostly forward and sometimes back."""
    rows = draw(st.lists(st.tuples(requests, st.integers(-1000, 20_000_000)), max_size=max_size))
    at, logged = NOON, []
    for offset, (request, ms) in enumerate(rows):
        at += timedelta(milliseconds=ms)
        logged.append(LoggedRequest(request, request_id(USER, str(offset)), at, 3, offset, f"c{offset}", f"t{offset}"))
    return tuple(logged)
