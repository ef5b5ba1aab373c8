"""Two doors behind one port look like one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from litestar import get, post
from litestar.exceptions import NotFoundException

from infra.http import PUBLIC, BackgroundFailed, DoorApp, Health, build_app, serve
from ops.origin import Origin
from tests.fakes.clock import FakeIds
from tests.web.toy import DEADLINE_S, served

OPEN = {PUBLIC: True}


@get(["/orders", "/orders/{order_id:str}"], opt=OPEN)
async def read() -> str:
    return "read"


@get("/only-read", opt=OPEN)
async def only_read() -> str:
    return "read"


@get("/gone", opt=OPEN)
async def gone() -> str:
    raise NotFoundException


@post("/orders", opt=OPEN)
async def write() -> str:
    return "written"


@post("/orders/{order_id:str}/cancel", opt=OPEN)
async def cancel() -> str:
    return "cancelled"


class Doors:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.kafka_away = False
        self.commands = self._door("commands", [write, cancel])
        self.queries = self._door("queries", [read, only_read, gone])
        self.commands.health.check("kafka", self._kafka)
        self.origin = Origin(self.commands, self.queries, FakeIds())

    def _door(self, name: str, routes: list[Any]) -> DoorApp:
        @asynccontextmanager
        async def lifespan(_app: Any) -> AsyncIterator[None]:
            self.log.append(f"{name} opened")
            yield
            self.log.append(f"{name} closed")

        return build_app(name, routes, ids=FakeIds(), health=Health(), lifespan=[lifespan])

    async def _kafka(self) -> None:
        if self.kafka_away:
            raise ConnectionError("away")


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    doors = Doors()
    async with served(doors.origin) as opened:
        assert doors.log == ["commands opened", "queries opened"]
        yield opened
    assert doors.log == ["commands opened", "queries opened", "queries closed", "commands closed"]


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/api/v1/orders", 200, "read"),
        ("GET", "/api/v1/orders/ord_1", 200, "read"),
        ("HEAD", "/api/v1/orders", 200, ""),
        ("POST", "/api/v1/orders", 201, "written"),
        ("POST", "/api/v1/orders/", 201, "written"),
        ("POST", "/api/v1/orders/ord_1/cancel", 201, "cancelled"),
    ],
)
async def test_by_method(client: httpx.AsyncClient, method: str, path: str, status: int, text: str) -> None:
    """Reads go to the queries, everything else to the commands."""
    answer = await client.request(method, path)
    assert (answer.status_code, answer.text) == (status, text)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/api/v1/only-read", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/api/v1/orders/ord_1/cancel", 405, "OPTIONS, POST"),
        ("PUT", "/api/v1/orders", 405, "GET, HEAD, OPTIONS, POST"),
        ("GET", "/api/v1/nowhere", 404, None),
        ("POST", "/api/v1/nowhere", 404, None),
        ("GET", "/api/v1/orders/a/b/c", 404, None),
        ("GET", "/nowhere", 404, None),
        ("GET", "/api/v1/gone", 404, None),
    ],
)
async def test_unknown_methods(client: httpx.AsyncClient, method: str, path: str, status: int, allow: str | None) -> None:
    """A path that one door knows is not "not found" at the other: its methods are those of both."""
    answer = await client.request(method, path)
    assert (answer.status_code, answer.headers.get("allow")) == (status, allow)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_one_description(client: httpx.AsyncClient) -> None:
    """There is one description, with the operations of both; one page of metrics has the requests of both."""
    document = (await client.get("/docs/openapi.json")).json()
    assert set(document["paths"]["/api/v1/orders"]) == {"get", "post"}
    assert document["info"]["title"] == "Cloud Native Order Processor"
    assert "/api/v1/only-read" in (await client.get("/docs")).text
    await client.post("/api/v1/orders")
    await client.get("/api/v1/only-read")
    metrics = (await client.get("/metrics")).text
    assert 'method="POST",route="/api/v1/orders"' in metrics
    assert 'method="GET",route="/api/v1/only-read"' in metrics


async def test_ready_together() -> None:
    """The origin is ready while both doors are, and names the door that is not."""
    doors = Doors()
    doors.kafka_away = True
    async with served(doors.origin) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["checks"]) == (503, {"commands.kafka": "ConnectionError: away"})
        assert set((await client.get("/livez")).json()["checks"]) == {"commands.background", "queries.background", "background"}


async def test_background_of_either() -> None:
    """A background task that ends in either door ends the process, and its error is told."""

    async def work() -> None:
        raise ValueError("gone")

    doors = Doors()
    doors.queries.background.start("work", work())
    with pytest.raises(BackgroundFailed) as failed:
        await asyncio.wait_for(serve(doors.origin, "127.0.0.1", 0, asyncio.Event(), 1), DEADLINE_S)
    assert isinstance(failed.value.__cause__, BackgroundFailed)
    assert isinstance(failed.value.__cause__.__cause__, ValueError)
