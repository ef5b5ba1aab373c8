"""The generated documents: JSON Schemas of all events, the AsyncAPI document of the topics, the OpenAPI document of the doors.

They stand in `schemas/generated`, come with the package and are served from there. `python -m ops.contracts` writes them anew, and with
them the generated parts of the topics' page; a test holds that they are current.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

import schemas
from command_api import main as command_api
from events.asyncapi import document as asyncapi
from events.payloads import event_types
from infra.clock import SystemIds
from infra.local import keys
from infra.settings import Settings
from ops.origin import Origin
from ops.samples import samples
from ops.topics_page import parts
from query_api import main as query_api

GENERATED: Final = Path(schemas.__file__).parent / "generated"
PAGE: Final = Path(schemas.__file__).parents[1] / "docs" / "topics.md"
ASYNCAPI: Final = "asyncapi.json"
OPENAPI: Final = "openapi.json"
EVENTS: Final = "events"
PARTITIONS: Final = Settings.model_fields["account_partitions"].default
NOWHERE: Final = "127.0.0.1:9"
"""Where the described doors believe their machines to be. Nothing connects: an app that is not started does not."""
_PART: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)

Document = dict[str, Any]


def write(folder: Path) -> None:
    """Write all documents, and remove those of types that there are not any more. The same code writes the same bytes."""
    documents = _documents()
    for stale in sorted(_found(folder) - documents.keys()):
        (folder / stale).unlink()
    for name, document in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(document), encoding="utf-8")


def check(folder: Path) -> list[str]:
    """What differs between the documents in a folder and those that would be written: a line for each. Empty: they are current."""
    documents, found = _documents(), _found(folder)
    missing = [f"{name} is missing" for name in sorted(documents.keys() - found)]
    stale = [f"{name} is of nothing that exists" for name in sorted(found - documents.keys())]
    changed = [f"{name} differs" for name in sorted(documents.keys() & found) if (folder / name).read_text(encoding="utf-8") != _text(documents[name])]
    return missing + stale + changed


def page(text: str) -> str:
    """The topics' page with its generated parts current."""
    made = parts(asyncapi(PARTITIONS), samples())
    return _PART.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n\n{match[3]}", text)


def main() -> None:
    """Write everything to where it belongs."""
    write(GENERATED)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def _documents() -> dict[str, Document]:
    """All documents by their path within the folder."""
    events = {f"{EVENTS}/{kind.name}.json": kind.schema for kind in event_types()}
    return {**events, ASYNCAPI: asyncapi(PARTITIONS, samples()), OPENAPI: asyncio.run(_openapi())}


async def _openapi() -> Document:
    """What the origin serves."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in ("jwt_private_key_file", "jwt_public_key_file", "secret_file")}
        keys.ensure(*files.values())
        settings = Settings.model_validate({"kafka": NOWHERE, "dynamodb_url": f"http://{NOWHERE}", "redis_url": f"redis://{NOWHERE}/0", **files})
        origin = Origin(command_api.build(settings), query_api.build(settings), SystemIds())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(origin), base_url="http://origin") as client:
        answer = await client.get("/docs/openapi.json")
    answer.raise_for_status()
    document: Document = answer.json()
    return document


def _found(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}


def _text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
