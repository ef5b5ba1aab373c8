"""The description of the events, served: a page to read, the AsyncAPI document, and the JSON Schema of each event type.

What is served are the generated documents that come with the package (`schemas/generated`), read when they are first asked for.
"""

import json
from functools import cache
from importlib import resources
from typing import Final

from litestar import MediaType, Response, get
from litestar.handlers import HTTPRouteHandler

from infra.http_auth import PUBLIC
from infra.http_contracts_page import render
from infra.http_problems import ProblemError

ASYNCAPI_JSON: Final = "application/vnd.aai.asyncapi+json;version=3.0.0"
SCHEMA_JSON: Final = "application/schema+json"
_SUFFIX: Final = ".json"


def routes() -> list[HTTPRouteHandler]:
    """`/docs/events`, `/docs/asyncapi.json` and `/docs/schemas/<ce_type>.json`; to be mounted beside /docs, outside of the API's base."""
    return [events_page, asyncapi, event_schema]


@get("/docs/events", opt={PUBLIC: True}, include_in_schema=False, media_type=MediaType.HTML, sync_to_thread=False)
def events_page() -> Response[str]:
    """All topics and events, to read."""
    return Response(_page(), headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"})


@get("/docs/asyncapi.json", opt={PUBLIC: True}, include_in_schema=False, sync_to_thread=False)
def asyncapi() -> Response[bytes]:
    """The AsyncAPI document."""
    return Response(_asyncapi(), media_type=ASYNCAPI_JSON)


@get("/docs/schemas/{name:str}", opt={PUBLIC: True}, include_in_schema=False, sync_to_thread=False)
def event_schema(name: str) -> Response[bytes]:
    """The JSON Schema of the payload of an event type. The problem `not-found` for a type that there is not."""
    found = _schemas().get(name)
    if found is None:
        raise ProblemError("not-found", "There is no such event type.")
    return Response(found, media_type=SCHEMA_JSON)


@cache
def _page() -> str:
    return render(json.loads(_asyncapi()))


@cache
def _asyncapi() -> bytes:
    return (resources.files("schemas") / "generated" / "asyncapi.json").read_bytes()


@cache
def _schemas() -> dict[str, bytes]:
    folder = resources.files("schemas") / "generated" / "events"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(_SUFFIX)}
