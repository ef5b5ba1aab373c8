"""The market process: lists the assets, and publishes a price of each at an interval.

The table comes first, then the topic: a sequence that was published belongs to one price for ever, whatever stops the process in between.
A second market process does no harm: the table takes each sequence once, and only who put it there publishes it. A price goes into the table together
with its candles (`infra.candles`), so these are of the prices that the table took, all of them and no others. A process that starts publishes the latest
prices once more: the one before it may have ended between table and topic.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol, TypeVar
from uuid import UUID, uuid5

import stamina
import structlog
from prometheus_client import Counter, Gauge, Histogram

from events.bus import OutcomeUnknown, Unavailable
from events.envelope import Envelope
from events.topics import ASSETS, PRICES
from infra.clock import Clock, Ids
from infra.dynamo import DynamoUnavailable
from infra.market import MarketStore, at_scale
from processors.figures import Hours, Past, figures_of, past_of
from processors.prices import Tick
from schemas.candles import Priced, begun, followed
from schemas.market import ASSET_CHANGED, ASSET_LISTED, PRICE_CHANGED, Asset, PriceChanged, encode_asset, encode_price

log = structlog.get_logger()
S = TypeVar("S")
T = TypeVar("T")

SOURCE: Final = "urn:cnop:market"
EVENT_NAMESPACE: Final = UUID("b1f3c1de-2a4e-5c0b-9d1c-5f0a6c7e8d21")
"""Namespace of event ids (RFC 9562, version 5): the same price or asset has the same id at every emission."""
AT_ONCE_MAX: Final = 64
"""Calls to the store or the broker under way at one time."""
PASTS_AT_ONCE: Final = 8
"""Assets whose past is read at one time, once an hour each: the store has others to answer."""
_NO_PASTS: Final[Mapping[str, Past]] = MappingProxyType({})
ATTEMPTS_MAX: Final = 10
RETRY_S_MAX: Final = 30.0
RETRY_WAIT_S_MAX: Final = 2.0
_retried: Final = stamina.AsyncRetryingCaller(attempts=ATTEMPTS_MAX, timeout=RETRY_S_MAX, wait_max=RETRY_WAIT_S_MAX).on(
    (DynamoUnavailable, Unavailable, OutcomeUnknown)
)

UPDATE_S: Final = Histogram(
    "cnop_market_update_seconds", "Making, storing and publishing one round of prices", buckets=(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 30)
)
PUBLISHED: Final = Counter("cnop_market_published_total", "Assets and prices published", ["type"])
CANDLES: Final = Counter("cnop_market_candles_total", "Candles that ended and were stored", ["interval"])
LAST_UPDATE: Final = Gauge(
    "cnop_market_last_update_timestamp_seconds", "When the last round of prices was complete on the topic; its age is the staleness of prices"
)


class Publisher(Protocol):
    """Where events go: `events.bus.Bus`, or a test's list."""

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Returns when the event is safe in the log. Unavailable or OutcomeUnknown where it is not, or not known to be."""
        ...


class PriceSource(Protocol):
    """Makes prices."""

    def tick(self, asset: Asset, latest: PriceChanged | None, at: datetime) -> Tick:
        """The asset's next price in the home currency, above zero, with at most the decimals of its prices, and what was traded since `latest`."""
        ...


class FixedPrices:
    """Every price stays where it is, and nothing is traded; the first one is the starting price of the asset file."""

    def tick(self, asset: Asset, latest: PriceChanged | None, at: datetime) -> Tick:  # noqa: ARG002 - a fixed price does not ask for the time
        """See `PriceSource`."""
        return Tick(latest.price if latest else asset.price_usd)


async def run(
    assets: Sequence[Asset],
    store: MarketStore,
    hours: Hours,
    bus: Publisher,
    *,
    prices: PriceSource,
    clock: Clock,
    ids: Ids,
    interval_s: float,
    published: Callable[[], None] = lambda: None,
) -> None:
    """List the assets, then publish prices now and after every interval, until cancelled. `hours` is where the past of prices is read.

    `published` is called after each round.

    What fails for a passing reason is tried again within bounds; after them the error ends the process, and its successor goes on from the table.
    """
    listed = await list_assets(assets, store, bus, clock=clock, ids=ids)
    await publish_again(listed, store, bus, ids=ids)
    pasts: dict[str, Past] = {}
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        stored = await publish_prices(listed, store, bus, source=prices, clock=clock, ids=ids, pasts=pasts)
        published()
        due = max(due + interval_s, loop.time())
        await renew_pasts(pasts, stored, hours, until=due)
        await asyncio.sleep(due - loop.time())


async def list_assets(assets: Sequence[Asset], store: MarketStore, bus: Publisher, *, clock: Clock, ids: Ids) -> list[Asset]:
    """Put new assets and changed facts into the table and publish every asset; what is listed then, those of an earlier file included.

    An asset's `is_active` in the table outlives the file's. All are published each time, since a topic may have been made anew. What an operator
    changed meanwhile is published after it: the last record of an asset is what the table has.
    """
    before = await _retried(store.assets)
    changed = [asset for asset in assets if not _is_stored(asset, before)]
    stored = {asset.asset_id: asset for asset in await _each(partial(_stored, store), changed)}
    listed = list((before | stored).values())
    update_id, at = ids.new(), clock.now()
    await _each(partial(_published, bus, ASSETS), [_asset_event(asset, before, update_id, at) for asset in listed])
    while overtaken := [asset for asset in (await _retried(store.assets)).values() if asset not in listed]:
        await _each(partial(_published, bus, ASSETS), [asset_changed(asset, update_id, at) for asset in overtaken])
        listed = list(({asset.asset_id: asset for asset in listed} | {asset.asset_id: asset for asset in overtaken}).values())
    log.info("assets listed", request_id=update_id, assets=len(listed), new=len(listed) - len(before), changed=len(stored) - len(listed) + len(before))
    return listed


async def publish_again(assets: Sequence[Asset], store: MarketStore, bus: Publisher, *, ids: Ids) -> None:
    """Publish each asset's latest price that the table has: with the same id and value as before, if it was published before."""
    scales = {asset.asset_id: asset.price_scale for asset in assets}
    update_id, latest = ids.new(), (await _retried(store.prices)).values()
    prices = [replace(price, price=at_scale(price.price, scales[price.asset_id])) for price in latest if price.asset_id in scales]
    await _each(partial(_published, bus, PRICES), [_price_event(price, update_id) for price in prices])


async def publish_prices(
    assets: Sequence[Asset], store: MarketStore, bus: Publisher, *, source: PriceSource, clock: Clock, ids: Ids, pasts: Mapping[str, Past] = _NO_PASTS
) -> list[Priced]:
    """One round: the next price of each asset into the table, with its candles, then onto the topic; the published prices."""
    with UPDATE_S.time():
        latest = await _retried(store.latest)
        update_id, at = ids.new(), clock.now()
        prices = [_next(asset, latest.get(asset.asset_id), source, at, pasts.get(asset.asset_id)) for asset in assets]
        stored = await _retried(store.put_prices, prices)
        await _each(partial(_published, bus, PRICES), [_price_event(priced.price, update_id) for priced in stored])
    LAST_UPDATE.set(clock.now().timestamp())
    for ended in (ended for priced in stored for ended in priced.ended):
        CANDLES.labels(ended.interval).inc()
    log.info("prices published", request_id=update_id, prices=len(stored), behind=len(prices) - len(stored))
    return stored


async def renew_pasts(pasts: dict[str, Past], stored: Iterable[Priced], hours: Hours, *, until: float) -> None:
    """Read the pasts of the assets for which a new hour has begun, some at a time, until all are read or it is `until` by the loop's time.

    Some are read each time, however late it is: the next round's figures go on without the others.
    """
    hour_of = {priced.price.asset_id: priced.running.hour.at for priced in stored}
    due = [asset_id for asset_id, hour in hour_of.items() if asset_id not in pasts or pasts[asset_id].hour != hour]
    for start in range(0, len(due), PASTS_AT_ONCE):
        chunk = due[start : start + PASTS_AT_ONCE]
        read = await _each(lambda asset_id: _retried(past_of, hours, asset_id, hour_of[asset_id]), chunk)
        pasts.update(zip(chunk, read, strict=True))
        if asyncio.get_running_loop().time() >= until:
            return


def asset_changed(asset: Asset, update_id: str, at: datetime) -> Envelope:
    """The event of a change of an asset: an asset that is as it was before is another event all the same."""
    return _event_of(asset, ASSET_CHANGED, update_id, at, occasion=f"{update_id}\n")


def _is_stored(asset: Asset, stored: Mapping[str, Asset]) -> bool:
    """Whether the table has these facts already. Who may trade is not the file's to say any more."""
    there = stored.get(asset.asset_id)
    return there is not None and there == replace(asset, is_active=there.is_active)


def _next(asset: Asset, latest: Priced | None, source: PriceSource, at: datetime, past: Past | None) -> Priced:
    before = latest.price if latest else None
    tick = source.tick(asset, before, at)
    price = PriceChanged(asset.asset_id, at_scale(tick.price, asset.price_scale), before.sequence + 1 if before else 1, at, tick.volume)
    priced = followed(latest, price) if latest else begun(price)
    return replace(priced, price=replace(price, figures=figures_of(price, priced.running, latest, past)))


def _asset_event(asset: Asset, before: Mapping[str, Asset], update_id: str, at: datetime) -> Envelope:
    there = before.get(asset.asset_id)
    kind = ASSET_LISTED if there is None or there == asset else ASSET_CHANGED
    return _event_of(asset, kind, update_id, at)


def _event_of(asset: Asset, kind: str, update_id: str, at: datetime, *, occasion: str = "") -> Envelope:
    """Its id is that of the content; with an `occasion` it is that of the content on this occasion."""
    value = encode_asset(asset)
    event_id = _event_id(kind, asset.asset_id, f"{occasion}{value.decode()}")
    return Envelope(event_id, SOURCE, kind, asset.asset_id, at, value, update_id, update_id)


def _price_event(price: PriceChanged, update_id: str) -> Envelope:
    event_id = _event_id(PRICE_CHANGED, price.asset_id, str(price.sequence))
    return Envelope(
        event_id, SOURCE, PRICE_CHANGED, price.asset_id, price.at, encode_price(price), correlation_id=update_id, trace_id=update_id, sequence=price.sequence
    )


def _event_id(kind: str, asset_id: str, name: str) -> str:
    return str(uuid5(EVENT_NAMESPACE, f"{kind}\n{asset_id}\n{name}"))


async def _stored(store: MarketStore, asset: Asset) -> Asset:
    return await _retried(store.list_asset, asset)


async def _published(bus: Publisher, topic: str, event: Envelope) -> None:
    """Published, for sure. The same event may come into the log twice; readers go by sequence or by content."""
    await _retried(bus.publish, topic, event)
    PUBLISHED.labels(event.type).inc()


async def _each(work: Callable[[S], Awaitable[T]], items: Iterable[S]) -> list[T]:
    """The work's answers in the order of the items, with so many under way at once. The first failure stops the others and is raised."""
    slots = asyncio.Semaphore(AT_ONCE_MAX)

    async def in_slot(item: S) -> T:
        async with slots:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(in_slot(item)) for item in items]
    return [task.result() for task in tasks]
