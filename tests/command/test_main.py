"""The write door as its process is built: on the real Kafka, Redis and DynamoDB, from settings alone."""

from pathlib import Path

import httpx
import pytest

from command_api.main import build
from infra.local.stack import Addresses
from infra.secrets import SecretRefused
from tests.command.conftest import in_own_task
from tests.command.system import PASSWORD, settings_of


async def test_the_door_opens_and_closes(provisioned: Addresses, tmp_path: Path) -> None:
    """It is ready once all machines answer, takes a request into the log, and closes without a complaint."""
    app = build(settings_of(provisioned, tmp_path))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with in_own_task(app.lifespan()), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (200, {"kafka": "ok", "dynamodb": "ok", "redis": "ok"})
        body = {"username": "process_user", "email": "process@example.com", "password": PASSWORD, "first_name": "Ann", "last_name": "Lee"}
        assert (await client.post("/api/v1/auth/register", json=body)).status_code == 201
        tokens = await client.post("/api/v1/auth/login", json={"username": "process_user", "password": PASSWORD})
        headers = {"Authorization": f"Bearer {tokens.json()['access_token']}", "Prefer": "respond-async", "Idempotency-Key": "k"}
        answer = await client.post("/api/v1/balance/deposit", json={"amount": "1"}, headers=headers)
        assert (answer.status_code, answer.json()["state"]) == (202, "pending")
        waited = await client.post("/api/v1/balance/deposit", json={"amount": "1"}, headers=headers | {"Prefer": "wait=1"})
        assert (waited.status_code, waited.headers["preference-applied"]) == (202, "wait=1")
        assert (await client.get("/livez")).status_code == 200
        document = (await client.get("/docs/openapi.json")).json()
        deposit = document["paths"]["/api/v1/balance/deposit"]["post"]
        assert {"201", "202"} <= set(deposit["responses"])
        assert {"Idempotency-Key", "Prefer"} <= {parameter["name"] for parameter in deposit["parameters"]}
        assert app.background.alive()


async def test_no_secret_no_door(provisioned: Addresses, tmp_path: Path) -> None:
    """Without its key files the process does not start, and says which is missing."""
    settings = settings_of(provisioned, tmp_path)
    settings.secret_file.unlink()
    with pytest.raises(SecretRefused, match="secret"):
        build(settings)
