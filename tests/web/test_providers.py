"""What handlers are given is made in the request's own task: a task group for providers that wait for nothing costs a sixth of a small request."""

import asyncio
from typing import Any

import httpx
from litestar import get
from litestar.di import Provide

from infra.clock import SystemIds
from infra.http import PUBLIC, Health, build_app


async def test_no_task_for_a_provider() -> None:
    """Several providers of one handler run one after the other, in its task, those first that others ask for."""
    ran: list[tuple[str, Any]] = []

    def provider(name: str) -> Provide:
        def provide() -> str:
            ran.append((name, asyncio.current_task()))
            return name

        return Provide(provide, sync_to_thread=False)

    def last(first: str) -> str:
        ran.append(("last", asyncio.current_task()))
        return f"after {first}"

    @get("/given", opt={PUBLIC: True})
    async def given(first: str, second: str, last: str) -> dict[str, Any]:
        ran.append(("handler", asyncio.current_task()))
        return {"given": [first, second, last]}

    dependencies = {"first": provider("first"), "second": provider("second"), "last": Provide(last, sync_to_thread=False)}
    app = build_app("given", [given], ids=SystemIds(), health=Health(), dependencies=dependencies)
    async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/api/v1") as client:
        assert (await client.get("/given")).json() == {"given": ["first", "second", "after first"]}
    assert {name for name, _ in ran} == {"first", "second", "last", "handler"}
    assert len({task for _, task in ran}) == 1
