"""The asset data file keeps the rules written in infra/data/README.md."""

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

DATA_FILE = Path(__file__).resolve().parents[2] / "infra" / "data" / "assets.json"

ASSET_COUNT = 250
INACTIVE_COUNT = 3
FIELDS = [
    "asset_id",
    "symbol",
    "name",
    "category",
    "description",
    "image",
    "market_cap_rank",
    "circulating_supply",
    "total_supply",
    "max_supply",
    "price_usd",
    "ath",
    "ath_date",
    "atl",
    "atl_date",
    "quantity_scale",
    "price_scale",
    "minimum_quantity",
    "volatility",
    "is_active",
]
CATEGORIES = {
    "ai",
    "defi",
    "exchange-token",
    "gaming",
    "infrastructure",
    "interoperability",
    "layer-1",
    "layer-2",
    "liquid-staking",
    "meme",
    "nft",
    "oracle",
    "payments",
    "privacy",
    "real-world-assets",
    "social",
    "stablecoin",
    "storage",
    "wrapped",
}
TICKER = re.compile(r"[A-Z0-9]{1,10}")
PLAIN_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")
ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
BITCOIN_GENESIS = date(2009, 1, 3)
TICK_VALUE = Decimal("0.01")
TINY_PRICE = Decimal("0.001")

Asset = dict[str, Any]


def _refuse_float(text: str) -> None:
    raise AssertionError(f"{text} must be a decimal string")


def _no_repeated_keys(pairs: list[tuple[str, Any]]) -> Asset:
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"repeated key in {pairs[0]}"
    return dict(pairs)


@pytest.fixture(scope="module")
def text() -> str:
    return DATA_FILE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def assets(text: str) -> list[Asset]:
    return json.loads(text, parse_float=_refuse_float, parse_constant=_refuse_float, object_pairs_hook=_no_repeated_keys)


def _breaking(assets: list[Asset], rule: Callable[[Asset], bool]) -> list[str]:
    """The assets that break a rule, so that a failure names them."""
    return [asset["asset_id"] for asset in assets if not rule(asset)]


def _is_positive_decimal(value: object) -> bool:
    return isinstance(value, str) and PLAIN_DECIMAL.fullmatch(value) is not None and Decimal(value) > 0


def _decimals(value: str) -> int:
    return len(value.partition(".")[2])


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _market_cap(asset: Asset) -> Decimal:
    return Decimal(asset["price_usd"]) * Decimal(asset["circulating_supply"])


def _expected_quantity_scale(asset: Asset) -> int:
    if asset["category"] == "stablecoin":
        return 6
    if asset["category"] == "meme" and Decimal(asset["price_usd"]) < TINY_PRICE:
        return 2
    return 8


def test_file_has_one_asset_per_line(text, assets):
    assert text == "[\n" + ",\n".join(json.dumps(asset, ensure_ascii=False) for asset in assets) + "\n]\n"


def test_every_asset_has_all_fields_in_one_order(assets):
    assert _breaking(assets, lambda asset: list(asset) == FIELDS) == []


def test_ranks_run_without_gap(assets):
    assert [asset["market_cap_rank"] for asset in assets] == list(range(1, ASSET_COUNT + 1))
    assert _breaking(assets, lambda asset: _is_int(asset["market_cap_rank"])) == []


@pytest.mark.parametrize("field", ["asset_id", "name", "description"])
def test_no_asset_is_listed_twice(assets, field):
    values = [asset[field].casefold() for asset in assets]
    assert sorted(value for value in set(values) if values.count(value) > 1) == []


def test_tickers(assets):
    assert _breaking(assets, lambda asset: TICKER.fullmatch(asset["asset_id"]) is not None) == []
    assert _breaking(assets, lambda asset: asset["symbol"] == asset["asset_id"].lower()) == []


def test_texts(assets):
    assert _breaking(assets, lambda asset: bool(asset["name"]) and asset["name"] == asset["name"].strip()) == []
    assert _breaking(assets, lambda asset: re.fullmatch(r"\S.{18,138}\S\.", asset["description"]) is not None) == []


def test_categories(assets):
    assert _breaking(assets, lambda asset: asset["category"] in CATEGORIES) == []
    assert {asset["category"] for asset in assets} == CATEGORIES


def test_no_artwork_is_shipped(assets):
    assert _breaking(assets, lambda asset: asset["image"] is None) == []


@pytest.mark.parametrize("field", ["price_usd", "minimum_quantity", "volatility"])
def test_required_amounts_are_positive_decimals(assets, field):
    assert _breaking(assets, lambda asset: _is_positive_decimal(asset[field])) == []


@pytest.mark.parametrize("field", ["circulating_supply", "total_supply", "max_supply", "ath", "atl"])
def test_optional_amounts_are_positive_decimals_or_null(assets, field):
    assert _breaking(assets, lambda asset: asset[field] is None or _is_positive_decimal(asset[field])) == []


def test_supplies_are_ordered(assets):
    def ordered(asset: Asset) -> bool:
        given = [Decimal(asset[field]) for field in ("circulating_supply", "total_supply", "max_supply") if asset[field] is not None]
        return given == sorted(given)

    assert _breaking(assets, ordered) == []


def test_market_caps_fall_with_the_rank(assets):
    known = [asset for asset in assets if asset["circulating_supply"] is not None]
    assert len(known) > ASSET_COUNT * 0.9
    out_of_order = [(upper["asset_id"], lower["asset_id"]) for upper, lower in pairwise(known) if _market_cap(upper) < _market_cap(lower)]
    assert out_of_order == []


def test_anchor_prices(assets):
    price = {asset["asset_id"]: asset["price_usd"] for asset in assets}
    assert price["BTC"] == "50000.00"
    assert Decimal(2500) <= Decimal(price["ETH"]) <= Decimal(3500)
    stablecoins = [asset for asset in assets if asset["category"] == "stablecoin"]
    assert _breaking(stablecoins, lambda asset: asset["price_usd"] == "1.00") == []


@pytest.mark.parametrize("extreme", ["ath", "atl"])
def test_an_extreme_has_a_date_or_neither_is_known(assets, extreme):
    def dated(asset: Asset) -> bool:
        value, day = asset[extreme], asset[f"{extreme}_date"]
        if value is None or day is None:
            return value is day
        return ISO_DATE.fullmatch(day) is not None and BITCOIN_GENESIS <= date.fromisoformat(day) <= datetime.now(tz=UTC).date()

    assert _breaking(assets, dated) == []


def test_prices_lie_between_the_extremes(assets):
    def between(asset: Asset) -> bool:
        price = Decimal(asset["price_usd"])
        return (asset["ath"] is None or Decimal(asset["ath"]) >= price) and (asset["atl"] is None or price >= Decimal(asset["atl"]))

    assert _breaking(assets, between) == []


def test_quantity_scales(assets):
    assert _breaking(assets, lambda asset: _is_int(asset["quantity_scale"]) and asset["quantity_scale"] == _expected_quantity_scale(asset)) == []


def test_price_scales_keep_five_significant_digits(assets):
    def fits(asset: Asset) -> bool:
        scale = asset["price_scale"]
        first_digit = Decimal(asset["price_usd"]).adjusted()
        return _is_int(scale) and scale == max(2, 4 - first_digit) <= 12

    assert _breaking(assets, fits) == []


def test_prices_fit_their_scale(assets):
    assert _breaking(assets, lambda asset: 2 <= _decimals(asset["price_usd"]) <= asset["price_scale"]) == []


def test_minimum_quantity_is_the_smallest_power_of_ten_worth_a_cent(assets):
    def smallest(asset: Asset) -> bool:
        minimum, price = Decimal(asset["minimum_quantity"]), Decimal(asset["price_usd"])
        step = Decimal(1).scaleb(-asset["quantity_scale"])
        is_power_of_ten = minimum == Decimal(1).scaleb(minimum.adjusted())
        smaller_is_too_little = minimum == step or minimum / 10 * price < TICK_VALUE
        return is_power_of_ten and minimum >= step and minimum * price >= TICK_VALUE and smaller_is_too_little

    assert _breaking(assets, smallest) == []
    assert _breaking(assets, lambda asset: _decimals(asset["minimum_quantity"]) <= asset["quantity_scale"]) == []


def test_volatilities_are_plausible(assets):
    volatility = {asset["asset_id"]: Decimal(asset["volatility"]) for asset in assets}
    assert volatility["BTC"] == Decimal("0.55")
    assert [asset_id for asset_id, value in volatility.items() if not Decimal("0.005") <= value <= 2] == []
    assert _breaking(assets, lambda asset: (Decimal(asset["volatility"]) <= Decimal("0.05")) or asset["category"] != "stablecoin") == []


def test_few_assets_are_inactive(assets):
    assert _breaking(assets, lambda asset: isinstance(asset["is_active"], bool)) == []
    assert len([asset for asset in assets if not asset["is_active"]]) == INACTIVE_COUNT
