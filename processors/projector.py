"""The projector: shows results in the account views and tells the doors that wait for them; keeps the market's cache current.

Everything here may be repeated: views take a version once, prices and assets only if they are newer. So a batch is tried again as a
whole while a machine is away, within bounds; past them the error ends the process, and its offsets stay where they were.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, Protocol, TypeVar

import stamina
import structlog
from prometheus_client import Counter, Histogram

from events.envelope import Envelope, Inbound
from events.topics import ASSETS, PRICES, RESULTS
from events.tracing import batch_span
from infra.cache import Arrived, CacheUnavailable, LedgerBehind, Projected, Projection
from infra.clock import Clock
from infra.dynamo import DynamoUnavailable
from infra.ledger_bound import TooManyReads
from schemas.market import Asset, PriceChanged, UnreadableMarketEvent, decode_asset, decode_price
from schemas.results import UnreadableResult, decode_result

T = TypeVar("T")
log = structlog.get_logger()

TOPICS: Final = (RESULTS, PRICES, ASSETS)
BATCH_RECORDS_MAX: Final = 500
PATIENCE_S: Final = 60.0
"""How long one batch is tried again. Well under the consumer's poll interval."""
ATTEMPTS_MAX: Final = 60
RETRY_WAIT_S_MAX: Final = 2.0
LOGGED_IDS_MAX: Final = 50
CHANNEL: Final = re.compile(r"reply:[A-Za-z0-9-]{1,64}")
"""Only doors' channels are published to, whatever a record's header says."""

_PASSING: Final = (CacheUnavailable, DynamoUnavailable, LedgerBehind, TooManyReads)
_UNREADABLE: Final = (UnreadableResult, UnreadableMarketEvent)

PROJECTED: Final = Counter("cnop_projected_results_total", "Results shown, by outcome: put, old (shown before), loaded (others were missing)", ["outcome"])
LAG_S: Final = Histogram(
    "cnop_projection_lag_seconds",
    "From the append of a request to its result being visible",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600),
)


class MarketSink(Protocol):
    """Where assets and prices go: `infra.market.MarketCache`, or a test's dict."""

    async def put_assets(self, assets: Iterable[Asset]) -> None:
        """Make these the assets of their ids."""
        ...

    async def put_prices(self, prices: Iterable[PriceChanged]) -> None:
        """Put those that are newer."""
        ...


class Projector:
    """The handler of a batch. Batches up to `log_lines_max` results get a log line for each, larger ones one line."""

    def __init__(self, views: Projection, market: MarketSink, clock: Clock, *, log_lines_max: int) -> None:
        self._views = views
        self._market = market
        self._clock = clock
        self._log_lines_max = log_lines_max

    async def handle(self, batch: Sequence[Inbound]) -> list[tuple[Inbound, str]]:
        """Show a batch; when this returns, all of it is shown and told. Returns the records that cannot be read, each with the reason.

        Raises what was still failing after `PATIENCE_S`.
        """
        arrived: list[tuple[Inbound, Arrived]] = []
        assets: list[Asset] = []
        prices: list[PriceChanged] = []
        refused: list[tuple[Inbound, str]] = []
        for record in batch:
            try:
                match record.topic:
                    case topic if topic == RESULTS:
                        arrived.append((record, _arrived(record.envelope)))
                    case topic if topic == ASSETS:
                        assets.append(_asset(record.envelope))
                    case topic if topic == PRICES:
                        prices.append(_price(record.envelope))
                    case other:
                        raise ValueError(f"projector got a record of {other}")
            except _UNREADABLE as error:
                refused.append((record, str(error)))
        with batch_span("project", [(record.envelope.traceparent, record.envelope.tracestate) for record in batch]):
            await self._show(arrived)
            await self._take(assets, prices)
        return refused

    async def _show(self, arrived: Sequence[tuple[Inbound, Arrived]]) -> None:
        if not arrived:
            return
        projected = await _patiently(partial(self._views.put, [one for _, one in arrived]))
        self._measure(arrived, projected)
        self._log(arrived, projected)

    async def _take(self, assets: Sequence[Asset], prices: Sequence[PriceChanged]) -> None:
        if not assets and not prices:
            return

        async def put() -> None:
            await self._market.put_assets(assets)
            await self._market.put_prices(prices)

        await _patiently(put)
        log.debug("market projected", assets=len(assets), prices=len(prices))

    def _measure(self, arrived: Sequence[tuple[Inbound, Arrived]], projected: Projected) -> None:
        now = self._clock.now()
        for _, one in arrived:
            LAG_S.observe(max(0.0, (now - one.result.at).total_seconds()))
        PROJECTED.labels("put").inc(projected.put)
        PROJECTED.labels("old").inc(projected.old)
        PROJECTED.labels("loaded").inc(projected.loaded)

    def _log(self, arrived: Sequence[tuple[Inbound, Arrived]], projected: Projected) -> None:
        if len(arrived) > self._log_lines_max:
            ids = [record.envelope.trace_id for record, _ in islice(arrived, LOGGED_IDS_MAX)]
            log.info("results projected", results=len(arrived), put=projected.put, old=projected.old, loaded=projected.loaded, request_ids=ids)
            return
        for record, one in arrived:
            envelope, result = record.envelope, one.result
            log.info("result projected", request_id=envelope.trace_id, username=result.username, version=result.version, type=envelope.type)


def _arrived(envelope: Envelope) -> Arrived:
    result = decode_result(envelope.value)
    if result.username != envelope.subject:
        raise UnreadableResult("ce_subject and /username differ")
    channel = envelope.reply_to if envelope.reply_to and CHANNEL.fullmatch(envelope.reply_to) else None
    return Arrived(result, envelope.value, channel)


def _asset(envelope: Envelope) -> Asset:
    asset = decode_asset(envelope.value)
    if asset.asset_id != envelope.subject:
        raise UnreadableMarketEvent("ce_subject and /asset_id differ")
    return asset


def _price(envelope: Envelope) -> PriceChanged:
    price = decode_price(envelope.value)
    if price.asset_id != envelope.subject:
        raise UnreadableMarketEvent("ce_subject and /asset_id differ")
    return price


async def _patiently(work: Callable[[], Awaitable[T]]) -> T:
    """What the work returns; while a machine is away it is done again. The machinery for that is put up after the first failure: it costs more than a view."""
    with suppress(*_PASSING):
        return await work()
    return await stamina.AsyncRetryingCaller(attempts=ATTEMPTS_MAX, timeout=PATIENCE_S, wait_initial=0.05, wait_max=RETRY_WAIT_S_MAX)(_PASSING, work)
