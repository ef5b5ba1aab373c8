"""The tables in DynamoDB: made where they are missing, checked where they are there. Any number may do so at once."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import stamina
from botocore.exceptions import ClientError

from infra.dynamo import Dynamo, DynamoUnavailable, error_code
from schemas.tables import TABLES, GlobalIndex, Table

START_ATTEMPTS_MAX: Final = 20
START_WAIT_S_MAX: Final = 30.0
TABLE_WAIT_S: Final = 60.0
TABLE_POLL_S: Final = 0.5


class TableMismatch(RuntimeError):
    """A table exists with another key schema or other indexes than declared. The text names the table and both."""


async def provision(endpoint_url: str, region: str, *, tables: Sequence[Table] = TABLES) -> list[str]:
    """Create the tables that are missing and check those that are there; the names of the created ones. Several may do so at once.

    Global indexes that a table lacks are made. TableMismatch where keys or local indexes differ: they are fixed at creation. DynamoUnavailable where no
    store answers.
    """
    async with Dynamo(endpoint_url, region) as dynamo:
        async for attempt in stamina.retry_context(on=DynamoUnavailable, attempts=START_ATTEMPTS_MAX, timeout=START_WAIT_S_MAX, wait_max=2.0):
            with attempt:
                missing = [table for table in tables if not await _exists(dynamo, table)]
        created = [table.name for table in missing if await _created(dynamo, table)]
        for table in tables:
            _check(table, await _with_global_indexes(dynamo, table, await _when_active(dynamo, table)))
            await _expire(dynamo, table)
        return created


async def _exists(dynamo: Dynamo, table: Table) -> bool:
    try:
        await dynamo.call("describe_table", TableName=table.name)
    except ClientError as error:
        if error_code(error) != "ResourceNotFoundException":
            raise
        return False
    return True


async def _created(dynamo: Dynamo, table: Table) -> bool:
    """Whether it was made here; False where somebody else was quicker."""
    try:
        await dynamo.call("create_table", **_declaration(table))
    except ClientError as error:
        if error_code(error) != "ResourceInUseException":
            raise
        return False
    return True


async def _with_global_indexes(dynamo: Dynamo, table: Table, found: dict[str, Any]) -> dict[str, Any]:
    """Make the global indexes that a table of an earlier release lacks, one after the other, as DynamoDB wants it; the table as it is then."""
    types = {row["AttributeName"]: row for row in _declaration(table)["AttributeDefinitions"]}
    known = {row["AttributeName"] for row in found["AttributeDefinitions"]}
    for index in table.global_indexes:
        if _has(found, index):
            continue
        known |= {index.partition_key, index.sort_key}
        refused = None
        try:
            await dynamo.call(
                "update_table",
                TableName=table.name,
                AttributeDefinitions=[row for name, row in types.items() if name in known],
                GlobalSecondaryIndexUpdates=[{"Create": _global(index)}],
            )
        except ClientError as error:
            refused = error
        found = await _when_active(dynamo, table)
        if refused and not _has(found, index):  # else somebody else was quicker
            raise refused
    return found


def _has(found: dict[str, Any], index: GlobalIndex) -> bool:
    return any(there["IndexName"] == index.name for there in found.get("GlobalSecondaryIndexes") or [])


async def _expire(dynamo: Dynamo, table: Table) -> None:
    """Let the store drop expired items. Turning it on where it is on already is refused, so it is asked first."""
    if table.expires_by is None or await _expires(dynamo, table):
        return
    try:
        await dynamo.call("update_time_to_live", TableName=table.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": table.expires_by})
    except ClientError:
        if not await _expires(dynamo, table):  # it may be that somebody else was quicker
            raise


async def _expires(dynamo: Dynamo, table: Table) -> bool:
    told = (await dynamo.call("describe_time_to_live", TableName=table.name))["TimeToLiveDescription"]
    if told["TimeToLiveStatus"] not in ("ENABLED", "ENABLING"):
        return False
    if told.get("AttributeName") != table.expires_by:
        raise TableMismatch(f"table {table.name} expires items by {told.get('AttributeName')}, declared is {table.expires_by}")
    return True


def _declaration(table: Table) -> dict[str, Any]:
    keys = [{"AttributeName": table.partition_key, "KeyType": "HASH"}]
    if table.sort_key:
        keys.append({"AttributeName": table.sort_key, "KeyType": "RANGE"})
    types = {table.partition_key: "S", **({table.sort_key: "S"} if table.sort_key else {}), **{index.sort_key: index.sort_type for index in table.indexes}}
    types |= {name: "S" for index in table.global_indexes for name in (index.partition_key, index.sort_key)}
    declaration: dict[str, Any] = {
        "TableName": table.name,
        "KeySchema": keys,
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in types.items()],
        "BillingMode": "PAY_PER_REQUEST",
    }
    if table.indexes:
        declaration["LocalSecondaryIndexes"] = [
            {
                "IndexName": index.name,
                "KeySchema": [{"AttributeName": table.partition_key, "KeyType": "HASH"}, {"AttributeName": index.sort_key, "KeyType": "RANGE"}],
                "Projection": {"ProjectionType": "ALL"},
            }
            for index in table.indexes
        ]
    if table.global_indexes:
        declaration["GlobalSecondaryIndexes"] = [_global(index) for index in table.global_indexes]
    return declaration


def _global(index: GlobalIndex) -> dict[str, Any]:
    return {
        "IndexName": index.name,
        "KeySchema": [{"AttributeName": index.partition_key, "KeyType": "HASH"}, {"AttributeName": index.sort_key, "KeyType": "RANGE"}],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }


async def _when_active(dynamo: Dynamo, table: Table) -> dict[str, Any]:
    async with asyncio.timeout(TABLE_WAIT_S):
        while True:
            found: dict[str, Any] = (await dynamo.call("describe_table", TableName=table.name))["Table"]
            indexes = found.get("GlobalSecondaryIndexes") or []
            if found["TableStatus"] == "ACTIVE" and all(index["IndexStatus"] == "ACTIVE" for index in indexes):
                return found
            await asyncio.sleep(TABLE_POLL_S)


def _check(table: Table, found: dict[str, Any]) -> None:
    declared = _declaration(table)
    for label, theirs, ours in (
        ("key schema", _keys(found), _keys(declared)),
        ("local indexes", _indexes(found, "LocalSecondaryIndexes"), _indexes(declared, "LocalSecondaryIndexes")),
        ("global indexes", _indexes(found, "GlobalSecondaryIndexes"), _indexes(declared, "GlobalSecondaryIndexes")),
        ("attribute types", _types(found), _types(declared)),
    ):
        if theirs != ours:
            raise TableMismatch(f"table {table.name} has {label} {theirs}, declared are {ours}; they are fixed when a table is made")


def _keys(description: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key["AttributeName"], key["KeyType"]) for key in description["KeySchema"]]


def _indexes(description: dict[str, Any], kind: str) -> dict[str, list[tuple[str, str]]]:
    return {index["IndexName"]: _keys(index) for index in sorted(description.get(kind) or [], key=lambda index: str(index["IndexName"]))}


def _types(description: dict[str, Any]) -> dict[str, str]:
    return {row["AttributeName"]: row["AttributeType"] for row in sorted(description["AttributeDefinitions"], key=lambda row: str(row["AttributeName"]))}
