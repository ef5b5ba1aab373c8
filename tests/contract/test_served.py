"""The description of the events as the doors serve it."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from litestar import Litestar

from events.payloads import event_types
from events.topics import declared
from infra import http_contracts, http_problems
from ops.contracts import ASYNCAPI, EVENTS, GENERATED


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Litestar(http_contracts.routes(), exception_handlers={Exception: http_problems.answer}, openapi_config=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        yield client


async def test_page_tells_all_and_needs_nothing(client: httpx.AsyncClient) -> None:
    """The page names every topic and event type, runs no script, and takes nothing from elsewhere."""
    answer = await client.get("/docs/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert all(topic.name in answer.text for topic in declared(1))
    assert all(kind.name in answer.text for kind in event_types())
    assert not re.search(r"<(script|link|img|iframe)|\bsrc=|url\(|@import", answer.text)
    assert all(address.startswith(("/docs", "#")) for address in re.findall(r'href="([^"]*)"', answer.text))


async def test_its_links_lead_somewhere(client: httpx.AsyncClient) -> None:
    """Every document that the page refers to is there, as it is committed."""
    page = (await client.get("/docs/events")).text
    names = set(re.findall(r'href="/docs/schemas/([^"]*)"', page))
    assert names == {f"{kind.name}.json" for kind in event_types()}
    for name in names:
        answer = await client.get(f"/docs/schemas/{name}")
        assert answer.headers["content-type"] == "application/schema+json"
        assert answer.content == (GENERATED / EVENTS / name).read_bytes()
    assert (await client.get(f"/docs/{ASYNCAPI}")).content == (GENERATED / ASYNCAPI).read_bytes()


@pytest.mark.parametrize("name", ["cnop.account.Gone.v1.json", "cnop.account.Deposit.v1", "..%2fasyncapi.json", "%2fetc%2fpasswd"])
async def test_unknown_types_are_not_found(client: httpx.AsyncClient, name: str) -> None:
    """What is no event type is a 404 problem, and no way into the file system."""
    answer = await client.get(f"/docs/schemas/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not-found"
