"""Rate limits count in a real Redis, tell their state, and let everything through without it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from litestar import get
from litestar.testing import RequestFactory

from infra.http import PUBLIC, Health, JsonRequest, Policy, RateLimiter, build_app, by_address, client_address
from infra.http_limits import UNCOUNTED, Connection
from tests.fakes.clock import FakeIds
from tests.valkey import Valkey, valkey
from tests.web.toy import served

BURST = Policy("burst", 3, 60)
WIDE = Policy("wide", 100, 3600)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(Path(tmp_path_factory.mktemp("valkey"))) as started:
        yield started


@pytest.fixture(scope="module")
async def client(server: Valkey) -> AsyncIterator[httpx.AsyncClient]:
    limiter = RateLimiter(server.url)
    key = by_address(1)

    @get("/limited", opt={PUBLIC: True}, guards=[limiter.guard(WIDE, key), limiter.guard(BURST, key)])
    async def limited() -> str:
        return "in"

    @get("/by-name/{name:str}", opt={PUBLIC: True})
    async def by_name(name: str, request: JsonRequest) -> str:
        await limiter.count(request, BURST, f"name {name}")
        return "in"

    async with served(build_app("limited", [limited, by_name], ids=FakeIds(), health=Health())) as opened:
        yield opened
    await limiter.aclose()


async def test_quota(client: httpx.AsyncClient) -> None:
    """Up to the quota requests pass and are told what is left; the next one is 429 with the time to wait, and other clients are not touched."""
    me, other = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
    for left in (2, 1, 0):
        answer = await client.get("/api/v1/limited", headers=me)
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"wide";q=100;w=3600, "burst";q=3;w=60'
        assert f'"burst";r={left};t=' in answer.headers["ratelimit"]
    refused = await client.get("/api/v1/limited", headers=me)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (429, "rate-limited", True)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert '"burst";r=0;t=' in refused.headers["ratelimit"]
    assert (await client.get("/api/v1/limited", headers=other)).status_code == 200


async def test_key_of_the_handler(client: httpx.AsyncClient) -> None:
    """A handler counts under a key of its own."""
    assert [(await client.get("/api/v1/by-name/a")).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert (await client.get("/api/v1/by-name/b")).status_code == 200


async def test_without_redis(client: httpx.AsyncClient, server: Valkey) -> None:
    """Where Redis is away requests pass uncounted, which is counted; when it is back the limits are, too."""
    before = UNCOUNTED.labels("burst")._value.get()
    await server.stop()
    answers = [await client.get("/api/v1/by-name/c") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert "ratelimit" not in answers[0].headers
    assert UNCOUNTED.labels("burst")._value.get() == before + 5
    await server.start()
    assert [(await client.get("/api/v1/by-name/d")).status_code for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, [], "127.0.0.1"),
        (0, ["192.0.2.9"], "127.0.0.1"),
        (1, ["192.0.2.9"], "192.0.2.9"),
        (1, ["203.0.113.7, 192.0.2.9"], "192.0.2.9"),
        (2, ["203.0.113.7, 192.0.2.9"], "203.0.113.7"),
        (2, ["203.0.113.7", "192.0.2.9"], "203.0.113.7"),
        (2, ["192.0.2.9"], "127.0.0.1"),
        (1, ["unknown"], "127.0.0.1"),
        (1, [""], "127.0.0.1"),
        (1, ["2001:db8::0:1"], "2001:db8::1"),
    ],
)
def test_client_address(proxies: int, forwarded: list[str], address: str) -> None:
    """Only what trusted proxies added counts; what the client itself claims does not, nor a header that came past them."""
    assert client_address(connection(forwarded), proxies) == address


def test_network_key() -> None:
    """Addresses of one IPv6 customer count together, those of IPv4 each alone."""
    key = by_address(1)
    assert key(connection(["2001:db8:1:2:3::4"])) == key(connection(["2001:db8:1:2:ffff::1"])) != key(connection(["2001:db8:1:3::1"]))
    assert key(connection(["192.0.2.1"])) != key(connection(["192.0.2.2"]))


def connection(forwarded: list[str]) -> Connection:
    request = RequestFactory().get("/")
    request.scope["client"] = ("127.0.0.1", 1)
    request.scope["headers"] = [(b"x-forwarded-for", line.encode()) for line in forwarded]
    return request
