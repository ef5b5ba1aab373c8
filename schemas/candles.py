"""Candles: what the prices of an asset did in a minute, an hour or a day of UTC. Pure: how a price enters one, and when one has ended.

A candle is made of the prices that the table of the market took, in the order of their sequence: opens with the first, closes with the last. A stretch
of time without a price has none; its price is the close of the last one before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from schemas.instants import EPOCH, Instant
from schemas.market import PriceChanged
from schemas.money import EXACT, ZERO, Amount
from schemas.views import Display

Interval = Literal["1m", "1h", "1d"]
LENGTHS: Final[Mapping[Interval, timedelta]] = MappingProxyType({"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)})


@dataclass(frozen=True, slots=True)
class Candle:
    """The prices of a stretch of time that begins at `at`, in the home currency for one whole unit; `volume` is in units of the asset."""

    at: Instant
    open: Amount
    high: Amount
    low: Amount
    close: Amount
    volume: Amount = ZERO


class Close(NamedTuple):
    """The price at a moment `at`: the close of a candle that ended then."""

    at: datetime
    price: Amount


class Ended(NamedTuple):
    """A candle that gets no price any more."""

    interval: Interval
    candle: Candle


@dataclass(frozen=True, slots=True)
class Running:
    """The candles that an asset's next price may still change, one for each interval."""

    minute: Candle
    hour: Candle
    day: Candle

    def of(self, interval: Interval) -> Candle:
        """The one of an interval."""
        candle: Candle = getattr(self, _NAMES[interval])
        return candle


_NAMES: Final[Mapping[Interval, str]] = MappingProxyType(dict(zip(LENGTHS, (field.name for field in fields(Running)), strict=True)))


class CandleView(BaseModel):
    """The prices of a stretch of time that begins at `at`; `volume` is in units of the asset."""

    at: Instant
    open: Display
    high: Display
    low: Display
    close: Display
    volume: Display


class CandlePage(BaseModel):
    """A page of candles, oldest first. The last one may still be running."""

    data: list[CandleView]
    interval: Interval
    has_more: bool
    next_cursor: str | None


def begin_of(interval: Interval, at: datetime) -> datetime:
    """When the stretch of time begins that a moment is in; a moment at its end is in the next one."""
    return at - (at - EPOCH) % LENGTHS[interval]


def end_of(interval: Interval, candle: Candle) -> datetime:
    """When a candle ends: its close is the price from then on."""
    return candle.at + LENGTHS[interval]


@dataclass(frozen=True, slots=True)
class Priced:
    """A price of an asset, the candles that run after it, and those that it ended."""

    price: PriceChanged
    running: Running
    ended: tuple[Ended, ...] = ()


def begun(price: PriceChanged) -> Priced:
    """An asset's first price, which begins its candles."""
    return Priced(price, Running(*(_opened(interval, price) for interval in LENGTHS)))


def followed(before: Priced, price: PriceChanged) -> Priced:
    """An asset's next price.

    Time does not run back in candles: a price that is earlier than a candle, because a clock was set back, goes into it.
    """
    ended, candles = [], []
    for interval in LENGTHS:
        candle = before.running.of(interval)
        if price.at >= end_of(interval, candle):
            ended.append(Ended(interval, candle))
            candles.append(_opened(interval, price))
        else:
            candles.append(_entered(candle, price))
    return Priced(price, Running(*candles), tuple(ended))


def _opened(interval: Interval, price: PriceChanged) -> Candle:
    return Candle(begin_of(interval, price.at), price.price, price.price, price.price, price.price, price.volume)


def _entered(candle: Candle, price: PriceChanged) -> Candle:
    volume = EXACT.add(candle.volume, price.volume)
    return replace(candle, high=max(candle.high, price.price), low=min(candle.low, price.price), close=price.price, volume=volume)
