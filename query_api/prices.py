"""The price history of an asset, for everybody: candles of a minute, an hour or a day, the running one included."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, get_args

from litestar import Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from infra.http import PUBLIC, ProblemError
from infra.market import MarketCache
from query_api.assets import answer, parse_asset_id
from query_api.cursors import Cursors, List, Place
from query_api.given import GivenCandles, GivenClock
from query_api.pages import Cursor
from schemas.candles import LENGTHS, Candle, CandlePage, CandleView, Interval, begin_of
from schemas.instants import EPOCH, from_millis, parse_rfc3339, rfc3339

LIMIT_MAX: Final = 500
SPAN: Final = timedelta(days=1)
"""What is shown where no `from` is given."""
DEFAULT_ROWS_MAX: Final = 200
"""The default interval is the shortest whose candles in the span are at most so many; the longest where none is."""
_INTERVALS: Final[tuple[Interval, ...]] = get_args(Interval)
_MILLISECOND: Final = timedelta(milliseconds=1)

From = Annotated[str | None, Parameter(query="from", description="RFC 3339; a day before `to` by default. The candle it falls into is the first one")]
To = Annotated[str | None, Parameter(query="to", description="RFC 3339; now by default. Candles that begin before it are shown")]
Length = Annotated[str | None, Parameter(query="interval", description="1m, 1h or 1d; by the span where it is not given")]
Limit = Annotated[int, Parameter(ge=1, le=LIMIT_MAX, description="Rows of the page")]


@get(
    ["/inventory/assets/{asset_id:str}/prices", "/assets/{asset_id:str}/prices"],
    tags=["inventory"],
    opt={PUBLIC: True},
    responses={200: ResponseSpec(CandlePage, description="A page", generate_examples=False)},
    summary="Show an asset's price history",
)
async def get_prices(
    *,
    request: Request[Any, Any, Any],
    asset_id: str,
    market: MarketCache,
    candles: GivenCandles,
    cursors: Cursors,
    clock: GivenClock,
    since: From = None,
    until: To = None,
    interval: Length = None,
    limit: Limit = LIMIT_MAX,
    cursor: Cursor = None,
) -> Response[bytes]:
    """Candles, oldest first. A stretch of time without a price has none: its price is the close of the last one before it."""
    asset_id = parse_asset_id(asset_id)
    end = _time("to", until) or clock.now()
    start = _time("from", since) or max(EPOCH, end - SPAN)
    if start >= end:
        raise ProblemError("validation-failed", "`from` must be before `to`.", pointer="#/query/from")
    chosen = _interval(interval, end - start)
    of = List("", "prices", {"asset_id": asset_id, "from": since, "to": until, "interval": chosen})
    after = cursors.read(of, cursor)
    if await market.asset(asset_id) is None:
        raise ProblemError("not-found", "There is no such asset.")
    first = from_millis(after.version) + _MILLISECOND if after else begin_of(chosen, start)
    last = end if until else end + LENGTHS[chosen]  # the market's clock may be ahead of this one
    found = await candles.candles(asset_id, chosen, first, last, limit=limit + 1)
    return answer(request, _page(found, limit, chosen, cursors, of).model_dump_json().encode())


ROUTES: Final[tuple[Any, ...]] = (get_prices,)


def _page(found: list[Candle], limit: int, interval: Interval, cursors: Cursors, of: List) -> CandlePage:
    rows, more = found[:limit], len(found) > limit
    cursor = cursors.make(of, Place(round((rows[-1].at - EPOCH) / _MILLISECOND))) if more else None
    views = [CandleView(at=row.at, open=row.open, high=row.high, low=row.low, close=row.close, volume=row.volume) for row in rows]
    return CandlePage(data=views, interval=interval, has_more=more, next_cursor=cursor)


def _time(name: str, text: str | None) -> datetime | None:
    """ProblemError 422 where the text is not a time. A `+` that was not encoded has become a space."""
    if text is None:
        return None
    try:
        return parse_rfc3339(text.replace(" ", "+"))
    except ValueError:
        raise ProblemError("validation-failed", f"`{name}` must be a time of RFC 3339 such as {rfc3339(EPOCH)}.", pointer=f"#/query/{name}") from None


def _interval(text: str | None, span: timedelta) -> Interval:
    if text is None:
        return next((interval for interval in _INTERVALS if span / LENGTHS[interval] <= DEFAULT_ROWS_MAX), _INTERVALS[-1])
    for interval in _INTERVALS:
        if text == interval:
            return interval
    raise ProblemError("validation-failed", f"`interval` must be one of {', '.join(_INTERVALS)}.", pointer="#/query/interval")
