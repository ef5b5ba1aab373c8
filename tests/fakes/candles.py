"""Candles in memory: what `infra.candles.CandleStore` is on a table. Both pass `tests/market/test_candles.py`."""

from collections.abc import Iterable
from datetime import datetime

from infra.candles import CANDLES_MAX
from schemas.candles import LENGTHS, Candle, Close, Interval, Priced, begun, end_of, followed
from schemas.market import PriceChanged


class MemoryCandles:
    """Made of the prices that it is given, which come in the order of their sequence."""

    def __init__(self, prices: Iterable[PriceChanged] = ()) -> None:
        self._latest: dict[str, Priced] = {}
        self._ended: dict[tuple[str, Interval], list[Candle]] = {}
        for price in prices:
            self.put(price)

    def put(self, price: PriceChanged) -> None:
        """An asset's next price."""
        before = self._latest.get(price.asset_id)
        priced = self._latest[price.asset_id] = followed(before, price) if before else begun(price)
        for ended in priced.ended:
            self._ended.setdefault((price.asset_id, ended.interval), []).append(ended.candle)

    async def candles(self, asset_id: str, interval: Interval, start: datetime, end: datetime, *, limit: int) -> list[Candle]:
        """See `CandleReads`."""
        _bound(limit)
        return [candle for candle in self._all(asset_id, interval) if start <= candle.at < end][:limit]

    async def closes(self, asset_id: str, interval: Interval, start: datetime, end: datetime) -> list[Close]:
        """See `CandleReads`."""
        _bound((end - start) // LENGTHS[interval])
        closes = [Close(end_of(interval, candle), candle.close) for candle in self._all(asset_id, interval) if end_of(interval, candle) <= end]
        return [close for close in closes if close.at <= start][-1:] + [close for close in closes if close.at > start]

    async def recent(self, asset_id: str, interval: Interval, until: datetime, *, count: int) -> list[Candle]:
        """See `CandleStore`."""
        return [candle for candle in reversed(self._ended.get((asset_id, interval), [])) if candle.at <= until][:count]

    def _all(self, asset_id: str, interval: Interval) -> list[Candle]:
        latest = self._latest.get(asset_id)
        return [*self._ended.get((asset_id, interval), []), *([latest.running.of(interval)] if latest else [])]


def _bound(count: int) -> None:
    if count > CANDLES_MAX:
        raise ValueError(f"{count} candles are asked for in one call")
