"""What every answer of the origin has in common: ids, errors, methods, bodies, health, metrics, documents."""

import gzip
from typing import Any
from uuid import uuid4

import httpx
import jsonschema
import pytest

from infra.local.home import PROCESSES
from tests.system.running import API, System, answered, refused

SECURED = (
    ("GET", "/auth/profile"),
    ("PUT", "/auth/profile"),
    ("GET", "/auth/me"),
    ("POST", "/auth/logout"),
    ("GET", "/balance"),
    ("POST", "/balance/deposit"),
    ("POST", "/balance/withdraw"),
    ("GET", "/balance/transactions?limit=0"),
    ("GET", "/balance/asset/B!"),
    ("GET", "/assets/balances"),
    ("GET", "/assets/B!/balance"),
    ("GET", "/assets/BTC/transactions?cursor=x"),
    ("GET", "/portfolio"),
    ("GET", "/portfolio/history?period=x"),
    ("GET", "/users/portfolio/summary"),
    ("GET", "/insights/portfolio"),
    ("POST", "/orders"),
    ("GET", "/orders?limit=1000"),
    ("GET", "/orders/x"),
    ("GET", "/commands/x"),
    ("POST", "/commands/x/fence"),
)
PROMISED = {
    "origin": (
        'cnop_http_request_seconds_count{method="POST",route="/api/v1/balance/deposit",status="2xx"}',
        'cnop_requests_accepted_total{type="Deposit"}',
        'cnop_outcomes_total{code="settled",type="Deposit"}',
        'cnop_outcomes_total{code="insufficient-funds",type="Withdrawal"}',
        'cnop_accept_to_visible_seconds_count{type="Deposit"}',
        'cnop_published_total{outcome="acknowledged",topic="cnop.account.requests.v1"}',
        'cnop_view_reads_total{source="view",view="account"}',
        'cnop_dynamodb_seconds_count{operation="get_item"}',
        "cnop_redis_seconds_count{",
    ),
    "settlement": (
        'cnop_settled_total{kind="Deposit",outcome="settled"}',
        'cnop_refused_total{code="insufficient-funds",kind="Withdrawal"}',
        "cnop_settle_seconds_count",
        'cnop_consumer_lag_records{group="cnop-settlement",partition="0",topic="cnop.account.requests.v1"}',
        "# TYPE cnop_retries_total counter",
    ),
    "projector": (
        "cnop_projected_results_total",
        "cnop_projection_lag_seconds_count",
        'cnop_consumer_lag_records{group="cnop-projector",partition="0",topic="cnop.account.results.v1"}',
    ),
    "triggers": (
        "# TYPE cnop_triggers_published_total counter",
        "cnop_due_orders_total",
        'cnop_trigger_sweep_seconds_count{sweep="expiry"}',
        'cnop_consumer_lag_records{group="cnop-triggers",partition="0",topic="cnop.market.prices.v1"}',
    ),
    "market": ("cnop_market_published_total",),
}


@pytest.mark.parametrize(("method", "path"), SECURED, ids=lambda value: value)
@pytest.mark.parametrize("authorization", [None, "Bearer nonsense", "Basic dTpw", "Bearer"], ids=["none", "nonsense", "basic", "empty"])
async def test_401_comes_first(system: System, method: str, path: str, authorization: str | None) -> None:
    """Without a valid token the answer is 401 with WWW-Authenticate, however wrong the rest of the request is."""
    headers = {"Authorization": authorization} if authorization else {}
    answer = await system.http.request(
        method, API + path, headers=headers | {"Content-Type": "text/plain"}, content=b"{" if method in {"POST", "PUT"} else None
    )
    refused(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_a_token_of_other_keys(system: System) -> None:
    """A token of another algorithm, with the right content, is refused."""
    import jwt  # noqa: PLC0415

    user = await system.user()
    claims = jwt.decode(user.tokens["access_token"], options={"verify_signature": False})
    for forged in (jwt.encode(claims, "x" * 32, algorithm="HS256"), jwt.encode(claims, "", algorithm="none"), user.tokens["access_token"][:-4] + "AAAA"):
        refused(await system.http.get(f"{API}/balance", headers={"Authorization": f"Bearer {forged}"}), 401, "unauthorized")


@pytest.mark.parametrize("path", [f"{API}/inventory/assets", f"{API}/nothing", f"{API}/balance", "/livez", "/nothing", f"{API}/inventory/assets/B!"])
async def test_request_ids(system: System, path: str) -> None:
    """One that is given is echoed, of whatever outcome; without one, or with one that is no id, one is made."""
    given = f"test-{uuid4().hex}_.A"
    assert (await system.http.get(path, headers={"X-Request-ID": given})).headers["X-Request-ID"] == given
    made = {(await system.http.get(path)).headers["X-Request-ID"] for _ in range(2)}
    assert len(made) == 2
    for bad in ("has space", "x" * 129, "ü".encode(), "a;b", ""):
        told = (await system.http.get(path, headers={"X-Request-ID": bad})).headers["X-Request-ID"]
        assert told != bad
        assert len(told) == 36


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_is_there(system: System, method: str) -> None:
    """An unknown path is 404 for every method, with a token and without."""
    for path in (f"{API}/nothing", f"{API}/orders/a/b/c", "/nothing", "/api/v2/balance"):
        refused(await system.http.request(method, path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/balance", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/balance/transactions", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/balance/deposit", {"POST", "OPTIONS"}),
        ("PATCH", "/auth/profile", {"GET", "HEAD", "PUT", "OPTIONS"}),
        ("PUT", "/orders", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("GET", "/auth/login", {"POST", "OPTIONS"}),
        ("POST", "/inventory/assets", {"GET", "HEAD", "OPTIONS"}),
    ],
)
async def test_other_methods(system: System, method: str, path: str, allowed: set[str]) -> None:
    """A path that does not know the method is 405, and says which it knows, whichever door they belong to."""
    user = await system.user()
    answer = await user.call(method, path)
    refused(answer, 405, "method-not-allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


async def test_head_and_options(system: System) -> None:
    """HEAD is GET without the body; OPTIONS tells the methods and needs no token."""
    user = await system.user()
    for path in ("/balance", "/orders", "/inventory/assets", "/inventory/assets/BTC"):
        get, head = await user.get(path), await user.call("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        assert (head.headers["Content-Length"], head.headers["Content-Type"]) == (get.headers["Content-Length"], get.headers["Content-Type"])
    assert (await system.http.head(f"{API}/balance")).status_code == 401
    assert (await system.http.head(f"{API}/nothing")).status_code == 404
    for path, methods in (("/orders", {"GET", "HEAD", "POST", "OPTIONS"}), ("/balance/deposit", {"POST", "OPTIONS"})):
        answer = await system.http.options(API + path)
        assert answer.status_code == 204
        assert set(answer.headers["Allow"].split(", ")) == methods


BODIES: tuple[tuple[bytes, str, int, str], ...] = (
    (b"{", "application/json", 400, "malformed-body"),
    (b"", "application/json", 422, "validation-failed"),
    (b"null", "application/json", 400, "malformed-body"),
    (b"[]", "application/json", 400, "malformed-body"),
    (b'"text"', "application/json", 400, "malformed-body"),
    (b'{"amount":NaN}', "application/json", 400, "malformed-body"),
    (b'{"amount":Infinity}', "application/json", 400, "malformed-body"),
    (b'{"amount":1,"amount":2}', "application/json", 400, "malformed-body"),
    (b'{"amount":"\xff"}', "application/json", 400, "malformed-body"),
    (b'{"amount":"\\ud800"}', "application/json", 400, "malformed-body"),
    (b"[" * 30_000, "application/json", 400, "malformed-body"),
    (b'{"amount":"5"}', "text/plain", 415, "unsupported-media-type"),
    (b"amount=5", "application/x-www-form-urlencoded", 415, "unsupported-media-type"),
    (b'{"amount":"5"}', "application/json; charset=latin-1", 415, "unsupported-media-type"),
    (b'{"amount":"%b"}' % (b"5" * 70_000), "application/json", 413, "body-too-large"),
)


@pytest.mark.parametrize(("content", "content_type", "status", "code"), BODIES, ids=lambda value: str(value)[:24])
async def test_bodies(system: System, content: bytes, content_type: str, status: int, code: str) -> None:
    """What is no JSON object in UTF-8 of at most 64 KiB is refused as what it is; and nothing happened."""
    user = await system.user()
    answer = await user.call("POST", "/balance/deposit", content=content, headers={"Content-Type": content_type})
    refused(answer, status, code, *([""] if code == "validation-failed" else []))
    assert await user.balance() == "0.00"


async def test_a_body_without_a_length(system: System) -> None:
    """The bound also holds for a body that comes in pieces; the connection or the next one serves on."""
    user = await system.user()

    async def pieces() -> Any:
        yield b'{"amount":"'
        for _ in range(20):
            yield b"5" * 8_192
        yield b'"}'

    refused(await user.call("POST", "/balance/deposit", content=pieces(), headers={"Content-Type": "application/json"}), 413, "body-too-large")

    async def small() -> Any:
        yield b'{"amount":'
        yield b'"5.00"}'

    answered(await user.call("POST", "/balance/deposit", content=small(), headers={"Content-Type": "application/json; charset=UTF-8"}), 201)


async def test_a_packed_body(system: System) -> None:
    """An encoding that is not taken is refused, and never read as something else."""
    user = await system.user()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await user.call("POST", "/balance/deposit", content=gzip.compress(b'{"amount":"5"}'), headers=headers)
    assert answer.status_code in {400, 415}
    assert await user.balance() == "0.00"


@pytest.mark.parametrize("name", PROCESSES)
async def test_health(system: System, name: str) -> None:
    """Every process says that it lives, that it is ready, and what it depends on."""
    async with httpx.AsyncClient(base_url=system.url(name)) as http:
        for path in ("/livez", "/readyz", "/health"):
            answer = await http.get(path)
            body = answered(answer, 200)
            assert body["status"] == "ok"
            assert body["service"] == f"cnop-{name}"
            assert set(body["checks"].values()) == {"ok"}
            assert answer.headers["Cache-Control"] == "no-store"
        assert set((await http.get("/health")).json()["dependencies"].values()) == {"ok"}


@pytest.mark.parametrize("name", PROCESSES)
async def test_metrics(system: System, name: str) -> None:
    """Every process has the promised series, and no series is labelled with users or raw paths."""
    user = await system.user("1.00")
    refused(await user.withdraw("5.00"), 422, "insufficient-funds", "/amount")
    await user.balance()
    await user.get(f"/orders/ord_{user.username}")
    async with httpx.AsyncClient(base_url=system.url(name)) as http:
        answer = await http.get("/metrics")
    assert answer.status_code == 200
    missing = [series for series in PROMISED[name] if f"\n{series}" not in answer.text]
    assert not missing
    assert user.username not in answer.text


async def test_type_of_metrics(system: System) -> None:
    """The content type is that of the exposition format, each of its parameters once."""
    answer = await system.http.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert answer.headers["Content-Type"].count("charset") == 1


async def test_documents(system: System) -> None:
    """The page needs no script and no network; the document is OpenAPI 3.1 and describes every route of this release with its refusals."""
    page = await system.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "<script" not in page.text
    assert "src=" not in page.text
    document = answered(await system.http.get("/docs/openapi.json"), 200)
    assert document["openapi"].startswith("3.1")
    operations = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    templates = {"/orders/x": "/orders/{order_id}", "/commands/x": "/commands/{command_id}", "/commands/x/fence": "/commands/{command_id}/fence"}
    for method, path in (*SECURED, ("POST", "/auth/register"), ("POST", "/auth/login"), ("POST", "/auth/refresh"), ("GET", "/inventory/assets")):
        bare = path.partition("?")[0]
        named = templates.get(bare) or bare.replace("B!", "{asset_id}").replace("/BTC", "/{asset_id}")
        assert (method, API + named) in operations, named
    for component in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(component)


@pytest.mark.parametrize(
    "path",
    ["/balance", "/orders", "/balance/transactions", "/portfolio", "/portfolio/history", "/users/portfolio/summary", "/assets/balances", "/auth/profile"],
)
async def test_answers_keep_to_the_document(system: System, path: str) -> None:
    """What is answered is what the document says."""
    user = await system.user("1000.00")
    answered(await user.order("BTC", "0.01"), 201)
    document = answered(await system.http.get("/docs/openapi.json"), 200)
    schema = document["paths"][API + path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(await user.read(path), {**schema, "components": document["components"]})
