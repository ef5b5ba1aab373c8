"""An account as it was at an earlier version or time: cash, holdings and open orders, at the prices of then.

Entries hold the lines that they touched with their values after them, so what a line was at a version is said by the newest entry up to it that touched
the line. Nothing is added up, and what is read does not grow with the account's history: one entry, the account at the end of that day and of the one
before, one entry for each asset that was touched between the version and the end of its day, and the orders back to the oldest one that was open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

from litestar import Request, Response
from litestar.params import Dependency, Parameter

from infra.cache import Shown
from infra.candles import MINUTES_KEPT, CandleReads
from infra.clock import Clock
from infra.http import ProblemError
from infra.ledger import LedgerReads
from infra.market import MarketSnapshot
from query_api.fresh import Asked, answer
from schemas.candles import Close, Interval
from schemas.instants import EPOCH, day_of, parse_rfc3339, rfc3339
from schemas.ledger import Account, CashLine, Entry, Order, Position
from schemas.market import PriceChanged
from schemas.money import CURRENCY_SCALES, HOME_CURRENCY
from schemas.rows import balance_view, order_view
from schemas.statement import BalanceThen, PortfolioThen
from schemas.valuation import portfolio_of
from schemas.views import AsOf

VERSION_DIGITS_MAX: Final = 18
ENTRIES_FIRST: Final = 10
ENTRIES_EXAMINED_MAX: Final = 2_000
"""Holds and releases of sales that are looked at for the movement of cash before them. Behind more of them, all of one day, a version is not shown."""
ORDERS_FIRST: Final = 50
ORDERS_PAGE_MAX: Final = 500
ORDERS_EXAMINED_MAX: Final = 5_000
"""Orders that are looked at, newest first, for those that were open. Behind more of them an old order is counted and not shown."""
RUN_GAP_MAX: Final = 10
RUN_MAX: Final = 100
"""Entries of orders that lie at most so far apart are read together, and so many at once."""
READS_AT_ONCE: Final = 4
"""Reads at one time for one caller, so that one with many assets or orders does not take all turns (`infra.ledger_bound.READS_AT_ONCE`)."""
_MARGIN: Final = timedelta(days=1)
"""Candles of minutes are not counted on shortly before they may go."""

T = TypeVar("T")
R = TypeVar("R")

AsOfQuery = Annotated[
    str | None,
    Parameter(query="as_of", description="An account version, or a time (RFC 3339): what there was after it. A time to come is now"),
]


@dataclass(frozen=True, slots=True)
class Opened:
    """Orders that were open at a version, newest first, as they stood. `count`: how many there were."""

    orders: list[Order]
    count: int


class Past:
    """Shows accounts as they were. What it raises: ProblemError where the version or time cannot be shown, and what the ledger and the candles raise."""

    def __init__(self, ledger: LedgerReads, candles: CandleReads, clock: Clock) -> None:
        self._ledger = ledger
        self._candles = candles
        self._clock = clock

    async def balance(self, by: Asked, shown: Shown[Account], as_of: str) -> Response[bytes]:
        """The answer to a read of the balance."""
        shown, version, _ = await self.find(shown, as_of)
        then = await account_at(self._ledger, shown.value, version)
        cash = balance_view(then.cash.get(HOME_CURRENCY), version, then.status)
        return await answer(by, shown, BalanceThen(**dict(cash), **await self._opened(then)), AsOf.of(version, then.at))

    async def portfolio(self, by: Asked, shown: Shown[Account], as_of: str, market: MarketSnapshot) -> Response[bytes]:
        """The answer to a read of the portfolio. `market` has the names of assets, and the prices of now."""
        shown, version, at = await self.find(shown, as_of)
        then = await account_at(self._ledger, shown.value, version)
        prices = await self._prices(then, at or then.at, market)
        holdings = portfolio_of(then, prices, market.by_id)
        return await answer(by, shown, PortfolioThen(**dict(holdings), **await self._opened(then)), AsOf.of(version, then.at))

    async def find(self, shown: Shown[Account], as_of: str) -> tuple[Shown[Account], int, datetime | None]:
        """The account of now, the version that is asked for, and the time, where one is asked for. Where the view may be behind it, the ledger is read."""
        asked = parse_as_of(as_of)
        if isinstance(asked, int):
            if asked > shown.version:
                shown = await self._now(shown)
            if asked > shown.version:
                raise _invalid(f"The account is at version {shown.version}.")
            return shown, asked, None
        if asked >= shown.value.at:
            shown = await self._now(shown)
        return shown, await version_at(self._ledger, shown.value, asked), asked

    async def _now(self, shown: Shown[Account]) -> Shown[Account]:
        if shown.is_current:
            return shown
        account = await self._ledger.account(shown.value.username)
        return shown._replace(value=account, version=account.version, at=account.at, is_current=True)

    async def _opened(self, then: Account) -> dict[str, object]:
        opened = await open_at(self._ledger, then)
        return {
            "open_orders": [order_view(order) for order in opened.orders],
            "open_order_count": opened.count,
            "open_orders_complete": len(opened.orders) == opened.count,
        }

    async def _prices(self, then: Account, at: datetime, market: MarketSnapshot) -> Mapping[str, PriceChanged]:
        if at >= self._clock.now():
            return market.prices
        held = [asset_id for asset_id, position in then.positions.items() if position.quantity]
        closes = await each(held, lambda asset_id: close_at(self._candles, asset_id, at, self._clock.now()))
        return {asset_id: PriceChanged(asset_id, close.price, 0, close.at) for asset_id, close in closes.items() if close}


GivenPast = Annotated[Past, Dependency(skip_validation=True)]
Moment = Annotated[str | None, Dependency(skip_validation=True)]
"""What a request says in `as_of`; None for now."""


def moment(as_of: AsOfQuery = None) -> str | None:
    """A `Moment`, with its parameter."""
    return as_of


def moment_of(request: Request[Any, Any, Any]) -> str | None:
    """`moment` as a function of the request alone: nearly all of them say nothing."""
    if not request.scope["query_string"]:
        return None
    said = request.query_params.getall("as_of", [])
    return moment(said[-1] if said else None)


def parse_as_of(text: str) -> int | datetime:
    """A version or a time. ProblemError 422 where the text is neither. A `+` that was not encoded has become a space."""
    if text.isascii() and text.isdigit() and len(text) <= VERSION_DIGITS_MAX:
        return int(text)
    try:
        return parse_rfc3339(text.replace(" ", "+"))
    except ValueError:
        raise _invalid(f"`as_of` must be an account version, or a time of RFC 3339 such as {rfc3339(EPOCH)}.") from None


async def version_at(ledger: LedgerReads, now: Account, at: datetime) -> int:
    """The version of the last decision at or before a time that moved something, or a later one that was decided by then and moved nothing.

    Entries that moved nothing are not in the index by version. One read for each halving of the versions of the day (at most 60 for any history).
    """
    if at >= now.at:
        return now.version
    earlier, later = await _around(ledger, now.username, at)
    if later is not None and later.at <= at:
        return later.version
    low, high = earlier.version if earlier else 0, (later or now).version - 1
    found = low
    while low < high:  # all that moved up to `low` was decided by then, and all that moved behind `high` later
        middle = (low + high + 1) // 2
        entry = await _last(ledger, now.username, middle)
        if entry is None or entry.version <= low:
            low = middle
        elif entry.at <= at:
            low, found = middle, entry.version
        else:
            high = entry.version - 1
    return found


async def account_at(ledger: LedgerReads, now: Account, version: int) -> Account:
    """The account after a version that it has reached: cash, holdings, counters, and the time of the last decision up to it that moved something.

    `status` is that of now. ProblemError where the cash cannot be found within the bound.
    """
    if version == now.version:
        return now
    last = await _last(ledger, now.username, version)
    if last is None:
        return Account(now.username, version, status=now.status)
    earlier, later = await _around(ledger, now.username, last.at)
    cash, positions = await asyncio.gather(_cash(ledger, last, earlier, later or now), _positions(ledger, last, later or now))
    return replace(now, version=version, at=last.at, cash=cash, positions=positions, counters=last.lines.counters)


async def as_of_version(ledger: LedgerReads, shown: Shown[Account], version: int) -> AsOf:
    """A version with its time, as `account_at` tells it."""
    if version == shown.version:
        return AsOf.of(version, shown.value.at)
    last = await _last(ledger, shown.value.username, version)
    return AsOf(version=version, at=last.at if last else None)


async def line_at(ledger: LedgerReads, username: str, unit: str, version: int) -> CashLine | Position | None:
    """One line after a version; None where there was none yet. ProblemError as `account_at`."""
    if unit not in CURRENCY_SCALES:
        return await _position(ledger, username, unit, version)
    last = await _last(ledger, username, version)
    if last is None or unit in last.lines.cash:
        return last.lines.cash[unit] if last else None
    earlier, _ = await _around(ledger, username, last.at)
    return await _cash_line(ledger, last, unit, earlier)


async def open_at(ledger: LedgerReads, then: Account) -> Opened:
    """The orders that were open at an account's version: the newest ones, as far as `ORDERS_EXAMINED_MAX` goes back."""
    found: list[Order] = []
    before, examined, count = then.version + 1, 0, then.counters.open_orders
    while len(found) < count and examined < ORDERS_EXAMINED_MAX:
        limit = min(max(ORDERS_FIRST, examined), ORDERS_PAGE_MAX, ORDERS_EXAMINED_MAX - examined)
        page = await ledger.orders(then.username, before=before, limit=limit)
        found += [order for order in page if order.status == "open" or order.updated_version > then.version]
        examined += len(page)
        if len(page) < limit:
            break
        before = page[-1].created_version
    placed = await _as_placed(ledger, then.username, [order.created_version for order in found if order.status != "open"])
    return Opened([placed.get(order.created_version, order) for order in found], count)


async def close_at(candles: CandleReads, asset_id: str, at: datetime, now: datetime) -> Close | None:
    """The price at a moment: the close of the last minute that ended by then, or where minutes may have gone, of the last hour."""
    kept = now - MINUTES_KEPT + _MARGIN
    intervals: tuple[Interval, ...] = ("1m", "1h") if at > kept else ("1h",)
    for interval in intervals:
        closes = await candles.closes(asset_id, interval, at, at)
        if closes and (interval == "1h" or closes[-1].at > kept):
            return closes[-1]
    return None


async def each(wanted: Iterable[T], read: Callable[[T], Awaitable[R]], *, at_once: int = READS_AT_ONCE) -> dict[T, R]:
    """What reads give, `at_once` of them at a time."""
    slots, keys = asyncio.Semaphore(at_once), list(wanted)

    async def one(key: T) -> R:
        async with slots:
            return await read(key)

    return dict(zip(keys, await asyncio.gather(*map(one, keys)), strict=True))


async def _last(ledger: LedgerReads, username: str, version: int) -> Entry | None:
    """The newest entry up to a version that moved something."""
    entries = await ledger.entries(username, before=version + 1, limit=1)
    return entries[0] if entries else None


async def _around(ledger: LedgerReads, username: str, at: datetime) -> tuple[Account | None, Account | None]:
    """The account at the end of the last day before that of a time on which something was decided, and at the end of that day, where they are kept."""
    day = day_of(at)
    days = await ledger.days(username, day, day, limit=1)
    return next((kept for kept in days if day_of(kept.at) < day), None), next((kept for kept in days if day_of(kept.at) == day), None)


async def _cash(ledger: LedgerReads, last: Entry, earlier: Account | None, later: Account) -> dict[str, CashLine]:
    lines: dict[str, CashLine] = {}
    for unit, line in later.cash.items():
        found = line if line.updated_at < last.at else await _cash_line(ledger, last, unit, earlier)
        if found:
            lines[unit] = found
    return lines


async def _cash_line(ledger: LedgerReads, last: Entry, unit: str, earlier: Account | None) -> CashLine | None:
    """Cash after an entry: what the newest one says that moved it, or the end of an earlier day. Only holds and releases of sales leave it as it was."""
    page, examined = [last], 1
    while True:
        for entry in page:
            if earlier and entry.version <= earlier.version:
                return earlier.cash.get(unit)
            if unit in entry.lines.cash:
                return entry.lines.cash[unit]
        if examined >= ENTRIES_EXAMINED_MAX:
            raise _invalid("Too many holds of sales lie between that and the last movement of cash: ask for another version.")
        limit = min(max(ENTRIES_FIRST, examined), ENTRIES_EXAMINED_MAX - examined)
        page = await ledger.entries(last.username, before=page[-1].version, limit=limit)
        examined += len(page)
        if not page:
            return earlier.cash.get(unit) if earlier else None


async def _positions(ledger: LedgerReads, last: Entry, later: Account) -> dict[str, Position]:
    """Positions after an entry. One that was touched last before the entry's time is as it was; one that came after it was not there."""
    unsure = [asset_id for asset_id, line in later.positions.items() if line.updated_at >= last.at >= line.created_at]
    found = await each(unsure, lambda asset_id: _position(ledger, last.username, asset_id, last.version))
    before = {asset_id: line for asset_id, line in later.positions.items() if line.updated_at < last.at}
    return before | {asset_id: line for asset_id, line in found.items() if line}


async def _position(ledger: LedgerReads, username: str, asset_id: str, version: int) -> Position | None:
    entries = await ledger.asset_entries(username, asset_id, before=version + 1, limit=1)
    return entries[0].lines.positions[asset_id] if entries else None


async def _as_placed(ledger: LedgerReads, username: str, versions: Sequence[int]) -> dict[int, Order]:
    """Orders as the entries that placed them left them, by version. `versions` are newest first."""
    wanted = set(versions)
    pages = await each(_runs(versions), lambda run: ledger.entries(username, before=run[0] + 1, limit=run[0] - run[1] + 1))
    return {entry.version: entry.lines.order for page in pages.values() for entry in page if entry.version in wanted and entry.lines.order}


def _runs(versions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Stretches of versions, the newest and the oldest of each, that lie close enough together to be read at once."""
    run: tuple[int, int] | None = None
    for version in versions:
        if run and (run[1] - version > RUN_GAP_MAX or run[0] - version >= RUN_MAX):
            yield run
            run = None
        run = (run[0] if run else version, version)
    if run:
        yield run


def _invalid(detail: str) -> ProblemError:
    return ProblemError("validation-failed", detail, pointer="#/query/as_of")
