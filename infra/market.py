"""The market's machines: the table of assets and latest prices, and their cache in Redis.

The table is the truth. Redis is a copy of it for the doors, kept current by the projector from the topics and filled from the table where
it has nothing; each process keeps what it read for at most `MEMORY_S`.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

import structlog
from botocore.exceptions import ClientError
from prometheus_client import Counter

from infra.cache_client import Cache, CacheUnavailable, Call, Script
from infra.cache_guard import LEASE, LEASE_S
from infra.candles import put_ended, read_running
from infra.dynamo import Dynamo, DynamoUnavailable, Item, error_code, from_item, query_pages, to_attribute, to_item
from infra.known import Known
from schemas.candles import Priced, begun
from schemas.market import Asset, PriceChanged, UnreadableMarketEvent, asset_adapter, decode_asset, decode_price, encode_asset, encode_price, price_adapter
from schemas.money import EXACT, significant_scale
from schemas.tables import ASSETS_PK, MARKET, PRICES_PK

log = structlog.get_logger()

MEMORY_S: Final = 1.0
"""How long a process answers from what it read last: an asset or price that it shows is at most this much behind Redis."""
STALE_S_MAX: Final = 60.0
"""How old a snapshot may be shown while neither Redis nor the table answers."""
AWAY_S: Final = 5.0
"""After Redis did not answer the table is read for this long without asking again."""
ACTIONS_MAX: Final = 100
"""Actions in one transaction (DynamoDB's limit)."""
TRANSACTION_ATTEMPTS_MAX: Final = 3
SEQUENCE_DIGITS: Final = 20

ASSETS_KEY: Final = "{market}:assets"
PRICES_KEY: Final = "{market}:prices"
LEASE_KEY: Final = "{market}:lease"
"""They have one hash tag: they are read and filled together, so a cluster has to keep them together."""
COMPLETE: Final = "#complete"
"""Field of both hashes that says: what the table had is in here. Without it Redis may hold only what the projector saw since a loss."""

READS: Final = Counter("cnop_market_reads_total", "Reads of the market by where they were answered from", ["source"])

_PUT_PRICES: Final = Script(
    "put-prices",
    """
    for i = 1, #ARGV, 3 do
      local old = redis.call('HGET', KEYS[1], ARGV[i])
      if not old or string.sub(old, 1, #ARGV[i + 1]) < ARGV[i + 1] then
        redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] .. ARGV[i + 2])
      end
    end
    """,
)
"""ARGV: asset id, zero-padded sequence, JSON, for each price. Puts those with a larger sequence than is there."""

_PUT_ABSENT: Final = Script(
    "market-fill",
    """
    if redis.call('GET', KEYS[3]) ~= ARGV[1] then
      return 0
    end
    for i = 3, #ARGV, 2 do
      redis.call('HSETNX', KEYS[1], ARGV[i], ARGV[i + 1])
    end
    redis.call('HSET', KEYS[1], ARGV[2], '1')
    redis.call('HSET', KEYS[2], ARGV[2], '1')
    return 1
    """,
)
"""KEYS: assets, prices, lease. ARGV: the lease under which the table was read, the field that says complete, then asset id and JSON for each asset.

Nothing is put where Redis was emptied, or the market dropped, after the table was read: what the projector had put since is gone then.
"""

_NOTHING_READ: Final[Mapping[str, Mapping[str, bytes]]] = MappingProxyType({ASSETS_KEY: {}, PRICES_KEY: {}})


@dataclass(frozen=True, slots=True)
class MarketSnapshot:
    """All assets, by market capitalisation rank, and their latest prices by asset id, as read at one moment."""

    assets: tuple[Asset, ...] = ()
    prices: Mapping[str, PriceChanged] = field(default_factory=lambda: MappingProxyType({}))
    by_id: Mapping[str, Asset] = field(default_factory=lambda: MappingProxyType({}))


class MarketStore:
    """Assets, latest prices, and the writes of candles, in DynamoDB. Reads are consistent. DynamoUnavailable for a passing fault."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def assets(self) -> dict[str, Asset]:
        """All assets by id."""
        return {item["sk"]["S"]: _read_asset(item) for item in await self._all(ASSETS_PK)}

    async def prices(self) -> dict[str, PriceChanged]:
        """The latest price of each asset by id."""
        return {item["sk"]["S"]: _read_price(item) for item in await self._all(PRICES_PK)}

    async def latest(self) -> dict[str, Priced]:
        """The latest price of each asset by id, with its running candles. A price that an earlier release stored without any begins them."""
        return {item["sk"]["S"]: _read_priced(item) for item in await self._all(PRICES_PK)}

    async def list_asset(self, asset: Asset) -> Asset:
        """Put an asset, or bring the facts of one that is there up to date; what is stored then.

        `is_active` of an asset that is there stays as it is: it belongs to the operators from then on.
        """
        answer = await self._dynamo.call("update_item", TableName=MARKET.name, Key=_key(ASSETS_PK, asset.asset_id), ReturnValues="ALL_NEW", **_facts(asset))
        return _read_asset(answer["Attributes"])

    async def set_active(self, asset_id: str, *, is_active: bool) -> Asset | None:
        """Let an asset be traded, or not any more; what is stored then. None where there is no asset of that id. Repeating it is harmless."""
        try:
            answer = await self._dynamo.call(
                "update_item",
                TableName=MARKET.name,
                Key=_key(ASSETS_PK, asset_id),
                UpdateExpression="SET is_active = :is_active",
                ConditionExpression="attribute_exists(pk)",
                ExpressionAttributeValues={":is_active": {"BOOL": is_active}},
                ReturnValues="ALL_NEW",
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return None
            raise
        return _read_asset(answer["Attributes"])

    async def put_prices(self, prices: Sequence[Priced]) -> list[Priced]:
        """Store the prices whose sequence is larger than the stored one's, each together with its candles, and return them.

        A repetition after an unknown outcome returns them again.
        """
        stored: list[Priced] = []
        for part in _parts(prices):
            stored += await self._put_together(part)
        return stored

    async def _put_together(self, prices: Sequence[Priced]) -> Sequence[Priced]:
        """One transaction; without those that are behind it is tried again."""
        for _ in range(TRANSACTION_ATTEMPTS_MAX):
            if not prices:
                return prices
            try:
                await self._dynamo.call("transact_write_items", TransactItems=[action for priced in prices for action in _put_priced(priced)])
            except ClientError as error:
                if error_code(error) != "TransactionCanceledException":
                    raise
                codes = [reason.get("Code") for reason in error.response.get("CancellationReasons") or []]
                if len(codes) != sum(map(_actions, prices)) or "ConditionalCheckFailed" not in codes:
                    raise DynamoUnavailable(f"transact_write_items: {sorted({str(code) for code in codes})}") from error
                failed = iter(codes)
                prices = [priced for priced in prices if "ConditionalCheckFailed" not in [next(failed) for _ in range(_actions(priced))]]
            else:
                return prices
        raise DynamoUnavailable("transact_write_items: another market process writes the same prices")

    async def _all(self, pk: str) -> list[Item]:
        pages = query_pages(self._dynamo, TableName=MARKET.name, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": pk}})
        return [item async for page in pages for item in page["Items"]]


class MarketCache:
    """What the doors ask of the market. Answers come from memory, Redis, or the table, in this order.

    `memory_s` is the age up to which memory answers. DynamoUnavailable where neither Redis nor the table has an answer.
    """

    def __init__(self, cache: Cache, store: MarketStore, *, memory_s: float = MEMORY_S) -> None:
        self._cache = cache
        self._store = store
        self._known = Known(self._current, memory_s=memory_s)
        self._snapshot = MarketSnapshot()
        self._raw: Mapping[str, Mapping[str, bytes]] = _NOTHING_READ
        self._good_at = self._away_until = float("-inf")

    async def snapshot(self) -> MarketSnapshot:
        """Everything at one moment. The same object as before where nothing has changed, or where nobody answers, up to `STALE_S_MAX`."""
        return await self._known.value()

    async def asset(self, asset_id: str) -> Asset | None:
        """One asset; None where there is none of that id (ids are upper case)."""
        return (await self.snapshot()).by_id.get(asset_id)

    async def assets(self) -> list[Asset]:
        """All assets by market capitalisation rank."""
        return list((await self.snapshot()).assets)

    async def price(self, asset_id: str) -> PriceChanged | None:
        """An asset's latest price, if it ever had one."""
        return (await self.snapshot()).prices.get(asset_id)

    async def prices(self) -> dict[str, PriceChanged]:
        """The latest prices by asset id."""
        return dict((await self.snapshot()).prices)

    async def put_asset(self, asset: Asset) -> None:
        """See `put_assets`."""
        await self.put_assets([asset])

    async def put_assets(self, assets: Iterable[Asset]) -> None:
        """Make these the assets of their ids in Redis, for the projector: it sees them in order. CacheUnavailable where that is away."""
        encoded: dict[Any, Any] = {asset.asset_id: encode_asset(asset) for asset in assets}
        if encoded:
            await self._cache.run("put-assets", lambda: self._cache.client.hset(ASSETS_KEY, mapping=encoded))

    async def put_price(self, price: PriceChanged) -> None:
        """See `put_prices`."""
        await self.put_prices([price])

    async def put_prices(self, prices: Iterable[PriceChanged]) -> None:
        """Put into Redis those that are newer by sequence than what is there. CacheUnavailable where that is away."""
        arguments = [part for price in prices for part in (price.asset_id, f"{price.sequence:0{SEQUENCE_DIGITS}d}", encode_price(price))]
        if arguments:
            await self._cache.script(_PUT_PRICES, Call((PRICES_KEY,), tuple(arguments)))

    async def _current(self) -> MarketSnapshot:
        started = asyncio.get_running_loop().time()
        try:
            self._snapshot = await self._read()
            self._good_at = started
        except DynamoUnavailable as error:
            if started - self._good_at > STALE_S_MAX:
                raise
            log.warning("market is shown from memory: neither cache nor table answers", age_s=round(started - self._good_at, 1), error=str(error))
        return self._snapshot

    async def _read(self) -> MarketSnapshot:
        if asyncio.get_running_loop().time() < self._away_until:
            return await self._read_table()
        try:
            raw = await self._cache.run("market", self._read_redis)
        except CacheUnavailable as error:
            return await self._without_redis(error)
        if raw is None:
            return await self._fill()
        READS.labels("redis").inc()
        try:
            return self._parsed(raw)
        except UnreadableMarketEvent as error:
            log.warning("market in the cache is unreadable and put anew", error=str(error))
            return await self._fill(anew=True)

    async def _without_redis(self, error: CacheUnavailable) -> MarketSnapshot:
        log.warning("market is read from the table: the cache is away", error=str(error))
        snapshot = await self._read_table()
        self._away_until = asyncio.get_running_loop().time() + AWAY_S
        return snapshot

    async def _read_redis(self) -> dict[str, dict[str, bytes]] | None:
        """Both hashes; None where they are not complete."""
        async with self._cache.client.pipeline(transaction=False) as pipe:
            pipe.hgetall(ASSETS_KEY)
            pipe.hgetall(PRICES_KEY)
            raw = [{name.decode(): value for name, value in found.items()} for found in await pipe.execute()]
        complete = [found.pop(COMPLETE, None) is not None for found in raw]
        return dict(zip((ASSETS_KEY, PRICES_KEY), raw, strict=True)) if all(complete) else None

    def _parsed(self, raw: dict[str, dict[str, bytes]]) -> MarketSnapshot:
        """Reads again only what has changed: most of the market is the same as a second ago."""
        if raw == self._raw:
            return self._snapshot
        old_assets, old_prices = self._raw[ASSETS_KEY], self._raw[PRICES_KEY]
        assets = {
            asset_id: self._snapshot.by_id[asset_id] if old_assets.get(asset_id) == value else decode_asset(value)
            for asset_id, value in raw[ASSETS_KEY].items()
        }
        prices = {
            asset_id: self._snapshot.prices[asset_id] if old_prices.get(asset_id) == value else decode_price(value[SEQUENCE_DIGITS:])
            for asset_id, value in raw[PRICES_KEY].items()
        }
        self._raw = raw
        return _snapshot(assets, prices)

    async def _read_table(self) -> MarketSnapshot:
        READS.labels("table").inc()
        assets, prices = await asyncio.gather(self._store.assets(), self._store.prices())
        self._raw = _NOTHING_READ
        return _snapshot(assets, {asset_id: _as_published(price, assets.get(asset_id)) for asset_id, price in prices.items()})

    async def _fill(self, *, anew: bool = False) -> MarketSnapshot:
        """Answer from the table and put that into Redis, where it must not undo what the projector puts meanwhile."""
        try:
            if anew:
                await self._cache.run("market-drop", lambda: self._cache.client.delete(ASSETS_KEY, PRICES_KEY, LEASE_KEY))
            lease = await self._cache.script(LEASE, Call((LEASE_KEY,), (LEASE_S,)))
        except CacheUnavailable as error:
            return await self._without_redis(error)
        snapshot = await self._read_table()
        if not snapshot.assets:
            return snapshot  # nothing is listed yet: nothing to call complete
        try:
            await self.put_prices(snapshot.prices.values())
            assets = [part for asset in snapshot.assets for part in (asset.asset_id, encode_asset(asset))]
            await self._cache.script(_PUT_ABSENT, Call((ASSETS_KEY, PRICES_KEY, LEASE_KEY), (lease, COMPLETE, *assets)))
        except CacheUnavailable as error:
            log.warning("market could not be put into the cache", error=str(error))
        return snapshot


def _snapshot(assets: Mapping[str, Asset], prices: Mapping[str, PriceChanged]) -> MarketSnapshot:
    ranked = tuple(sorted(assets.values(), key=lambda asset: (asset.market_cap_rank, asset.asset_id)))
    return MarketSnapshot(ranked, MappingProxyType(dict(prices)), MappingProxyType(dict(assets)))


def at_scale(price: Decimal, scale: int) -> Decimal:
    """With the decimals of an asset's prices: a DynamoDB Number has lost its trailing zeros."""
    return price if significant_scale(price) > scale else price.quantize(Decimal((0, (1,), -scale)), context=EXACT)


def _as_published(price: PriceChanged, asset: Asset | None) -> PriceChanged:
    return replace(price, price=at_scale(price.price, asset.price_scale)) if asset else price


def _key(pk: str, sk: str) -> Item:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def _facts(asset: Asset) -> dict[str, Any]:
    """An update that sets every fact but `is_active` of an asset that is there, and removes those it no longer has."""
    known = to_item(asset)
    names = _FACTS
    sets = [f"#{name} = :{name}" for name in names if name in known and name != "is_active"]
    removed = [f"#{name}" for name in names if name not in known]
    sets.append("#is_active = if_not_exists(#is_active, :is_active)")
    return {
        "UpdateExpression": f"SET {', '.join(sets)}" + (f" REMOVE {', '.join(removed)}" if removed else ""),
        "ExpressionAttributeNames": {f"#{name}": name for name in names},
        "ExpressionAttributeValues": {f":{name}": value for name, value in known.items()},
    }


def _actions(priced: Priced) -> int:
    return 1 + len(priced.ended)


def _parts(prices: Iterable[Priced]) -> Iterator[list[Priced]]:
    """Cut so that each part fits a transaction."""
    part: list[Priced] = []
    for priced in prices:
        if sum(map(_actions, part)) + _actions(priced) > ACTIONS_MAX:
            yield part
            part = []
        part.append(priced)
    if part:
        yield part


def _put_priced(priced: Priced) -> list[dict[str, Any]]:
    """Actions that hold again for a repetition of themselves: after an unknown outcome the caller repeats them. The price has the condition for all."""
    price = priced.price
    put = {
        "TableName": MARKET.name,
        "Item": {**_key(PRICES_PK, price.asset_id), **to_item(price), **to_item(priced.running)},
        "ConditionExpression": "attribute_not_exists(pk) OR #sequence < :sequence OR (#sequence = :sequence AND #price = :price AND #at = :at)",
        "ExpressionAttributeNames": {"#sequence": "sequence", "#price": "price", "#at": "at"},
        "ExpressionAttributeValues": {":sequence": to_attribute(price.sequence), ":price": to_attribute(price.price), ":at": to_attribute(price.at)},
    }
    return [{"Put": put}, *(put_ended(price.asset_id, ended) for ended in priced.ended)]


def _read_price(item: Item) -> PriceChanged:
    return price_adapter().validate_python(from_item(item))


def _read_priced(item: Item) -> Priced:
    price, running = _read_price(item), read_running(item)
    return Priced(price, running) if running else begun(price)


def _read_asset(item: Item) -> Asset:
    asset = asset_adapter().validate_python(from_item(item))
    return replace(asset, price_usd=at_scale(asset.price_usd, asset.price_scale))


_FACTS: Final = tuple(name.name for name in fields(Asset))
