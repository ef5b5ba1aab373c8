"""The ledger table: consistent reads of an account, its entries and orders, and the one way in which settlement writes them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Protocol

from botocore.exceptions import ClientError
from pydantic import TypeAdapter

from infra.dynamo import Dynamo, DynamoUnavailable, Item, error_code, from_item, to_item
from schemas.ledger import Account, Entry, Order
from schemas.money import CURRENCY_SCALES
from schemas.results import entry_of, result_value
from schemas.tables import (
    ACCOUNT_SK,
    ENTRIES_BY_ASSET,
    ENTRIES_BY_VERSION,
    LEDGER,
    ORDERS_BY_VERSION,
    Index,
    account_pk,
    asset_version,
    entry_sk,
    order_sk,
)

ACTIONS_MAX: Final = 100
"""Actions in one transaction (DynamoDB's limit)."""
TRANSACTION_BYTES_MAX: Final = 3_500_000
"""Bytes of items in one transaction; DynamoDB's limit is 4 MB, and ours is an estimate."""
BATCH_GET_MAX: Final = 100
TRANSACTIONS_AT_ONCE: Final = 8
NEIGHBOUR: Final = "neighbour"
"""Cause of an `Unknown` whose transaction was cancelled for another account's sake: what was loaded is still right."""
_LINE_BYTES: Final = 240
_KEYS_BYTES: Final = 400
_VERSION_LAST: Final = 10**18


@dataclass(frozen=True, slots=True)
class Write:
    """What one account's decided requests change: stored as a whole or not at all.

    `loaded_version` is the version that the decisions started from.
    """

    loaded_version: int
    account: Account
    entries: tuple[Entry, ...]
    orders: tuple[Order, ...] = ()

    @property
    def actions(self) -> int:
        """Actions that this takes in a transaction."""
        return 1 + len(self.entries) + len(self.orders)


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


Outcome = Stored | Refused | Unknown


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


class LedgerStore(LedgerReads, Protocol):
    """What settlement needs: the reads, many accounts at once, and the write."""

    async def accounts(self, usernames: Sequence[str]) -> dict[str, Account]:
        """All of the accounts, empty ones included."""
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

    async def accounts(self, usernames: Sequence[str]) -> dict[str, Account]:
        """See `LedgerStore`."""
        found = {username: Account(username) for username in usernames}
        pages = [usernames[start : start + BATCH_GET_MAX] for start in range(0, len(usernames), BATCH_GET_MAX)]
        for items in await asyncio.gather(*(self._batch(page) for page in pages)):
            for item in items:
                account = read_account(item)
                found[account.username] = account
        return found

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

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        """See `LedgerStore`. Writes are packed across accounts, up to the limits of a transaction."""
        packs = list(_packs(writes))
        outcomes = await asyncio.gather(*(self._transact([writes[index] for index in pack]) for pack in packs))
        by_index = {index: outcome for pack, told in zip(packs, outcomes, strict=True) for index, outcome in zip(pack, told, strict=True)}
        return [by_index[index] for index in range(len(writes))]

    async def _item(self, username: str, sk: str) -> Item | None:
        key = {"pk": {"S": account_pk(username)}, "sk": {"S": sk}}
        answer = await self._dynamo.call("get_item", TableName=LEDGER.name, Key=key, ConsistentRead=True)
        item: Item | None = answer.get("Item")
        return item

    async def _batch(self, usernames: Sequence[str]) -> list[Item]:
        keys = [{"pk": {"S": account_pk(username)}, "sk": {"S": ACCOUNT_SK}} for username in usernames]
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
        # BETWEEN takes both ends in; `upper` itself is not wanted, so one more is asked for and dropped.
        items: list[Item] = []
        start: dict[str, Any] = {}
        while len(items) <= limit:
            answer = await self._dynamo.call(
                "query",
                TableName=LEDGER.name,
                IndexName=index.name,
                KeyConditionExpression="pk = :pk AND #sort BETWEEN :lower AND :upper",
                ExpressionAttributeNames={"#sort": index.sort_key},
                ExpressionAttributeValues={":pk": {"S": account_pk(username)}, ":lower": dict(lower), ":upper": dict(upper)},
                ScanIndexForward=False,
                ConsistentRead=True,
                Limit=limit + 1 - len(items),
                **start,
            )
            items += answer["Items"]
            if "LastEvaluatedKey" not in answer:
                break
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
        return [item for item in items if item[index.sort_key] != dict(upper)][:limit]

    async def _transact(self, writes: Sequence[Write]) -> list[Outcome]:
        actions = [action for write in writes for action in _actions(write)]
        async with self._slots:
            try:
                await self._dynamo.call("transact_write_items", TransactItems=actions)
            except DynamoUnavailable as error:
                return [Unknown(str(error))] * len(writes)
            except ClientError as error:
                if error_code(error) != "TransactionCanceledException":
                    raise
                return list(_reasons(writes, error.response.get("CancellationReasons") or []))
        return [Stored()] * len(writes)


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
    lines = len(write.account.positions) + len(write.account.cash) + 1
    texts = sum(len(result_value(entry)) + _KEYS_BYTES for entry in write.entries)
    return _LINE_BYTES * (lines + len(write.orders) * 4) + texts


def _actions(write: Write) -> Iterator[dict[str, Any]]:
    yield {"Put": {"TableName": LEDGER.name, "Item": account_item(write.account), **_version_is(write.loaded_version)}}
    for entry in write.entries:
        yield {"Put": {"TableName": LEDGER.name, "Item": entry_item(entry), **_ABSENT}}
    for order in write.orders:
        yield {"Put": {"TableName": LEDGER.name, "Item": order_item(write.account.username, order), **_ABSENT}}


_ABSENT: Final = {"ConditionExpression": "attribute_not_exists(pk)", "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}


def _version_is(version: int) -> dict[str, Any]:
    if version == 0:
        return {"ConditionExpression": "attribute_not_exists(pk)"}
    return {
        "ConditionExpression": "#version = :loaded",
        "ExpressionAttributeNames": {"#version": "version"},
        "ExpressionAttributeValues": {":loaded": {"N": str(version)}},
    }


def _reasons(writes: Sequence[Write], reasons: Sequence[Mapping[str, Any]]) -> Iterator[Outcome]:
    """What the reasons of a cancelled transaction say of each write in it. A conflict or throttling is never a refusal."""
    if len(reasons) != sum(write.actions for write in writes):
        yield from [Unknown("no-reasons")] * len(writes)
        return
    start = 0
    for write in writes:
        yield _reason(reasons[start : start + write.actions])
        start += write.actions


def _reason(reasons: Sequence[Mapping[str, Any]]) -> Outcome:
    codes = [str(reason.get("Code") or "None") for reason in reasons]
    failed = [reason for reason, code in zip(reasons, codes, strict=True) if code == "ConditionalCheckFailed"]
    if not failed:
        return Unknown(next((code for code in codes if code != "None"), NEIGHBOUR))
    entries: dict[str, Entry] = {}
    orders: dict[str, Order] = {}
    for item in (reason["Item"] for reason in failed if reason.get("Item")):
        if item["sk"]["S"].startswith("ENTRY#"):
            entry = read_entry(item)
            entries[entry.request_id] = entry
        elif item["sk"]["S"].startswith("ORDER#"):
            order = read_order(item)
            orders[order.order_id] = order
    return Refused(moved=codes[0] == "ConditionalCheckFailed", entries=entries, orders=orders)


def account_item(account: Account) -> Item:
    """An account as its item."""
    return {"pk": {"S": account_pk(account.username)}, "sk": {"S": ACCOUNT_SK}, **to_item(account)}


def entry_item(entry: Entry) -> Item:
    """An entry as its item: its result as the text that goes out, beside what the text does not say.

    The index attributes are there only where it moved something, so the indexes hold history without refusals.
    """
    item = {
        "pk": {"S": account_pk(entry.username)},
        "sk": {"S": entry_sk(entry.request_id)},
        "partition": {"N": str(entry.partition)},
        "offset": {"N": str(entry.offset)},
        "correlation_id": {"S": entry.correlation_id},
        "trace_id": {"S": entry.trace_id},
        "result": {"S": result_value(entry).decode()},
    }
    if entry.lines.cash or entry.lines.positions:
        item[ENTRIES_BY_VERSION.sort_key] = {"N": str(entry.version)}
    asset = next((posting.unit for posting in entry.postings if posting.unit not in CURRENCY_SCALES), None)
    if asset:
        item[ENTRIES_BY_ASSET.sort_key] = {"S": asset_version(asset, entry.version)}
    return item


def order_item(username: str, order: Order) -> Item:
    """An order as its item: the order as JSON text, beside the attributes that keys and indexes need."""
    return {
        "pk": {"S": account_pk(username)},
        "sk": {"S": order_sk(order.order_id)},
        ORDERS_BY_VERSION.sort_key: {"N": str(order.created_version)},
        "order": {"S": _order().dump_json(order, exclude_none=True).decode()},
    }


def read_account(item: Item) -> Account:
    """An account from its item. pydantic's ValidationError where the item is not one."""
    return _account().validate_python(from_item(item))


def read_entry(item: Item) -> Entry:
    """An entry from its item. UnreadableResult or KeyError where the item is none."""
    return entry_of(
        item["result"]["S"].encode(),
        partition=int(item["partition"]["N"]),
        offset=int(item["offset"]["N"]),
        correlation_id=item["correlation_id"]["S"],
        trace_id=item["trace_id"]["S"],
    )


def read_order(item: Item) -> Order:
    """An order from its item."""
    return _order().validate_json(item["order"]["S"])


@cache
def _account() -> TypeAdapter[Account]:
    return TypeAdapter(Account)


@cache
def _order() -> TypeAdapter[Order]:
    return TypeAdapter(Order)
