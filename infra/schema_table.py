"""A JSON Schema as rows of text: for pages that describe bodies and payloads."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, Final

DEPTH_MAX: Final = 4
"""Levels of members within members that are shown."""
_RULES: Final = (
    ("const", "="),
    ("minimum", "≥"),
    ("maximum", "≤"),
    ("exclusiveMinimum", ">"),
    ("minLength", "length ≥"),
    ("maxLength", "length ≤"),
    ("minItems", "items ≥"),
    ("maxItems", "items ≤"),
    ("pattern", "~"),
)

Schema = Mapping[str, Any]


def rows(document: Schema, schema: Schema, prefix: str = "", depth: int = DEPTH_MAX) -> Iterator[tuple[str, str, str]]:
    """Path, type and description of each member: what is always there first. `document` is where references point into."""
    whole = resolved(document, schema)
    if isinstance(whole.get("items"), Mapping):
        whole, prefix = resolved(document, whole["items"]), f"{prefix}[]"
    if isinstance(whole.get("additionalProperties"), Mapping):
        yield from rows(document, whole["additionalProperties"], f"{prefix}.*", depth)
    required = whole.get("required", ())
    for name, member in sorted(whole.get("properties", {}).items(), key=lambda item: item[0] not in required):
        path = f"{prefix}.{name}" if prefix else name
        yield f"{path}{'' if name in required else '?'}", kind(document, member), resolved(document, member).get("description", "")
        if depth:
            yield from rows(document, member, path, depth - 1)


def kind(document: Schema, schema: Schema) -> str:
    """A type in a few words: "string | null, date-time, ≥ 1"."""
    whole = resolved(document, schema)
    choices = whole.get("anyOf") or whole.get("oneOf")
    if choices:
        return " | ".join(dict.fromkeys(kind(document, choice) for choice in choices))
    name = whole.get("type", "any")
    words = [" | ".join(name) if isinstance(name, list) else str(name)]
    if name == "array":
        words = [f"array of {kind(document, whole.get('items', {}))}"]
    words += [str(whole["format"])] if "format" in whole else []
    words += [f"one of {', '.join(map(str, whole['enum']))}"] if "enum" in whole and "const" not in whole else []
    return ", ".join(words + [f"{sign} {whole[key]}" for key, sign in _RULES if key in whole])


def resolved(document: Schema, schema: Schema) -> Schema:
    """The schema with its references and `allOf` taken in; what stands beside them goes over what they say."""
    parts = [*([_at(document, schema["$ref"])] if "$ref" in schema else ()), *schema.get("allOf", ())]
    merged: dict[str, Any] = {}
    for part in parts:
        merged = _over(merged, resolved(document, part))
    return _over(merged, {key: value for key, value in schema.items() if key not in ("$ref", "allOf")})


def table(lines: Iterable[tuple[str, ...]]) -> str:
    """HTML rows; the first cell is code."""
    cells = ("".join(f"<td>{f'<code>{escape(cell)}</code>' if place == 0 else escape(cell)}</td>" for place, cell in enumerate(line)) for line in lines)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in cells) + "</table>"


def _at(document: Schema, reference: str) -> Schema:
    target: Any = document
    for step in reference.removeprefix("#/").split("/"):
        target = target[step]
    return {"allOf": [target]}


def _over(below: Schema, above: Schema) -> dict[str, Any]:
    """Two schemas that both hold, as one: members of both are joined in the same way."""
    joined = {**below, **above}
    if "properties" in below and "properties" in above:
        joined["properties"] = {**below["properties"]}
        for name, member in above["properties"].items():
            both = [below["properties"][name], member] if name in below["properties"] else [member]
            joined["properties"][name] = {"allOf": both}
    if "required" in below and "required" in above:
        joined["required"] = [*below["required"], *above["required"]]
    return joined
