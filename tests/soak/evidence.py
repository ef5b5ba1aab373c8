"""What an audit looks at: the topics from offset zero, the whole ledger table, and what callers were told. Read with plain clients, and none of our code."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal

import aioboto3
from aiokafka import AIOKafkaConsumer, TopicPartition

REQUESTS: Final = "cnop.account.requests.v1"
RESULTS: Final = "cnop.account.results.v1"
DEAD_LETTERS: Final = "cnop.dead-letters.v1"
TOPICS: Final = (REQUESTS, RESULTS, DEAD_LETTERS)
LEDGER: Final = "cnop-ledger"
REGION: Final = "us-east-1"
READ_MS: Final = 500
TOPIC_S: Final = 120.0
"""Bound of reading one topic."""
POISON: Final = "soak-poison"
"""Header of a record that was made unreadable on purpose."""
_HEADERS: Final = frozenset({"ce_id", "ce_type", "ce_subject", "ce_sequence", "dlq_partition", "dlq_offset", POISON})

Told = Literal["settled", "refused", "accepted", "unknown", "nothing"]
"""What a caller knows in the end. `accepted`: the log has it, so it must be decided; `nothing`: none of its tries was handed to the log."""
ACKNOWLEDGED: Final = frozenset({"settled", "refused", "accepted"})

Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a topic, with those headers that matter here."""

    partition: int
    offset: int
    key: str
    headers: Mapping[str, str]
    value: bytes | None

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self.partition, self.offset


@dataclass(frozen=True, slots=True)
class Promise:
    """One request as its caller saw it. `figure` is the amount or quantity that was asked for."""

    username: str
    request_id: str
    kind: str
    figure: Decimal
    told: Told


@dataclass(slots=True)
class Evidence:
    """All of it. `items` are the ledger's, decoded; `committed` are looks at settlement's committed offsets, by partition, in the order of time."""

    requests: list[Record] = field(default_factory=list)
    results: list[Record] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    promises: Sequence[Promise] = ()
    injected: frozenset[Place] = frozenset()
    """Places of the unreadable records that were put into the requests topic on purpose."""
    committed: Sequence[Mapping[int, int]] = ()
    ends: tuple[Mapping[tuple[str, int], int], Mapping[tuple[str, int], int]] = ({}, {})
    """Where each topic and partition ended before all of this was read, and after it."""


async def gather(kafka: str, dynamodb_url: str) -> Evidence:
    """Read everything that is there now. It belongs together only where nothing was written meanwhile, which `ends` tells."""
    before = await log_ends(kafka)
    requests, results, letters, items = await asyncio.gather(*(read_topic(kafka, topic) for topic in TOPICS), read_table(dynamodb_url, LEDGER))
    injected = frozenset(record.place for record in requests if POISON in record.headers)
    return Evidence(requests, results, letters, items, injected=injected, ends=(before, await log_ends(kafka)))


async def log_ends(kafka: str) -> dict[tuple[str, int], int]:
    """Where each partition of the topics ends for a read_committed reader."""
    ends: dict[tuple[str, int], int] = {}
    for topic in TOPICS:
        async with committed_reader(kafka, topic) as reader, asyncio.timeout(TOPIC_S):
            ends |= {(tp.topic, tp.partition): end for tp, end in (await reader.end_offsets(reader.assignment())).items()}
    return ends


async def read_topic(kafka: str, topic: str) -> list[Record]:
    """What a read_committed reader sees from offset zero to the end, by partition in order. TimeoutError where the end is not reached."""
    found: list[Record] = []
    async with committed_reader(kafka, topic) as reader, asyncio.timeout(TOPIC_S):
        ends = await reader.end_offsets(reader.assignment())
        await reader.seek_to_beginning()
        while [tp for tp in ends if await reader.position(tp) < ends[tp]]:
            for records in (await reader.getmany(timeout_ms=READ_MS)).values():
                found += [_record(record) for record in records]
    return sorted(found, key=lambda record: record.place)


@asynccontextmanager
async def committed_reader(kafka: str, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A read_committed consumer without a group that has all partitions of a topic, from offset zero."""
    async with AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest") as reader:
        cluster = await reader._client.fetch_all_metadata()
        reader.assign([TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())])
        yield reader


async def read_table(url: str, name: str) -> list[dict[str, Any]]:
    """Every item of a table, as plain values."""
    items: list[dict[str, Any]] = []
    async with aioboto3.Session().client("dynamodb", endpoint_url=url, region_name=REGION) as client:
        async for page in client.get_paginator("scan").paginate(TableName=name, ConsistentRead=True):
            items += [{attribute: plain_value(value) for attribute, value in item.items()} for item in page["Items"]]
    return items


def plain_value(attribute: Mapping[str, Any]) -> Any:
    """An attribute of DynamoDB's JSON as a value: figures are Decimal."""
    ((kind, value),) = attribute.items()
    match kind:
        case "N":
            return Decimal(value)
        case "M":
            return {name: plain_value(inner) for name, inner in value.items()}
        case "L":
            return [plain_value(inner) for inner in value]
        case "NULL":
            return None
        case _:
            return value


def _record(record: Any) -> Record:
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers if name in _HEADERS}
    return Record(record.partition, record.offset, (record.key or b"").decode(errors="replace"), headers, record.value)
