"""The AsyncAPI 3 document of all topics: who sends what to whom, under which key and headers.

FastStream's generator describes servers, channels, operations and their bindings from a broker that is declared here and never started. What
it cannot say is added by functions on its document: one channel for an address that has senders and receivers, one message per event
type with its headers and its payload as it really is on the wire, keys, and the settings of topics.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from faststream.kafka import KafkaBroker
from faststream.specification import AsyncAPI

from events.descriptions import DEAD_LETTER_HEADERS, HEADERS, SOURCES, TOPICS, TYPE_SOURCES
from events.envelope import CONTENT_TYPE, HEADERS_MAX, SEQUENCE_DIGITS, SPEC_VERSION, Envelope, data_schema
from events.payloads import EventType, Schema, event_types
from events.topics import ASSETS, DEAD_LETTERS, PRICES, PROJECTOR, REQUESTS, RESULTS, SETTLEMENT, TRIGGERS, Topic, declared

VERSION: Final = "3.0.0"
BINDING: Final = "0.5.0"
"""Of AsyncAPI, and of its Kafka bindings."""
API_VERSION: Final = "1.0.0"
DEAD_LETTER: Final = "DeadLetter"
_SERVER: Final = "kafka"
_BOOTSTRAP: Final = "127.0.0.1:9092"
_INTEGERS: Final = ("retention.ms", "retention.bytes", "max.message.bytes", "min.compaction.lag.ms")
_DESCRIPTION: Final = """\
The events of the Cloud Native Order Processor. Requests to accounts are decided one after another in the order of their topic; each leaves \
one result. Events are CloudEvents 1.0 in Kafka binary mode: attributes are headers, the value is the JSON payload alone.

Read with isolation level read_committed. Dedupe by ce_id. Ignore headers and fields that you do not know."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Flow:
    """A process that sends to a topic, or receives from it as a member of a consumer group."""

    process: str
    action: Literal["send", "receive"]
    topic: str
    summary: str
    group: str | None = None

    @property
    def name(self) -> str:
        """Name of the operation."""
        return f"{self.process}-{self.action}s-{TOPICS[self.topic].name}"


FLOWS: Final = (
    Flow("command-api", "send", REQUESTS, "A call that was accepted becomes a request."),
    Flow("triggers", "send", REQUESTS, "Orders that became due, ended or whose asset is not traded any more: requests from inside."),
    Flow("settlement", "receive", REQUESTS, "Requests are decided and stored.", SETTLEMENT),
    Flow("settlement", "send", RESULTS, "What was stored is told, in one Kafka transaction with the offsets of the requests."),
    Flow("projector", "receive", RESULTS, "Results are shown in the views.", PROJECTOR),
    Flow("market", "send", PRICES, "Each asset's price, at an interval."),
    Flow("market", "send", ASSETS, "Every asset at the start, and what changes."),
    Flow("projector", "receive", PRICES, "Prices are shown.", PROJECTOR),
    Flow("triggers", "receive", PRICES, "Each price asks for the open orders that it reaches.", TRIGGERS),
    Flow("projector", "receive", ASSETS, "Assets are shown.", PROJECTOR),
    Flow("settlement", "send", DEAD_LETTERS, "Requests that cannot be read, in one Kafka transaction with their offsets."),
    Flow("projector", "send", DEAD_LETTERS, "Results, prices and assets that cannot be read."),
    Flow("triggers", "send", DEAD_LETTERS, "Prices that cannot be read."),
)


def document(account_partitions: int, samples: Sequence[Envelope] = ()) -> Document:
    """The document, for an installation with so many partitions per account topic. `samples` become the examples of their types."""
    topics = declared(account_partitions)
    types = event_types()
    described: Document = (
        AsyncAPI(_broker(), title="cnop events", version=API_VERSION, description=_DESCRIPTION, schema_version=VERSION).to_specification().to_jsonable()
    )
    named = {topic: [kind.name for kind in types if kind.topic == topic] or [DEAD_LETTER] for topic in TOPICS}
    return {
        **described,
        "id": "urn:cnop:events",
        "servers": {_SERVER: _server(described)},
        "channels": {TOPICS[topic.name].name: _channel(described, topic, named[topic.name]) for topic in topics},
        "operations": {flow.name: _operation(described, flow, named) for flow in FLOWS},
        "components": {"messages": dict(_messages(types, samples)), "schemas": _schemas(types)},
    }


def _broker() -> KafkaBroker:
    broker = KafkaBroker(_BOOTSTRAP)
    for flow in FLOWS:
        text = TOPICS[flow.topic]
        if flow.action == "send":
            broker.publisher(flow.topic, title=flow.name, description=text.description, schema=bytes)
        else:
            broker.subscriber(flow.topic, group_id=flow.group, title=flow.name, description=text.description)(_received)
    return broker


async def _received(_value: bytes) -> None:
    """Stands for the reader of a topic; the broker that knows it is never started."""


def _server(described: Document) -> Document:
    (found,) = described["servers"].values()
    variable = {"default": _BOOTSTRAP, "description": "Bootstrap servers, as in CNOP_KAFKA"}
    return {"protocol": found["protocol"], "host": "{bootstrap}", "variables": {"bootstrap": variable}, "description": "The Kafka cluster"}


def _channel(described: Document, topic: Topic, messages: Iterable[str]) -> Document:
    """FastStream has a channel per operation; those of one address become one."""
    found = next(channel for channel in described["channels"].values() if channel["address"] == topic.name)
    kafka = {**found["bindings"]["kafka"], "partitions": topic.partitions, "topicConfiguration": _settings(topic.settings), "bindingVersion": BINDING}
    return {
        **found,
        "title": TOPICS[topic.name].title,
        "servers": [{"$ref": f"#/servers/{_SERVER}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {"kafka": kafka},
    }


def _settings(settings: Mapping[str, str]) -> Document:
    numbers = {name: int(value) for name, value in settings.items() if name in _INTEGERS}
    return {**settings, **numbers, "cleanup.policy": settings["cleanup.policy"].split(",")}


def _operation(described: Document, flow: Flow, named: Mapping[str, Iterable[str]]) -> Document:
    operation = {
        "action": described["operations"][flow.name]["action"],
        "summary": flow.summary,
        "tags": [{"name": flow.process}],
        **_at_channel(flow.topic, named),
    }
    if flow.group:
        operation["bindings"] = {"kafka": {"groupId": {"type": "string", "const": flow.group}, "bindingVersion": BINDING}}
    if flow.topic == REQUESTS:
        operation["reply"] = _at_channel(RESULTS, named)
    return operation


def _at_channel(topic: str, named: Mapping[str, Iterable[str]]) -> Document:
    channel = f"#/channels/{TOPICS[topic].name}"
    return {"channel": {"$ref": channel}, "messages": [{"$ref": f"{channel}/messages/{name}"} for name in named[topic]]}


def _messages(types: Iterable[EventType], samples: Iterable[Envelope]) -> Iterator[tuple[str, Document]]:
    by_type = {sample.type: sample for sample in samples}
    for kind in types:
        message = {
            "name": kind.name,
            "title": kind.title,
            "summary": kind.schema["description"].split("\n", 1)[0],
            "contentType": CONTENT_TYPE,
            "correlationId": {"location": "$message.header#/ce_correlationid"},
            "headers": _headers(kind),
            "payload": {"$ref": f"#/components/schemas/{kind.name}"},
            "bindings": _key(TOPICS[kind.topic].key),
        }
        sample = by_type.get(kind.name)
        yield kind.name, message | ({"examples": [_example(sample)]} if sample else {})
    yield DEAD_LETTER, _dead_letter()


def _key(meaning: str) -> Document:
    return {"kafka": {"key": {"type": "string", "description": meaning}, "bindingVersion": BINDING}}


def _headers(kind: EventType) -> Schema:
    """Of one type. Values are UTF-8 text."""
    always: dict[str, Schema] = {
        "ce_specversion": {"const": SPEC_VERSION},
        "ce_id": {},
        "ce_source": {"enum": list(TYPE_SOURCES.get(kind.name) or (SOURCES[kind.topic],))},
        "ce_type": {"const": kind.name},
        "ce_subject": {},
        "ce_time": {"format": "date-time"},
        "ce_dataschema": {"const": data_schema(kind.name)},
        "content-type": {"const": CONTENT_TYPE},
        "ce_correlationid": {},
        "x-request-id": {},
    }
    sometimes: dict[str, Schema] = {"traceparent": {}, "tracestate": {}}
    if kind.topic == RESULTS:
        always["ce_causationid"] = {"format": "uuid"}
    elif kind.name in TYPE_SOURCES:
        sometimes["ce_causationid"] = {}
    if kind.topic in (RESULTS, PRICES):
        always["ce_sequence"] = {"pattern": f"^[0-9]{{{SEQUENCE_DIGITS}}}$"}
    if kind.topic in (REQUESTS, RESULTS):
        sometimes["cnop-reply-to"] = {"pattern": "^reply:[A-Za-z0-9-]{1,64}$"}
    return {**_object(always, sometimes, HEADERS), "maxProperties": HEADERS_MAX}


def _object(always: Mapping[str, Schema], sometimes: Mapping[str, Schema], texts: Mapping[str, str]) -> Schema:
    properties = {name: {"type": "string", "description": texts[name], **rule} for name, rule in {**always, **sometimes}.items()}
    return {"type": "object", "properties": properties, "required": list(always)}


def _dead_letter() -> Document:
    return {
        "name": DEAD_LETTER,
        "title": DEAD_LETTER,
        "summary": "A record as it came, with the reason why it cannot be read. The headers of the original stand beside those named here.",
        "contentType": "application/octet-stream",
        "headers": _object({name: {} for name in DEAD_LETTER_HEADERS}, {}, DEAD_LETTER_HEADERS),
        "payload": {"description": "The value of the original record, byte for byte"},
        "bindings": _key(TOPICS[DEAD_LETTERS].key),
    }


def _example(sample: Envelope) -> Document:
    return {"name": sample.type, "headers": {name: value.decode() for name, value in sample.headers()}, "payload": json.loads(sample.value)}


def _schemas(types: Iterable[EventType]) -> dict[str, Schema]:
    """All payloads with their parts side by side. ValueError where two types mean different things by the same name."""
    schemas: dict[str, Schema] = {}
    for kind in types:
        parts = {name: _moved(part) for name, part in kind.schema.get("$defs", {}).items()}
        whole = _moved({key: value for key, value in kind.schema.items() if key not in ("$schema", "$id", "$defs")})
        for name, schema in {**parts, kind.name: whole}.items():
            if schemas.setdefault(name, schema) != schema:
                raise ValueError(f"two event types describe {name} in different ways")
    return schemas


def _moved(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: value.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(value) for key, value in schema.items()}
    return [_moved(part) for part in schema] if isinstance(schema, list) else schema
