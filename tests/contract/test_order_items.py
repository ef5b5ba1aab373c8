"""What every ledger must do with orders that change: conditions, reads by id, and the indexes that find open ones."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from infra.dynamo import Dynamo
from infra.ledger import Failed, Refused, Stored, Write
from infra.parked import ParkingLedger, ParkingStore
from infra.tables import TableMismatch, provision
from schemas import tables
from schemas.ledger import Order
from schemas.tables import DUE_ORDERS, EXPIRING_ORDERS, LEDGER, GlobalIndex, Table, due_side, entry_sk, expiry_shard, order_shard, order_sk
from tests.contract.test_ledger import AT, REGION, account_of, entry_of
from tests.waiting import eventually

INDEX_S = 5.0
"""A global index lags."""


@pytest.fixture
async def dynamo(machines: Any) -> AsyncIterator[Dynamo]:
    await provision(machines.dynamodb_url, REGION)
    async with Dynamo(machines.dynamodb_url, REGION) as dynamo:
        yield dynamo


def open_order(name: str, version: int = 1, **facts: Any) -> Order:
    order = Order(f"ord_{name}", "BTC", "limit_buy", Decimal(2), "open", version, AT, AT, Decimal("3.33"), 7, 10, price=Decimal("1.5"))
    return replace(order, held=Decimal(3), updated_version=version, **facts)


def placing(username: str, *orders: Order) -> Write:
    return Write(0, account_of(username), (entry_of(username),), orders)


def changing(username: str, *orders: Order, read: int = 1) -> Write:
    """The second write of an account: it changes orders that were read at a version."""
    after = tuple(replace(order, updated_version=2) for order in orders)
    return Write(1, account_of(username, 2), (entry_of(username, 2),), after, {order.order_id: read for order in orders})


async def test_an_order_that_is_as_it_was_read_is_changed(store: ParkingStore, user: str) -> None:
    """The write is stored with the order as it stands now, beside a new one."""
    first, new = open_order("first"), open_order("new", 2)
    assert await store.write([placing(user, first)]) == [Stored()]
    write = changing(user, replace(first, status="cancelled", held=Decimal(0)))
    assert await store.write([replace(write, orders=(*write.orders, new))]) == [Stored()]
    assert [order.status for order in await store.orders(user, before=None, limit=5)] == ["open", "cancelled"]


async def test_an_order_that_has_changed_stands_in_the_way(store: ParkingStore, user: str) -> None:
    """Nothing is written although the account's version is as expected, and the order is told as it is."""
    first = open_order("first")
    await store.write([placing(user, first)])
    assert await store.write([changing(user, first, read=7)]) == [Refused(moved=False, orders={first.order_id: first})]
    assert await store.account(user) == account_of(user)
    assert await store.order(user, first.order_id) == first


async def test_a_new_order_is_not_one_that_is_there(store: ParkingStore, user: str) -> None:
    """Where an order of that id is there, a new one is refused, and the one that is there is told."""
    first = open_order("first")
    await store.write([placing(user, first)])
    write = replace(changing(user, first), replaces={})
    assert await store.write([write]) == [Refused(moved=False, orders={first.order_id: first})]


async def test_items_are_read_by_their_keys(store: ParkingStore, user: str) -> None:
    """Of several accounts at once: what is there is given, what is not is left out."""
    other, first = f"{user}x", open_order("first")
    await store.write([placing(user, first), placing(other)])
    entry = entry_of(other)
    wanted = {
        user: {order_sk("ord_first"), order_sk("ord_none")},
        other: {entry_sk(entry.request_id), order_sk("ord_first")},
        f"{user}y": {order_sk("ord_first")},
    }
    found = await store.named(wanted)
    assert set(found) == set(wanted)
    assert (found[user].orders, found[user].entries) == ({"ord_first": first}, {})
    assert (found[other].orders, dict(found[other].entries)) == ({}, {entry.request_id: entry})
    assert (found[f"{user}y"].orders, found[f"{user}y"].unreadable) == ({}, None)


async def test_an_order_that_cannot_be_read_is_told(dynamo: Dynamo, user: str) -> None:
    """By name it is told as unreadable, with what is wrong and nothing of its content; in the way of a write that write is not taken."""
    ledger, first = ParkingLedger(dynamo), open_order("first")
    await ledger.write([placing(user, first)])
    key = {"pk": {"S": tables.account_pk(user)}, "sk": {"S": order_sk(first.order_id)}}
    damage = {"UpdateExpression": "SET #order = :damage", "ExpressionAttributeNames": {"#order": "order"}, "ExpressionAttributeValues": {":damage": {"S": "?"}}}
    await dynamo.call("update_item", TableName=LEDGER.name, Key=key, **damage)
    found = (await ledger.named({user: {order_sk(first.order_id)}}))[user]
    assert (found.orders, found.unreadable) == ({}, "ValidationError")
    (outcome,) = await ledger.write([changing(user, first, read=7)])
    assert isinstance(outcome, Failed)


async def test_the_indexes_have_open_orders_alone(dynamo: Dynamo, user: str) -> None:
    """An order is found by its side and by its end while it is open, and not any more once it is closed."""
    ledger, first = ParkingLedger(dynamo), open_order("first", expires_at=AT + timedelta(days=1))
    await ledger.write([placing(user, first)])
    shard = order_shard(user)
    places = [(DUE_ORDERS, due_side("BTC", "falls", shard)), (EXPIRING_ORDERS, expiry_shard(shard))]
    for index, partition in places:
        await eventually(lambda index=index, partition=partition: _is_in(dynamo, index, partition, user), INDEX_S)  # type: ignore[misc]
    await ledger.write([changing(user, replace(first, status="expired", held=Decimal(0)))])
    for index, partition in places:
        await eventually(lambda index=index, partition=partition: _is_not_in(dynamo, index, partition, user), INDEX_S)  # type: ignore[misc]


async def test_a_table_of_an_earlier_release_gets_the_indexes(dynamo: Dynamo, machines: Any) -> None:
    """Indexes that a table lacks are made; what is in it stays; other differences are told."""
    early = Table("cnop-early", "pk", "sk", LEDGER.indexes)
    await provision(machines.dynamodb_url, REGION, tables=(early,))
    item = {"pk": {"S": "ACCT#a"}, "sk": {"S": "ORDER#o"}, DUE_ORDERS.partition_key: {"S": "BTC#falls#0"}, DUE_ORDERS.sort_key: {"S": "1"}}
    await dynamo.call("put_item", TableName=early.name, Item=item)
    later = replace(early, global_indexes=LEDGER.global_indexes)
    assert await provision(machines.dynamodb_url, REGION, tables=(later,)) == []
    query = {"IndexName": DUE_ORDERS.name, "KeyConditionExpression": "due_side = :side", "ExpressionAttributeValues": {":side": {"S": "BTC#falls#0"}}}
    assert (await dynamo.call("query", TableName=early.name, **query))["Count"] == 1
    with pytest.raises(TableMismatch, match="global indexes"):
        await provision(machines.dynamodb_url, REGION, tables=(early,))


async def test_several_may_provision_at_once(dynamo: Dynamo, machines: Any) -> None:
    """The table, then an index that it lacks: each is made once, and everybody finds it made."""
    early = Table("cnop-together", "pk", "sk", LEDGER.indexes, expires_by="expires_at")
    later = replace(early, global_indexes=LEDGER.global_indexes)
    made = await asyncio.gather(*(provision(machines.dynamodb_url, REGION, tables=(early,)) for _ in range(4)))
    assert sorted(made) == [[], [], [], [early.name]]
    assert await asyncio.gather(*(provision(machines.dynamodb_url, REGION, tables=(later,)) for _ in range(4))) == [[]] * 4


async def _found(dynamo: Dynamo, index: GlobalIndex, partition: str, username: str) -> list[str]:
    answer = await dynamo.call(
        "query",
        TableName=LEDGER.name,
        IndexName=index.name,
        KeyConditionExpression="#partition = :partition",
        ExpressionAttributeNames={"#partition": index.partition_key},
        ExpressionAttributeValues={":partition": {"S": partition}},
    )
    return [item["sk"]["S"] for item in answer["Items"] if item["pk"]["S"] == tables.account_pk(username)]


async def _is_in(dynamo: Dynamo, index: GlobalIndex, partition: str, username: str) -> bool:
    return await _found(dynamo, index, partition, username) == [order_sk("ord_first")]


async def _is_not_in(dynamo: Dynamo, index: GlobalIndex, partition: str, username: str) -> bool:
    return await _found(dynamo, index, partition, username) == []
