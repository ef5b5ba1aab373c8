"""The raw limit of a read: what the same server, the same token check and the same cache client make of it, where nothing else is done.

A bare Litestar app on the server of the doors. It verifies the same tokens by the same middleware, reads the same keys of the caller through the same
client, and answers their bytes as they are: no edge (request id, log line, measurements), no views, no freshness, no rendering.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from litestar import Litestar, Request, Response, get

from infra.cache import Cache, Denylist
from infra.cache_guard import Layout
from infra.clock import SystemClock
from infra.generations import FIRST
from infra.http import Auth, Background, Caller, Health, be
from infra.http_auth import Authenticate
from infra.settings import Settings
from infra.tokens import TokenVerifier

NAME: Final = "bare"
PATH: Final = "/bare"
JSON: Final = "application/json"


class Bare:
    """The app, as `infra.http_serve` serves it."""

    def __init__(self, settings: Settings) -> None:
        self.health = Health()
        self.background = Background()
        self._cache = Cache(settings.redis_url, client_name=NAME)
        clock = SystemClock()
        auth = Auth(TokenVerifier.from_file(settings.jwt_public_key_file, clock), Denylist(self._cache, clock), fail_closed=False)
        layout = Layout(settings.view_ttl_s)

        @get(PATH)
        async def bare(request: Request[Caller, Any, Any]) -> Response[bytes]:
            key = layout.keys(request.user.username, FIRST)[0]
            fields = await self._cache.ask("HGETALL", key)
            return Response(b",".join(fields.values()), media_type=JSON)

        self._app = Litestar([bare], middleware=[Authenticate(auth)], openapi_config=None, logging_config=None, debug=False)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Nothing to open; the connections are closed at the end."""
        async with self.background:
            try:
                yield
            finally:
                await self._cache.stop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request (ASGI 3)."""
        await self._app(scope, receive, send)


def main() -> None:
    """Serve until told to stop; settings are `CNOP_*` variables, as for every process."""
    settings = Settings()
    be(NAME, settings, lambda: Bare(settings), settings.port)


if __name__ == "__main__":
    main()
