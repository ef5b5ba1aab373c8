"""The candles of each asset's prices in the market's table: how they are kept, and how they are read.

The running candles, one of each interval, are part of the item of the asset's latest price, and a candle that ended is an item of its own, put when the
next price begins another. `infra.market.MarketStore` writes price, running and ended candles of an asset in one transaction, under the condition that
its price is the next one. So there is no moment between a price and its candles: whatever stops a market process, both are there or neither is; a second
process, whose price the table does not take, touches no candle either; and nothing has to be read again or put right at a start. It is cheap as well: a
round writes the items that it would write for the prices alone, one more for each asset and minute, and one more each for the hour and the day.

A minute without a price has no candle. Candles of a minute may go after `MINUTES_KEPT`; those of hours and days stay for ever.

What "the price at a moment" means, here and for everybody who values something in the past: the close of the last candle of a minute that ended at or
before it, so the last price made before the minute's end. Of longer intervals the same holds at their ends. A price that was made before an end may
become known a moment after it; from then on the close never changes. For now, it is the newest price instead (`infra.market.MarketCache`).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Final, Protocol

from pydantic import TypeAdapter

from infra.dynamo import Dynamo, Item, from_item, query_pages, to_attribute, to_item
from infra.ledger_bound import Turns
from schemas.candles import LENGTHS, Candle, Close, Ended, Interval, Running, end_of
from schemas.instants import parse_rfc3339
from schemas.tables import MARKET, PRICES_PK, TTL_ATTRIBUTE, candle_sk, candles_pk

MINUTES_KEPT: Final = timedelta(days=30)
CANDLES_MAX: Final = 2_000
"""Candles that one call gives: more than a day has minutes, a quarter has hours, or five years have days."""
_CLOSE_ALONE: Final = {"ProjectionExpression": "sk, #close", "ExpressionAttributeNames": {"#close": "close"}}
"""What is left out of thousands of items need not be sent and read."""
READS_AT_ONCE: Final = 8
READS_WAITING_MAX: Final = 200


class CandleReads(Protocol):
    """What is asked of the history of prices. DynamoUnavailable for a passing fault; ValueError for more than `CANDLES_MAX` candles in one call."""

    async def candles(self, asset_id: str, interval: Interval, start: datetime, end: datetime, *, limit: int) -> list[Candle]:
        """The first candles that begin at `start` or later and before `end`, oldest first, the running one included."""
        ...

    async def closes(self, asset_id: str, interval: Interval, start: datetime, end: datetime) -> list[Close]:
        """The closes of the candles that ended after `start` and at or before `end`, oldest first, each with the moment of its end.

        Before them comes the last one that ended at or before `start`, if there is any: with it, the price at any moment from `start` to `end` is the
        last close at or before that moment, and where there is none the asset had no price yet.
        """
        ...


class CandleStore:
    """The candles in DynamoDB. Implements `CandleReads`; reads are consistent."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def candles(self, asset_id: str, interval: Interval, start: datetime, end: datetime, *, limit: int) -> list[Candle]:
        """See `CandleReads`."""
        running = await self._running(asset_id, interval)  # read first: what ends meanwhile is then found among those that ended
        span = {":first": candle_sk(start), ":last": candle_sk(end)}
        ended = await self._query(asset_id, interval, "sk BETWEEN :first AND :last", span, limit=_bounded(limit))
        candles = _with_running(ended, running)
        return [candle for candle in candles if start <= candle.at < end][:limit]

    async def closes(self, asset_id: str, interval: Interval, start: datetime, end: datetime) -> list[Close]:
        """See `CandleReads`."""
        running = await self._running(asset_id, interval)
        length = LENGTHS[interval]
        last, count = {":last": candle_sk(end - length)}, (end - start) // length + 2
        items = await self._items(asset_id, interval, "sk <= :last", last, limit=_bounded(count), ScanIndexForward=False, **_CLOSE_ALONE)
        closes = [Close(parse_rfc3339(item["sk"]["S"]) + length, Decimal(item["close"]["N"])) for item in reversed(items)]
        if running and end_of(interval, running) <= end and (not closes or closes[-1].at < end_of(interval, running)):
            closes.append(Close(end_of(interval, running), running.close))
        inside = [close for close in closes if close.at > start]
        return closes[: len(closes) - len(inside)][-1:] + inside

    async def recent(self, asset_id: str, interval: Interval, until: datetime, *, count: int) -> list[Candle]:
        """So many candles, newest first, that ended and did not begin after `until`."""
        return await self._query(asset_id, interval, "sk <= :last", {":last": candle_sk(until)}, limit=_bounded(count), ScanIndexForward=False)

    async def _running(self, asset_id: str, interval: Interval) -> Candle | None:
        answer = await self._dynamo.call("get_item", TableName=MARKET.name, Key={"pk": {"S": PRICES_PK}, "sk": {"S": asset_id}}, ConsistentRead=True)
        running = read_running(answer.get("Item", {}))
        return running.of(interval) if running else None

    async def _query(self, asset_id: str, interval: Interval, condition: str, values: dict[str, str], *, limit: int, **options: Any) -> list[Candle]:
        items = await self._items(asset_id, interval, condition, values, limit=limit, **options)
        return [_candle_adapter().validate_python(from_item(item)) for item in items]

    async def _items(self, asset_id: str, interval: Interval, condition: str, values: dict[str, str], *, limit: int, **options: Any) -> list[Item]:
        pages = query_pages(
            self._dynamo,
            most=limit,
            TableName=MARKET.name,
            KeyConditionExpression=f"pk = :pk AND {condition}",
            ExpressionAttributeValues={":pk": {"S": candles_pk(asset_id, interval)}, **{name: {"S": value} for name, value in values.items()}},
            **options,
        )
        return [item async for page in pages for item in page["Items"]]


class BoundedCandles:
    """The reads of candles, so many at once: the doors that show them are open to everybody. Implements `CandleReads`; calls may raise TooManyReads."""

    def __init__(self, candles: CandleReads, *, at_once: int = READS_AT_ONCE, waiting_max: int = READS_WAITING_MAX) -> None:
        self._candles = candles
        self._turns = Turns(at_once, waiting_max)

    async def candles(self, asset_id: str, interval: Interval, start: datetime, end: datetime, *, limit: int) -> list[Candle]:
        """See `CandleReads`."""
        async with self._turns.turn():
            return await self._candles.candles(asset_id, interval, start, end, limit=limit)

    async def closes(self, asset_id: str, interval: Interval, start: datetime, end: datetime) -> list[Close]:
        """See `CandleReads`."""
        async with self._turns.turn():
            return await self._candles.closes(asset_id, interval, start, end)


def put_ended(asset_id: str, ended: Ended) -> dict[str, Any]:
    """An action that keeps a candle that ended."""
    item = {"pk": {"S": candles_pk(asset_id, ended.interval)}, "sk": {"S": candle_sk(ended.candle.at)}, **to_item(ended.candle)}
    if ended.interval == "1m":
        item[TTL_ATTRIBUTE] = to_attribute(int((ended.candle.at + MINUTES_KEPT).timestamp()))
    return {"Put": {"TableName": MARKET.name, "Item": item}}


def read_running(item: Item) -> Running | None:
    """The running candles in the item of a latest price; None in one of a release that kept none."""
    plain = from_item(item)
    return _running_adapter().validate_python(plain) if "minute" in plain else None


def _with_running(ended: Iterable[Candle], running: Candle | None) -> list[Candle]:
    """Oldest first. What ended since the running one was read is the newer reading of it."""
    candles = list(ended)
    if running and (not candles or candles[-1].at < running.at):
        candles.append(running)
    return candles


def _bounded(count: int) -> int:
    if count > CANDLES_MAX:
        raise ValueError(f"{count} candles are asked for in one call; {CANDLES_MAX} are the most")
    return count


@cache
def _candle_adapter() -> TypeAdapter[Candle]:
    return TypeAdapter(Candle)


@cache
def _running_adapter() -> TypeAdapter[Running]:
    return TypeAdapter(Running)
