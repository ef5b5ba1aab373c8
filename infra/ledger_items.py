"""Items of the ledger table: how an account, an entry and an order are written, and read again.

What conditions, keys and indexes need is an attribute. The rest is JSON text: see docs/adr/0007.
"""

from dataclasses import replace
from functools import cache
from typing import Final

from pydantic import TypeAdapter

from infra.dynamo import Item, from_attribute, to_attribute
from schemas.instants import day_of, rfc3339
from schemas.ledger import Account, Entry, Lines, Order
from schemas.money import CURRENCY_SCALES
from schemas.requests import DUE_SIDES
from schemas.results import entry_of, result_value
from schemas.tables import (
    ACCOUNT_SK,
    DUE_ORDERS,
    ENTRIES_BY_ASSET,
    ENTRIES_BY_VERSION,
    EXPIRING_ORDERS,
    ORDERS_BY_VERSION,
    account_pk,
    asset_version,
    day_sk,
    due_price,
    due_side,
    entry_sk,
    expiry,
    expiry_shard,
    order_shard,
    order_sk,
)

_NOT_OF_THE_HEAD: Final = ("pk", "sk", "lines")


def item_key(username: str, sk: str) -> Item:
    """The key of an item of an account."""
    return {"pk": {"S": account_pk(username)}, "sk": {"S": sk}}


def account_item(account: Account) -> Item:
    """An account as its item: cash, positions and counters as JSON text, beside the attributes that conditions and parking need."""
    lines = Lines(account.counters, dict(account.cash), dict(account.positions))
    item: Item = {
        **item_key(account.username, ACCOUNT_SK),
        "username": {"S": account.username},
        "version": {"N": str(account.version)},
        "at": {"S": rfc3339(account.at)},
        "status": {"S": account.status},
        "lines": {"S": _lines().dump_json(lines, exclude_none=True).decode()},
    }
    if account.parked:
        item["parked"] = to_attribute(account.parked)
    return item


def day_item(account: Account) -> Item:
    """An account as it was at the end of the day of its last decision: what it had then, and nothing of its status."""
    return {**account_item(replace(account, status="active", parked=None)), "sk": {"S": day_sk(day_of(account.at))}}


def entry_item(entry: Entry) -> Item:
    """An entry as its item: its result as the text that goes out, beside what the text does not say.

    The index attributes are there only where it moved something, so the indexes hold history without refusals.
    """
    item = {
        **item_key(entry.username, entry_sk(entry.request_id)),
        "partition": {"N": str(entry.partition)},
        "offset": {"N": str(entry.offset)},
        "correlation_id": {"S": entry.correlation_id},
        "trace_id": {"S": entry.trace_id},
        "result": {"S": result_value(entry).decode()},
    }
    if entry.drained_by:
        item["drained_by"] = {"S": entry.drained_by}
    if entry.lines.cash or entry.lines.positions:
        item[ENTRIES_BY_VERSION.sort_key] = {"N": str(entry.version)}
    asset = next((posting.unit for posting in entry.postings if posting.unit not in CURRENCY_SCALES), None)
    if asset:
        item[ENTRIES_BY_ASSET.sort_key] = {"S": asset_version(asset, entry.version)}
    return item


def order_item(username: str, order: Order) -> Item:
    """An order as its item: the order as JSON text, beside the attributes that keys, conditions and indexes need.

    Those of the global indexes are there only while it is open, so that these hold open orders alone.
    """
    item: Item = {
        **item_key(username, order_sk(order.order_id)),
        ORDERS_BY_VERSION.sort_key: {"N": str(order.created_version)},
        "updated_version": {"N": str(order.updated_version)},
        "order": {"S": _order().dump_json(order, exclude_none=True).decode()},
    }
    if order.status == "open" and order.price is not None:
        shard = order_shard(username)
        item[DUE_ORDERS.partition_key] = {"S": due_side(order.asset_id, DUE_SIDES[order.order_type], shard)}
        item[DUE_ORDERS.sort_key] = {"S": due_price(order.price, order.quote_sequence, order.created_at, order.order_id)}
        if order.expires_at is not None:
            item[EXPIRING_ORDERS.partition_key] = {"S": expiry_shard(shard)}
            item[EXPIRING_ORDERS.sort_key] = {"S": expiry(order.expires_at, order.order_id)}
    return item


def read_account(item: Item) -> Account:
    """An account from its item. pydantic's ValidationError where the item is not one. Without lines it is one that only parking has touched."""
    head = _account().validate_python({name: from_attribute(value) for name, value in item.items() if name not in _NOT_OF_THE_HEAD})
    if "lines" not in item:
        return head
    lines = _lines().validate_json(item["lines"]["S"])
    return replace(head, cash=lines.cash, positions=lines.positions, counters=lines.counters)


def read_entry(item: Item) -> Entry:
    """An entry from its item. UnreadableResult or KeyError where the item is none."""
    return entry_of(
        item["result"]["S"].encode(),
        partition=int(item["partition"]["N"]),
        offset=int(item["offset"]["N"]),
        correlation_id=item["correlation_id"]["S"],
        trace_id=item["trace_id"]["S"],
        drained_by=item["drained_by"]["S"] if "drained_by" in item else None,
    )


def read_order(item: Item) -> Order:
    """An order from its item."""
    return _order().validate_json(item["order"]["S"])


@cache
def _lines() -> TypeAdapter[Lines]:
    return TypeAdapter(Lines)


@cache
def _account() -> TypeAdapter[Account]:
    return TypeAdapter(Account)


@cache
def _order() -> TypeAdapter[Order]:
    return TypeAdapter(Order)
