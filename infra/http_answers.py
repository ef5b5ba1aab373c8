"""Answers whose body is bytes already: sent as they are. Litestar's own way from a `Response` to bytes costs a tenth of a small read."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import Response
from litestar.types import Receive, Scope, Send

JSON: Final = b"application/json"
_BODILESS: Final = frozenset({204, 304})


class Ready(Response[bytes]):
    """JSON that is encoded already. Headers are given with their names in lower case, and are all but those of the body."""

    def __init__(self, body: bytes, headers: Mapping[str, str], status_code: int = 200) -> None:
        # Not the base's own: it makes ready for cookies, background tasks and encoders, none of which is looked at here.
        self.content, self.headers, self.status_code = body, dict(headers), status_code

    def to_asgi_response(self, *_given: Any, **_options: Any) -> Any:
        """What sends it. Nothing is set on a route or a layer that this could have to take over."""
        return self._send

    async def _send(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        body, status = self.content, int(self.status_code or 200)
        headers = [(name.encode("latin-1"), str(value).encode("latin-1")) for name, value in self.headers.items()]
        if status not in _BODILESS:
            headers += ((b"content-type", JSON), (b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
