"""Assets and their prices."""

from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from schemas.instants import Instant
from schemas.money import ZERO, Amount, Figure

PRICE_CHANGED: Final = "cnop.market.PriceChanged.v1"
ASSET_LISTED: Final = "cnop.market.AssetListed.v1"
ASSET_CHANGED: Final = "cnop.market.AssetChanged.v1"
"""CloudEvents types. The value of both asset types is the whole asset: the newest record of a compacted key is all that is left of it."""


@dataclass(frozen=True, slots=True)
class AssetFacts:
    """What a decision needs to know of an asset; stamped into each order by the door that accepted it."""

    quantity_scale: int
    minimum_quantity: Amount
    is_active: bool
    fee_bps: int


@dataclass(frozen=True, slots=True)
class Quote:
    """A price as a door saw it. `sequence` counts the prices of the asset; after `valid_until` it no longer fills a market order."""

    price: Amount
    sequence: int
    quoted_at: Instant
    valid_until: Instant


@dataclass(frozen=True, slots=True)
class Figures:
    """What a price is shown beside, out of the history of the asset's prices. All but `volume_24h` are prices of one whole unit in the home currency.

    The last 24 hours are the 24 full hours before the running one, and that one; the price of 24 hours, 7 and 30 days ago is that at the beginning of an
    hour, too. It is null where the history does not reach that far back; `high_24h`, `low_24h` and `volume_24h` (in the home currency) are of as much of
    the time as there is. `highest` and `lowest` are of all prices ever.
    """

    high_24h: Figure
    low_24h: Figure
    volume_24h: Figure
    highest: Figure
    highest_at: Instant
    lowest: Figure
    lowest_at: Instant
    price_24h_ago: Figure | None = None
    price_7d_ago: Figure | None = None
    price_30d_ago: Figure | None = None


@dataclass(frozen=True, slots=True)
class PriceChanged:
    """The value of a record on the prices topic: price of one whole unit in the home currency.

    `volume` is what was traded in the market since the price before it, in units of the asset. A field that is added has a default: records and items
    without it are read for ever.
    """

    asset_id: str
    price: Amount
    sequence: int
    at: Instant
    volume: Figure = ZERO
    figures: Figures | None = None


VOLATILITY: Final = Decimal("0.8")
"""The volatility of an asset whose own is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One listed asset as stored and published: the value of a record on the assets topic.

    Figures of supply are in whole units, `ath`/`atl` in the home currency. `price_usd` is the starting price.

    Items and records of earlier releases are read for ever: a field that is added has a default, which is what they are read with until the market
    process brings them up to date at its next start (`processors.market.list_assets`).
    """

    asset_id: str
    name: str
    description: str
    category: str
    symbol: str
    image: str | None = None
    market_cap_rank: int
    circulating_supply: Amount | None = None
    total_supply: Amount | None = None
    max_supply: Amount | None = None
    price_usd: Amount
    ath: Amount | None = None
    ath_date: str | None = None
    atl: Amount | None = None
    atl_date: str | None = None
    quantity_scale: int
    price_scale: int
    minimum_quantity: Amount
    volatility: Amount = VOLATILITY
    is_active: bool


class UnreadableMarketEvent(ValueError):
    """A record's value is not an asset or a price; the text names the field and the rule."""


def encode_asset(asset: Asset) -> bytes:
    """The JSON value of a record on the assets topic."""
    return asset_adapter().dump_json(asset)


def decode_asset(value: bytes | None) -> Asset:
    """Read the value of a record on the assets topic. UnreadableMarketEvent names the field and the rule."""
    return _decode(asset_adapter(), value)


def encode_price(price: PriceChanged) -> bytes:
    """The JSON value of a record on the prices topic."""
    return price_adapter().dump_json(price)


def decode_price(value: bytes | None) -> PriceChanged:
    """Read the value of a record on the prices topic. UnreadableMarketEvent names the field and the rule."""
    return _decode(price_adapter(), value)


@cache
def asset_adapter() -> TypeAdapter[Asset]:
    """Reader and writer of assets."""
    return TypeAdapter(Asset)


@cache
def price_adapter() -> TypeAdapter[PriceChanged]:
    """Reader and writer of prices."""
    return TypeAdapter(PriceChanged)


T = TypeVar("T")


def _decode(adapter: TypeAdapter[T], value: bytes | None) -> T:
    if value is None:
        raise UnreadableMarketEvent("no value")
    try:
        return adapter.validate_json(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableMarketEvent(f"/{'/'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
