"""Files of a real price history, one for each asset: `BTC.csv` has rows of time, open, high, low and close, the oldest first.

The first row names the columns, in any case; the time's is the first one, whatever its name. A column `volume`, in units of the asset, may be there;
others are passed over. A time is a date or a date and time of ISO 8601, in UTC where it has no offset; prices and volumes are decimals without an
exponent, prices in the home currency.
"""

import csv
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from schemas.candles import Candle
from schemas.money import ZERO, read_decimal

ROWS_MAX: Final = 1_000_000
COLUMNS: Final = ("open", "high", "low", "close")
VOLUME: Final = "volume"
SUFFIX: Final = ".csv"


class PriceFileInvalid(ValueError):
    """A price file cannot be used; the text names the file, the line, the column and the rule."""


def load_price_files(folder: Path) -> dict[str, tuple[Candle, ...]]:
    """The bars of each file of a folder by asset id, which is the file's name. PriceFileInvalid; a folder without files is refused too."""
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise PriceFileInvalid(f"{folder}: there is no {SUFFIX} file in this folder")
    return {path.stem.upper(): load_price_file(path) for path in paths}


def load_price_file(path: Path) -> tuple[Candle, ...]:
    """The bars of one file, two at least. PriceFileInvalid where it breaks a rule."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            bars = tuple(_bars(path.name, csv.reader(file)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PriceFileInvalid(f"{path.name}: {error}") from None
    if len(bars) < 2:  # noqa: PLR2004 - the length of a bar is the time to the next one
        raise PriceFileInvalid(f"{path.name}: at least two rows are needed")
    return bars


def _bars(name: str, rows: Iterator[list[str]]) -> Iterator[Candle]:
    head = [column.strip().lower() for column in next(rows, [])]
    missing = [column for column in COLUMNS if column not in head[1:]]
    if missing:
        raise PriceFileInvalid(f"{name}, line 1: there is no column {', '.join(missing)}")
    places: dict[str, int] = {column: head.index(column, 1) for column in (*COLUMNS, VOLUME) if column in head[1:]}
    before: datetime | None = None
    for line, row in enumerate(rows, 2):
        if line > ROWS_MAX + 1:
            raise PriceFileInvalid(f"{name}: more than {ROWS_MAX} rows")
        if not row:
            continue
        try:
            bar = _bar(row, places)
        except ValueError as error:
            raise PriceFileInvalid(f"{name}, line {line}, {error}") from None
        if before is not None and bar.at <= before:
            raise PriceFileInvalid(f"{name}, line {line}, time: not after the time of the row before it")
        before = bar.at
        yield bar


def _bar(row: list[str], places: Mapping[str, int]) -> Candle:
    figures = {column: _figure(column, row[place] if place < len(row) else "") for column, place in places.items()}
    bar = Candle(_time(row[0]), **figures)
    if not bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high:
        raise ValueError("low, high: open and close must lie between them")
    return bar


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text.strip())
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("time: must be a date or a date and time of ISO 8601") from None


def _figure(column: str, text: str) -> Decimal:
    try:
        figure = read_decimal(text.strip())
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from None
    if figure < ZERO if column == VOLUME else figure <= ZERO:
        raise ValueError(f"{column}: must {'not be below' if column == VOLUME else 'be above'} zero")
    return figure
