"""Real history played again: which row is the price when, and what a file must be like."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from infra.asset_file import load_asset_file
from infra.price_files import PriceFileInvalid, load_price_file, load_price_files
from infra.settings import Settings
from processors.main import price_source
from processors.prices import ReplayedPrices
from schemas.candles import Candle
from schemas.market import PriceChanged
from tests.fakes.clock import START

BTC, ETH = load_asset_file(None)[:2]
GOOD = ",Open,High,Low,Close,Volume\n2012-01-31,4.58,7.38,3.8,5.55,2012.25\n2012-02-01T00:00:00Z,5.55,6.5,3.8,4.99,4761.6\n"
BARS = (
    Candle(datetime(2012, 1, 31, tzinfo=UTC), Decimal("4.58"), Decimal("7.38"), Decimal("3.8"), Decimal("5.55"), Decimal("2012.25")),
    Candle(datetime(2012, 2, 1, tzinfo=UTC), Decimal("5.55"), Decimal("6.5"), Decimal("3.8"), Decimal("4.99"), Decimal("4761.6")),
)


def written(folder: Path, text: str, name: str = "BTC.csv") -> Path:
    """A price file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """Columns by name in any case and order, volumes if there are any, others passed over, a byte order mark and empty lines too; without an offset: UTC."""
    assert load_price_file(written(tmp_path, GOOD)) == BARS
    other = "\ufeffwhen,close,LOW,high,trades,open\n2012-01-31,5.55,3.8,7.38,9,4.58\n\n2012-02-01T01:00:00+01:00,4.99,3.8,6.5,9,5.55\n"
    without = tuple(replace(bar, volume=Decimal(0)) for bar in BARS)
    assert load_price_file(written(tmp_path, other)) == without
    assert load_price_files(tmp_path) == {"BTC": without}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "BTC.csv, line 1: there is no column open, high, low, close"),
        ("open,high,low,close\n1,1,1,1\n", "BTC.csv, line 1: there is no column open"),
        ("t,open,high,low\n", "BTC.csv, line 1: there is no column close"),
        (GOOD.replace("4.58", "4,58"), "BTC.csv, line 2, low, high: open and close must lie between them"),
        (GOOD.replace("4.58", "x"), "BTC.csv, line 2, open: must be a decimal number"),
        (GOOD.replace("4.58", "4.5e1"), "BTC.csv, line 2, open: must be a decimal number"),
        (GOOD.replace("6.5", "NaN"), "BTC.csv, line 3, high: must be a decimal number"),
        (GOOD.replace("3.8", "0"), "BTC.csv, line 2, low: must be above zero"),
        (GOOD.replace("2012.25", "-1"), "BTC.csv, line 2, volume: must not be below zero"),
        (GOOD.replace(",4761.6", ""), "BTC.csv, line 3, volume: must be a decimal number"),
        (GOOD.replace("3.8", "-3.8"), "BTC.csv, line 2, low: must be above zero"),
        (GOOD.replace("7.38", "4.60"), "BTC.csv, line 2, low, high: open and close must lie between them"),
        (GOOD.replace("2012-01-31", "31.1.2012"), "BTC.csv, line 2, time: must be a date or a date and time of ISO 8601"),
        (GOOD.replace("2012-01-31", "2012-02-01"), "BTC.csv, line 3, time: not after the time of the row before it"),
        (GOOD.replace("2012-01-31,4.58,7.38,3.8,5.55,2012.25", "2012-01-31,4.58"), "BTC.csv, line 2, high: must be a decimal number"),
        (GOOD[: GOOD.index("2012-02")], "BTC.csv: at least two rows are needed"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    """By file, line, column and rule."""
    with pytest.raises(PriceFileInvalid) as refused:
        load_price_file(written(tmp_path, text))
    assert str(refused.value).startswith(told)


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    """Rather than a market that stands still for want of a file."""
    with pytest.raises(PriceFileInvalid, match="there is no"):
        load_price_files(tmp_path)


def test_a_row_is_four_prices() -> None:
    """Open, the nearer extreme, the other one, close; the first before the start, the last after the end, whatever the speed."""
    rows = [
        (-1, "4.58"),
        (0, "4.58"),
        (5.9, "4.58"),
        (6, "3.80"),
        (12, "7.38"),
        (18, "5.55"),
        (24, "5.55"),
        (30, "6.50"),
        (36, "3.80"),
        (42, "4.99"),
        (1000, "4.99"),
    ]
    for speed in (1, 3_600):
        source = ReplayedPrices({"BTC": BARS}, START, speed)
        assert [(hours, str(source.tick(BTC, None, START + timedelta(hours=hours) / speed).price)) for hours, _ in rows] == rows


@pytest.mark.parametrize("step", [timedelta(minutes=7), timedelta(hours=5), timedelta(hours=31)])
def test_a_bars_volume_is_told_exactly_once(step: timedelta) -> None:
    """However its prices fall between rounds: what all prices told is what the file has."""
    source, latest, told = ReplayedPrices({"BTC": BARS}, START, 1), None, []
    at = START - timedelta(hours=1)
    while at < START + timedelta(days=3):
        tick = source.tick(BTC, latest, at)
        latest = PriceChanged("BTC", tick.price, 1, at, tick.volume)
        told.append(tick.volume)
        at += step
    assert sum(told) == Decimal("2012.25") + Decimal("4761.6")
    assert min(told) == 0


def test_an_asset_without_a_file_stays_where_it_is() -> None:
    """At its last price, or the starting one."""
    source = ReplayedPrices({"BTC": BARS}, START, 1)
    assert source.tick(ETH, None, START) == (ETH.price_usd, 0)
    assert source.tick(ETH, PriceChanged("ETH", Decimal("9.99"), 4, START), START) == (Decimal("9.99"), 0)


def test_no_price_is_rounded_to_nothing() -> None:
    """A price below the smallest unit of the asset's prices is that unit."""
    tiny = Candle(START, *[Decimal("0.0000001")] * 4)
    later = Candle(START + timedelta(days=1), *[Decimal("0.0000001")] * 4)
    assert ReplayedPrices({"BTC": (tiny, later)}, START, 1).tick(BTC, None, START).price == Decimal("0.01")


def test_settings_choose_the_source(tmp_path: Path) -> None:
    """Each source by its name, with its settings."""
    written(tmp_path, GOOD)
    made = {"market_replay_dir": tmp_path, "market_replay_starts": START, "market_replay_speed": 3_600}
    at = START + timedelta(seconds=12)
    latest = PriceChanged("BTC", BTC.price_usd, 1, START)
    prices = {
        name: price_source(Settings(_env_file=None, market_source=name, market_interval_s=300, **made)).tick(BTC, latest, at).price
        for name in ("fixed", "simulated", "replayed")
    }
    assert prices["fixed"] == BTC.price_usd
    assert prices["replayed"] == Decimal("7.38")
    assert prices["simulated"] not in {prices["fixed"], prices["replayed"]}
