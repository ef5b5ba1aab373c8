"""A door's HTTP side: puts one Litestar app together from a door's routes and everything that all doors have in common.

Others import what they need from here; the parts stand in `infra.http_*` and `infra.process`.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from litestar import Litestar, Router
from litestar._kwargs.kwargs_model import KwargsModel
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import Provide
from litestar.enums import HttpMethod
from litestar.events import BaseEventEmitterBackend
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler

from infra import http_contracts, http_docs, http_health, http_problems
from infra.clock import Ids
from infra.http_access_log import AccessLog
from infra.http_auth import PUBLIC, Auth, Authenticate, Caller, Revocations
from infra.http_docs import REFUSES, Docs, Merged
from infra.http_edge import API, Edge
from infra.http_health import Health
from infra.http_limits import Policy, RateLimiter, by_address, client_address
from infra.http_problems import ProblemError, invalid_fields
from infra.http_request import BODY_BYTES_MAX, JsonRequest
from infra.http_serve import PortTaken, be, serve
from infra.process import Background, BackgroundFailed, run_process

__all__ = [
    "API",
    "PUBLIC",
    "REFUSES",
    "Auth",
    "Background",
    "BackgroundFailed",
    "Caller",
    "DoorApp",
    "FromRequest",
    "Given",
    "Health",
    "JsonRequest",
    "Policy",
    "PortTaken",
    "ProblemError",
    "RateLimiter",
    "Revocations",
    "admin_app",
    "be",
    "build_app",
    "by_address",
    "client_address",
    "invalid_fields",
    "run_process",
    "serve",
]

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[Any]]


class DoorApp(Litestar):
    """A Litestar app inside of the edge that all doors share. Made by `build_app`."""

    name: str
    health: Health
    background: Background
    docs: Docs | Merged | None
    edge: Edge

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        """Answer one request (ASGI 3, which a server has to be told: this is no coroutine function, since each layer of them costs at each wait)."""
        return self.edge(scope, receive, send) if scope["type"] == "http" else super().__call__(scope, receive, send)


def build_app(
    name: str,
    routes: Sequence[ControllerRouterHandler],
    *,
    ids: Ids,
    health: Health,
    background: Background | None = None,
    auth: Auth | None = None,
    dependencies: Mapping[str, Provide] | None = None,
    lifespan: Sequence[Lifespan] = (),
    state: Mapping[str, Any] | None = None,
    middleware: Sequence[ASGIMiddleware] = (),
    title: str = "",
    description: str = "",
) -> DoorApp:
    """A door.

    `routes` come under /api/v1 and need a token unless marked with `opt={PUBLIC: True}`; beside it stand /livez, /readyz, /health,
    /metrics, and /docs with /docs/openapi.json. `lifespan` opens what the door needs, in order, and closes it in reverse; background
    tasks are started there, on `background`: the first one that ends makes /livez fail and ends the process (`serve`). `middleware` runs after
    routing, and before callers are looked at.
    """
    api = Router(API, route_handlers=list(routes))
    docs = Docs(title or name, description, api, {name: getattr(one, "described", one) for name, one in (dependencies or {}).items()})
    return _app(
        name,
        [api],
        docs,
        ids=ids,
        health=health,
        background=background,
        auth=auth,
        dependencies=dependencies,
        lifespan=lifespan,
        state=state,
        middleware=middleware,
    )


def admin_app(
    name: str,
    *,
    ids: Ids,
    health: Health,
    background: Background | None = None,
    lifespan: Sequence[Lifespan] = (),
    docs: Merged | None = None,
) -> DoorApp:
    """The app of a process without routes of its own: health and metrics, and perhaps the description of others."""
    return _app(name, [], docs, ids=ids, health=health, background=background, lifespan=lifespan)


def _app(
    name: str,
    routes: Sequence[ControllerRouterHandler],
    docs: Docs | Merged | None,
    *,
    ids: Ids,
    health: Health,
    background: Background | None,
    lifespan: Sequence[Lifespan],
    auth: Auth | None = None,
    dependencies: Mapping[str, Provide] | None = None,
    state: Mapping[str, Any] | None = None,
    middleware: Sequence[ASGIMiddleware] = (),
) -> DoorApp:
    held = background or Background()
    access_log = AccessLog()
    health.probe("background", held.alive)
    health.at_scrape(access_log.flush)
    app = DoorApp(
        route_handlers=[*routes, *http_health.routes(name, health), *([*http_docs.routes(docs), *http_contracts.routes()] if docs else ())],
        request_class=JsonRequest,
        request_max_body_size=BODY_BYTES_MAX,
        middleware=[*middleware, Authenticate(auth)],
        exception_handlers={Exception: http_problems.answer},
        dependencies=dict(dependencies or {}),
        # Twice: background tasks end before what they use is closed, and also where something after them could not be opened.
        lifespan=[access_log.lifespan, _holding(held), *lifespan, _holding(held)],
        state=State(dict(state or {})),
        openapi_config=None,
        event_emitter_backend=_NoEvents,
        logging_config=None,
        debug=False,
    )
    app.name, app.health, app.background, app.docs = name, health, held, docs
    app.edge = Edge(partial(Litestar.__call__, app), ids, access_log)
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for method, (handler, wanted) in route.route_handler_map.items():
                _provide_one_by_one(wanted)
                _convert_what_was_said(handler, wanted)
                if method != HttpMethod.OPTIONS:  # is the framework's own
                    _resolve_once(handler)
    return app


class Given(Provide):
    """Provides one thing that is there as long as the door is."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        super().__init__(lambda: thing, sync_to_thread=False)
        self.thing = thing


class FromRequest(Provide):
    """Provides what a function reads from each request. `described` is the same with its parameters named one by one, for the API's description."""

    __slots__ = ("described", "read")

    def __init__(self, read: Callable[[Any], object], described: Callable[..., Any]) -> None:
        super().__init__(lambda: None, sync_to_thread=False)
        self.read = read
        self.described = Provide(described, sync_to_thread=False)


def _provide_one_by_one(wanted: KwargsModel) -> None:
    """Resolve what a handler is given in turn, and without Litestar's own machinery where it needs none of that.

    The providers here wait for nothing: a task for each would cost a sixth of a small request, and the machinery as much again.
    """
    every = [one for batch in wanted.dependency_batches for one in batch]
    given = {one.key: one.provide.thing for one in every if isinstance(one.provide, Given)}
    read = {one.key: one.provide.read for one in every if isinstance(one.provide, FromRequest)}
    wanted.dependency_batches = [{one} for one in every if one.key not in given.keys() | read.keys()]
    wanted.extractors.append(_giver(given, read))


def _convert_what_was_said(handler: HTTPRouteHandler, wanted: KwargsModel) -> None:
    """Look for parameters, and convert them, only where a request has some: it costs a tenth of a small read.

    What a handler is given needs it not, nor do defaults.
    """
    others = (wanted.expected_path_params, wanted.expected_header_params, wanted.expected_cookie_params)
    if any(others) or wanted.expected_reserved_kwargs or wanted.dependency_batches:  # a body is the reserved `data`
        return
    convert = handler.signature_model.parse_values_from_connection_kwargs

    def parsed(connection: ASGIConnection[Any, Any, Any, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        return convert(connection=connection, kwargs=kwargs) if connection.scope["query_string"] else kwargs

    handler.signature_model.parse_values_from_connection_kwargs = staticmethod(parsed)  # type: ignore[method-assign]
    optional = {param.field_name: param.default for param in wanted.expected_query_params if not (param.is_required or param.default is Ellipsis)}
    if wanted.expected_query_params and len(optional) == len(wanted.expected_query_params):
        look, *rest = wanted.extractors  # the parameters come first, and there is nothing else but what is given

        async def looked_up(kwargs: dict[str, Any], connection: Any) -> None:
            if connection.scope["query_string"]:
                await look(kwargs, connection)
            else:
                kwargs.update(optional)

        wanted.extractors = [looked_up, *rest]


def _resolve_once(handler: HTTPRouteHandler) -> None:
    """Gather the answers to exceptions of a route and of all around it now: Litestar does it for each request, for some hundredths of a small read."""
    resolved = handler.resolve_exception_handlers()
    handler.resolve_exception_handlers = lambda: resolved  # type: ignore[method-assign]


def _giver(given: Mapping[str, object], read: Mapping[str, Callable[[Any], object]]) -> Callable[[dict[str, Any], Any], Awaitable[None]]:
    async def give(kwargs: dict[str, Any], request: Any) -> None:
        kwargs.update(given)
        for name, of in read.items():
            kwargs[name] = of(request)

    return give


class _NoEvents(BaseEventEmitterBackend):
    """There is no bus inside a process. Litestar's own one is a task group: it would wrap whatever a lifespan raises."""

    def emit(self, event_id: str, *args: Any, **kwargs: Any) -> None:
        """Refuse."""
        raise NotImplementedError

    async def __aexit__(self, *raised: object) -> None:
        """Nothing to close."""


def _holding(background: Background) -> Lifespan:
    return lambda _app: background
