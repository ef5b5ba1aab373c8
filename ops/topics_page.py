"""The generated parts of the page on the topics, as Markdown: what would go stale if it were written by hand."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from events.descriptions import DEAD_LETTER_HEADERS, HEADERS
from events.envelope import Envelope

_DAY_MS: Final = 86_400_000


def parts(document: Mapping[str, Any], samples: Sequence[Envelope]) -> dict[str, str]:
    """By the names in the page's marks. `document` is the AsyncAPI one."""
    return {
        "topics": _topics(document),
        "headers": _table(("header", "what it says"), ((f"`{name}`", text) for name, text in HEADERS.items())),
        "types": _types(document),
        "dead_letters": _table(("header", "what it says"), ((f"`{name}`", text) for name, text in DEAD_LETTER_HEADERS.items())),
        "examples": "\n\n".join(_example(sample) for sample in samples),
    }


def _topics(document: Mapping[str, Any]) -> str:
    rows = []
    for channel in document["channels"].values():
        kafka = channel["bindings"]["kafka"]
        senders = [
            operation["tags"][0]["name"]
            for operation in document["operations"].values()
            if operation["action"] == "send" and document["channels"][operation["channel"]["$ref"].rsplit("/", 1)[1]] is channel
        ]
        message = document["components"]["messages"][next(iter(channel["messages"]))]
        key = message["bindings"]["kafka"]["key"]["description"]
        rows.append((f"`{channel['address']}`", key, str(kafka["partitions"]), ", ".join(senders), _kept(kafka["topicConfiguration"])))
    return _table(("topic", "key", "partitions", "written by", "kept"), rows)


def _kept(settings: Mapping[str, Any]) -> str:
    if "compact" in settings["cleanup.policy"]:
        return f"latest of each key; all for {settings['min.compaction.lag.ms'] // _DAY_MS} day"
    return f"{settings['retention.ms'] // _DAY_MS} days"


def _types(document: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", f"`{channel['address']}`", document["components"]["messages"][name]["summary"])
        for channel in document["channels"].values()
        for name in channel["messages"]
    ]
    return _table(("`ce_type`", "topic", "meaning"), rows)


def _example(sample: Envelope) -> str:
    headers = "\n".join(f"{name}: {value.decode()}" for name, value in sample.headers())
    value = json.dumps(json.loads(sample.value), indent=2, ensure_ascii=False)
    return f"### {sample.type}\n\n```\nkey: {sample.subject}\n{headers}\n```\n```json\n{value}\n```"


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
