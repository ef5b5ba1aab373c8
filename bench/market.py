"""`make market`: ten thousand steps of the made-up market, in figures and as a picture. Nothing runs for it: prices are computed, not published.

The figures come to the terminal and, with a picture of them, into `bench/out/`. The drawing library is no part of the product: it has an environment of
its own in the user's cache, made from `bench/plot.lock` when it is first used.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby, pairwise
from pathlib import Path
from statistics import correlation, fmean, pstdev
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from infra.asset_file import load_asset_file
from infra.local import cache
from infra.local.home import LocalError
from processors.prices import STABLE, STABLE_BOUND, SimulatedPrices, regime
from schemas.instants import parse_rfc3339
from schemas.market import Asset, PriceChanged

STARTS: Final = parse_rfc3339("2026-01-01T00:00:00Z")
SHOWN: Final = ("BTC", "ETH", "SOL", "SHIB", "USDT")
OUT: Final = Path(__file__).with_name("out")
PLOT_LOCK: Final = Path(__file__).with_name("plot.lock")
PLOT: Final = Path(__file__).with_name("market_plot.py")
REGIMES: Final = ("bull", "flat", "bear")

WIDTH: Final = 130

out = Console(highlight=False, soft_wrap=True, width=WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def main(
    steps: Annotated[int, typer.Option(min=100, help="Steps of each asset.")] = 10_000,
    step_s: Annotated[int, typer.Option(min=1, help="Length of a step.")] = 300,
    seed: Annotated[int, typer.Option(help="Which market.")] = 1,
) -> None:
    """Walk the market, print its figures and draw it."""
    source, assets = SimulatedPrices(seed, step_s), {asset.asset_id: asset for asset in load_asset_file(None)}
    walks = {asset_id: walked(source, assets[asset_id], steps, step_s) for asset_id in SHOWN}
    regimes = [regime(seed, STARTS + timedelta(seconds=step_s * number)) for number in range(1, steps + 1)]
    figures = [told(source, assets[asset_id], walks[asset_id], regimes) for asset_id in SHOWN]
    together = {asset_id: correlation(moves(walks["BTC"]), moves(walk)) for asset_id, walk in walks.items()}
    spells = [(name, len(list(group)) * step_s / 3_600) for name, group in groupby(regimes)]
    show(figures, together, spells)
    OUT.mkdir(exist_ok=True)
    drawn = {"step_s": step_s, "seed": seed, "regimes": regimes, "figures": figures, "together": together, "spells": spells}
    drawn["prices"] = {asset_id: [float(price.price) for price in walk] for asset_id, walk in walks.items()}
    drawn["volumes"] = [float(price.volume) for price in walks["BTC"][1:]]
    (OUT / "market.json").write_text(json.dumps(drawn), encoding="utf-8")
    try:
        picture = draw(OUT / "market.json", OUT / "market.png")
    except LocalError as error:
        err.print(f"There is no picture: {error}")
        raise typer.Exit(1) from None
    out.print(f"\n{picture}")
    if any(row["out_of_bound"] for row in figures):
        err.print("A step is out of its bound.")
        raise typer.Exit(1)


def walked(source: SimulatedPrices, asset: Asset, steps: int, step_s: int) -> list[PriceChanged]:
    """The starting price, and a price after each step."""
    prices: list[PriceChanged] = []
    for number in range(steps + 1):
        before, at = prices[-1] if prices else None, STARTS + timedelta(seconds=step_s * number)
        tick = source.tick(asset, before, at)
        prices.append(PriceChanged(asset.asset_id, tick.price, number + 1, at, tick.volume))
    return prices


def moves(walk: Sequence[PriceChanged]) -> list[float]:
    """Each price over the one before, less one."""
    return [float(after.price / before.price - 1) for before, after in pairwise(walk)]


def told(source: SimulatedPrices, asset: Asset, walk: Sequence[PriceChanged], regimes: Sequence[str]) -> dict[str, Any]:
    """The figures of one asset; parts of a price are fractions."""
    changes, prices = moves(walk), [price.price for price in walk]
    bound = STABLE_BOUND if asset.category == STABLE else source.bound(asset)
    if asset.category == STABLE:
        beyond = sum(abs(price - asset.price_usd) > bound * asset.price_usd for price in prices)
    else:
        beyond = sum(abs(after - before) > bound * before or after <= 0 for before, after in pairwise(prices))
    supply = float(asset.circulating_supply or 1)
    days = (walk[-1].at - walk[0].at) / timedelta(days=1)
    return {
        "asset_id": asset.asset_id,
        "stable": asset.category == STABLE,
        "start": float(asset.price_usd),
        "bound": float(bound),
        "out_of_bound": beyond,
        "largest": max(map(abs, changes)),
        "deviation": pstdev(changes),
        "drift": {name: fmean([change for change, now in zip(changes, regimes, strict=True) if now == name] or [0.0]) for name in REGIMES},
        "lowest": float(min(prices) / asset.price_usd),
        "highest": float(max(prices) / asset.price_usd),
        "turnover_a_day": sum(float(price.volume) for price in walk) / supply / days,
    }


def show(figures: Sequence[dict[str, Any]], together: dict[str, float], spells: Sequence[tuple[str, float]]) -> None:
    """The figures as tables."""
    table = Table("asset", "bound", "out of it", "largest", "deviation", *(f"drift {name}" for name in REGIMES), "lowest", "highest", "with BTC", "a day")
    for row in figures:
        drifts = (f"{row['drift'][name] * 10_000:+.2f} bp" for name in REGIMES)
        parts = (f"{row['bound']:.2%}", str(row["out_of_bound"]), f"{row['largest']:.2%}", f"{row['deviation']:.3%}", *drifts)
        table.add_row(
            row["asset_id"], *parts, f"{row['lowest']:.3f}", f"{row['highest']:.3f}", f"{together[row['asset_id']]:.2f}", f"{row['turnover_a_day']:.2%}"
        )
    out.print(table)
    hours = {name: [length for now, length in spells if now == name] for name in REGIMES}
    spans = Table("regime", "spells", "hours on average", "longest")
    for name, lengths in hours.items():
        spans.add_row(name, str(len(lengths)), f"{fmean(lengths or [0.0]):.1f}", f"{max(lengths, default=0.0):.0f}")
    out.print(spans)


def draw(data: Path, picture: Path) -> Path:
    """Make the picture with the library's own Python. LocalError where that cannot be installed or fails."""
    python = _ensure_plot()
    cache.run_logged([str(python), str(PLOT), str(data), str(picture)], cache.root() / "logs" / "plot.log", lambda _: None, "the picture could not be drawn")
    return picture


def _ensure_plot() -> Path:
    """One environment for each content of the lock."""
    version = hashlib.sha256(PLOT_LOCK.read_bytes()).hexdigest()[:16]
    target = cache.root() / "plot" / f"{version}-py{sys.version_info.major}.{sys.version_info.minor}"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log, failure = cache.root() / "logs" / "plot-install.log", "matplotlib could not be installed"
    with cache.building(target, lambda part, what: err.print(f"{part}: {what}"), "plot") as folder:
        if folder is not None:
            err.print("plot: installing matplotlib (once)")
            venv = folder / "venv"
            cache.run_logged([sys.executable, "-m", "venv", str(venv)], log, lambda _: None, failure)
            install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "-r", str(PLOT_LOCK)]
            cache.run_logged(install, log, lambda _: None, failure)
            venv.rename(target)
    return target / "bin" / "python"


if __name__ == "__main__":
    typer.run(main)
