"""What every answer has, whatever becomes of the request."""

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
import structlog
from litestar import get
from litestar.response import Stream
from prometheus_client import REGISTRY

from infra import telemetry
from infra.http import PUBLIC, Health, build_app
from tests.fakes.clock import FakeIds
from tests.waiting import eventually
from tests.web.toy import DEADLINE_S, Door, served

TRACE = "0af7651916cd43dd8448eb211c80319c"


def count(method: str, route: str, status: str) -> float:
    return REGISTRY.get_sample_value("cnop_http_request_seconds_count", {"method": method, "route": route, "status": status}) or 0.0


@pytest.mark.parametrize("given", ["r-1", "a.B_c-9", "x" * 128])
async def test_request_id_taken(client: httpx.AsyncClient, door: Door, given: str) -> None:
    """A request id in the allowed alphabet is taken, seen by the handler and echoed."""
    answer = await client.get("/api/v1/me", headers={**door.bearer(), "X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "ä".encode().decode("latin-1"), "a;b", "a\tb"])
async def test_request_id_made(client: httpx.AsyncClient, given: str | None) -> None:
    """Without a request id, or with one that could not be logged as it is, one is made."""
    headers: dict[bytes, bytes] = {} if given is None else {b"X-Request-ID": given.encode("latin-1")}
    made = [(await client.get("/nowhere", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    assert given not in made
    assert all(len(name) == 36 for name in made)


async def test_trace(client: httpx.AsyncClient, door: Door) -> None:
    """A request continues its caller's trace; without one it begins its own."""
    given = await client.get("/api/v1/me", headers={**door.bearer(), "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    assert given.json()["traceparent"].split("-")[1] == TRACE
    own = [(await client.get("/api/v1/me", headers=door.bearer())).json()["traceparent"] for _ in range(2)]
    assert all(own)
    assert own[0] != own[1]


async def test_headers(client: httpx.AsyncClient, door: Door) -> None:
    """Answers to callers are not stored by anybody, types are not guessed, and no server names itself."""
    private = await client.get("/api/v1/me", headers=door.bearer())
    assert private.headers["cache-control"] == "no-store"
    assert private.headers["x-content-type-options"] == "nosniff"
    assert "server" not in private.headers
    assert (await client.get("/api/v1/cached")).headers["cache-control"] == "public, max-age=60"
    assert "cache-control" not in (await client.get("/api/v1/open")).headers
    assert (await client.get("/readyz")).headers["cache-control"] == "no-store"
    assert (await client.post("/api/v1/open-write")).headers["cache-control"] == "no-store"


async def test_head(client: httpx.AsyncClient, door: Door) -> None:
    """HEAD is GET without the body."""
    whole = await client.get("/api/v1/open")
    head = await client.head("/api/v1/open")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    assert (await client.head("/api/v1/me", headers=door.bearer())).status_code == 200
    assert (await client.head("/api/v1/nowhere")).status_code == 404


async def test_metrics(client: httpx.AsyncClient, door: Door) -> None:
    """Requests are counted by method, route template and class of status: never by a path or method that a client made up."""
    await client.get("/metrics")  # tells of what tests before asked
    before = count("GET", "/api/v1/rows/{row_id}", "2xx"), count("GET", "unmatched", "4xx")
    for name in ("abc", "abd"):
        await client.get(f"/api/v1/rows/{name}", headers=door.bearer())
        await client.get(f"/made/up/{name}")
    before_other = count("OTHER", "unmatched", "4xx")
    await client.request("PROPFIND", "/api/v1/open")
    page = (await client.get("/metrics")).text
    assert (count("GET", "/api/v1/rows/{row_id}", "2xx"), count("GET", "unmatched", "4xx")) == (before[0] + 2, before[1] + 2)
    assert count("OTHER", "unmatched", "4xx") == before_other + 1
    assert "cnop_http_request_seconds_bucket" in page
    assert not [line for line in page.splitlines() if line.startswith("cnop_http_") and "abc" in line]


async def test_log_line(client: httpx.AsyncClient, door: Door) -> None:
    """Each request leaves one line with route, status, time, user and code; health and metrics leave none."""
    await client.get("/metrics")  # tells of what tests before asked
    with structlog.testing.capture_logs(processors=[telemetry.bound]) as lines:
        await client.get("/api/v1/rows/abc?limit=7", headers={**door.bearer(), "X-Request-ID": "r-7"})
        await client.get("/api/v1/rows/ABC", headers=door.bearer())
        for path in ("/livez", "/readyz", "/health", "/metrics"):
            await client.get(path)
        await eventually(lambda: len(lines) == 2, DEADLINE_S)
    first, second = lines
    assert {key: first[key] for key in ("event", "request_id", "username", "method", "route", "status", "log_level")} == {
        "event": "request",
        "request_id": "r-7",
        "username": "alice_1",
        "method": "GET",
        "route": "/api/v1/rows/{row_id}",
        "status": 200,
        "log_level": "info",
    }
    assert first["ms"] >= 0
    assert "code" not in first
    assert (second["status"], second["code"]) == (422, "validation-failed")


async def test_context_ends_with_the_request(client: httpx.AsyncClient, door: Door) -> None:
    """On one connection the user of a request is not taken for that of the next."""
    await client.get("/metrics")  # tells of what tests before asked
    with structlog.testing.capture_logs(processors=[telemetry.bound]) as lines:
        await client.get("/api/v1/me", headers=door.bearer())
        await client.get("/api/v1/open")
        await eventually(lambda: len(lines) == 2, DEADLINE_S)
    assert [line["username"] for line in lines] == ["alice_1", None]


async def test_broken_stream(caplog: pytest.LogCaptureFixture) -> None:
    """An answer that breaks in the middle is logged under its request id and cut off, so that nobody takes it for a whole one."""

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("broken")

    @get("/stream", opt={PUBLIC: True})
    async def stream() -> Stream:
        return Stream(parts())

    caplog.set_level(logging.CRITICAL, "uvicorn.error")
    app = build_app("streamer", [stream], ids=FakeIds(), health=Health())
    async with served(app) as client:
        with structlog.testing.capture_logs(processors=[telemetry.bound]) as lines:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/api/v1/stream", headers={"X-Request-ID": "r-9"})
            await eventually(lambda: len(lines) == 2, DEADLINE_S)
        assert [(line["event"], line["request_id"]) for line in lines] == [("answer broken off", "r-9"), ("request", "r-9")]
