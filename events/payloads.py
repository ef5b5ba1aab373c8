"""JSON Schemas (draft 2020-12) of the payloads of all event types, made from the classes that read and write them.

Requests are described as they may be written, results and market events as they are. No schema forbids further fields: readers ignore
what they do not know.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from events.descriptions import FIELDS, MARKET, RESULTS_OF, ResultText
from events.envelope import data_schema
from events.topics import ASSETS, PRICES, REQUESTS, RESULTS
from schemas.market import PRICE_CHANGED, asset_adapter, price_adapter
from schemas.requests import REQUEST_TYPES
from schemas.results import RESULT_TYPES, result_adapter

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventType:
    """A CloudEvents type, the topic that carries it, and the JSON Schema of its payload, complete in itself."""

    name: str
    topic: str
    schema: Schema

    @property
    def title(self) -> str:
        """The type without the domain in front and the version behind."""
        return self.name.split(".")[-2]


def event_types() -> list[EventType]:
    """Every event type of every topic but the dead letters, in the order of the flow."""
    return [*_requests(), *_results(), *_market()]


def _requests() -> Iterator[EventType]:
    for name, kind in REQUEST_TYPES.items():
        yield EventType(name, REQUESTS, _document(name, _schema(TypeAdapter(kind), "validation")))


def _results() -> Iterator[EventType]:
    for name in RESULT_TYPES:
        schema = _walked(_schema(result_adapter(), "serialization"), _without_null)
        yield EventType(name, RESULTS, _document(name, _narrowed(schema, RESULTS_OF[name])))


def _market() -> Iterator[EventType]:
    for name, description in MARKET.items():
        is_price = name == PRICE_CHANGED
        schema = _schema(price_adapter() if is_price else asset_adapter(), "serialization")
        schema["description"] = description
        yield EventType(name, PRICES if is_price else ASSETS, _document(name, schema))


def _schema(adapter: TypeAdapter[Any], mode: JsonSchemaMode) -> Schema:
    schema = adapter.json_schema(mode=mode)
    for described in (schema, *schema.get("$defs", {}).values()):
        _describe(described)
    return schema


def _document(name: str, schema: Schema) -> Schema:
    return {"$schema": DIALECT, "$id": data_schema(name), **schema, "title": name.split(".")[-2]}


def _describe(schema: Schema) -> None:
    """Put sentences in place of the titles that pydantic makes of the names of fields."""
    properties = schema.get("properties", {})
    for name, member in properties.items():
        member.pop("title", None)
        reference = {"allOf": [{"$ref": member.pop("$ref")}]} if "$ref" in member else {}  # some readers ignore what stands beside a $ref
        properties[name] = {**reference, **member, "description": FIELDS[f"{schema['title']}.{name}"]}


def _narrowed(schema: Schema, text: ResultText) -> Schema:
    """The schema of all results as that of one type: what is always so, or never, is said."""
    properties, required = schema["properties"], schema["required"]
    schema["description"] = f"{text.description}\n\n{schema['description']}"
    if text.kind:
        properties["kind"]["const"] = text.kind
        properties["payload"] |= {"properties": {"type": {"const": text.kind}}, "required": ["type"]}
    if text.order_status:
        properties["lines"]["allOf"].append({"properties": {"order": {"properties": {"status": {"const": text.order_status}}}}, "required": ["order"]})
    if text.moves:
        required.append("postings")
        properties["postings"]["minItems"] = 2
    if text.is_parking:
        required.append("parking")
    else:
        del properties["parking"]
        del schema["$defs"]["Parking"]
    if text.is_refusal:
        required.append("refusal")
        properties["postings"]["maxItems"] = 0
    else:
        del properties["refusal"]
        del schema["$defs"]["Refusal"]
    return schema


def _walked(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """The schema with every part of it changed, innermost first."""
    if isinstance(schema, dict):
        return change({key: _walked(value, change) for key, value in schema.items()})
    return [_walked(value, change) for value in schema] if isinstance(schema, list) else schema


def _without_null(schema: Schema) -> Schema:
    """Results leave out what is not there, instead of saying null."""
    choices = schema.get("anyOf", [])
    kept = [choice for choice in choices if choice != {"type": "null"}]
    if kept == choices or len(kept) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**({"allOf": kept} if "$ref" in kept[0] else kept[0]), **rest}
