"""What an account was worth over time: pure functions from what it had, and from prices, to the points of a series.

A point at a moment shows what was there just before it: what came of the decisions with an earlier `at`, at the last prices made before. A decision of
exactly that moment is in the next point, as a price of exactly that moment is in the next candle, and as the account of midnight is in the next day.
Where an account had nothing yet there is nothing, which is worth nothing.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal

from pydantic import BaseModel

from schemas.candles import LENGTHS, Close, Interval
from schemas.instants import Instant
from schemas.ledger import Account, CashLine, Entry
from schemas.money import HOME_CURRENCY, ZERO, Amount, exact, in_currency
from schemas.valuation import in_cents
from schemas.views import OfAccount

Period = Literal["1h", "1d", "1w", "1m", "1y", "all"]
PERIODS: Final[Mapping[Period, timedelta]] = MappingProxyType(
    {
        "1h": timedelta(hours=1),
        "1d": timedelta(days=1),
        "1w": timedelta(weeks=1),
        "1m": timedelta(days=30),
        "1y": timedelta(days=365),
        "all": timedelta(days=5 * 365),
    }
)
"""How far back each goes; `all` no further than the first decision."""
Step = Literal["1m", "1h", "1d", "1w"]
STEPS: Final[Mapping[Step, timedelta]] = MappingProxyType({**dict[Step, timedelta](LENGTHS.items()), "1w": timedelta(weeks=1)})
"""From one point to the next, the finest first."""
PRICED_BY: Final[Mapping[Step, Interval]] = MappingProxyType({"1m": "1m", "1h": "1h", "1d": "1d", "1w": "1d"})
"""The candles that end at every moment of a step."""
_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)
"""Steps are aligned to it: weeks begin on Mondays."""


class PortfolioPoint(BaseModel):
    """What an account was worth: `value` = `cash` (free and held) + `asset_value`, that of the holdings whose price was known; the others are named."""

    at: Instant
    value: Amount
    cash: Amount
    asset_value: Amount
    unpriced_assets: list[str]


class PortfolioHistory(OfAccount):
    """Points, oldest first, and the newest one, of now. `interval` is what lies between them: a longer one than asked for where too much happened."""

    data: list[PortfolioPoint]
    period: Period
    interval: Step
    currency: str
    version: int


@dataclass(frozen=True, slots=True)
class Owned:
    """What an account has, free and held: home currency, and the quantity of each asset of which there is any."""

    cash: Decimal = ZERO
    quantities: Mapping[str, Decimal] = field(default_factory=dict)


@exact
def owned_by(account: Account) -> Owned:
    """What an account has now."""
    cash = account.cash.get(HOME_CURRENCY, CashLine())
    return Owned(cash.available + cash.held, {asset_id: position.quantity for asset_id, position in account.positions.items() if position.quantity})


def begin_of(step: Step, at: datetime) -> datetime:
    """The last moment of a step at or before a time."""
    return at - (at - _MONDAY) % STEPS[step]


def moments(step: Step, start: datetime, end: datetime) -> list[datetime]:
    """The moments of a step from `start` on and before `end`, oldest first."""
    first = begin_of(step, start - timedelta(microseconds=1)) + STEPS[step]
    return [first + number * STEPS[step] for number in range(-((first - end) // STEPS[step]))] if first < end else []


def owned_from_days(account: Account, days: Sequence[Account], at: Sequence[datetime]) -> list[Owned]:
    """What an account had at moments that are midnights (UTC).

    `days` are the account at the ends of days on which something was decided, oldest first: the newest one before the first moment, if there is any, and
    all that come after it. `account` is what there is after them.
    """
    known = sorted([*days, account], key=attrgetter("version"))
    had = [Owned(), *map(owned_by, known)]
    return [had[bisect_left(known, moment, key=attrgetter("at"))] for moment in at]


@exact
def owned_from_entries(account: Account, entries: Sequence[Entry], at: Sequence[datetime]) -> list[Owned]:
    """What an account had at moments: what it has now less what came since.

    `entries` are those that moved something, newest first from that of the account's version on, back to the first moment at least.
    """
    now, undone, found = owned_by(account), 0, list[Owned]()
    for moment in reversed(at):
        reached = undone
        while reached < len(entries) and entries[reached].at >= moment:
            reached += 1
        if reached > undone:
            now = _without(now, entries[undone:reached])
        undone = reached
        found.append(now)
    return found[::-1]


def held_between(at: Sequence[datetime], owned: Sequence[Owned]) -> dict[str, tuple[datetime, datetime]]:
    """The first and the last of the moments at which there was any of an asset, by asset id."""
    spans: dict[str, tuple[datetime, datetime]] = {}
    for moment, had in zip(at, owned, strict=True):
        for asset_id in had.quantities:
            spans[asset_id] = (spans[asset_id][0] if asset_id in spans else moment, moment)
    return spans


def series(at: Sequence[datetime], owned: Sequence[Owned], closes: Mapping[str, Sequence[Close]]) -> list[PortfolioPoint]:
    """The points at moments, oldest first. `closes` are, by asset id, those up to the last moment at which there was any, and the last one before the first."""
    return [point(moment, had, prices) for moment, had, prices in zip(at, owned, _prices(at, closes), strict=True)]


@exact
def point(at: datetime, owned: Owned, prices: Mapping[str, Decimal]) -> PortfolioPoint:
    """One point. The holdings' value is exact, and rounded down once; what has no price is named and not counted."""
    priced = owned.quantities.keys() & prices.keys()
    worth = in_cents(sum((owned.quantities[asset_id] * prices[asset_id] for asset_id in priced), ZERO))
    return PortfolioPoint(
        at=at,
        value=Decimal(in_currency(owned.cash + worth, HOME_CURRENCY)),
        cash=Decimal(in_currency(owned.cash, HOME_CURRENCY)),
        asset_value=worth,
        unpriced_assets=sorted(owned.quantities.keys() - priced),
    )


def _without(owned: Owned, entries: Sequence[Entry]) -> Owned:
    """Less what entries brought the customer. What was held or released has two legs that make up for each other."""
    cash, quantities = owned.cash, dict(owned.quantities)
    for posting in (posting for entry in entries for posting in entry.postings if posting.account in {"customer", "held"}):
        if posting.unit == HOME_CURRENCY:
            cash -= posting.amount
        else:
            quantities[posting.unit] = quantities.get(posting.unit, ZERO) - posting.amount
    return Owned(cash, {unit: quantity for unit, quantity in quantities.items() if quantity})


def _prices(at: Sequence[datetime], closes: Mapping[str, Sequence[Close]]) -> Iterator[dict[str, Decimal]]:
    """The prices at each moment by asset id: one dict, which changes from moment to moment."""
    changes = sorted((close.at, asset_id, close.price) for asset_id, of_asset in closes.items() for close in of_asset)
    prices: dict[str, Decimal] = {}
    done = 0
    for moment in at:
        while done < len(changes) and changes[done][0] <= moment:
            _, asset_id, prices[asset_id] = changes[done]
            done += 1
        yield prices
