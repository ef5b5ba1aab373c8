"""What handlers are given is made in the request's own task: a task group for providers that wait for nothing costs a sixth of a small request."""

import asyncio
from typing import Annotated, Any, Literal

import httpx
import pytest
from litestar import get
from litestar.di import Provide
from litestar.params import Dependency, Parameter

from infra.clock import SystemIds
from infra.http import PUBLIC, FromRequest, Given, Health, build_app


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


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("", 200, {"limit": 3, "kind": None, "path": "/api/v1/rows"}),
        ("?limit=7&kind=b", 200, {"limit": 7, "kind": "b", "path": "/api/v1/rows"}),
        ("?other=1", 200, {"limit": 3, "kind": None, "path": "/api/v1/rows"}),
        ("?limit=10", 422, "#/query/limit"),
        ("?limit=some", 422, "#/query/limit"),
        ("?kind=c", 422, "#/query/kind"),
    ],
)
async def test_parameters_beside_what_is_given(query: str, status: int, told: object) -> None:
    """Said ones are converted and held against their rules, others have their defaults, and what is given is handed over as it is."""
    thing, seen = object(), list[object]()

    @get("/rows", opt={PUBLIC: True})
    async def rows(
        thing: Annotated[object, Dependency(skip_validation=True)],
        path: Annotated[str, Dependency(skip_validation=True)],
        limit: Annotated[int, Parameter(ge=1, le=9)] = 3,
        kind: Annotated[Literal["a", "b"] | None, Parameter()] = None,
    ) -> dict[str, Any]:
        seen.append(thing)
        return {"limit": limit, "kind": kind, "path": path}

    dependencies = {"thing": Given(thing), "path": FromRequest(lambda request: request.scope["path"], lambda: "")}
    app = build_app("rows", [rows], ids=SystemIds(), health=Health(), dependencies=dependencies)
    async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/api/v1") as client:
        answer = await client.get(f"/rows{query}")
    body = answer.json()
    assert (answer.status_code, body if status == 200 else body["errors"][0]["pointer"]) == (status, told)
    assert seen == ([thing] if status == 200 else [])
