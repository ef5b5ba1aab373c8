"""JSON Schemas of bodies and answers for the API's document, as pydantic has them.

Litestar makes its own, without patterns and bounds, with whatever a field's Python type suggests instead of what is written, and with
random examples. These take their place.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, get_args

from litestar.handlers import HTTPRouteHandler
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

REFERENCE: Final = "#/components/schemas/{model}"

Schema = dict[str, Any]


def model_schemas(handlers: Iterable[HTTPRouteHandler]) -> dict[str, Schema]:
    """By the name of the model: what the handlers read, as it may be written, and what they answer, as it is; with all of their parts."""
    found: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for handler in handlers:
        bodies = [handler.parsed_data_field.annotation] if handler.parsed_data_field else []
        answers = [handler.parsed_return_field.annotation, *(spec.data_container for spec in (handler.responses or {}).values())]
        found |= dict.fromkeys((model, "validation") for body in bodies for model in _models(body))
        found |= dict.fromkeys((model, "serialization") for answer in answers for model in _models(answer))
    _, definitions = models_json_schema(list(found), ref_template=REFERENCE)
    schemas: dict[str, Schema] = definitions.get("$defs", {})
    for schema in schemas.values():
        for member in schema.get("properties", {}).values():
            member.pop("title", None)  # made of the name of the field; says nothing
    return schemas


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type such as `Response[Page] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
