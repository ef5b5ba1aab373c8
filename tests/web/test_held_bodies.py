"""The bodies that a door holds at once are bounded in bytes."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import get, post

from infra.clock import SystemIds
from infra.http import PUBLIC, Health, JsonRequest, build_app
from infra.http_bodies import HELD, Bodies
from infra.http_request import BODY_BYTES_MAX
from tests.waiting import eventually

BOUND = BODY_BYTES_MAX + 1000
WITHIN_S = 5.0


class Held:
    """A door with one route that waits with its body in hand, and one that reads none."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

        @post("/hold", opt={PUBLIC: True})
        async def hold(request: JsonRequest) -> dict[str, str]:
            await request.json()
            await self.go.wait()
            return {}

        @get("/look", opt={PUBLIC: True})
        async def look() -> dict[str, str]:
            return {}

        self.app = build_app("held", [hold, look], ids=SystemIds(), health=Health(), middleware=[Bodies(BOUND)])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test/api/v1")

    async def post(self, size: int) -> httpx.Response:
        return await self.client.post("/hold", content=b'{"a":"%b"}' % (b"x" * (size - 8)), headers={"Content-Type": "application/json"})

    async def post_unannounced(self) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"{}"

        return await self.client.post("/hold", content=pieces(), headers={"Content-Type": "application/json", "Transfer-Encoding": "chunked"})


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    made = Held()
    async with made.app.lifespan(), made.client:
        yield made


def held_bytes() -> float:
    return HELD._value.get()


async def test_a_body_too_many(held: Held) -> None:
    """Over the bound a write is refused with 503 and a time to come back, a read never; when the others are answered there is room again."""
    first = asyncio.create_task(held.post(BODY_BYTES_MAX))
    await eventually(lambda: held_bytes() >= BODY_BYTES_MAX, WITHIN_S)
    over = BOUND - BODY_BYTES_MAX + 1
    shed = await held.post(over)
    assert (shed.status_code, shed.json()["code"], shed.headers["retry-after"]) == (503, "overloaded", "1")
    assert (await held.client.get("/look")).status_code == 200
    held.go.set()
    assert (await first).status_code == 201
    assert held_bytes() == 0
    assert (await held.post(over)).status_code == 201


async def test_an_unannounced_body_counts_whole(held: Held) -> None:
    """A body of unknown length counts as the longest, and lets go of all of it."""
    first = asyncio.create_task(held.post_unannounced())
    await eventually(lambda: held_bytes() == BODY_BYTES_MAX, WITHIN_S)
    assert (await held.post_unannounced()).status_code == 503
    held.go.set()
    assert (await first).status_code == 201
    assert held_bytes() == 0
