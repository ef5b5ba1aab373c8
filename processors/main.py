"""Composition roots of the processors: each builds everything it needs, passes it down, and runs until it is told to stop.

A processor waits a bounded time for its machines at the start. A background task that ends, ends the process; its supervisor starts it anew,
and it goes on from the committed offsets.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, assert_never

import stamina
import structlog

from events import topics
from events.bus import BULK_BATCH_BYTES, Bus
from events.consumer import Consumer, Loop
from events.subscriber import Subscriber
from infra.asset_file import load_asset_file
from infra.cache import Views
from infra.cache_client import Cache, CacheUnavailable
from infra.cache_policy import CachePolicy, servers
from infra.candles import CandleStore
from infra.clock import SystemClock, SystemIds, pause
from infra.dynamo import Dynamo, DynamoUnavailable
from infra.generations import Generations, KeptPointer
from infra.http import DoorApp, admin_app
from infra.http_health import Health
from infra.http_serve import be
from infra.ledger_bound import BoundedReads
from infra.market import MarketCache, MarketStore
from infra.open_orders import OpenOrders
from infra.parked import ParkingLedger
from infra.position import Position
from infra.price_files import load_price_files
from infra.process import Background
from infra.settings import Settings
from processors import market, projector, settlement, triggers, upkeep
from processors.prices import ReplayedPrices, SimulatedPrices

log = structlog.get_logger()

START_ATTEMPTS_MAX: Final = 30
START_WAIT_S_MAX: Final = 60.0
STOP_SHARE: Final = 0.6
"""Part of the time for stopping in which a batch in hand may finish."""

Parts = Callable[[Settings, Health, Background], AbstractAsyncContextManager[None]]


def run(name: str, settings: Settings) -> None:
    """Run the processor of that name until SIGTERM. SystemExit with a status that is not 0 where it fails; ValueError for an unknown name."""
    if name not in PROCESSORS:
        raise ValueError(f"no processor is called {name!r}; there are {', '.join(PROCESSORS)}")
    be(f"cnop-{name}", settings, lambda: _app(name, settings), settings.admin_port)


def _app(name: str, settings: Settings) -> DoorApp:
    health, background = Health(), Background()

    @asynccontextmanager
    async def parts(_app: Any) -> AsyncIterator[None]:
        async with PROCESSORS[name](settings, health, background):
            yield

    return admin_app(f"cnop-{name}", ids=SystemIds(), health=health, background=background, lifespan=[parts])


@asynccontextmanager
async def _settlement(settings: Settings, health: Health, background: Background) -> AsyncIterator[None]:
    async with Dynamo(settings.dynamodb_url, settings.aws_region) as dynamo:
        await _patiently("dynamodb", dynamo.ping)
        settle = settlement.Settlement(ParkingLedger(dynamo), pause, SystemClock().now, log_lines_max=settings.log_batch_lines_max)
        loop = Loop(
            bootstrap=settings.kafka,
            group=topics.SETTLEMENT,
            slot=settings.slot,
            topic=topics.REQUESTS,
            results_topic=topics.RESULTS,
            batch_records_max=settlement.BATCH_RECORDS_MAX,
            decode=settlement.decode,
            handle=settle,
            closed=settle.closed,
        )
        consumer = Consumer(loop)
        await _reading("settlement", consumer, health, background)
        health.check("dynamodb", dynamo.ping)
        try:
            yield
        finally:
            await consumer.stop(settings.shutdown_s * STOP_SHARE)


@asynccontextmanager
async def _projector(settings: Settings, health: Health, background: Background) -> AsyncIterator[None]:
    cache = Cache(settings.redis_url, client_name="cnop-projector")
    async with Dynamo(settings.dynamodb_url, settings.aws_region) as dynamo:
        await _patiently("redis", cache.ping)
        await _patiently("dynamodb", dynamo.ping)
        views = Views(cache, BoundedReads(ParkingLedger(dynamo)), Generations(cache, KeptPointer(dynamo)), ttl_s=settings.view_ttl_s)
        prices = MarketCache(cache, MarketStore(dynamo))
        handler = projector.Projector(views, prices, SystemClock(), log_lines_max=settings.log_batch_lines_max)
        subscriber = Subscriber(
            settings.kafka,
            group=topics.PROJECTOR,
            slot=settings.slot,
            topics=projector.TOPICS,
            handler=handler.handle,
            batch_records_max=projector.BATCH_RECORDS_MAX,
        )
        await _reading("projector", subscriber, health, background)
        standings = partial(subscriber.places, topics.RESULTS)
        keeping = upkeep.Upkeep(
            views,
            partial(servers, cache),
            partial(upkeep.newest_shown, settings.kafka, lambda: {partition: standing.reach for partition, standing in standings().items()}),
            accounts_max=settings.warm_accounts_max,
        )
        background.start("upkeep", keeping.run())
        # Nothing is said of a lag while views may be older than they were.
        position = Position(cache, lambda: {} if keeping.in_doubt() else standings(), partial(subscriber.partitions, topics.RESULTS))
        background.start("position", position.tell_again_and_again())
        health.check("redis", CachePolicy(cache).check)
        health.check("dynamodb", dynamo.ping)
        try:
            yield
        finally:
            await subscriber.stop()
            await cache.stop()


@asynccontextmanager
async def _market(settings: Settings, health: Health, background: Background) -> AsyncIterator[None]:
    source = price_source(settings)
    bus = Bus(settings.kafka, client_id=f"cnop-market-{settings.slot}", acknowledge_s=settings.publish_wait_s)
    published = asyncio.Event()
    async with Dynamo(settings.dynamodb_url, settings.aws_region) as dynamo:
        await _patiently("dynamodb", dynamo.ping)
        await _patiently("kafka", bus.start)
        prices = market.run(
            load_asset_file(None),
            MarketStore(dynamo),
            CandleStore(dynamo),
            bus,
            prices=source,
            clock=SystemClock(),
            ids=SystemIds(),
            interval_s=settings.market_interval_s,
            published=published.set,
        )
        background.start("broker-watch", bus.watch())
        background.start("market", prices)
        health.check("prices", partial(_assured, published.is_set, "no price has been published yet"))
        health.check("kafka", bus.ping)
        health.check("dynamodb", dynamo.ping)
        try:
            yield
        finally:
            await bus.stop(settings.shutdown_s * STOP_SHARE)


@asynccontextmanager
async def _triggers(settings: Settings, health: Health, background: Background) -> AsyncIterator[None]:
    bus = Bus(settings.kafka, client_id=f"cnop-triggers-{settings.slot}", acknowledge_s=settings.publish_wait_s, batch_bytes=BULK_BATCH_BYTES)
    async with Dynamo(settings.dynamodb_url, settings.aws_region) as dynamo:
        await _patiently("dynamodb", dynamo.ping)
        await _patiently("kafka", bus.start)
        timer = asyncio.get_running_loop().time
        handler = triggers.Triggers(OpenOrders(dynamo), MarketStore(dynamo), bus, clock=SystemClock(), ids=SystemIds(), timer=timer)
        subscriber = Subscriber(
            settings.kafka,
            group=topics.TRIGGERS,
            slot=settings.slot,
            topics=triggers.TOPICS,
            handler=handler.handle,
            batch_records_max=triggers.BATCH_RECORDS_MAX,
            unfinished=handler.unfinished,
        )
        await _reading("prices", subscriber, health, background)
        background.start("broker-watch", bus.watch())
        background.start("triggers", handler.run(lambda: bool(subscriber.assigned)))
        health.check("dynamodb", dynamo.ping)
        try:
            yield
        finally:
            await subscriber.stop()
            await bus.stop(settings.shutdown_s * STOP_SHARE)


def price_source(settings: Settings) -> market.PriceSource:
    """Where prices come from. PriceFileInvalid where they should come from files that cannot be used."""
    match settings.market_source:
        case "simulated":
            return SimulatedPrices(settings.market_seed, settings.market_interval_s)
        case "replayed":
            return ReplayedPrices(load_price_files(settings.market_replay_dir), settings.market_replay_starts, settings.market_replay_speed)
        case "fixed":
            return market.FixedPrices()
        case _:
            assert_never(settings.market_source)


PROCESSORS: Final[Mapping[str, Parts]] = {"settlement": _settlement, "projector": _projector, "triggers": _triggers, "market": _market}


async def _reading(name: str, reader: Consumer[Any] | Subscriber, health: Health, background: Background) -> None:
    """Have a reader of topics at work; ready only with partitions that move."""
    await _patiently("kafka", reader.start)
    background.start(name, reader.run())
    health.check("kafka", reader.ping)
    # A spare slot of a group has no partition and is not ready: it serves nobody yet.
    health.check("partitions", partial(_assured, lambda: bool(reader.assigned), "no partition is assigned"))
    health.check("moving", reader.moving)


async def _patiently(machine: str, connect: Callable[[], Awaitable[None]]) -> None:
    """Connect, again and again for a bounded time: at a start of the whole system the machines may come up last."""
    passing = (DynamoUnavailable, CacheUnavailable, topics.BrokerError)
    async for attempt in stamina.retry_context(on=passing, attempts=START_ATTEMPTS_MAX, timeout=START_WAIT_S_MAX, wait_max=2.0):
        with attempt:
            if attempt.num > 1:
                log.info("waiting", machine=machine, attempt=attempt.num)
            await connect()


async def _assured(is_so: Callable[[], bool], otherwise: str) -> None:
    """A check of readiness: RuntimeError with that text where it is not so."""
    if not is_so():
        raise RuntimeError(otherwise)
