"""Answers whose body and headers are bytes already: sent as they are. Litestar's own way from a `Response` to bytes costs a tenth of a small read."""

from collections.abc import Sequence
from typing import Any

from litestar import Response
from litestar.types import Receive, Scope, Send

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""


class Ready(Response[bytes]):
    """What is encoded already, with all its headers: those of the body too, where there is one."""

    def __init__(self, body: bytes, raw_headers: RawHeaders, status_code: int = 200) -> None:
        # Not the base's own: it makes ready for cookies, background tasks and encoders, none of which is looked at here.
        self.content, self.raw_headers, self.status_code = body, raw_headers, status_code

    def to_asgi_response(self, *_given: Any, **_options: Any) -> Any:
        """What sends it. Nothing is set on a route or a layer that this could have to take over."""
        return self._send

    async def _send(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code or 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.content, "more_body": False})
