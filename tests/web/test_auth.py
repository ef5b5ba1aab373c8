"""Who calls is settled before anything of the request is read."""

import httpx
import pytest

from infra.http_auth import DENYLIST_AWAY
from tests.web.toy import Door, served


async def test_caller(client: httpx.AsyncClient, door: Door) -> None:
    """A valid token makes its user the caller; the scheme's name is read without regard to case."""
    token = door.signer.sign("alice_1", "fam").text
    assert (await client.get("/api/v1/me", headers={"Authorization": f"bearer {token}"})).json()["username"] == "alice_1"


@pytest.mark.parametrize("header", ["", "Bearer", "Basic YTpi", "Token x", "x", "Bearer a b c"])
async def test_no_token(client: httpx.AsyncClient, header: str) -> None:
    """Anything but one bearer token is 401."""
    assert (await client.get("/api/v1/me", headers={"Authorization": header})).status_code == 401


async def test_two_headers(client: httpx.AsyncClient, door: Door) -> None:
    """Two Authorization headers are refused: nobody can tell which one counts."""
    headers = [("Authorization", door.bearer()["Authorization"]), ("Authorization", door.bearer("bobby_1")["Authorization"])]
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 401


async def test_revoked(client: httpx.AsyncClient, door: Door) -> None:
    """A revoked token, and every token of a revoked family, is 401."""
    signed = door.signer.sign("alice_1", "family-1")
    headers = {"Authorization": f"Bearer {signed.text}"}
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 200
    for name in (signed.claims.token_id, "family-1"):
        door.revocations.revoked = {name}
        answer = await client.get("/api/v1/me", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    door.revocations.revoked = set()


async def test_before_the_rest(client: httpx.AsyncClient) -> None:
    """401 beats 413, 415, 400 and 422: who is not known is told nothing else."""
    assert (await client.post("/api/v1/pay", content=b"x" * 100_000)).status_code == 401
    assert (await client.get("/api/v1/rows/BAD?limit=0")).status_code == 401


async def test_public(client: httpx.AsyncClient, door: Door) -> None:
    """A public route needs no token and ignores any, valid or not."""
    for headers in ({}, {"Authorization": "Bearer damaged"}, door.bearer()):
        answer = await client.get("/api/v1/open", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"user": None})


async def test_options_and_unknown_paths(client: httpx.AsyncClient) -> None:
    """Neither the methods of a path nor its absence needs a token."""
    assert (await client.options("/api/v1/me")).headers["allow"] == "GET, OPTIONS"
    assert (await client.get("/api/v1/nowhere")).status_code == 404


@pytest.mark.parametrize(("fail_closed", "status", "decision"), [(True, 503, "refused"), (False, 200, "allowed")])
async def test_denylist_away(*, fail_closed: bool, status: int, decision: str) -> None:
    """Without the denylist a door that fails closed lets nobody in (503, retryable), the other one trusts the signature; both count it."""
    door = Door(fail_closed=fail_closed)
    door.revocations.away = True
    before = DENYLIST_AWAY.labels(decision)._value.get()
    async with served(door.app) as client:
        answer = await client.get("/api/v1/me", headers=door.bearer())
    assert answer.status_code == status
    assert DENYLIST_AWAY.labels(decision)._value.get() == before + 1
    if fail_closed:
        assert answer.json()["code"] == "unavailable"
        assert answer.headers["retry-after"] == "1"
