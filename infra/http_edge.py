"""The outermost layer of every door: request ids, trace context, one log line and one measurement per request, and headers that every answer has.

It stands outside of routing, so that a 404 or a 500 gets all of it as well.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry.trace import Span, SpanKind, StatusCode

from events import tracing
from infra import telemetry
from infra.clock import Ids
from infra.http_access_log import AccessLog, Ended
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
_NO_GUESSING: Final = (b"x-content-type-options", b"nosniff")
_NOT_KEPT: Final = (b"cache-control", b"no-store")


class Edge:
    """Wraps a Litestar app as a whole."""

    def __init__(self, app: ASGIApp, ids: Ids, access_log: AccessLog) -> None:
        self._app = app
        self._ids = ids
        self._access_log = access_log
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. What is raised after the answer began is logged and raised on: the server closes the connection then."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in _READ_HERE}
        request_id = _accepted(headers.get(b"x-request-id")) or self._ids.new()
        method = str(scope.get("method"))
        inner = _as_get(scope) if method == "HEAD" else scope
        state: dict[str, Any] = inner.setdefault("state", {})
        state[REQUEST_ID], state[BODILESS] = request_id, method == "HEAD"
        answer = _Answer(inner, send)
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
            seconds = time.perf_counter() - started
            self._access_log.add(Ended(telemetry.end(before), method, _route(inner), answer.status, seconds, state.get(PROBLEM_CODE)))

    async def _traced(self, scope: Scope, receive: Receive, answer: "_Answer", headers: dict[bytes, str]) -> None:
        method = str(scope.get("method"))
        with tracing.span(method, SpanKind.SERVER, traceparent=headers.get(b"traceparent"), tracestate=headers.get(b"tracestate")) as opened:
            try:
                if method == "OPTIONS" and (methods := _options(scope)):
                    await answer.send({"type": "http.response.start", "status": HTTPStatus.NO_CONTENT, "headers": [(b"allow", methods.encode())]})
                    await answer.send({"type": "http.response.body", "body": b"", "more_body": False})
                else:
                    await self._app(scope, receive, answer.send)
            finally:
                if opened.is_recording():
                    _describe(opened, method, _route(scope), answer.status)


class _Answer:
    """The sending side of one request."""

    __slots__ = ("_scope", "_send", "status")

    def __init__(self, scope: Scope, send: Send) -> None:
        self.status = 0
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass on, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._more(message["headers"])]
        elif self._scope["state"][BODILESS] and message["type"] == "http.response.body":
            message["body"] = b""
        await self._send(message)

    def _more(self, present: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        state = self._scope["state"]
        more = [(b"x-request-id", state[REQUEST_ID].encode()), _NO_GUESSING]
        if not any(name.lower() == b"cache-control" for name, _ in present) and not self._may_be_kept():
            more.append(_NOT_KEPT)
        if extra := state.get(EXTRA_HEADERS):
            more += [(name.lower().encode(), value.encode()) for name, value in extra.items()]
        return more

    def _may_be_kept(self) -> bool:
        """Only what a public read answered: not errors, not health, nothing that belongs to one caller or that a write said."""
        read = self._scope.get("method") == "GET" and self._scope["path"] not in ADMIN_PATHS
        return read and self.status < HTTPStatus.BAD_REQUEST and "route_handler" in self._scope and is_public(self._scope)


def _accepted(text: str | None) -> str | None:
    return text if text and _REQUEST_ID.fullmatch(text) else None


def _as_get(scope: Scope) -> Scope:
    # HEAD is GET without the body (RFC 9110, section 9.3.2); the server behind knows the original method and sends none.
    return cast("Scope", {**scope, "method": "GET"})


def _options(scope: Scope) -> str | None:
    """What to allow, where several apps share the path; a lone app answers for itself."""
    lookup = scope.get(OTHER_METHODS)
    methods: frozenset[str] = lookup(scope["path"]) if callable(lookup) else frozenset()
    return ", ".join(sorted(methods)) or None


def _route(scope: Scope) -> str:
    return scope.get("path_template") or ("/" if "route_handler" in scope else UNMATCHED)


def _describe(opened: Span, method: str, route: str, status: int) -> None:
    opened.update_name(f"{method} {route}")
    opened.set_attributes({"http.request.method": method, "http.route": route, "http.response.status_code": status})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or not status:
        opened.set_status(StatusCode.ERROR)
