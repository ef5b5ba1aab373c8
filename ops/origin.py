"""The local one-origin process: both doors behind one port, told apart by method, as nginx does it where they are processes of their own."""

import re
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from litestar.routes import HTTPRoute

from command_api import main as command_api
from infra.clock import Ids, SystemIds
from infra.http import API, Background, DoorApp, Health, admin_app, be
from infra.http_docs import Merged
from infra.http_health import JointHealth
from infra.http_problems import OTHER_METHODS
from infra.settings import Settings
from query_api import main as query_api

NAME: Final = "cnop-origin"
DESCRIPTION: Final = "A multi-asset trading back end: every change is an event, settled once and for all, and read from views that say how fresh they are."
_UNDER_API: Final = f"{API}/"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def run(settings: Settings) -> None:
    """Serve both doors until the process is told to stop. SystemExit with status 1 where something fails."""
    be(NAME, settings, lambda: Origin(command_api.build(settings), query_api.build(settings), SystemIds()), settings.port)


class Origin:
    """An ASGI app of two doors and a front.

    Under /api/v1 reads go to the queries and all else to the commands; the front has health, metrics and docs of both.
    """

    def __init__(self, commands: DoorApp, queries: DoorApp, ids: Ids) -> None:
        self._doors = {commands.name: commands, queries.name: queries}
        self._commands, self._queries = commands, queries
        self._methods = Methods((commands, queries))
        self.health: Health = JointHealth({name: door.health for name, door in self._doors.items()})
        self.background = Background()
        docs = Merged("Cloud Native Order Processor", DESCRIPTION, [door.docs for door in self._doors.values() if door.docs])
        self._front = admin_app(NAME, ids=ids, health=self.health, background=self.background, lifespan=[lambda _app: self._doors_open()], docs=docs)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Both doors opened; a background task of either that ends, ends this one's."""
        async with self._front.lifespan():
            yield

    def __call__(self, scope: Any, receive: Any, send: Any) -> Coroutine[Any, Any, None]:
        """Answer one request (ASGI 3)."""
        scope[OTHER_METHODS] = self._methods.at
        return self._app(scope)(scope, receive, send)

    def _app(self, scope: Any) -> DoorApp:
        if not scope["path"].startswith(_UNDER_API):
            return self._front
        return self._queries if scope["method"] in _READS else self._commands

    @asynccontextmanager
    async def _doors_open(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as opened:
            for name, door in self._doors.items():
                await opened.enter_async_context(door.lifespan())
                self.background.start(name, door.background.failed())
            yield


class Methods:
    """Which methods a path has in any of several apps: what one of them does not know may be known to the other, and is then a 405 and no 404."""

    def __init__(self, apps: Iterable[DoorApp]) -> None:
        routes = [route for app in apps for route in app.routes if isinstance(route, HTTPRoute) and route.path_format.startswith(API)]
        self._known = [(_pattern(route.path_format), frozenset(map(str, route.methods))) for route in routes]

    def at(self, path: str) -> frozenset[str]:
        """The methods at a path; none where nothing is."""
        bare = path.rstrip("/")
        methods = frozenset[str]().union(*(methods for pattern, methods in self._known if pattern.fullmatch(bare)))
        return methods | {"HEAD"} if "GET" in methods else methods


def _pattern(path_format: str) -> re.Pattern[str]:
    return re.compile("/".join("[^/]+" if part.startswith("{") else re.escape(part) for part in path_format.split("/")))
