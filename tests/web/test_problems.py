"""Every error answer is problem+json with a code, the request id, and a pointer for each field."""

from typing import Any

import httpx
import pytest
from litestar import get
from litestar.exceptions import (
    ClientException,
    InternalServerException,
    ServiceUnavailableException,
)

from infra.http import PUBLIC, Health, ProblemError, build_app
from schemas.problems import PROBLEMS, FieldError, Problem
from tests.fakes.clock import FakeIds
from tests.web.toy import Door, served

JSON = {"Content-Type": "application/json"}
CHUNK = b" " * 1000


async def lots() -> Any:
    for _ in range(200):
        yield CHUNK


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code", "pointers"),
    [
        ("GET", "/nowhere", {}, 404, "not-found", []),
        ("GET", "/api/v1/nowhere", {}, 404, "not-found", []),
        ("GET", "/docs/nowhere", {}, 404, "not-found", []),
        ("GET", "/api/v1/pay", {}, 405, "method-not-allowed", []),
        ("PROPFIND", "/api/v1/pay", {}, 405, "method-not-allowed", []),
        ("POST", "/api/v1/pay", {"json": {"amount": 1}, "headers": {"Authorization": ""}}, 401, "unauthorized", []),
        ("POST", "/api/v1/pay", {"content": b"not json", "headers": {"Authorization": "Bearer x"}}, 401, "unauthorized", []),
        ("POST", "/api/v1/pay", {}, 422, "validation-failed", [""]),
        ("POST", "/api/v1/pay", {"content": b'{"amount":1}'}, 415, "unsupported-media-type", []),
        ("POST", "/api/v1/pay", {"content": b"amount=1", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415, "unsupported-media-type", []),
        ("POST", "/api/v1/pay", {"content": b"{}", "headers": {"Content-Type": "application/json; charset=latin-1"}}, 415, "unsupported-media-type", []),
        ("POST", "/api/v1/pay", {"json": [1]}, 400, "malformed-body", []),
        ("POST", "/api/v1/pay", {"content": b'{"amount":', "headers": JSON}, 400, "malformed-body", []),
        ("POST", "/api/v1/pay", {"content": b"{" + b" " * 65_536 + b"}", "headers": JSON}, 413, "body-too-large", []),
        ("POST", "/api/v1/pay", {"content": lots, "headers": JSON}, 413, "body-too-large", []),
        ("POST", "/api/v1/pay", {"json": {}}, 422, "validation-failed", ["/amount"]),
        ("POST", "/api/v1/pay", {"json": {"amount": "x", "a~b/c": 1}}, 422, "validation-failed", ["/amount", "/a~0b~1c"]),
        ("POST", "/api/v1/pay", {"json": {"amount": 1, "legs": [{"amount": 1}, {}]}}, 422, "validation-failed", ["/legs/1/amount"]),
        ("POST", "/api/v1/pay?limit=1", {"json": {"amount": 1, "limit": 1}}, 422, "validation-failed", ["/limit"]),
        ("POST", "/api/v1/logout", {}, 422, "validation-failed", [""]),
        ("GET", "/api/v1/rows/abc?limit=101", {}, 422, "validation-failed", ["#/query/limit"]),
        ("GET", "/api/v1/rows/abc?limit=x", {"headers": {"X-Wanted": "y"}}, 422, "validation-failed", ["#/query/limit", "#/header/X-Wanted"]),
        ("GET", "/api/v1/rows/ABC", {}, 422, "validation-failed", ["#/path/row_id"]),
        ("GET", "/api/v1/needs", {}, 422, "validation-failed", ["#/query/the-word"]),
        ("DELETE", "/api/v1/rows/abc", {}, 409, "order-not-open", []),
        ("GET", "/api/v1/bug", {}, 500, "internal", []),
        ("GET", "/api/v1/forbidden", {}, 500, "internal", []),
        ("GET", "/api/v1/broken-model", {}, 500, "internal", []),
        ("GET", "/api/v1/litestar-401", {}, 401, "unauthorized", []),
        ("GET", "/api/v1/away", {}, 503, "unavailable", []),
    ],
)
async def test_refusals(  # noqa: PLR0917 - one row of the table
    client: httpx.AsyncClient, door: Door, method: str, path: str, sent: dict[str, Any], status: int, code: str, pointers: list[str]
) -> None:
    """Each way to be refused has its status, its code of the catalogue and its pointers, in the one format."""
    content = sent.get("content")
    answer = await client.request(
        method,
        path,
        json=sent.get("json"),
        content=content() if callable(content) else content,
        headers={**door.bearer(), "X-Request-ID": "r-1", **sent.get("headers", {})},
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["cache-control"] == "no-store"
    problem = Problem.model_validate_json(answer.content)
    kind = PROBLEMS[code]
    assert (problem.code, problem.status, problem.type, problem.title, problem.retryable) == (code, status, kind.uri, kind.title, kind.retryable)
    assert problem.request_id == "r-1"
    assert problem.instance == path.partition("?")[0]
    assert [error.pointer for error in problem.errors] == pointers
    assert all(error.detail and "`" not in error.detail for error in problem.errors)


async def test_headers_of_refusals(client: httpx.AsyncClient, door: Door) -> None:
    """401 names the scheme, 405 the methods (HEAD goes with GET), 503 when to come back."""
    missing = await client.get("/api/v1/me")
    assert missing.headers["www-authenticate"] == 'Bearer realm="cnop"'
    bad = await client.get("/api/v1/me", headers={"Authorization": "Bearer x"})
    assert bad.headers["www-authenticate"] == 'Bearer realm="cnop", error="invalid_token"'
    assert (await client.get("/api/v1/pay")).headers["allow"] == "OPTIONS, POST"
    assert (await client.put("/api/v1/rows/abc")).headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
    assert (await client.get("/api/v1/away", headers=door.bearer())).headers["retry-after"] == "1"


async def test_500_tells_nothing(client: httpx.AsyncClient, door: Door) -> None:
    """What went wrong inside is for the log: the answer has neither text nor traceback of it."""
    answer = await client.get("/api/v1/bug", headers=door.bearer())
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text


async def test_extensions(client: httpx.AsyncClient, door: Door) -> None:
    """Further members stand beside those of the format."""
    answer = await client.delete("/api/v1/rows/abc", headers=door.bearer())
    assert answer.json()["order"] == {"status": "completed"}


@pytest.mark.parametrize(
    ("raised", "status", "code"),
    [
        (ClientException("Invalid host header"), 400, "invalid-header"),
        (InternalServerException("secret"), 500, "internal"),
        (ServiceUnavailableException("secret"), 503, "unavailable"),
        (KeyError("secret"), 500, "internal"),
        (ProblemError("rate-limited", headers={"Retry-After": "7"}), 429, "rate-limited"),
    ],
)
async def test_whatever_is_raised(raised: Exception, status: int, code: str) -> None:
    """Exceptions of the framework and of anything below become problems, too."""

    @get("/raise", opt={PUBLIC: True})
    async def handler() -> None:
        raise raised

    app = build_app("raiser", [handler], ids=FakeIds(), health=Health())
    async with served(app) as client:
        answer = await client.get("/api/v1/raise")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_pointer_and_errors() -> None:
    """A pointer adds its field to the errors, with the problem's own detail."""
    error = ProblemError("validation-failed", "Too old.", pointer="/born", errors=[FieldError(pointer="/name", detail="is required")])
    assert [line.model_dump() for line in error.errors] == [{"pointer": "/name", "detail": "is required"}, {"pointer": "/born", "detail": "Too old."}]


def test_unknown_code() -> None:
    """A code that is not in the catalogue is a bug, found where it is raised."""
    with pytest.raises(KeyError):
        ProblemError("no-such-code")
