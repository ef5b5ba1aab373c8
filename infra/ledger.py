"""The ledger table: consistent reads of an account, its entries and orders, and the one way in which settlement writes them."""

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from botocore.exceptions import ClientError

from infra.dynamo import Dynamo, DynamoUnavailable, Item, error_code, query_pages
from infra.ledger_items import account_item, day_item, entry_item, item_key, order_item, read_account, read_entry, read_order
from schemas.ledger import Account, Entry, Order
from schemas.results import result_value
from schemas.tables import (
    ACCOUNT_SK,
    DAY_PREFIX,
    ENTRIES_BY_ASSET,
    ENTRIES_BY_VERSION,
    LEDGER,
    ORDERS_BY_VERSION,
    Index,
    account_pk,
    asset_version,
    day_sk,
    entry_sk,
    order_sk,
)

ACTIONS_MAX: Final = 100
"""Actions in one transaction (DynamoDB's limit)."""
TRANSACTION_BYTES_MAX: Final = 3_500_000
"""Bytes of items in one transaction; DynamoDB's limit is 4 MB, and ours is an estimate."""
BATCH_GET_MAX: Final = 100
DAYS_PAGE: Final = 50
"""Whole accounts: to read more of them at a stretch would keep everything else in the process waiting."""
TRANSACTIONS_AT_ONCE: Final = 8
NEIGHBOUR: Final = "neighbour"
"""Cause of an `Unknown` whose transaction was cancelled for another account's sake: what was loaded is still right."""
_LINE_BYTES: Final = 240
_KEYS_BYTES: Final = 400
_VERSION_LAST: Final = 10**18


@dataclass(frozen=True, slots=True)
class Write:
    """What one account's decided requests change: stored as a whole or not at all.

    `loaded_version` is the version that the decisions started from. `replaces` has, of each of the orders that was there before, the version of its
    last change as it was read; the others are new. `days` are the account as it was at the end of days that ended on the way: kept, and never changed.
    """

    loaded_version: int
    account: Account
    entries: tuple[Entry, ...]
    orders: tuple[Order, ...] = ()
    replaces: Mapping[str, int] = field(default_factory=dict)
    days: tuple[Account, ...] = ()

    @property
    def actions(self) -> int:
        """Actions that this takes in a transaction."""
        return 1 + len(self.entries) + len(self.orders) + len(self.days)


@dataclass(frozen=True, slots=True)
class Stored:
    """The write is in the store."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A condition failed and nothing was written. What is in the way is told; all of it empty: only the account's version has moved."""

    moved: bool
    entries: Mapping[str, Entry] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Not decided: a conflict, throttling, a neighbour's failed condition, or no answer. Load again before the next try, but for `NEIGHBOUR`."""

    cause: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The store does not take this write, however often it is tried (an item over its size limit), or holds an item in its way that nobody can read."""

    cause: str


Outcome = Stored | Refused | Unknown | Failed


class LedgerReads(Protocol):
    """What doors and loaders read; every answer includes all that was written before the call."""

    async def account(self, username: str) -> Account:
        """The account; an empty one of version 0 where there is none."""
        ...

    async def entry(self, username: str, request_id: str) -> Entry | None:
        """The entry of a request, if it was decided."""
        ...

    async def order(self, username: str, order_id: str) -> Order | None:
        """An order of that account."""
        ...

    async def entries(self, username: str, *, before: int | None, limit: int) -> list[Entry]:
        """Entries that moved cash or positions, newest first, of versions below `before`."""
        ...

    async def asset_entries(self, username: str, asset_id: str, *, before: int | None, limit: int) -> list[Entry]:
        """Entries that moved one asset, newest first."""
        ...

    async def orders(self, username: str, *, before: int | None, limit: int) -> list[Order]:
        """Orders by the version that placed them, newest first."""
        ...

    async def days(self, username: str, first: str, last: str, *, limit: int) -> list[Account]:
        """The account at the end of days (`2026-11-25`) from `first` to `last` on which something was decided, oldest first, and before them the newest
        one that is earlier, if there is any. The first `limit` of the span; a day is there once something was decided after it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Named:
    """Items of one account that were asked for by their ids. `unreadable`: what is wrong with one that is there and cannot be read."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    orders: Mapping[str, Order] = field(default_factory=dict)
    unreadable: str | None = None


class LedgerStore(LedgerReads, Protocol):
    """The reads, and the one way to write."""

    async def named(self, wanted: Mapping[str, Collection[str]]) -> dict[str, Named]:
        """By username, those of its entries and orders with the wanted sort keys that are there."""
        ...

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """Try each write once; the outcomes in the order of the writes."""
        ...


class Ledger:
    """The ledger in DynamoDB. Implements `LedgerStore`."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self._slots = asyncio.Semaphore(TRANSACTIONS_AT_ONCE)

    async def account(self, username: str) -> Account:
        """See `LedgerReads`."""
        item = await self._item(username, ACCOUNT_SK)
        return read_account(item) if item else Account(username)

    async def entry(self, username: str, request_id: str) -> Entry | None:
        """See `LedgerReads`."""
        item = await self._item(username, entry_sk(request_id))
        return read_entry(item) if item else None

    async def order(self, username: str, order_id: str) -> Order | None:
        """See `LedgerReads`."""
        item = await self._item(username, order_sk(order_id))
        return read_order(item) if item else None

    async def entries(self, username: str, *, before: int | None, limit: int) -> list[Entry]:
        """See `LedgerReads`."""
        upper = {"N": str(_VERSION_LAST if before is None else before)}
        return [read_entry(item) for item in await self._newest(username, ENTRIES_BY_VERSION, {"N": "0"}, upper, limit)]

    async def asset_entries(self, username: str, asset_id: str, *, before: int | None, limit: int) -> list[Entry]:
        """See `LedgerReads`."""
        lower = {"S": asset_version(asset_id, 0)}
        upper = {"S": asset_version(asset_id, _VERSION_LAST if before is None else before)}
        return [read_entry(item) for item in await self._newest(username, ENTRIES_BY_ASSET, lower, upper, limit)]

    async def orders(self, username: str, *, before: int | None, limit: int) -> list[Order]:
        """See `LedgerReads`."""
        upper = {"N": str(_VERSION_LAST if before is None else before)}
        return [read_order(item) for item in await self._newest(username, ORDERS_BY_VERSION, {"N": "0"}, upper, limit)]

    async def days(self, username: str, first: str, last: str, *, limit: int) -> list[Account]:
        """See `LedgerReads`."""
        keys: Item = {":pk": {"S": account_pk(username)}, ":first": {"S": day_sk(first)}}
        before = self._days("pk = :pk AND sk < :first", keys, 1, ScanIndexForward=False)
        inside = self._days("pk = :pk AND sk BETWEEN :first AND :last", {**keys, ":last": {"S": day_sk(last)}}, limit)
        return [account for accounts in await asyncio.gather(before, inside) for account in accounts]

    async def named(self, wanted: Mapping[str, Collection[str]]) -> dict[str, Named]:
        """See `LedgerStore`."""
        items: dict[str, list[Item]] = {username: [] for username in wanted}
        by_pk = {account_pk(username): username for username in wanted}
        for item in await self._get([item_key(username, sk) for username, sks in wanted.items() for sk in sks]):
            items[by_pk[item["pk"]["S"]]].append(item)
        return {username: named_items(found) for username, found in items.items()}

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """See `LedgerStore`. Writes are packed across accounts, up to the limits of a transaction."""
        packs = list(_packs(writes))
        outcomes = await asyncio.gather(*(self._transact([writes[index] for index in pack]) for pack in packs))
        by_index = {index: outcome for pack, told in zip(packs, outcomes, strict=True) for index, outcome in zip(pack, told, strict=True)}
        return [by_index[index] for index in range(len(writes))]

    async def _item(self, username: str, sk: str) -> Item | None:
        answer = await self._dynamo.call("get_item", TableName=LEDGER.name, Key=item_key(username, sk), ConsistentRead=True)
        item: Item | None = answer.get("Item")
        return item

    async def _days(self, condition: str, keys: Item, limit: int, **more: Any) -> list[Account]:
        """The days among the first items whose keys meet a condition."""
        asked = {"TableName": LEDGER.name, "KeyConditionExpression": condition, "ExpressionAttributeValues": keys, **more}
        pages = query_pages(self._dynamo, most=limit, page_max=DAYS_PAGE, **asked)
        return [read_account(item) async for page in pages for item in page["Items"] if item["sk"]["S"].startswith(DAY_PREFIX)]

    async def _get(self, keys: Sequence[Item]) -> list[Item]:
        """The items of these keys that are there, in no order."""
        pages = [keys[start : start + BATCH_GET_MAX] for start in range(0, len(keys), BATCH_GET_MAX)]
        return [item for page in await asyncio.gather(*map(self._get_page, pages)) for item in page]

    async def _get_page(self, keys: Sequence[Item]) -> list[Item]:
        items: list[Item] = []
        while keys:
            answer = await self._dynamo.call("batch_get_item", RequestItems={LEDGER.name: {"Keys": keys, "ConsistentRead": True}})
            items += answer["Responses"].get(LEDGER.name, [])
            rest = answer.get("UnprocessedKeys", {}).get(LEDGER.name, {}).get("Keys", [])
            if len(rest) == len(keys):
                raise DynamoUnavailable("batch_get_item: nothing was processed")
            keys = rest
        return items

    async def _newest(self, username: str, index: Index, lower: Mapping[str, str], upper: Mapping[str, str], limit: int) -> list[Item]:
        """The items behind an index, which holds their keys alone: what a request writes counts more than what a page reads."""
        keys = await self._newest_keys(username, index, lower, upper, limit)
        found = {item["sk"]["S"]: item for item in await self._get(keys)}
        return [found[key["sk"]["S"]] for key in keys]

    async def _newest_keys(self, username: str, index: Index, lower: Mapping[str, str], upper: Mapping[str, str], limit: int) -> list[Item]:
        # BETWEEN takes both ends in; `upper` itself is not wanted, so one more is asked for and dropped.
        pages = query_pages(
            self._dynamo,
            most=limit + 1,
            TableName=LEDGER.name,
            IndexName=index.name,
            KeyConditionExpression="pk = :pk AND #sort BETWEEN :lower AND :upper",
            ExpressionAttributeNames={"#sort": index.sort_key},
            ExpressionAttributeValues={":pk": {"S": account_pk(username)}, ":lower": dict(lower), ":upper": dict(upper)},
            ScanIndexForward=False,
        )
        wanted = [item async for page in pages for item in page["Items"] if item[index.sort_key] != dict(upper)][:limit]
        return [{"pk": item["pk"], "sk": item["sk"]} for item in wanted]

    async def _transact(self, writes: Sequence[Write]) -> list[Outcome]:
        told = await self._try([action for write in writes for action in actions_of(write)], [write.actions for write in writes])
        if len(writes) == 1 or not all(isinstance(outcome, Failed) for outcome in told):
            return told
        # One of them is not taken, and the answer does not say which: each alone, so that the others are stored now.
        return [outcome for write in writes for outcome in await self._transact([write])]

    async def _try(self, actions: Sequence[dict[str, Any]], shares: Sequence[int]) -> list[Outcome]:
        """One transaction, tried once. `shares`: how many of the actions are each account's; an outcome for each, all the same where the answer is for all."""
        async with self._slots:
            try:
                await self._dynamo.call("transact_write_items", TransactItems=list(actions))
            except DynamoUnavailable as error:
                return [Unknown(str(error))] * len(shares)
            except ClientError as error:
                if error_code(error) == "TransactionCanceledException":
                    return list(_reasons(shares, error.response.get("CancellationReasons") or []))
                if _is_refused(error):
                    return [Failed(str(error))] * len(shares)
                raise
        return [Stored()] * len(shares)


def _packs(writes: Sequence[Write]) -> Iterator[list[int]]:
    """Indexes of writes that go into one transaction each."""
    pack: list[int] = []
    actions = size = 0
    for index, write in enumerate(writes):
        weight = _bytes(write)
        if pack and (actions + write.actions > ACTIONS_MAX or size + weight > TRANSACTION_BYTES_MAX):
            yield pack
            pack, actions, size = [], 0, 0
        pack.append(index)
        actions += write.actions
        size += weight
    if pack:
        yield pack


def _bytes(write: Write) -> int:
    """A generous estimate of a write's size: texts are counted, lines of the account guessed."""
    lines = sum(len(account.positions) + len(account.cash) + 1 for account in (write.account, *write.days))
    texts = sum(len(result_value(entry)) + _KEYS_BYTES for entry in write.entries)
    return _LINE_BYTES * (lines + len(write.orders) * 4) + texts


def actions_of(write: Write) -> Iterator[dict[str, Any]]:
    """The actions of a write: the account first, then entries, orders and days."""
    yield {"Put": {"TableName": LEDGER.name, "Item": account_item(write.account), **version_is(write.loaded_version)}}
    for entry in write.entries:
        yield {"Put": {"TableName": LEDGER.name, "Item": entry_item(entry), **ABSENT}}
    for order in write.orders:
        condition = order_is(write.replaces[order.order_id]) if order.order_id in write.replaces else ABSENT
        yield {"Put": {"TableName": LEDGER.name, "Item": order_item(write.account.username, order), **condition}}
    for day in write.days:
        yield {"Put": {"TableName": LEDGER.name, "Item": day_item(day)}}


ABSENT: Final = {"ConditionExpression": "attribute_not_exists(pk)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


def version_is(version: int) -> dict[str, Any]:
    """The condition on an account item: it has this version, or is not there where that is 0."""
    if version == 0:
        return {"ConditionExpression": "attribute_not_exists(pk)"}
    return {
        "ConditionExpression": "#version = :loaded",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":loaded": {"N": str(version)}},
    }


def order_is(updated_version: int) -> dict[str, Any]:
    """The condition on an order item: nothing has changed it since that account version.

    The account's own condition does not suffice: an order that was read before another's write, and the account after it, would pass that one.
    """
    return {
        "ConditionExpression": "updated_version = :read",
        "ExpressionAttributeValues": {":read": {"N": str(updated_version)}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def _reasons(shares: Sequence[int], reasons: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    """What the reasons of a cancelled transaction say of each account in it. A conflict or throttling is never a refusal."""
    if len(reasons) != sum(shares):
        yield from [Unknown("no-reasons")] * len(shares)
        return
    start = 0
    for share in shares:
        yield _outcome_of(reasons[start : start + share])
        start += share


def _is_refused(error: ClientError) -> bool:
    """Whether the store does not take what is in a transaction. The same item twice in it is a mistake in the transaction, and ours."""
    return error_code(error) == "ValidationException" and "multiple operations on one item" not in str(error)


def _outcome_of(reasons: Sequence[Mapping[str, Any]]) -> Outcome:
    """What the reasons of one account's actions in a cancelled transaction say; the first of them is about its account item."""
    codes = [str(reason.get("Code") or "None") for reason in reasons]
    failed = [reason for reason, code in zip(reasons, codes, strict=True) if code == "ConditionalCheckFailed"]
    if "ValidationError" in codes:
        return Failed(str(reasons[codes.index("ValidationError")].get("Message") or "ValidationError"))
    if not failed:
        return Unknown(next((code for code in codes if code != "None"), NEIGHBOUR))
    found = named_items([reason["Item"] for reason in failed if reason.get("Item")])
    if found.unreadable:
        return Failed(f"an item in the way cannot be read: {found.unreadable}")
    return Refused(moved=codes[0] == "ConditionalCheckFailed", entries=found.entries, orders=found.orders)


def named_items(items: Sequence[Item]) -> Named:
    """Entries and orders of one account from their items; other items among them are passed over."""
    try:
        entries = [read_entry(item) for item in items if item["sk"]["S"].startswith("ENTRY#")]
        orders = [read_order(item) for item in items if item["sk"]["S"].startswith("ORDER#")]
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the item is wrong with this account alone
        return Named(unreadable=type(error).__name__)
    return Named({entry.request_id: entry for entry in entries}, {order.order_id: order for order in orders})
