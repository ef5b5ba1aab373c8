"""Callers who wait for their outcome, over HTTP, with a generator on the same cores (it is Python: it takes its part of them)."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

import httpx

API: Final = "/api/v1"
TIMEOUT_S: Final = 60.0
USERS: Final = 20
WARM_UP_CALLS: Final = 50


@dataclass(frozen=True, slots=True)
class Told:
    """What some callers saw."""

    per_s: int
    p50_ms: float
    p99_ms: float


async def callers(url: str, *, calls: int, at_once: int) -> Told:
    """Deposits by `at_once` callers, each waiting for one outcome before the next call. RuntimeError where one is not 201."""
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(base_url=url + API, timeout=TIMEOUT_S, limits=limits) as client:
        tokens = [await _user(client) for _ in range(min(USERS, at_once))]
        await _run(client, tokens, WARM_UP_CALLS, at_once)
        loop = asyncio.get_running_loop()
        started = loop.time()
        times = sorted(await _run(client, tokens, calls, at_once))
        seconds = loop.time() - started
    return Told(round(calls / seconds), round(times[calls // 2] * 1000, 1), round(times[int(calls * 0.99)] * 1000, 1))


async def _run(client: httpx.AsyncClient, tokens: list[str], calls: int, at_once: int) -> list[float]:
    numbers = iter(range(calls))
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def caller() -> None:
        for number in numbers:
            started = loop.time()
            answer = await client.post("/balance/deposit", json={"amount": "10.00"}, headers={"Authorization": f"Bearer {tokens[number % len(tokens)]}"})
            if answer.status_code != httpx.codes.CREATED:
                raise RuntimeError(f"{answer.status_code}: {answer.text}")
            times.append(loop.time() - started)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return times


async def _user(client: httpx.AsyncClient) -> str:
    name, password = f"bench_{secrets.token_hex(6)}", f"Aa1!{secrets.token_hex(8)}"
    person = {"username": name, "email": f"{name}@example.com", "password": password, "first_name": "Bench", "last_name": "Caller"}
    (await client.post("/auth/register", json=person)).raise_for_status()
    answer = await client.post("/auth/login", json={"username": name, "password": password})
    return str(answer.raise_for_status().json()["access_token"])
