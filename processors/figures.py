"""The figures that a price is shown beside: what it was and what was traded in the time before it.

The 24 hours are the 24 full hours before the running one, and that one. What ended is read from the candles of hours once an hour for each asset, after
a round: the first price of an hour comes beside the past of the hour before and the candle that it ended, and the first one of a process beside the
figures of the price before it. So no round waits for its figures, and no door asks for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Protocol

from schemas.candles import Candle, Interval, Priced, Running
from schemas.market import Figures, PriceChanged
from schemas.money import ZERO, exact
from schemas.valuation import in_cents

HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(days=7)
MONTH: Final = timedelta(days=30)
DAY_HOURS: Final = 24


class Hours(Protocol):
    """Where candles are read: `infra.candles.CandleStore`, or a test's list."""

    async def recent(self, asset_id: str, interval: Interval, until: datetime, *, count: int) -> Sequence[Candle]:
        """So many candles, newest first, that ended and did not begin after `until`."""
        ...


@dataclass(frozen=True, slots=True)
class Past:
    """What an asset's figures need of the time before an hour: the candles of its last 24 hours, oldest first, and older prices where there were any."""

    hour: datetime
    candles: tuple[Candle, ...]
    day_ago: Decimal | None
    week_ago: Decimal | None
    month_ago: Decimal | None


async def past_of(hours: Hours, asset_id: str, hour: datetime) -> Past:
    """Read an asset's past before a full hour."""
    newest = await hours.recent(asset_id, "1h", hour - HOUR, count=DAY_HOURS + 1)
    older = [candle for candle in newest if candle.at < hour - DAY]
    inside = tuple(candle for candle in reversed(newest) if candle.at >= hour - DAY)
    if not older:
        return Past(hour, inside, None, None, None)
    week, month = [(await hours.recent(asset_id, "1h", hour - span - HOUR, count=1)) for span in (WEEK, MONTH)]
    return Past(hour, inside, older[0].close, _close(week), _close(month))


@exact
def figures_of(price: PriceChanged, running: Running, before: Priced | None, past: Past | None) -> Figures:
    """The figures beside a price that comes after another one; without a past that goes up to the running hour, or the one before, those go on."""
    figures = _extended(price, before.price if before else None)
    past = _up_to(running.hour.at, past, before)
    if past is None:
        return figures
    day = (*past.candles, running.hour)
    return replace(
        figures,
        high_24h=max(candle.high for candle in day),
        low_24h=min(candle.low for candle in day),
        volume_24h=in_cents(sum((candle.volume * candle.close for candle in day), ZERO)),
        price_24h_ago=past.day_ago,
        price_7d_ago=past.week_ago,
        price_30d_ago=past.month_ago,
    )


def _up_to(hour: datetime, past: Past | None, before: Priced | None) -> Past | None:
    """The past before an hour, from that before the hour of the price before; weeks and months ago stay where they are until they are read again."""
    if past is None or past.hour == hour:
        return past
    if before is None or past.hour != before.running.hour.at:
        return None
    candles = (*past.candles, before.running.hour)
    gone = [candle for candle in candles if candle.at < hour - DAY]
    inside = tuple(candle for candle in candles if candle.at >= hour - DAY)
    return Past(hour, inside, gone[-1].close if gone else past.day_ago, past.week_ago, past.month_ago)


def _extended(price: PriceChanged, before: PriceChanged | None) -> Figures:
    """Those of the price before, with this one; after a pause only what they say of all time."""
    now, traded = price.price, in_cents(price.volume * price.price)
    figures = Figures(now, now, traded, now, price.at, now, price.at)
    last = before.figures if before else None
    if before is None or last is None:
        return figures
    highest, highest_at = (now, price.at) if now > last.highest else (last.highest, last.highest_at)
    lowest, lowest_at = (now, price.at) if now < last.lowest else (last.lowest, last.lowest_at)
    ever = replace(figures, highest=highest, highest_at=highest_at, lowest=lowest, lowest_at=lowest_at)
    if price.at - before.at > HOUR:
        return ever
    return replace(
        ever,
        high_24h=max(last.high_24h, now),
        low_24h=min(last.low_24h, now),
        volume_24h=last.volume_24h + traded,
        price_24h_ago=last.price_24h_ago,
        price_7d_ago=last.price_7d_ago,
        price_30d_ago=last.price_30d_ago,
    )


def _close(candles: Sequence[Candle]) -> Decimal | None:
    return candles[0].close if candles else None
