"""DynamoDB: the client's lifecycle, the item codec, the tables, and the errors that callers tell apart.

Money goes out as Number and comes back as Decimal; there is no float on the way. The SDK's own retries are off: a repeated
transaction may answer for what its first try wrote, so each caller repeats knowingly.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self

import aioboto3
import orjson
import stamina
from aiobotocore.parsers import AioJSONParser
from aiohttp import ClientError as HttpError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.serialize import JSONSerializer
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from schemas.instants import rfc3339
from schemas.money import plain
from schemas.tables import LEDGER, TABLES, GlobalIndex, Table

Attribute = dict[str, Any]
Item = dict[str, Attribute]

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
CONNECTIONS_MAX: Final = 32
START_ATTEMPTS_MAX: Final = 20
START_WAIT_S_MAX: Final = 30.0
TABLE_WAIT_S: Final = 60.0
TABLE_POLL_S: Final = 0.5

_TRANSIENT_CODES: Final = frozenset(
    {
        "InternalServerError",
        "ItemCollectionSizeLimitExceededException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)

_TRACER: Final = trace.get_tracer("cnop")
CALL_S: Final = Histogram("cnop_dynamodb_seconds", "DynamoDB calls", ["operation"], buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5))
FAULTS: Final = Counter("cnop_dynamodb_faults_total", "DynamoDB calls that failed for a passing reason", ["operation", "code"])


_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {}
"""The field names of each dataclass that was written, since asking for them costs more than an item's whole coding."""


class DynamoUnavailable(RuntimeError):
    """A passing fault: throttled, in conflict, away, or no answer in time. What a write did is then unknown."""


class TableMismatch(RuntimeError):
    """A table exists with another key schema or other indexes than declared. The text names the table and both."""


class Dynamo:
    """A connected client as an async context manager: `async with Dynamo(url, region) as dynamo`."""

    def __init__(self, endpoint_url: str, region: str, *, connections_max: int = CONNECTIONS_MAX) -> None:
        self._endpoint_url = endpoint_url or None
        self._config = Config(
            region_name=region,
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            max_pool_connections=connections_max,
            retries={"total_max_attempts": 1, "mode": "standard"},
            parameter_validation=False,
        )
        self._stack = AsyncExitStack()
        self.client: Any = None

    async def __aenter__(self) -> Self:
        self.client = await self._stack.enter_async_context(aioboto3.Session().client("dynamodb", endpoint_url=self._endpoint_url, config=self._config))
        _straighten(self.client)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._stack.aclose()

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One API call, `operation` in snake case.

        DynamoUnavailable for a passing fault; `botocore.exceptions.ClientError` for an answer that says no (a condition, a cancelled
        transaction, a bad request).
        """
        with _TRACER.start_as_current_span(f"dynamodb {operation}", kind=SpanKind.CLIENT), CALL_S.labels(operation).time():
            try:
                answer: dict[str, Any] = await getattr(self.client, operation)(**arguments)
            except ClientError as error:
                code = error_code(error)
                if code not in _TRANSIENT_CODES and status_of(error) < 500:  # noqa: PLR2004 - HTTP
                    raise
                FAULTS.labels(operation, code).inc()
                raise DynamoUnavailable(f"{operation}: {code}") from error
            except (BotoCoreError, HttpError, TimeoutError, OSError) as error:
                FAULTS.labels(operation, type(error).__name__).inc()
                raise DynamoUnavailable(f"{operation}: {type(error).__name__}") from error
        return answer

    async def ping(self) -> None:
        """Cheap proof that the store answers and has our tables. DynamoUnavailable or ClientError otherwise."""
        # Not DescribeTable: an engine may count the table's items for its answer, and everybody else waits meanwhile.
        await self.call("get_item", TableName=LEDGER.name, Key={"pk": {"S": "PING"}, "sk": {"S": "PING"}})


async def query_pages(
    dynamo: Dynamo, *, operation: str = "query", after: Item | None = None, most: int | None = None, page_max: int | None = None, **query: Any
) -> AsyncIterator[dict[str, Any]]:
    """The answers of a consistent query, or scan, page by page, until there are no more items or `most` have come; no page has more than `page_max`.

    `after`: the key behind which it begins, `LastEvaluatedKey` of an answer.
    """
    start: dict[str, Any] = {"ExclusiveStartKey": after} if after else {}
    left = most
    while left is None or left > 0:
        bounds = [bound for bound in (left, page_max) if bound is not None]
        limited = {"Limit": min(bounds)} if bounds else {}
        answer = await dynamo.call(operation, ConsistentRead=True, **query, **limited, **start)
        yield answer
        if "LastEvaluatedKey" not in answer:
            return
        left = None if left is None else left - len(answer["Items"])
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}


class _AsTheyAre(JSONSerializer):  # type: ignore[misc] # the SDK has no types
    """Parameters are sent as they are: items here are in DynamoDB's own JSON already, and there is no blob to encode."""

    def serialize_to_request(self, parameters: Mapping[str, Any], operation_model: Any) -> dict[str, Any]:
        request: dict[str, Any] = super().serialize_to_request({}, operation_model)
        return {**request, "body": orjson.dumps(parameters)}


class _AsTheyCame(AioJSONParser):  # type: ignore[misc] # the SDK has no types
    """Answers are taken as they come, for the same reason. Errors are read by the model as ever."""

    def _handle_json_body(self, raw_body: bytes, shape: Any) -> Any:  # noqa: ARG002
        return orjson.loads(raw_body) if raw_body else {}


class _Parsers:
    def __init__(self) -> None:
        self._parser = _AsTheyCame()

    def create_parser(self, protocol_name: str) -> _AsTheyCame:  # noqa: ARG002
        return self._parser


def _straighten(client: Any) -> None:
    """Take three things out of the SDK's way that took half of settlement's time and change nothing.

    The first is its walk over every node of every item, there and back. The second works the endpoint out anew for every call, from each item
    of the call; ours is the one that was found when the client was made. The third builds the same user agent again for every call.
    These are the SDK's internals: should they move, the ledger's contract suite fails at its first call.
    """
    client._serializer = _AsTheyAre()  # noqa: SLF001
    client._endpoint._response_parser_factory = _Parsers()  # noqa: SLF001
    client._ruleset_resolver = None  # noqa: SLF001
    client.meta.events.unregister("request-created.dynamodb", client._user_agent_creator.rebuild_and_replace_user_agent_handler)  # noqa: SLF001


def error_code(error: ClientError) -> str:
    """DynamoDB's name of an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """HTTP status of an error answer; 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def to_attribute(value: object) -> Attribute:
    """A value as DynamoDB's typed JSON. Dataclasses and mappings become maps, without their None fields. TypeError for a float."""
    write = _WRITERS.get(type(value)) or _writer_of(type(value))
    return write(value)


def to_item(value: object) -> Item:
    """A dataclass as an item's attributes, without its None fields."""
    pairs = [(name, getattr(value, name)) for name in _names(type(value))]
    return {name: to_attribute(part) for name, part in pairs if part is not None}


def from_attribute(attribute: Mapping[str, Any]) -> Any:
    """The inverse: Number becomes Decimal, and everything else what JSON would make of it."""
    ((kind, value),) = attribute.items()
    match kind:
        case "N":
            return Decimal(value)
        case "M":
            return {name: from_attribute(part) for name, part in value.items()}
        case "L":
            return [from_attribute(part) for part in value]
        case "NULL":
            return None
        case _:
            return value


def from_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item's attributes as plain values."""
    return {name: from_attribute(attribute) for name, attribute in item.items()}


async def provision(endpoint_url: str, region: str, *, tables: Sequence[Table] = TABLES) -> list[str]:
    """Create the tables that are missing and check those that are there; the names of the created ones.

    Global indexes that a table lacks are made. TableMismatch where keys or local indexes differ: they are fixed at creation. DynamoUnavailable where no
    store answers.
    """
    async with Dynamo(endpoint_url, region) as dynamo:
        async for attempt in stamina.retry_context(on=DynamoUnavailable, attempts=START_ATTEMPTS_MAX, timeout=START_WAIT_S_MAX, wait_max=2.0):
            with attempt:
                existing = set((await dynamo.call("list_tables"))["TableNames"])
        created = [table.name for table in tables if table.name not in existing]
        for table in tables:
            if table.name in created:
                await dynamo.call("create_table", **_declaration(table))
            _check(table, await _with_global_indexes(dynamo, table, await _when_active(dynamo, table)))
            await _expire(dynamo, table)
        return created


async def _with_global_indexes(dynamo: Dynamo, table: Table, found: dict[str, Any]) -> dict[str, Any]:
    """Make the global indexes that a table of an earlier release lacks, one after the other, as DynamoDB wants it; the table as it is then."""
    there = {index["IndexName"] for index in found.get("GlobalSecondaryIndexes") or []}
    types = {row["AttributeName"]: row for row in _declaration(table)["AttributeDefinitions"]}
    known = {row["AttributeName"] for row in found["AttributeDefinitions"]}
    for index in table.global_indexes:
        if index.name not in there:
            known |= {index.partition_key, index.sort_key}
            await dynamo.call(
                "update_table",
                TableName=table.name,
                AttributeDefinitions=[row for name, row in types.items() if name in known],
                GlobalSecondaryIndexUpdates=[{"Create": _global(index)}],
            )
            found = await _when_active(dynamo, table)
    return found


async def _expire(dynamo: Dynamo, table: Table) -> None:
    """Let the store drop expired items. Turning it on where it is on already is refused, so it is asked first."""
    if table.expires_by is None:
        return
    told = (await dynamo.call("describe_time_to_live", TableName=table.name))["TimeToLiveDescription"]
    if told["TimeToLiveStatus"] in ("ENABLED", "ENABLING"):
        if told.get("AttributeName") != table.expires_by:
            raise TableMismatch(f"table {table.name} expires items by {told.get('AttributeName')}, declared is {table.expires_by}")
        return
    await dynamo.call("update_time_to_live", TableName=table.name, TimeToLiveSpecification={"Enabled": True, "AttributeName": table.expires_by})


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


def _names(kind: type[Any]) -> tuple[str, ...]:
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = tuple(field.name for field in fields(kind))
    return names


def _map(value: Mapping[Any, Any]) -> Attribute:
    return {"M": {str(name): to_attribute(part) for name, part in value.items() if part is not None}}


def _list(value: Sequence[object]) -> Attribute:
    return {"L": [to_attribute(part) for part in value]}


def _writer_of(kind: type[Any]) -> Callable[[Any], Attribute]:
    """The writer of a type that is seen for the first time."""
    write = next((_WRITERS[known] for known in list(_WRITERS) if issubclass(kind, known)), None)
    if write is None and is_dataclass(kind):
        write = _record
    if write is None and issubclass(kind, Mapping):
        write = _map
    if write is None:
        raise TypeError(f"{kind.__name__} has no place in an item")
    _WRITERS[kind] = write
    return write


def _record(value: object) -> Attribute:
    return {"M": to_item(value)}


_WRITERS: Final[dict[type[Any], Callable[[Any], Attribute]]] = {
    str: lambda value: {"S": value},
    Decimal: lambda value: {"N": plain(value)},
    datetime: lambda value: {"S": rfc3339(value)},
    bool: lambda value: {"BOOL": value},
    int: lambda value: {"N": str(value)},
    dict: _map,
    list: _list,
    tuple: _list,
    type(None): lambda _: {"NULL": True},
}
"""How a value of a type is written. Types are looked up here since asking `isinstance` one after the other cost more than the writing."""
