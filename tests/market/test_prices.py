"""The made-up market over ten thousand steps: within its bounds, never twice the same for two seeds, always the same for one."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby, pairwise
from statistics import correlation, fmean

import pytest

from infra.asset_file import load_asset_file
from processors.prices import BOUND_MAX, STABLE_BOUND, SimulatedPrices, regime
from schemas.market import Asset, PriceChanged
from tests.fakes.clock import START

STEPS = 10_000
STEP_S = 300
ASSETS = {asset.asset_id: asset for asset in load_asset_file(None)}


def walked(asset: Asset, *, seed: int = 7, steps: int = STEPS, step_s: int = STEP_S, latest: PriceChanged | None = None) -> list[PriceChanged]:
    """Prices of an asset, one for each step."""
    source, prices = SimulatedPrices(seed, step_s), [latest] if latest else []
    for _ in range(steps):
        before = prices[-1] if prices else None
        at = before.at + timedelta(seconds=step_s) if before else START
        tick = source.tick(asset, before, at)
        prices.append(PriceChanged(asset.asset_id, tick.price, before.sequence + 1 if before else 1, at, tick.volume))
    return prices


def moves(prices: Sequence[PriceChanged]) -> list[float]:
    """Each price over the one before, less one."""
    return [float(after.price / before.price - 1) for before, after in pairwise(prices)]


@pytest.fixture(scope="module")
def bitcoin() -> list[PriceChanged]:
    """Bitcoin for five weeks."""
    return walked(ASSETS["BTC"])


@pytest.mark.parametrize("asset_id", ["BTC", "ETH", "USDT", "SHIB"])
@pytest.mark.parametrize("step_s", [10, STEP_S])
def test_no_step_is_larger_than_its_bound(asset_id: str, step_s: int) -> None:
    """Nor larger than 8 %, and none leads to zero; each price has its asset's decimals."""
    asset = ASSETS[asset_id]
    prices = walked(asset, step_s=step_s, steps=STEPS // 4)
    bound = SimulatedPrices(7, step_s).bound(asset)
    assert bound <= BOUND_MAX
    for before, after in pairwise(prices):
        assert after.price > 0
        assert abs(after.price - before.price) <= bound * before.price
        assert after.price.as_tuple().exponent == -asset.price_scale
    assert len({price.price for price in prices}) > 1


def test_the_most_volatile_asset_moves_the_most() -> None:
    """The bound goes with the volatility, from 2 % to 8 %."""
    source = SimulatedPrices(7, STEP_S)
    bounds = [source.bound(replace(ASSETS["BTC"], volatility=Decimal(volatility))) for volatility in ("0", "0.75", "1.5", "9")]
    assert bounds == [Decimal("0.02"), Decimal("0.05"), Decimal("0.08"), Decimal("0.08")]


def test_one_seed_is_one_market(bitcoin: list[PriceChanged]) -> None:
    """The same seed gives the same prices, also from the middle on, as after a restart; another seed gives others."""
    assert walked(ASSETS["BTC"], steps=500) == bitcoin[:500]
    assert walked(ASSETS["BTC"], steps=500, latest=bitcoin[4_000]) == bitcoin[4_000:4_501]
    assert walked(ASSETS["BTC"], steps=500, seed=8) != bitcoin[:500]


def test_regimes_last_and_can_be_seen(bitcoin: list[PriceChanged]) -> None:
    """Bull markets rise and bear markets fall, on average; there are all three, for two hours or more on average and a day at most."""
    by_regime: dict[str, list[float]] = {}
    for price, move in zip(bitcoin[1:], moves(bitcoin), strict=True):
        by_regime.setdefault(regime(7, price.at), []).append(move)
    assert by_regime.keys() == {"bull", "bear", "flat"}
    assert fmean(by_regime["bull"]) > fmean(by_regime["flat"]) > fmean(by_regime["bear"])
    assert fmean(by_regime["bull"]) > 0 > fmean(by_regime["bear"])
    spells = [len(list(group)) * STEP_S for _, group in groupby(regime(7, price.at) for price in bitcoin)]
    assert 2 * 3_600 <= fmean(spells) <= 24 * 3_600


def test_assets_move_together(bitcoin: list[PriceChanged]) -> None:
    """Steps of two assets are correlated, and far from the same."""
    assert 0.25 < correlation(moves(bitcoin), moves(walked(ASSETS["ETH"]))) < 0.6


def test_no_price_runs_off(bitcoin: list[PriceChanged]) -> None:
    """After five weeks it is still within a factor of twenty of where it began."""
    prices = [price.price / ASSETS["BTC"].price_usd for price in bitcoin]
    assert Decimal("0.05") < min(prices) < 1 < max(prices) < 20


def test_a_stablecoin_stays_near_its_price() -> None:
    """Within half a per cent, whatever the market does."""
    prices = walked(ASSETS["USDT"])
    assert all(abs(price.price - 1) <= STABLE_BOUND for price in prices)


def test_the_time_of_day_is_no_matter_of_zones() -> None:
    """Prices go by moments, not by clocks on walls."""
    at = datetime.fromisoformat("2026-11-25T12:00:00+00:00")
    assert regime(7, at) == regime(7, datetime.fromisoformat("2026-11-25T14:00:00+02:00"))


def test_more_is_traded_where_prices_move(bitcoin: list[PriceChanged]) -> None:
    """A few per cent of the supply a day, never nothing, with the decimals of quantities, and the more the further the price moves; the first has none."""
    asset, volumes = ASSETS["BTC"], [price.volume for price in bitcoin[1:]]
    assert bitcoin[0].volume == 0 < min(volumes)
    a_day = sum(volumes) / len(volumes) * (86_400 // STEP_S) / asset.circulating_supply
    assert Decimal("0.01") < a_day < Decimal("0.06")
    assert {volume.as_tuple().exponent for volume in volumes} == {-asset.quantity_scale}
    assert correlation([float(volume) for volume in volumes], [abs(move) for move in moves(bitcoin)]) > 0.5
    unknown = replace(asset, circulating_supply=None)
    assert {price.volume for price in walked(unknown, steps=10)} == {0}
