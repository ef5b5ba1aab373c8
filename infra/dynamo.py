"""DynamoDB: the client's lifecycle, the item codec, and the errors that callers tell apart.

Money goes out as Number and comes back as Decimal; there is no float on the way. The SDK's own retries are off: a repeated
transaction may answer for what its first try wrote, so each caller repeats knowingly.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Self

import aioboto3
import orjson
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
from schemas.tables import LEDGER

Attribute = dict[str, Any]
Item = dict[str, Attribute]

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
CONNECTIONS_MAX: Final = 32

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
