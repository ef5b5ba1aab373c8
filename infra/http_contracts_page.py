"""The AsyncAPI document as one HTML page: rendered here, with its style in it, so that it also works without a network."""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from infra.schema_table import resolved, rows, table

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem}
h1{margin:.2em 0}h2{margin:2em 0 .4em;border-bottom:1px solid var(--line)}h3{margin:1em 0 .2em;font-size:1em}
nav a{margin-right:.8em}code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:var(--soft);padding:.6em;overflow:auto}
details{border:1px solid var(--line);border-radius:5px;margin:.4em 0}summary{cursor:pointer;padding:.45em .7em}
details>div{padding:0 .8em .8em;overflow-x:auto}table{border-collapse:collapse;width:100%}
td{text-align:left;vertical-align:top;padding:.25em .6em .25em 0;border-top:1px solid var(--line)}
.k{opacity:.7}
"""

Document = Mapping[str, Any]


def render(document: Document) -> str:
    """The whole page."""
    info, channels = document["info"], document["channels"]
    order = sorted(channels, key=lambda name: (name == "deadLetters", name))
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
            *(f"<p>{escape(part)}</p>" for part in info["description"].split("\n\n")),
            '<p><a href="/docs/asyncapi.json">AsyncAPI document</a> · <a href="/docs">HTTP API</a></p><nav>',
            *(f'<a href="#{escape(name)}">{escape(channels[name]["title"])}</a>' for name in order),
            "</nav>",
            *(_channel(document, name) for name in order),
            "</body></html>",
        )
    )


def _channel(document: Document, name: str) -> str:
    channel = document["channels"][name]
    kafka = channel["bindings"]["kafka"]
    settings = [
        ("partitions", str(kafka["partitions"])),
        *((key, ", ".join(value) if isinstance(value, list) else str(value)) for key, value in kafka["topicConfiguration"].items()),
    ]
    messages = (resolved(document, reference) for reference in channel["messages"].values())
    return "".join(
        (
            f'<h2 id="{escape(name)}">{escape(channel["title"])} <code>{escape(channel["address"])}</code></h2><p>{escape(channel["description"])}</p>',
            table(_operations(document, name)),
            "<details><summary>Settings</summary><div>",
            table(settings),
            "</div></details>",
            *(_message(document, message) for message in messages),
        )
    )


def _operations(document: Document, channel: str) -> Iterator[tuple[str, ...]]:
    for operation in document["operations"].values():
        if operation["channel"]["$ref"] == f"#/channels/{channel}":
            group = operation.get("bindings", {}).get("kafka", {}).get("groupId", {}).get("const")
            process = ", ".join(tag["name"] for tag in operation["tags"])
            yield process, f"{operation['action']}s{f' as group {group}' if group else ''}", operation["summary"]


def _message(document: Document, message: Document) -> str:
    key = message["bindings"]["kafka"]["key"]["description"]
    payload = list(rows(document, message["payload"]))
    schema = f'<p><a href="/docs/schemas/{escape(message["name"])}.json">JSON Schema</a></p>' if payload else ""
    return "".join(
        (
            f'<details><summary><code>{escape(message["name"])}</code> <span class="k">{escape(message["summary"])}</span></summary><div>',
            f"<h3>Key</h3><p>{escape(key)}</p><h3>Headers</h3>",
            table(rows(document, message["headers"])),
            "<h3>Value</h3>",
            table(payload) if payload else f"<p>{escape(message['payload']['description'])}</p>",
            schema,
            *(_example(example) for example in message.get("examples", ())),
            "</div></details>",
        )
    )


def _example(example: Document) -> str:
    headers = "\n".join(f"{name}: {value}" for name, value in example["headers"].items())
    value = json.dumps(example["payload"], indent=2, ensure_ascii=False)
    return f"<h3>Example</h3><pre>{escape(headers)}</pre><pre>{escape(value)}</pre>"
