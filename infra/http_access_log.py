"""What is known of each request once it is answered: its measurement, and its log line, made for the requests of one moment together.

Between all else that a request needs the two cost a tenth of a small read and more; many in a row cost a fraction of that.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final, NamedTuple

import structlog
from prometheus_client import Histogram

from infra import telemetry
from infra.gathered import Gathered
from infra.http_health import ADMIN_PATHS

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

REQUEST_S: Final = Histogram(
    "cnop_http_request_seconds",
    "HTTP requests, from the last header read to the end of the answer",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


class Ended(NamedTuple):
    """A request. `status` is 0 where nobody was answered, `code` that of the problem that was answered."""

    said: telemetry.Said
    method: str
    route: str
    status: int
    seconds: float
    code: str | None


class AccessLog:
    """Tells of the requests of one door, in the order in which they ended."""

    def __init__(self) -> None:
        self._log = structlog.get_logger().bind()  # bound once: what `get_logger` gives is so at each call
        self._gathered = Gathered(self._tell)
        self._is_open = True

    def add(self, request: Ended) -> None:
        """Tell of it in a moment."""
        self._gathered.add(request, urgent=not self._is_open)

    @asynccontextmanager
    async def lifespan(self, _app: object) -> AsyncIterator[None]:
        """Of the door. At its end nothing waits any more; a request that was cut off, and ends later still, is told of at once."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False
            self.flush()

    def flush(self) -> None:
        """Tell of all that wait."""
        self._gathered.flush()

    def _tell(self, requests: list[Ended]) -> None:
        for request in requests:
            _measure(_method(request), request.route, f"{request.status // 100}xx" if request.status else "none").observe(request.seconds)
        for request in requests:  # by itself, so that what is counted is so wherever lines go
            if request.route not in ADMIN_PATHS:
                self._say(request)

    def _say(self, request: Ended) -> None:
        ms = int(request.seconds * 10_000 + 0.5) / 10  # `round` of a float takes as long as a fifth of the line
        said: dict[str, Any] = {"method": _method(request), "route": request.route, "status": request.status, "ms": ms}
        if request.code:
            said["code"] = request.code
        self._log.info("request", **said, **telemetry.begun(request.said))


def _method(request: Ended) -> str:
    """Never one that a client made up."""
    return request.method if request.method in _METHODS else "OTHER"


@cache
def _measure(method: str, route: str, status: str) -> Histogram:
    """The series of some labels: there are as many as routes, methods and classes of statuses make."""
    return REQUEST_S.labels(method, route, status)
