"""Health of a process: whether it lives, whether it can do its work now, and its metrics. Never needs a token."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import REGISTRY
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from infra.http_auth import PUBLIC

log = structlog.get_logger()

CHECK_TIMEOUT_S: Final = 1.0
READY_CACHE_S: Final = 1.0
REASON_MAX: Final = 200
ADMIN_PATHS: Final = frozenset({"/health", "/livez", "/readyz", "/metrics"})
OK: Final = "ok"

Check = Callable[[], Awaitable[object]]
"""Asks a dependency. Returns when it answers, raises when it does not; what it returns does not count."""
Probe = Callable[[], bool]
"""Tells at once, without waiting, whether a part of this process lives."""
AtStop = Callable[[], None]
"""Ends what would otherwise not end by itself. It does not wait."""
AtScrape = Callable[[], None]
"""Counts what is still to be counted. It does not wait."""


@dataclass(frozen=True, slots=True)
class Report:
    """State by name: "ok", or in a few words what is wrong."""

    states: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return all(state == OK for state in self.states.values())

    def response(self, **more: Any) -> Response[dict[str, Any]]:
        """200 or 503, with the states."""
        return Response({"status": OK if self.ok else "failing", **more, "checks": dict(self.states)}, status_code=200 if self.ok else 503)


class Health:
    """Named checks (readiness) and probes (liveness) of one process."""

    def __init__(self, *, timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._checks: dict[str, Check] = {}
        self._probes: dict[str, Probe] = {}
        self._at_stop: list[AtStop] = []
        self._at_scrape: list[AtScrape] = []
        self._stopping = False
        self._asked_at = float("-inf")
        self._report = Report({})
        self._asking = asyncio.Lock()

    def check(self, name: str, check: Check) -> None:
        """Ready only while this dependency answers in time."""
        self._checks[name] = check

    def probe(self, name: str, probe: Probe) -> None:
        """Alive only while this is true."""
        self._probes[name] = probe

    def at_stop(self, end: AtStop) -> None:
        """Call this when the process begins to stop."""
        self._at_stop.append(end)

    def at_scrape(self, count: AtScrape) -> None:
        """Call this before the metrics are told."""
        self._at_scrape.append(count)

    def scrape(self) -> None:
        """The metrics are to be told."""
        for count in self._at_scrape:
            count()

    def stop(self) -> None:
        """Not ready from now on, so that no new work is sent here while the last of it is finished."""
        self._stopping = True
        for end in self._at_stop:
            end()

    def live(self) -> Report:
        """Whether every part of this process lives."""
        return Report({name: OK if probe() else "dead" for name, probe in self._probes.items()})

    async def ready(self) -> Report:
        """Whether every dependency answers. Asks them all at once, at most once a second however often it is called."""
        if self._stopping:
            return Report({"process": "stopping"})
        async with self._asking:
            if time.monotonic() - self._asked_at >= READY_CACHE_S:
                names, checks = tuple(self._checks), tuple(self._checks.values())
                self._keep(Report(dict(zip(names, await asyncio.gather(*map(self._state, checks)), strict=True))))
        return self._report

    def _keep(self, report: Report) -> None:
        for name, state in report.states.items():
            if state != self._report.states.get(name, OK):
                log.warning("dependency", dependency=name, state=state)
        self._report, self._asked_at = report, time.monotonic()

    async def _state(self, check: Check) -> str:
        try:
            await asyncio.wait_for(check(), self._timeout_s)
        except TimeoutError:
            return f"no answer in {self._timeout_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever a check raises means that its dependency is not there
            return f"{type(error).__name__}: {error}"[:REASON_MAX]
        return OK


class JointHealth(Health):
    """Ready and alive only while all of several are; their states are told as `name.check`."""

    def __init__(self, parts: Mapping[str, Health]) -> None:
        super().__init__()
        self._parts = parts

    def stop(self) -> None:
        """Stop all."""
        super().stop()
        for part in self._parts.values():
            part.stop()

    def scrape(self) -> None:
        """Those of all are to be told."""
        super().scrape()
        for part in self._parts.values():
            part.scrape()

    def live(self) -> Report:
        """The states of all, and the own ones."""
        return _joint({name: part.live() for name, part in self._parts.items()}, super().live())

    async def ready(self) -> Report:
        """The states of all, and the own ones."""
        return _joint({name: await part.ready() for name, part in self._parts.items()}, await super().ready())


def _joint(reports: Mapping[str, Report], own: Report) -> Report:
    return Report({f"{name}.{check}": state for name, report in reports.items() for check, state in report.states.items()} | dict(own.states))


def routes(name: str, health: Health) -> list[HTTPRouteHandler]:
    """`/livez`, `/readyz`, `/health` and `/metrics` of a process."""

    @get("/livez", opt={PUBLIC: True}, include_in_schema=False)
    async def livez() -> Response[dict[str, Any]]:
        return health.live().response(service=name)

    @get("/readyz", opt={PUBLIC: True}, include_in_schema=False)
    async def readyz() -> Response[dict[str, Any]]:
        return (await health.ready()).response(service=name)

    @get("/health", opt={PUBLIC: True}, include_in_schema=False)
    async def summary() -> Response[dict[str, Any]]:
        return health.live().response(service=name, dependencies=dict((await health.ready()).states))

    @get("/metrics", opt={PUBLIC: True}, include_in_schema=False)
    async def metrics() -> Response[bytes]:
        health.scrape()
        # As a header, since a charset would be added to a media type that has one already.
        return Response(generate_latest(REGISTRY), headers={"content-type": CONTENT_TYPE_LATEST})

    return [livez, readyz, summary, metrics]
