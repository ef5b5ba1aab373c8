"""A bound on the bodies that a door holds in memory at once: of requests that are read, checked, or waiting for their outcome."""

from typing import Any, Final

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from prometheus_client import Counter, Gauge

from infra.http_problems import ProblemError
from infra.http_request import BODY_BYTES_MAX

_WITHOUT: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose bodies no route reads: they are never refused here."""

HELD: Final = Gauge("cnop_bodies_held_bytes", "Bytes of bodies of requests in progress, as announced")
SHED: Final = Counter("cnop_bodies_shed_total", "Requests refused because of the bodies held already")


class Bodies(ASGIMiddleware):
    """Refuses a request with 503 `overloaded` whose body, beside those held, would be over `bytes_max`.

    A body counts with its announced length from before it is read until the answer is sent; without an announced length with the most it may have.
    """

    scopes = (ScopeType.HTTP,)

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Hold, go on, let go."""
        size = _size(scope)
        if size and self._held + size > self._bytes_max:
            SHED.inc()
            raise ProblemError("overloaded", "Too many bodies are held already. This call sent nothing.")
        self._count(size)
        try:
            await next_app(scope, receive, send)
        finally:
            self._count(-size)

    def _count(self, change: int) -> None:
        if change:
            self._held += change
            HELD.set(self._held)


def _size(scope: Any) -> int:
    if scope["method"] in _WITHOUT:
        return 0
    for name, value in scope["headers"]:
        if name == b"content-length":
            return min(int(value), BODY_BYTES_MAX) if value.isdigit() else BODY_BYTES_MAX
    return BODY_BYTES_MAX if any(name == b"transfer-encoding" for name, _ in scope["headers"]) else 0
