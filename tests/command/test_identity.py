"""Registering, logging in and out over HTTP."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher

from command_api.passwords import LANES, MEMORY_KIB, PASSES, Passwords, TooManyPasswords
from infra.identity import IdentityStore
from infra.local.stack import Addresses
from tests.command.conftest import in_own_task
from tests.command.system import PASSWORD, System, running
from tests.command.test_doors import DEADLINE_S, deposit, problem
from tests.valkey import valkey
from tests.waiting import eventually


def registration(name: str, **changes: Any) -> dict[str, Any]:
    return {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "first_name": "Ann", "last_name": "Lee"} | changes


async def login(system: System, name: str, password: str = PASSWORD) -> httpx.Response:
    return await system.client.post("/auth/login", json={"username": name, "password": password})


def bearer(tokens: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens.json()['access_token']}"}


async def refresh(system: System, token: str) -> httpx.Response:
    return await system.client.post("/auth/refresh", json={"refresh_token": token})


async def test_register_and_log_in(system: System) -> None:
    """A registered user logs in under any case of the name, and gets tokens at the top level."""
    answer = await system.client.post("/auth/register", json=registration("Alice_01", phone="+1 (555) 123-4567", date_of_birth="1990-02-28"))
    assert (answer.status_code, answer.json()) == (201, {"message": "User registered successfully"})
    tokens = await login(system, "ALICE_01")
    assert tokens.status_code == 200
    assert {name: type(value) for name, value in tokens.json().items()} == {"access_token": str, "token_type": str, "expires_in": int, "refresh_token": str}
    assert (tokens.json()["token_type"], tokens.json()["expires_in"]) == ("bearer", 3600)
    assert tokens.headers["cache-control"] == "no-store"
    assert (await deposit(system, bearer(tokens))).status_code == 201


async def test_taken(system: System) -> None:
    """409 for a taken username or email address, whatever its case."""
    name, _ = await system.user()
    assert problem(await system.client.post("/auth/register", json=registration(name.upper(), email="x@example.com"))) == (409, "username-taken", ["/username"])
    other = registration("somebody_else", email=f"{name.upper()}@EXAMPLE.com")
    assert problem(await system.client.post("/auth/register", json=other)) == (409, "email-taken", ["/email"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "short"),
        ("username", "x" * 31),
        ("username", "no spaces"),
        ("email", "nobody"),
        ("email", "<script>@example.com"),
        ("password", "Short-1"),
        ("password", "no-upper-case-1"),
        ("password", "NoOtherSign12"),
        ("password", "A1-" + "a" * 126),
        ("first_name", "<b>Ann</b>"),
        ("first_name", "javascript:alert(1)"),
        ("last_name", ""),
        ("last_name", "x" * 51),
        ("phone", "12345"),
        ("phone", "<5551234567>"),
        ("date_of_birth", "2020-01-01"),
        ("date_of_birth", "1850-01-01"),
        ("date_of_birth", "01.02.1990"),
        ("role", "admin"),
    ],
)
async def test_invalid_registrations(system: System, field: str, value: str) -> None:
    """422 that names the field, without telling its value."""
    answer = await system.client.post("/auth/register", json=registration("valid_name", **{field: value}))
    assert problem(answer) == (422, "validation-failed", [f"/{field}"])
    assert not value or len(value) < 6 or value not in answer.text


async def test_wrong_credentials(system: System) -> None:
    """An unknown user and a wrong password are told alike; a password that cannot be one is malformed."""
    name, _ = await system.user()
    wrong, unknown = await login(system, name, "Wrong-Password-1"), await login(system, "nobody_here", PASSWORD)
    assert problem(wrong)[:2] == problem(unknown)[:2] == (401, "invalid-credentials")
    assert {**wrong.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}
    assert problem(await login(system, name, "short")) == (422, "validation-failed", ["/password"])
    assert problem(await login(system, "x", PASSWORD)) == (422, "validation-failed", ["/username"])


async def test_unknown_users_cost_the_same() -> None:
    """A check for nobody does the work of a check: its time is that of a wrong password, within the noise of a busy machine."""
    passwords = Passwords()
    known = await passwords.hash(PASSWORD)

    async def timed(password_hash: str | None) -> float:
        started = time.perf_counter()
        assert not await passwords.check(password_hash, "Wrong-Password-1")
        return time.perf_counter() - started

    pairs = [(await timed(known), await timed(None)) for _ in range(5)]
    passwords.stop()
    wrong, nobody = map(min, zip(*pairs, strict=True))
    assert 0.5 < wrong / nobody < 2


async def test_password_checks_are_bounded() -> None:
    """A caller over the bound is refused, not queued; the others are answered."""
    passwords = Passwords(memory_kib=8, passes=1, at_once=1, waiting_max=3)
    outcomes = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(5)), return_exceptions=True)
    passwords.stop()
    assert sum(isinstance(outcome, TooManyPasswords) for outcome in outcomes) == 2
    assert sum(isinstance(outcome, str) for outcome in outcomes) == 3


async def test_old_hashes_are_renewed(system: System) -> None:
    """A login with a hash of weaker parameters replaces it by one of today's, and the password still works."""
    name, _ = await system.user()
    store = IdentityStore(system.machines.dynamo)
    user = await store.user(name)
    assert user is not None
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    assert await store.rehash(name, user.password_hash, weak)
    assert (await login(system, name)).status_code == 200
    user = await store.user(name)
    assert user is not None
    assert f"m={MEMORY_KIB},t={PASSES},p={LANES}" in user.password_hash
    assert user.password_hash.startswith("$argon2id$")
    assert (await login(system, name)).status_code == 200


async def test_refresh_rotates_and_reuse_revokes(system: System) -> None:
    """A refresh token is good once; its reuse ends the family: the newest refresh token and every access token of it."""
    name, _ = await system.user()
    first = await login(system, name)
    second = await refresh(system, first.json()["refresh_token"])
    assert second.status_code == 200
    assert (await deposit(system, bearer(second))).status_code == 201
    assert problem(await refresh(system, first.json()["refresh_token"]))[:2] == (401, "invalid-refresh-token")
    assert problem(await refresh(system, second.json()["refresh_token"]))[:2] == (401, "invalid-refresh-token")
    for tokens in (first, second):
        assert problem(await deposit(system, bearer(tokens)))[:2] == (401, "unauthorized")
    assert problem(await refresh(system, "nonsense"))[:2] == (401, "invalid-refresh-token")
    assert (await deposit(system, bearer(await login(system, name)))).status_code == 201


async def test_logout(system: System) -> None:
    """After a logout neither the access token nor the refresh token is good, nor those refreshed before; other logins go on. The body is an object."""
    name, _ = await system.user()
    first, other = await login(system, name), await login(system, name)
    second = await refresh(system, first.json()["refresh_token"])
    for body in (b"", b"[]", b'{"all": true}'):
        answer = await system.client.post("/auth/logout", content=body, headers=bearer(second) | {"Content-Type": "application/json"})
        assert answer.status_code in {400, 422}, answer.text
    assert (await system.client.post("/auth/logout", headers=bearer(second))).status_code == 422
    answer = await system.client.post("/auth/logout", json={}, headers=bearer(second))
    assert (answer.status_code, answer.json()) == (200, {"message": "Logged out successfully"})
    for tokens in (first, second):
        assert problem(await deposit(system, bearer(tokens)))[:2] == (401, "unauthorized")
        assert problem(await refresh(system, tokens.json()["refresh_token"]))[:2] == (401, "invalid-refresh-token")
    assert (await deposit(system, bearer(other))).status_code == 201


async def test_update_profile(system: System) -> None:
    """Named fields change, null clears an optional one, a taken email address is a 409, and a bad field is named."""
    name, headers = await system.user()
    other, _ = await system.user()

    async def change(**fields: Any) -> httpx.Response:
        return await system.client.put("/auth/profile", json=fields, headers=headers)

    answer = await change(first_name="Bea", phone="555-123-4567")
    assert (answer.status_code, answer.json()["message"]) == (200, "Profile updated successfully")
    user = answer.json()["user"]
    assert (user["username"], user["first_name"], user["last_name"], user["phone"]) == (name, "Bea", "Lee", "5551234567")
    assert user["created_at"].endswith("Z")
    assert (await change(phone=None)).json()["user"]["phone"] is None
    assert problem(await change(email=f"{other}@example.com")) == (409, "email-taken", ["/email"])
    assert problem(await change(email=None)) == (422, "validation-failed", ["/email"])
    assert problem(await change(first_name="<i>")) == (422, "validation-failed", ["/first_name"])
    assert problem(await change(date_of_birth="2021-01-01")) == (422, "validation-failed", ["/date_of_birth"])
    assert problem(await change(username="else"))[2] == ["/username"]
    assert problem(await change()) == (422, "validation-failed", [""])


async def test_rate_limits(provisioned: Addresses, tmp_path: Path) -> None:
    """Guesses at one user are bounded per address, and so are all public calls; 429 says when to come back."""
    limits = {"login_attempts_per_minute": 3, "auth_requests_per_minute": 8}
    async with valkey(tmp_path) as own, in_own_task(running(replace(provisioned, redis_url=own.url), tmp_path, **limits)) as system:
        answers = [await login(system, "somebody_new", "Wrong-Password-1") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert problem(answers[-1])[1] == "rate-limited"
        assert int(answers[-1].headers["retry-after"]) > 0
        assert answers[0].headers["ratelimit-policy"]
        assert [(await login(system, f"somebody_{number}")).status_code for number in range(5)] == [401, 401, 401, 401, 429]


async def test_without_redis(provisioned: Addresses, tmp_path: Path) -> None:
    """While nobody can tell whether a token was revoked nothing is taken on its word: 503 at once, and 201 again when Redis is back."""
    async with valkey(tmp_path) as own, in_own_task(running(replace(provisioned, redis_url=own.url), tmp_path)) as system:
        _, headers = await system.user()
        await own.stop()
        for _ in range(2):
            answer = await deposit(system, headers)
            assert problem(answer)[:2] == (503, "unavailable")
        logout = await system.client.post("/auth/logout", json={}, headers=headers)
        assert problem(logout)[:2] == (503, "unavailable")
        await own.start()

        async def taken() -> bool:
            return (await deposit(system, headers)).status_code == 201

        await eventually(taken, DEADLINE_S)
