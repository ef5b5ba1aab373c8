"""A made-up market: prices that move as a market's do, the same for the same seed.

Every price is a function of the seed, the asset, the price before it and the number of the step, and of nothing else: a process that starts
again goes on where the last one stopped, and two processes make the same price. Chance is a hash and arithmetic is decimal, so a seed gives
the same prices on every machine.

One step moves a price by `bound` at most, towards which the asset's volatility counts: from `BOUND_MIN` to `BOUND_MAX` for steps of five
minutes, less for shorter ones by the square root of their length (the scaling of a random walk). A step is the sum of

* the market's shock, which all assets share, and the asset's own one;
* the drift of the regime: bull, bear or flat, for the whole market, and lasting for hours;
* a pull towards the starting price, weak near it, so that no price runs off in a year.

A stablecoin stays within `STABLE_BOUND` of its starting price. What is traded in a step is a part of the circulating supply, by chance and the more the
further the price moves.

Beside it a market that happened: the prices of files, played again.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_UP, Context, Decimal
from functools import lru_cache
from operator import itemgetter
from typing import Final, Literal, NamedTuple

from schemas.candles import Candle
from schemas.market import Asset, PriceChanged
from schemas.money import ZERO

Regime = Literal["bull", "bear", "flat"]

REFERENCE_STEP_S: Final = Decimal(300)
BOUND_MIN: Final = Decimal("0.02")
BOUND_MAX: Final = Decimal("0.08")
VOLATILITY_MAX: Final = Decimal("1.5")
"""The yearly volatility from which on an asset's steps are bounded by `BOUND_MAX`; between zero and this one the bound grows in line."""
SIGMAS: Final = Decimal(4)
"""A shock of so many standard deviations fills the bound."""
SHARED: Final = Decimal("0.6")
OWN: Final = Decimal("0.8")
"""Parts of the market's shock and of the asset's own in a step: 0.6² + 0.8² = 1, so any two assets' steps have a correlation of 0.36."""
DRIFT: Final = Decimal("0.25")
"""The drift of a bull or bear market, in standard deviations of one step of five minutes."""
PULL: Final = Decimal("0.05")
"""The pull towards the starting price, in standard deviations, where the price is far from it."""
SPELL_S: Final = 3_600
"""A regime may change at each full hour."""
KEEPS: Final = 192
"""It stays, with a chance of so many in 256: four hours on average."""
SPELLS_MAX: Final = 48
STABLE: Final = "stablecoin"
STABLE_BOUND: Final = Decimal("0.005")
TURNOVER: Final = Decimal("0.02")
STABLE_TURNOVER: Final = Decimal("0.2")
"""Part of the circulating supply that is traded in a day on which no price moves. A step by a standard deviation doubles it, chance halves it or adds half."""
DAY_S: Final = 86_400

_CONTEXT: Final = Context(prec=40)
_DRAWS: Final = 12
_DRAW_BYTES: Final = 2
_MIDDLE: Final = _DRAWS * (2 ** (8 * _DRAW_BYTES) - 1)
"""Twice the mean of the sum of draws."""
_SCALE: Final = 2 ** (8 * _DRAW_BYTES + 1)


class Tick(NamedTuple):
    """A price in the home currency, and what was traded since the price before it, in units of the asset."""

    price: Decimal
    volume: Decimal = ZERO


class ReplayedPrices:
    """A `PriceSource` of real history: the first row of a file is the price at `starts`, and `speed` seconds of it pass in one second.

    A row is shown as four prices: its open at its time, its extremes at a quarter and a half of the way to the next row (the nearer one to the
    open first), its close at three quarters. Before the start the first price holds, after the end the last. Which price it is depends on the
    time alone, so a restart goes on where history is by then. A quarter of the row's volume comes with each of its prices; prices that were passed over,
    because history runs faster than prices are made, are in the next one's volume, so all of it is told, once. An asset without a file stays where it is.
    """

    def __init__(self, bars: Mapping[str, Sequence[Candle]], starts: datetime, speed: float) -> None:
        self._points = {asset_id: tuple(_points(rows)) for asset_id, rows in bars.items()}
        self._starts = starts
        self._speed = speed

    def tick(self, asset: Asset, latest: PriceChanged | None, at: datetime) -> Tick:
        """The last price of the file at that time, rounded to the decimals of the asset's prices, and never zero."""
        points = self._points.get(asset.asset_id)
        if not points:
            return Tick(latest.price if latest else asset.price_usd)
        place = self._place(points, at)
        told = self._traded(points, latest.at, asset) if latest else ZERO
        return Tick(_at_scale(points[max(0, place - 1)].price, asset, ROUND_HALF_EVEN), max(ZERO, self._traded(points, at, asset) - told))

    def _traded(self, points: Sequence["_Point"], at: datetime, asset: Asset) -> Decimal:
        """The volume from the start until a time. What rounding leaves of a price's volume comes with a later one."""
        place = self._place(points, at)
        return _quantity(points[place - 1].traded, asset) if place else ZERO

    def _place(self, points: Sequence["_Point"], at: datetime) -> int:
        """How many prices have come by then."""
        return bisect_right(points, points[0].at + (at - self._starts) * self._speed, key=_POINT_AT)


class _Point(NamedTuple):
    """A price of a file; `traded` is the volume until then, its own included."""

    at: datetime
    price: Decimal
    traded: Decimal


_POINT_AT: Final = itemgetter(0)


def _points(bars: Sequence[Candle]) -> Iterator[_Point]:
    traded = ZERO
    for index, bar in enumerate(bars):
        quarter = (bars[index + 1].at - bar.at if index + 1 < len(bars) else bar.at - bars[index - 1].at) / 4
        first, second = (bar.low, bar.high) if bar.open - bar.low <= bar.high - bar.open else (bar.high, bar.low)
        for number, price in enumerate((bar.open, first, second, bar.close)):
            traded = _CONTEXT.add(traded, _CONTEXT.divide(bar.volume, Decimal(4)))
            yield _Point(bar.at + number * quarter, price, traded)


class SimulatedPrices:
    """A `PriceSource` of made-up prices. `interval_s` is the length of a step."""

    def __init__(self, seed: int, interval_s: float) -> None:
        self._seed = seed
        self._interval_s = Decimal(str(interval_s))
        self._scale = (min(self._interval_s, REFERENCE_STEP_S) / REFERENCE_STEP_S).sqrt(_CONTEXT)

    def tick(self, asset: Asset, latest: PriceChanged | None, at: datetime) -> Tick:
        """The asset's next price: above zero, with the decimals of its prices, and no further from `latest` than `bound`."""
        if latest is None:
            return Tick(asset.price_usd)
        step = int(Decimal(str(at.timestamp())) / self._interval_s)
        own = _shock(self._seed, asset.asset_id, step)
        if asset.category == STABLE:
            return Tick(_moved(asset.price_usd, self._scale * STABLE_BOUND, own, asset), self._volume(asset, own, step))
        move = SHARED * _shock(self._seed, "", step) + OWN * own + self._scale * (DRIFT * _SIGNS[regime(self._seed, at)] + PULL * _pull(asset, latest.price))
        return Tick(_moved(latest.price, self.bound(asset), move, asset), self._volume(asset, move, step))

    def _volume(self, asset: Asset, move: Decimal, step: int) -> Decimal:
        """What is traded in a step that moves the price by so many standard deviations; nothing of an asset whose supply is not known."""
        a_day = (asset.circulating_supply or ZERO) * (STABLE_TURNOVER if asset.category == STABLE else TURNOVER)
        chance = Decimal("0.5") + Decimal(_chance(self._seed, f"volume\n{asset.asset_id}", step)[0]) / 255
        return _quantity(a_day * self._interval_s / DAY_S * chance * (1 + min(SIGMAS, abs(move))), asset)

    def bound(self, asset: Asset) -> Decimal:
        """The most by which one step moves the price, as a part of it."""
        return self._scale * (BOUND_MIN + (BOUND_MAX - BOUND_MIN) * min(Decimal(1), asset.volatility / VOLATILITY_MAX))


def regime(seed: int, at: datetime) -> Regime:
    """What the market does at a time: drawn at some full hour before it, and kept since."""
    return _regime(seed, int(at.timestamp()) // SPELL_S)


_REGIMES: Final[tuple[Regime, ...]] = ("bull", "bear", "flat")
_SIGNS: Final[dict[Regime, int]] = {"bull": 1, "bear": -1, "flat": 0}


@lru_cache(maxsize=SPELLS_MAX)
def _regime(seed: int, spell: int) -> Regime:
    for before in range(SPELLS_MAX):
        drawn = _chance(seed, "regime", spell - before)
        if drawn[0] >= KEEPS:
            break
    return _REGIMES[drawn[1] % len(_REGIMES)]


@lru_cache(maxsize=1_024)
def _shock(seed: int, name: str, step: int) -> Decimal:
    """About a standard normal variable: the sum of twelve uniform ones less its mean (Irwin-Hall), never beyond ±6."""
    draws = _chance(seed, f"shock\n{name}", step)
    total = sum(int.from_bytes(draws[at : at + _DRAW_BYTES], "big") for at in range(0, _DRAWS * _DRAW_BYTES, _DRAW_BYTES))
    return Decimal(2 * total - _MIDDLE) / _SCALE


def _chance(seed: int, name: str, number: int) -> bytes:
    return hashlib.blake2b(f"{seed}\n{name}\n{number}".encode(), digest_size=_DRAWS * _DRAW_BYTES).digest()


def _pull(asset: Asset, price: Decimal) -> Decimal:
    """From -1 (far above the starting price) over 0 to 1 (far below it)."""
    start = asset.price_usd
    return start / price - 1 if price > start else 1 - price / start


def _moved(price: Decimal, bound: Decimal, move: Decimal, asset: Asset) -> Decimal:
    """The price moved by so many standard deviations, of which `SIGMAS` are the bound; rounded towards where it was, so that the bound is kept."""
    moved = price * (1 + bound / SIGMAS * max(-SIGMAS, min(SIGMAS, move)))
    return _at_scale(moved, asset, ROUND_DOWN if moved > price else ROUND_UP)


def _at_scale(price: Decimal, asset: Asset, rounding: str) -> Decimal:
    """With the decimals of the asset's prices, and never zero."""
    unit = Decimal((0, (1,), -asset.price_scale))
    return max(unit, price.quantize(unit, rounding, _CONTEXT))


def _quantity(volume: Decimal, asset: Asset) -> Decimal:
    """With the decimals of the asset's quantities."""
    return volume.quantize(Decimal((0, (1,), -asset.quantity_scale)), ROUND_DOWN, _CONTEXT)
