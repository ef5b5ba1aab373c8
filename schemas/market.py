"""Assets and their prices."""

from dataclasses import dataclass
from functools import cache
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from schemas.instants import Instant
from schemas.money import Amount

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
class Bar:
    """The prices of a stretch of time that begins at `at`."""

    at: Instant
    open: Amount
    high: Amount
    low: Amount
    close: Amount


@dataclass(frozen=True, slots=True)
class PriceChanged:
    """The value of a record on the prices topic: price of one whole unit in the home currency."""

    asset_id: str
    price: Amount
    sequence: int
    at: Instant


@dataclass(frozen=True, slots=True)
class Asset:
    """One listed asset as stored and published: the value of a record on the assets topic.

    Figures of supply are in whole units, `ath`/`atl` in the home currency. `price_usd` is the starting price.
    """

    asset_id: str
    name: str
    description: str
    category: str
    symbol: str
    image: str | None
    market_cap_rank: int
    circulating_supply: Amount | None
    total_supply: Amount | None
    max_supply: Amount | None
    price_usd: Amount
    ath: Amount | None
    ath_date: str | None
    atl: Amount | None
    atl_date: str | None
    quantity_scale: int
    price_scale: int
    minimum_quantity: Amount
    volatility: Amount
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
