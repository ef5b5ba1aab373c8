"""The read door as it is composed for real: over DynamoDB's API and Valkey, through its own lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from infra.cache import Arrived, Cache, Views
from infra.cache_guard import Layout
from infra.clock import SystemClock, SystemIds
from infra.dynamo import Dynamo
from infra.generations import FIRST, Generations
from infra.identity import IdentityStore
from infra.ledger import Ledger, Stored, Write
from infra.local import keys
from infra.local.stack import Addresses
from infra.settings import Settings
from infra.tokens import TokenSigner
from query_api.main import build
from schemas.identity import Profile
from schemas.results import encode_result
from tests.fakes.clock import START
from tests.fakes.histories import History
from tests.fakes.pointer import MemoryPointer

PATHS = (
    "/balance",
    "/balance/transactions?limit=2",
    "/assets/balances",
    "/assets/ETH/transactions",
    "/portfolio",
    "/orders?limit=2",
    "/orders?status=open",
    "/insights/portfolio",
)

REGION = "us-east-1"


async def test_the_store_and_the_results_tell_the_same(provisioned: Addresses, tmp_path: Path) -> None:
    """A view made from results and one loaded from the store are shown alike, to the last zero; both are served by the composed door."""
    history = History("reader_real").grow(["deposit", "buy", "open", "buy", "sell", "refuse", "deposit", "buy"])
    async with _door(provisioned, provisioned.redis_url, tmp_path) as (client, dynamo, cache):
        await _store(Ledger(dynamo), history)
        await IdentityStore(dynamo).register(_profile(history.username), "hash")
        await Views(cache, Ledger(dynamo), Generations(cache, MemoryPointer()), ttl_s=1_000).put([Arrived(one, encode_result(one)) for one in history.results])
        by_results = [_without_time(await client.get(f"/api/v1{path}")) for path in PATHS]
        await cache.client.delete(*Layout(1_000).keys(history.username, FIRST))
        assert [_without_time(await client.get(f"/api/v1{path}")) for path in PATHS] == by_results
        order_id = history.orders()[-1].order_id
        assert (await client.get(f"/api/v1/orders/{order_id}")).json()["data"]["order_id"] == order_id
        assert (await client.get("/api/v1/auth/profile")).json()["email"] == "ann@example.com"
        assert (await client.get("/readyz")).json()["checks"] == {"dynamodb": "ok", "redis": "ok"}


async def test_ready_tells_which_machine_is_away(provisioned: Addresses, tmp_path: Path) -> None:
    """The door starts and answers without Redis, and /readyz names it."""
    async with _door(provisioned, "redis://127.0.0.1:1/0", tmp_path) as (client, _, _):
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["dynamodb"] == "ok"
        assert "CacheUnavailable" in answer.json()["checks"]["redis"]
        answer = await client.get("/api/v1/balance")
        assert (answer.status_code, answer.headers["Cache-Status"]) == (200, "cnop; fwd=bypass")


@asynccontextmanager
async def _door(machines: Addresses, redis_url: str, folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Dynamo, Cache]]:
    files = {"jwt_private_key_file": folder / "private.pem", "jwt_public_key_file": folder / "public.pem", "secret_file": folder / "secret"}
    keys.ensure(files["jwt_private_key_file"], files["jwt_public_key_file"], files["secret_file"])
    async with Dynamo(machines.dynamodb_url, REGION) as dynamo:
        settings = Settings(redis_url=redis_url, dynamodb_url=machines.dynamodb_url, aws_region=REGION, **files)
        token = TokenSigner.from_file(settings.jwt_private_key_file, SystemClock(), SystemIds()).sign("reader_real", "family").text
        app = build(settings)
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", headers={"Authorization": f"Bearer {token}"})
        cache = Cache(redis_url, client_name="test")
        async with app.lifespan(), client:
            yield client, dynamo, cache
        await cache.stop()


async def _store(ledger: Ledger, history: History) -> None:
    for entry, account in zip(history.entries, history.accounts[1:], strict=True):
        orders = (entry.lines.order,) if entry.lines.order else ()
        assert await ledger.write([Write(account.version - 1, account, (entry,), orders)]) == [Stored()]


def _profile(username: str) -> Profile:
    return Profile(username=username, email="ann@example.com", first_name="Ann", last_name="Lee", created_at=START, updated_at=START)


def _without_time(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    body.pop("next_cursor", None)
    if "summary" in body.get("data", {}):
        del body["data"]["generated_at"]
    return body
