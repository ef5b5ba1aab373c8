"""Draws what `bench.market` computed: `market_plot.py market.json market.png`. Run by the Python that has matplotlib; it imports nothing of ours."""

import json
import sys
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure  # type: ignore[import-not-found] # it is in an environment of its own

COLOURS: Final = {"bull": "#cdeccd", "flat": "#eeeeee", "bear": "#f6cfcf"}
DAY_S: Final = 86_400
WINDOW_DAYS: Final = 5


def main(data: Path, picture: Path) -> None:
    """Four pictures in one: all prices, five days of one, the sizes of its steps, and the stablecoin."""
    told = json.loads(data.read_text(encoding="utf-8"))
    figure = Figure(figsize=(16, 10), layout="constrained")
    axes = figure.subplots(2, 2)
    figure.suptitle(f"The made-up market, seed {told['seed']}: {len(told['regimes']):,} steps of {told['step_s']} s")
    _prices(axes[0][0], told)
    _window(axes[0][1], told)
    _steps(axes[1][0], told)
    _stable(axes[1][1], told)
    figure.savefig(picture, dpi=90)


def _days(told: dict[str, Any], count: int) -> list[float]:
    return [number * told["step_s"] / DAY_S for number in range(count)]


def _shade(axis: Any, told: dict[str, Any], last: int) -> None:
    begin = 0
    for name, group in groupby(told["regimes"][:last]):
        end = begin + len(list(group))
        axis.axvspan(begin * told["step_s"] / DAY_S, end * told["step_s"] / DAY_S, color=COLOURS[name], linewidth=0)
        begin = end


def _prices(axis: Any, told: dict[str, Any]) -> None:
    _shade(axis, told, len(told["regimes"]))
    for row in told["figures"]:
        prices = told["prices"][row["asset_id"]]
        axis.plot(_days(told, len(prices)), [price / row["start"] for price in prices], label=f"{row['asset_id']} (bound {row['bound']:.1%})", linewidth=0.9)
    axis.set(title="Price over starting price; green bull, red bear, grey flat", xlabel="days", yscale="log")
    axis.legend(loc="upper left")


def _window(axis: Any, told: dict[str, Any]) -> None:
    """A few days of BTC, in which single spells can be told apart, and what was traded."""
    last = min(len(told["regimes"]), WINDOW_DAYS * DAY_S // told["step_s"])
    _shade(axis, told, last)
    axis.plot(_days(told, last), told["prices"]["BTC"][:last], color="black", linewidth=0.9)
    axis.set(title=f"BTC, the first {WINDOW_DAYS} days, and its volume a step (blue)", xlabel="days", ylabel="USD")
    volume = axis.twinx()
    volume.bar(_days(told, last), told["volumes"][:last], width=told["step_s"] / DAY_S, color="tab:blue", alpha=0.5)
    volume.set(ylim=(0, max(told["volumes"][:last]) * 4), ylabel="BTC")


def _steps(axis: Any, told: dict[str, Any]) -> None:
    row = next(row for row in told["figures"] if row["asset_id"] == "BTC")
    changes = [after / before - 1 for before, after in pairwise(told["prices"]["BTC"])]
    for name in COLOURS:
        inside = [change for change, now in zip(changes, told["regimes"], strict=True) if now == name]
        axis.hist(inside, bins=120, histtype="step", density=True, label=f"{name}: mean {row['drift'][name] * 10_000:+.1f} bp", linewidth=1.2)
    for edge in (-row["bound"], row["bound"]):
        axis.axvline(edge, color="black", linestyle="--")
    axis.set(title=f"Steps of BTC by regime; dashed: the bound. Out of it: {row['out_of_bound']}", xlabel="change a step")
    axis.legend()


def _stable(axis: Any, told: dict[str, Any]) -> None:
    row = next(row for row in told["figures"] if row["stable"])
    prices = told["prices"][row["asset_id"]]
    axis.plot(_days(told, len(prices)), prices, linewidth=0.4)
    for edge in (row["start"] * (1 - row["bound"]), row["start"] * (1 + row["bound"])):
        axis.axhline(edge, color="black", linestyle="--")
    axis.set(title=f"{row['asset_id']} and its band. Out of it: {row['out_of_bound']}", xlabel="days", ylabel="USD")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
