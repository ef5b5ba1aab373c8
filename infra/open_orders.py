"""Open orders of all accounts, as the global indexes find them: by the price at which they are due, and by the time at which theirs ends.

An index lags behind the ledger, and it has keys alone: what is found here may have been closed a moment ago, and what was opened a moment ago may not
be found yet. Whoever asks acts through a request, which is decided against the order itself, and asks again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, Generic, TypeVar

from infra.dynamo import Dynamo, Item
from schemas.instants import rfc3339
from schemas.requests import DueSide
from schemas.tables import (
    BEHIND,
    DUE_ORDERS,
    EXPIRING_ORDERS,
    LEDGER,
    ORDER_SHARDS,
    GlobalIndex,
    due_side,
    expiry_shard,
    order_of,
    padded_price,
    read_due_price,
    read_due_side,
    username_of,
)

T = TypeVar("T")
After = Mapping[int, Item]
"""Where the next page begins, by shard; a shard that has been read to its end is not in it."""
_START: Final[Mapping[int, Item | None]] = dict.fromkeys(range(ORDER_SHARDS))
_WHOLE: Final = 0
"""Stands for all shards where an index is read through."""


@dataclass(frozen=True, slots=True)
class OrderName:
    """Whose order, and its id."""

    username: str
    order_id: str


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An open order with a price: the one at which it is due; the sequence of the quote with which it was placed, and when that was."""

    username: str
    order_id: str
    asset_id: str
    side: DueSide
    price: Decimal
    quote_sequence: int
    placed_at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Orders, and where the next page begins; None where there is no further one."""

    orders: tuple[T, ...]
    after: After | None


class OpenOrders:
    """Open orders in bounded pages. DynamoUnavailable for a passing fault."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo

    async def due(self, asset_id: str, side: DueSide, price: Decimal, *, limit: int, after: After | None = None) -> Page[OpenOrder]:
        """Orders of an asset that are due at a price, at most `limit`: within a page the one that is due first comes first.

        `falls` are those with the price or a higher one, `rises` those with it or a lower one. Every shard gives an equal part of a page, so across pages
        the order is that of prices within each shard.
        """
        falls = side == "falls"
        key = {"#sort": DUE_ORDERS.sort_key, ":end": padded_price(price) if falls else padded_price(price) + BEHIND}
        condition = f"#partition = :partition AND #sort {'>=' if falls else '<='} :end"
        page = await self._page(DUE_ORDERS, _sides(asset_id, side), condition, key, limit=limit, after=after, forward=not falls)
        return _due_first(page, falls=falls)

    async def of_asset(self, asset_id: str, side: DueSide, *, limit: int, after: After | None = None) -> Page[OpenOrder]:
        """All open orders of an asset and a side."""
        page = await self._page(DUE_ORDERS, _sides(asset_id, side), "#partition = :partition", {}, limit=limit, after=after)
        return Page(tuple(map(_open_order, page.orders)), page.after)

    async def expiring(self, until: datetime, *, limit: int, after: After | None = None) -> Page[OrderName]:
        """Open orders whose time ends at `until` or before; within each shard the one that ended first comes first."""
        key = {"#sort": EXPIRING_ORDERS.sort_key, ":end": rfc3339(until) + BEHIND}
        shards = [expiry_shard(shard) for shard in range(ORDER_SHARDS)]
        page = await self._page(EXPIRING_ORDERS, shards, "#partition = :partition AND #sort <= :end", key, limit=limit, after=after)
        return Page(tuple(map(_name, page.orders)), page.after)

    async def all(self, *, limit: int, after: After | None = None) -> Page[OpenOrder]:
        """Every open order of every asset, in no order: one read for a page, however many assets there are."""
        start = {"ExclusiveStartKey": after[_WHOLE]} if after else {}
        answer = await self._dynamo.call("scan", TableName=LEDGER.name, IndexName=DUE_ORDERS.name, Limit=limit, **start)
        last = answer.get("LastEvaluatedKey")
        return Page(tuple(map(_open_order, answer["Items"])), {_WHOLE: last} if last else None)

    async def _page(
        self, index: GlobalIndex, partitions: Sequence[str], condition: str, key: Mapping[str, str], *, limit: int, after: After | None, forward: bool = True
    ) -> Page[Item]:
        """A page of each shard that has not been read to its end, side by side."""
        starts = after or _START
        read = partial(self._read, index, condition, key, limit=max(1, limit // len(starts)), forward=forward)
        answers = await asyncio.gather(*(read(partitions[shard], start) for shard, start in starts.items()))
        rest = {shard: answer["LastEvaluatedKey"] for shard, answer in zip(starts, answers, strict=True) if answer.get("LastEvaluatedKey")}
        return Page(tuple(item for answer in answers for item in answer["Items"]), rest or None)

    async def _read(
        self, index: GlobalIndex, condition: str, key: Mapping[str, str], partition: str, start: Item | None, *, limit: int, forward: bool
    ) -> dict[str, Any]:
        return await self._dynamo.call(
            "query",
            TableName=LEDGER.name,
            IndexName=index.name,
            KeyConditionExpression=condition,
            ExpressionAttributeNames={"#partition": index.partition_key, **{name: text for name, text in key.items() if name.startswith("#")}},
            ExpressionAttributeValues={":partition": {"S": partition}, **{name: {"S": text} for name, text in key.items() if name.startswith(":")}},
            ScanIndexForward=forward,
            Limit=limit,
            **({"ExclusiveStartKey": start} if start else {}),
        )


def _sides(asset_id: str, side: DueSide) -> list[str]:
    return [due_side(asset_id, side, shard) for shard in range(ORDER_SHARDS)]


def _due_first(page: Page[Item], *, falls: bool) -> Page[OpenOrder]:
    """The shards' parts as one: text order of the keys is the order of prices."""
    items = sorted(page.orders, key=lambda item: str(item[DUE_ORDERS.sort_key]["S"]), reverse=falls)
    return Page(tuple(map(_open_order, items)), page.after)


def _open_order(item: Item) -> OpenOrder:
    asset_id, side = read_due_side(item[DUE_ORDERS.partition_key]["S"])
    return OpenOrder(username_of(item["pk"]["S"]), order_of(item["sk"]["S"]), asset_id, side, *read_due_price(item[DUE_ORDERS.sort_key]["S"]))


def _name(item: Item) -> OrderName:
    return OrderName(username_of(item["pk"]["S"]), order_of(item["sk"]["S"]))
