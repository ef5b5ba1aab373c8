"""The live stream: an account as it is, then each version of it as it comes, and the prices that the caller watches."""

import asyncio
import re
from typing import Annotated, Any, Final

from litestar import Request, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from infra.http import REFUSES, Caller, ProblemError
from infra.http_edge import BODILESS
from query_api.assets import parse_asset_id
from query_api.stream_hub import Streams
from query_api.stream_listener import Listener
from schemas.stream import StreamEvents

ASSETS_MAX: Final = 50
"""Assets that one stream watches."""
ASSETS_TEXT_MAX: Final = 1_000
EVENT_STREAM: Final = "text/event-stream"
LAST_EVENT_ID: Final = "Last-Event-ID"
HEADERS: Final = ((b"content-type", EVENT_STREAM.encode()), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,17}")

Watched = Annotated[
    str,
    Parameter(
        query="assets", max_length=ASSETS_TEXT_MAX, description=f"Ids of assets whose prices are watched, with commas between them; at most {ASSETS_MAX}"
    ),
]
LastIdHeader = Annotated[str | None, Parameter(header=LAST_EVENT_ID, description="The last id that was received: what is not known at it is sent")]
LastIdQuery = Annotated[
    str | None, Parameter(query="last_event_id", description=f"The same, for clients that cannot send the header; {LAST_EVENT_ID} counts more")
]


@get(
    "/stream",
    tags=["stream"],
    opt={REFUSES: ("invalid-header",)},
    summary="Listen to changes",
    responses={200: ResponseSpec(StreamEvents, description="Events, for as long as both sides like", media_type=EVENT_STREAM, generate_examples=False)},
)
async def stream(
    *,
    request: Request[Caller, Any, Any],
    streams: Streams,
    assets: Watched = "",
    last_event_id: LastIdHeader = None,
    last_id: LastIdQuery = None,
) -> ASGIResponse:
    """Server-sent events: a snapshot of the account, then each later version of it, and watched prices. The ids are account versions.

    With the account's own version as the last id there is no snapshot; with any other a new one covers what was missed.
    """
    known = _version(last_event_id, last_id)
    watched = _assets(assets)
    if unknown := await streams.unknown(watched):
        raise ProblemError("unknown-asset", f"There is no such asset: {', '.join(unknown)}.", pointer="#/query/assets")
    if request.scope["state"].get(BODILESS):
        return Events(None, streams)
    return Events(await streams.open(request.user, watched, known), streams)


class Events(ASGIResponse):
    """The answer that goes on; None: its headers alone."""

    __slots__ = ("_listener", "_streams")

    def __init__(self, listener: Listener | None, streams: Streams) -> None:
        super().__init__(media_type=EVENT_STREAM)
        self._listener = listener
        self._streams = streams

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes until either side ends it."""
        await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        if self._listener:
            await self._go_on(self._listener, receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _go_on(self, listener: Listener, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(_until_left(listener, receive))
        try:
            while events := await listener.next():
                await send({"type": "http.response.body", "body": events, "more_body": True})
        finally:
            watching.cancel()
            self._streams.close(listener)


ROUTES: Final[tuple[Any, ...]] = (stream,)


async def _until_left(listener: Listener, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    listener.end("left")


def _version(header: str | None, query: str | None) -> int | None:
    if header:
        if not _VERSION.fullmatch(header):
            raise ProblemError("invalid-header", f"{LAST_EVENT_ID} must be an id of this stream.", pointer=f"#/header/{LAST_EVENT_ID}")
        return int(header)
    if query:
        if not _VERSION.fullmatch(query):
            raise ProblemError("validation-failed", "`last_event_id` must be an id of this stream.", pointer="#/query/last_event_id")
        return int(query)
    return None


def _assets(text: str) -> frozenset[str]:
    wanted = frozenset(part.strip().upper() for part in text.split(",") if part.strip())
    if len(wanted) > ASSETS_MAX:
        raise ProblemError("validation-failed", f"At most {ASSETS_MAX} assets can be watched.", pointer="#/query/assets")
    return frozenset(parse_asset_id(asset_id, "#/query/assets") for asset_id in wanted)
