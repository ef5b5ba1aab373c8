"""The inventory: the listed assets with their latest prices, for everybody.

Figures are JSON numbers for display. What they are made of comes with each price: no history is read here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final

from litestar import Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from infra.http import PUBLIC, ProblemError
from infra.market import MarketCache, MarketSnapshot
from query_api.tags import body_of, tagged
from schemas.instants import day_of
from schemas.market import Asset, Figures, PriceChanged
from schemas.money import share_down
from schemas.views import AssetAnswer, AssetDetail, AssetPage, AssetView

LIMIT_MAX: Final = 250
LIMIT: Final = 50
SEARCH_MAX: Final = 100
ASSET_ID: Final = re.compile(r"[A-Za-z0-9]{1,10}")
PERCENT_SCALE: Final = 4


@dataclass(frozen=True, slots=True)
class _Row:
    """One asset of the list: what it is found by, and its part of the body."""

    names: str
    is_active: bool
    body: bytes


class Inventory:
    """The assets, encoded once for each change of the market: most calls join bytes. DynamoUnavailable where neither cache nor table can be read."""

    def __init__(self, market: MarketCache) -> None:
        self._market = market
        self._built_from: MarketSnapshot | None = None
        self._rows: tuple[_Row, ...] = ()

    async def page(self, *, limit: int, active_only: bool, search: str) -> bytes:
        """The first rows by market capitalisation rank as the JSON of an `AssetPage`; its counts are of all that match."""
        wanted = search.strip().casefold()
        matching = [row for row in await self._current() if wanted in row.names and (row.is_active or not active_only)]
        return _page(matching[:limit], len(matching), sum(row.is_active for row in matching))

    async def detail(self, asset_id: str) -> AssetDetail | None:
        """Everything about an asset; None where there is none of that id."""
        snapshot = await self._market.snapshot()
        asset = snapshot.by_id.get(asset_id)
        return _detail(asset, snapshot.prices.get(asset_id)) if asset else None

    async def _current(self) -> tuple[_Row, ...]:
        snapshot = await self._market.snapshot()
        if snapshot is not self._built_from:
            self._rows = tuple(_rows(snapshot.assets, snapshot.prices))
            self._built_from = snapshot
        return self._rows


@get(
    ["/inventory/assets", "/assets"],
    tags=["inventory"],
    opt={PUBLIC: True},
    responses={200: ResponseSpec(AssetPage, description="The first assets by market capitalisation rank", generate_examples=False)},
    summary="List assets",
)
async def list_assets(
    request: Request[Any, Any, Any],
    inventory: Inventory,
    limit: Annotated[int, Parameter(ge=1, le=LIMIT_MAX, description="Rows of the answer")] = LIMIT,
    active_only: Annotated[bool, Parameter(description="Leave out assets that are not traded now")] = False,
    search: Annotated[str, Parameter(max_length=SEARCH_MAX, description="A part of the name or symbol, in any case")] = "",
) -> Response[bytes]:
    """The listed assets, by market capitalisation rank. `total_count` and `active_count` are of all that match, not of the page."""
    return answer(request, await inventory.page(limit=limit, active_only=active_only, search=search))


@get(
    ["/inventory/assets/{asset_id:str}", "/assets/{asset_id:str}"],
    tags=["inventory"],
    opt={PUBLIC: True},
    responses={200: ResponseSpec(AssetAnswer, description="The asset", generate_examples=False)},
    summary="Show an asset",
)
async def get_asset(request: Request[Any, Any, Any], inventory: Inventory, asset_id: str) -> Response[bytes]:
    """Everything about one asset. The id is read in any case."""
    detail = await inventory.detail(parse_asset_id(asset_id))
    if detail is None:
        raise ProblemError("not-found", "There is no such asset.")
    return answer(request, AssetAnswer(data=detail).model_dump_json().encode())


ROUTES: Final = (list_assets, get_asset)


def parse_asset_id(text: str, pointer: str = "#/path/asset_id") -> str:
    """The asset id in upper case. ProblemError 422 with the pointer where the text cannot be one."""
    if not ASSET_ID.fullmatch(text):
        raise ProblemError("validation-failed", "An asset id has 1 to 10 letters and digits.", pointer=pointer)
    return text.upper()


def answer(request: Request[Any, Any, Any], body: bytes) -> Response[bytes]:
    """A public answer."""
    return tagged(body_of(body), request.headers.get("if-none-match", ""))


def _page(rows: Iterable[_Row], total: int, active: int) -> bytes:
    return b'{"data":[%s],"total_count":%d,"active_count":%d}' % (b",".join(row.body for row in rows), total, active)


def _rows(assets: Iterable[Asset], prices: Mapping[str, PriceChanged]) -> Iterable[_Row]:
    for asset in assets:
        view = AssetView(**_common(asset, prices.get(asset.asset_id)))
        yield _Row(f"{asset.name}\n{asset.symbol}".casefold(), asset.is_active, view.model_dump_json().encode())


def _common(asset: Asset, price: PriceChanged | None) -> dict[str, Any]:
    figures = price.figures if price else None
    return {
        "asset_id": asset.asset_id,
        "name": asset.name,
        "description": asset.description,
        "category": asset.category,
        "price_usd": price.price if price else None,
        "is_active": asset.is_active,
        "symbol": asset.symbol,
        "image": asset.image,
        "market_cap_rank": asset.market_cap_rank,
        "price_change_percentage_24h": _change(figures.price_24h_ago if figures else None, price),
        "market_cap": price.price * asset.circulating_supply if price and asset.circulating_supply is not None else None,
        "total_volume_24h": figures.volume_24h if figures else None,
    }


def _detail(asset: Asset, price: PriceChanged | None) -> AssetDetail:
    figures = price.figures if price else None
    day_ago = figures.price_24h_ago if figures else None
    ath, ath_date, atl, atl_date = _extremes(asset, figures)
    return AssetDetail(
        **_common(asset, price),
        availability_status="available" if asset.is_active else "unavailable",
        price_change_24h=price.price - day_ago if price and day_ago else None,
        price_change_percentage_7d=_change(figures.price_7d_ago if figures else None, price),
        price_change_percentage_30d=_change(figures.price_30d_ago if figures else None, price),
        high_24h=figures.high_24h if figures else None,
        low_24h=figures.low_24h if figures else None,
        circulating_supply=asset.circulating_supply,
        total_supply=asset.total_supply,
        max_supply=asset.max_supply,
        ath=ath,
        ath_change_percentage=_change(ath, price),
        ath_date=ath_date,
        atl=atl,
        atl_change_percentage=_change(atl, price),
        atl_date=atl_date,
        last_updated=price.at if price else None,
    )


def _extremes(asset: Asset, figures: Figures | None) -> tuple[Decimal | None, str | None, Decimal | None, str | None]:
    """The highest price ever and its day, and the lowest: the asset file's, or the history's where that goes beyond it."""
    ath, ath_date, atl, atl_date = asset.ath, asset.ath_date, asset.atl, asset.atl_date
    if figures and (ath is None or figures.highest > ath):
        ath, ath_date = figures.highest, day_of(figures.highest_at)
    if figures and (atl is None or figures.lowest < atl):
        atl, atl_date = figures.lowest, day_of(figures.lowest_at)
    return ath, ath_date, atl, atl_date


def _change(since: Decimal | None, price: PriceChanged | None) -> Decimal | None:
    """In per cent, from then to now."""
    return share_down(price.price - since, Decimal(100), since, PERCENT_SCALE) if since and price else None
