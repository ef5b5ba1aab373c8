"""A market that swings: files of prices that go up and down around where orders wait, so that many of them fill after a while."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Final

from schemas.instants import rfc3339

PRICES: Final = {"BTC": Decimal(50_000), "ETH": Decimal(2_500)}
ROWS: Final = 3_600
ROW_S: Final = 4
"""Seconds of a row, which is shown as four prices."""
SWING: Final = 40
"""How far a price goes from its middle, in parts of ten thousand."""


def swinging(folder: Path, chance: Random) -> dict[str, str]:
    """Write the files, and give the settings that replay them from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    for asset, middle in PRICES.items():
        lines = ["time,open,high,low,close"]
        for row in range(ROWS):
            around = [(middle * (10_000 + chance.randrange(-SWING, SWING + 1)) / 10_000).quantize(Decimal("0.01")) for _ in range(4)]
            prices = (around[0], max(around), min(around), around[3])
            lines.append(",".join([rfc3339(now + timedelta(seconds=ROW_S * row)), *map(str, prices)]))
        (folder / f"{asset}.csv").write_text("\n".join(lines), encoding="utf-8")
    return {"CNOP_MARKET_SOURCE": "replayed", "CNOP_MARKET_REPLAY_DIR": str(folder), "CNOP_MARKET_REPLAY_STARTS": rfc3339(now), "CNOP_MARKET_INTERVAL_S": "1"}
