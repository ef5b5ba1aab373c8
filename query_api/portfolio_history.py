"""What the caller's account was worth over time: from the ends of its days, or within days from its entries, at the closes of candles."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from infra.cache import Views
from infra.candles import CandleReads
from infra.http import ProblemError
from infra.ledger import LedgerReads
from infra.market import MarketCache
from query_api.fresh import Asked, answer, fresh
from query_api.given import GivenCandles, GivenClock, GivenLedger
from query_api.portfolio import market_now
from query_api.time_travel import each
from schemas.candles import Close
from schemas.instants import day_of
from schemas.ledger import Account, Entry
from schemas.money import HOME_CURRENCY
from schemas.worth import (
    PERIODS,
    PRICED_BY,
    STEPS,
    Owned,
    Period,
    PortfolioHistory,
    PortfolioPoint,
    Step,
    begin_of,
    held_between,
    moments,
    owned_by,
    owned_from_days,
    owned_from_entries,
    point,
    series,
)

POINTS_MAX: Final = 800
"""Points of one answer besides that of now: a month of hours, two years of days."""
ENTRIES_MAX: Final = 2_000
"""Entries that are read for points within days. Where an account has more of them in the period, its points are of days."""
ENTRIES_FIRST: Final = 50
"""Entries of the first page; each further one has as many as there are by then."""
CLOSES_AT_ONCE: Final = 4
"""Assets whose prices are read at one time for one caller, so that one with many does not take all turns (`infra.candles.READS_AT_ONCE`)."""
DEFAULT_STEPS: Final[Mapping[Period, Step]] = {"1h": "1m", "1d": "1h", "1w": "1h", "1m": "1d", "1y": "1d"}
"""Of `all` it is the finest that fits, but for minutes."""
_WITHIN_DAYS: Final[frozenset[Step]] = frozenset({"1m", "1h"})
_DAY: Final = timedelta(days=1)
_FIRST_DAY: Final = "0001-01-01"

Back = Annotated[Period, Parameter(description="How far back: an hour, a day, a week, 30 days, 365 days, or to the first decision (five years at most)")]
Interval = Annotated[
    Step | None, Parameter(description=f"From point to point; a week is a Monday's. By the period where it is not given. At most {POINTS_MAX} points")
]


@get(
    "/portfolio/history",
    tags=["portfolio"],
    summary="Show what the portfolio was worth",
    responses={200: ResponseSpec(PortfolioHistory, description="The series", generate_examples=False)},
)
async def portfolio_history(
    *,
    by: Asked,
    views: Views,
    ledger: GivenLedger,
    candles: GivenCandles,
    market: MarketCache,
    clock: GivenClock,
    period: Back = "1m",
    interval: Interval = None,
) -> Response[bytes]:
    """Cash, the holdings' value and both, at moments of UTC and now, oldest first.

    A point shows what was there just before its moment, at the last prices made before it; of now, what the portfolio shows. Before the first decision
    that is nothing. Holdings whose price was not known are named and not counted. An account in which too much happened for points within days has points
    of days; `interval` tells it.
    """
    shown = await fresh(views, by, lambda: views.account(by.username))
    account, now = shown.value, clock.now()
    step, points = await past(ledger, candles, account, now, period=period, interval=interval)
    prices = {asset_id: price.price for asset_id, price in (await market_now(market)).prices.items()}
    points.append(point(now, owned_by(account), prices))
    return await answer(by, shown, PortfolioHistory(data=points, period=period, interval=step, currency=HOME_CURRENCY, version=shown.version))


ROUTES: Final[tuple[Any, ...]] = (portfolio_history,)


async def past(
    ledger: LedgerReads, candles: CandleReads, account: Account, now: datetime, *, period: Period, interval: Step | None
) -> tuple[Step, list[PortfolioPoint]]:
    """The points before now of an account as it is now, and what lies between them. The problem `validation-failed` where they would be too many."""
    start = await _first(ledger, account, now) if period == "all" else now - PERIODS[period]
    step = _step(period, interval, now - start)
    entries = await _entries_since(ledger, account, start) if step in _WITHIN_DAYS else None
    if entries is None and step in _WITHIN_DAYS:
        step = "1d"
    at = moments(step, start, now)
    owned = await _owned(ledger, account, at) if entries is None else owned_from_entries(account, entries, at)
    return step, series(at, owned, await _closes(candles, step, at, owned))


async def _first(ledger: LedgerReads, account: Account, now: datetime) -> datetime:
    """The beginning of the day of an account's first decision, as far as the longest period goes back."""
    if not account.version:
        return now
    days = await ledger.days(account.username, _FIRST_DAY, day_of(now), limit=1)
    return max(begin_of("1d", days[0].at if days else account.at), now - PERIODS["all"])


def _step(period: Period, asked: Step | None, span: timedelta) -> Step:
    step: Step = asked or DEFAULT_STEPS.get(period) or _finest(span)
    if span / STEPS[step] > POINTS_MAX:
        raise ProblemError("validation-failed", f"That is more than {POINTS_MAX} points: ask for a longer interval.", pointer="#/query/interval")
    return step


def _finest(span: timedelta) -> Step:
    fitting: Iterator[Step] = (step for step in STEPS if step != "1m" and span / STEPS[step] <= POINTS_MAX)
    return next(fitting, "1w")


async def _entries_since(ledger: LedgerReads, account: Account, start: datetime) -> list[Entry] | None:
    """The entries of an account that are not older than `start`, and perhaps some that are, newest first. None where they are too many."""
    entries: list[Entry] = []
    before = account.version + 1
    while before > 1 and len(entries) <= ENTRIES_MAX and (not entries or entries[-1].at >= start):
        limit = min(max(ENTRIES_FIRST, len(entries)), ENTRIES_MAX + 1 - len(entries))
        page = await ledger.entries(account.username, before=before, limit=limit)
        entries += page
        before = page[-1].version if len(page) == limit else 0
    return None if len(entries) > ENTRIES_MAX and entries[-1].at >= start else entries


async def _owned(ledger: LedgerReads, account: Account, at: Sequence[datetime]) -> list[Owned]:
    if not at:
        return []
    first, last = at[0] - _DAY, at[-1] - _DAY
    days = await ledger.days(account.username, day_of(first), day_of(last), limit=(last - first) // _DAY + 1)
    return owned_from_days(account, days, at)


async def _closes(candles: CandleReads, step: Step, at: Sequence[datetime], owned: Sequence[Owned]) -> dict[str, list[Close]]:
    spans = held_between(at, owned)
    return await each(spans, lambda asset_id: candles.closes(asset_id, PRICED_BY[step], *spans[asset_id]), at_once=CLOSES_AT_ONCE)
