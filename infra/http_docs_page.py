"""An OpenAPI document as one HTML page: rendered here, with its style in it, so that it also works without a network."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

from infra import schema_table
from infra.http_edge import API

_METHODS: Final = ("get", "post", "put", "patch", "delete")
_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem}
h1{margin:.2em 0}h2{margin:2em 0 .4em;border-bottom:1px solid var(--line)}h3{margin:1em 0 .2em;font-size:1em}
nav a{margin-right:.8em}code{font:13px/1.45 ui-monospace,monospace}
details{border:1px solid var(--line);border-radius:5px;margin:.4em 0}summary{cursor:pointer;padding:.45em .7em}
details>div{padding:0 .8em .8em}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.25em .6em .25em 0;border-top:1px solid var(--line)}
b.m{display:inline-block;min-width:4.2em;font:bold 12px ui-monospace,monospace;color:#fff;border-radius:3px;text-align:center;padding:.2em 0;margin-right:.6em}
.get{background:#2469b3}.post{background:#2e7d46}.put,.patch{background:#9a6a00}.delete{background:#b3342c}
.k{opacity:.7}.old code{text-decoration:line-through}
"""

Schema = Mapping[str, Any]


def render(document: Schema) -> str:
    """The whole page."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, item in document.get("paths", {}).items():
        for method in _METHODS:
            if method in item:
                groups[_group(path)].append(_operation(document, path, method, item[method]))
    title, version = escape(document["info"]["title"]), escape(document["info"]["version"])
    names = sorted(groups)
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title} <small>{version}</small></h1>",
            _text(document["info"].get("description")),
            '<p><a href="/docs/openapi.json">OpenAPI document</a></p><nav>',
            *(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names),
            "</nav>",
            *(f'<h2 id="{escape(name)}">{escape(name)}</h2>' + "".join(groups[name]) for name in names),
            "</body></html>",
        )
    )


def _group(path: str) -> str:
    return path.removeprefix(API).strip("/").split("/", 1)[0] or "/"


def _text(text: str | None) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in (text or "").split("\n\n") if part.strip())


def _operation(document: Schema, path: str, method: str, operation: Schema) -> str:
    title = escape(operation.get("description") or operation.get("summary") or "").split("\n", 1)[0]
    old = "old" if operation.get("deprecated") else ""
    access = "" if operation.get("security") else ' <span class="k">(no token)</span>'
    return "".join(
        (
            f'<details class="{old}"><summary><b class="m {method}">{method.upper()}</b><code>{escape(path)}</code>{access}',
            f' <span class="k">{title}</span></summary><div>',
            _text(operation.get("description")),
            _parameters(document, operation.get("parameters", [])),
            _body(document, operation.get("requestBody")),
            _responses(document, operation.get("responses", {})),
            "</div></details>",
        )
    )


def _parameters(document: Schema, parameters: Iterable[Schema]) -> str:
    rows = [
        (
            f"{parameter['name']}{'' if parameter.get('required') else '?'}",
            parameter["in"],
            schema_table.kind(document, parameter.get("schema", {})),
            parameter.get("description", ""),
        )
        for parameter in parameters
    ]
    return "<h3>Parameters</h3>" + schema_table.table(rows) if rows else ""


def _body(document: Schema, body: Schema | None) -> str:
    if not body:
        return ""
    return "<h3>Body</h3>" + "".join(_schema(document, content.get("schema", {})) for content in body.get("content", {}).values())


def _responses(document: Schema, responses: Mapping[str, Schema]) -> str:
    parts = ["<h3>Answers</h3>"]
    for status, response in responses.items():
        resolved = schema_table.resolved(document, response)
        parts.append(f"<p><code>{escape(status)}</code> {escape(resolved.get('description', ''))}</p>")
        if "$ref" not in response:
            parts.extend(_schema(document, content.get("schema", {})) for content in resolved.get("content", {}).values())
    return "".join(parts)


def _schema(document: Schema, schema: Schema) -> str:
    lines = list(schema_table.rows(document, schema))
    return schema_table.table(lines) if lines else f"<p><code>{escape(schema_table.kind(document, schema))}</code></p>"
