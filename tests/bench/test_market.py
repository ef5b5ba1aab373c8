"""What the statistics of the made-up market are computed with: a step that breaks a rule is counted."""

from dataclasses import replace
from decimal import Decimal

from bench.market import moves, told, walked
from infra.asset_file import load_asset_file
from processors.prices import SimulatedPrices

ASSETS = {asset.asset_id: asset for asset in load_asset_file(None)}
SOURCE = SimulatedPrices(1, 300)


def test_steps_out_of_bounds_are_counted() -> None:
    """None in the market as it is; one that is forged is seen, of a stablecoin by its band."""
    for asset_id, forged in (("BTC", Decimal("1.09")), ("USDT", Decimal("1.02"))):
        asset = ASSETS[asset_id]
        walk = walked(SOURCE, asset, 200, 300)
        regimes = ["bull"] * 100 + ["bear"] * 100
        figures = told(SOURCE, asset, walk, regimes)
        assert figures["out_of_bound"] == 0
        assert figures["drift"].keys() == {"bull", "flat", "bear"}
        assert figures["largest"] == max(abs(move) for move in moves(walk))
        walk[-1] = replace(walk[-1], price=walk[-2].price * forged)
        assert told(SOURCE, asset, walk, regimes)["out_of_bound"] == 1
