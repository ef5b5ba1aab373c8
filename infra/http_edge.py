"""The outermost layer of every door: request ids, trace context, one log line and one measurement per request, and headers that every answer has.

It stands outside of routing, so that a 404 or a 500 gets all of it as well.
"""

import asyncio
import re
import time
from functools import cache
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.trace import Span, SpanKind, StatusCode
from prometheus_client import Histogram

from events import tracing
from infra import telemetry
from infra.clock import Ids
from infra.http_auth import is_public
from infra.http_health import ADMIN_PATHS
from infra.http_problems import OTHER_METHODS, PROBLEM_CODE, REQUEST_ID, cut_short

API: Final = "/api/v1"
"""Where the routes of every door are."""
EXTRA_HEADERS: Final = "extra_headers"
"""Key in the request's state: headers that the answer gets whatever becomes of the request, for guards."""
BODILESS: Final = "bodiless"
"""Key in the request's state: whether nobody reads the body (HEAD), for an answer that would not end by itself."""
UNMATCHED: Final = "unmatched"
_READ_HERE: Final = frozenset({b"x-request-id", b"traceparent", b"tracestate"})
"""Headers; the server hands over all names in lower case (ASGI)."""
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUEST_S: Final = Histogram(
    "cnop_http_request_seconds",
    "HTTP requests, from the last header read to the end of the answer",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class Edge:
    """Wraps a Litestar app as a whole."""

    def __init__(self, app: ASGIApp, ids: Ids) -> None:
        self._app = app
        self._ids = ids
        self._log = structlog.get_logger().bind()  # bound once: what `get_logger` gives is so at each call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. What is raised after the answer began is logged and raised on: the server closes the connection then."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ_HERE}
        request_id = _accepted(headers.get(b"x-request-id")) or self._ids.new()
        inner = _as_get(scope)
        bodiless = scope.get("method") == "HEAD"
        inner.setdefault("state", {}).update({REQUEST_ID: request_id, BODILESS: bodiless})
        answer = _Answer(inner, send, request_id, bodiless=bodiless)
        started = time.perf_counter()
        before = telemetry.begin(request_id)
        try:
            if scope["path"] in ADMIN_PATHS:
                await self._app(inner, receive, answer.send)
            else:
                await self._traced(inner, receive, answer, headers)
        except asyncio.CancelledError:
            # The server's time to stop is over. Whoever still waits must not take silence for a refusal.
            if answer.status:
                raise
            await cut_short(inner, receive, answer.send)
        except Exception:
            self._log.exception("answer broken off")
            raise
        finally:
            self._record(inner, scope.get("method"), answer.status, time.perf_counter() - started)
            telemetry.end(before)

    async def _traced(self, scope: Scope, receive: Receive, answer: "_Answer", headers: dict[bytes, str]) -> None:
        method = str(scope.get("method"))
        with tracing.span(method, SpanKind.SERVER, traceparent=headers.get(b"traceparent"), tracestate=headers.get(b"tracestate")) as opened:
            try:
                if methods := _options(scope):
                    await answer.send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": [(b"allow", methods.encode())]})
                    await answer.send({"type": "http.response.body", "body": b"", "more_body": False})
                else:
                    await self._app(scope, receive, answer.send)
            finally:
                _describe(opened, method, _route(scope), answer.status)

    def _record(self, scope: Scope, method: Any, status: int, seconds: float) -> None:
        route = _route(scope)
        name = method if method in _METHODS else "OTHER"
        _measure(name, route, f"{status // 100}xx" if status else "none").observe(seconds)
        if route not in ADMIN_PATHS:
            ms = int(seconds * 10_000 + 0.5) / 10  # `round` of a float takes as long as a fifth of the line
            code = scope["state"].get(PROBLEM_CODE)
            self._log.info("request", method=name, route=route, status=status, ms=ms, **({"code": code} if code else {}))


class _Answer:
    """The sending side of one request."""

    def __init__(self, scope: Scope, send: Send, request_id: str, *, bodiless: bool) -> None:
        self.status = 0
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._bodiless = bodiless

    async def send(self, message: Message) -> None:
        """Pass on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._more({name.lower() for name, _ in message["headers"]})]
        elif message["type"] == "http.response.body" and self._bodiless:
            message["body"] = b""
        await self._send(message)

    def _more(self, present: set[bytes]) -> list[tuple[bytes, bytes]]:
        more = [(b"x-request-id", self._request_id.encode()), (b"x-content-type-options", b"nosniff")]
        if b"cache-control" not in present and not self._may_be_kept():
            more.append((b"cache-control", b"no-store"))
        extra: dict[str, str] = self._scope["state"].get(EXTRA_HEADERS, {})
        return more + [(name.lower().encode(), value.encode()) for name, value in extra.items()]

    def _may_be_kept(self) -> bool:
        """Only what a public read answered: not errors, not health, nothing that belongs to one caller or that a write said."""
        read = self._scope.get("method") == "GET" and self._scope["path"] not in ADMIN_PATHS
        return read and self.status < HTTPStatus.BAD_REQUEST and "route_handler" in self._scope and is_public(self._scope)


def _accepted(text: str | None) -> str | None:
    return text if text and _REQUEST_ID.fullmatch(text) else None


def _as_get(scope: Scope) -> Scope:
    # HEAD is GET without the body (RFC 9110, section 9.3.2); the server behind knows the original method and sends none.
    return cast("Scope", {**scope, "method": "GET"}) if scope.get("method") == "HEAD" else scope


def _options(scope: Scope) -> str | None:
    """What to allow, where it is asked for and several apps share the path; a lone app answers for itself."""
    lookup = scope.get(OTHER_METHODS) if scope.get("method") == "OPTIONS" else None
    methods: frozenset[str] = lookup(scope["path"]) if callable(lookup) else frozenset()
    return ", ".join(sorted(methods)) or None


def _route(scope: Scope) -> str:
    return scope.get("path_template") or ("/" if "route_handler" in scope else UNMATCHED)


@cache
def _measure(method: str, route: str, status: str) -> Histogram:
    """The series of some labels: there are as many as routes, methods and classes of statuses make."""
    return REQUEST_S.labels(method, route, status)


def _describe(opened: Span, method: str, route: str, status: int) -> None:
    if not opened.is_recording():
        return
    opened.update_name(f"{method} {route}")
    opened.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or not status:
        opened.set_status(StatusCode.ERROR)
