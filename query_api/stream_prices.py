"""The prices that somebody watches: looked at once a second for all listeners together."""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from infra.dynamo import DynamoUnavailable
from infra.market import MarketCache
from query_api import stream_events
from query_api.stream_events import EVENTS
from query_api.stream_listener import Listener
from schemas.market import PriceChanged
from schemas.stream import stream_price

log = structlog.get_logger()

LOOK_S: Final = 1.0


class WatchedPrices:
    """Who watches what, and what they were told last."""

    def __init__(self, market: MarketCache) -> None:
        self._market = market
        self._watchers: dict[str, set[Listener]] = {}
        self._told: dict[str, tuple[PriceChanged, bytes]] = {}

    async def unknown(self, asset_ids: Iterable[str]) -> list[str]:
        """Those that are not listed. Afterwards the latest prices of the others are known. DynamoUnavailable where the market cannot be read."""
        by_id = (await self._market.snapshot()).by_id
        await self._look(asset_ids)
        return [asset_id for asset_id in asset_ids if asset_id not in by_id]

    def watch(self, listener: Listener) -> None:
        """Send the listener what changes from now on."""
        for asset_id in listener.assets:
            self._watchers.setdefault(asset_id, set()).add(listener)

    def leave(self, listener: Listener) -> None:
        """Send it no more."""
        for asset_id in listener.assets:
            if watchers := self._watchers.get(asset_id):
                watchers.discard(listener)
                if not watchers:
                    del self._watchers[asset_id]

    def latest(self, listener: Listener) -> list[bytes]:
        """The JSON of the latest price of each asset that the listener watches and that has one."""
        return [self._told[asset_id][1] for asset_id in sorted(listener.assets) if asset_id in self._told]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._watchers:
                try:
                    await self._look(())
                except DynamoUnavailable as error:
                    log.warning("no prices for listeners", error=str(error))

    async def _look(self, also: Iterable[str]) -> None:
        prices = (await self._market.snapshot()).prices
        for asset_id in (*self._watchers, *also):
            price, told = prices.get(asset_id), self._told.get(asset_id)
            if price and (told is None or price.sequence > told[0].sequence):
                self._tell(price)

    def _tell(self, price: PriceChanged) -> None:
        told = stream_events.price_json(stream_price(price))
        self._told[price.asset_id] = price, told
        if watchers := self._watchers.get(price.asset_id):
            event = stream_events.price(told)
            EVENTS.labels("price").inc(len(watchers))
            for listener in watchers:
                listener.push(event)
