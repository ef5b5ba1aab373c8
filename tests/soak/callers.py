"""Users who call the API as clients should: each request has a key, what is not known is asked again under it, and every answer is kept for the audit."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final

import httpx

from schemas.instants import rfc3339
from schemas.requests import order_id, request_id
from tests.soak.evidence import Promise, Told
from tests.soak.gaps import Gaps
from tests.soak.prices import PRICES, SWING

API: Final = "/api/v1"
PASSWORD: Final = "Correct-Horse-9"
ANSWER_S: Final = 12.0
GIVE_UP_S: Final = 60.0
"""A request that nobody could tell anything definite of for this long stays unknown."""
PAUSE_S: Final = 0.3
REPEATED_SHARE: Final = 0.08
"""Part of the requests that are sent once more under their key after their outcome is known,"""
TWICE_SHARE: Final = 0.05
"""and part that are sent twice at once."""
ASSETS: Final = {"BTC": "0.0001", "ETH": "0.002"}


@dataclass(slots=True)
class Asked:
    """One request and all that was told of it, try by try."""

    username: str
    key: str
    kind: str
    path: str
    body: dict[str, Any]
    figure: Decimal
    told: set[Told] = field(default_factory=set)
    is_late: bool = False
    """The time of this order ended before a door took it."""

    @property
    def is_definite(self) -> bool:
        """Whether its caller may stop asking."""
        return self.is_late or self.is_answered

    @property
    def is_answered(self) -> bool:
        """Whether its caller was told what became of it, or will."""
        return not self.told.isdisjoint({"settled", "refused", "accepted"})

    def promises(self) -> Iterator[Promise]:
        """What the system promised; more than one where it contradicted itself."""
        definite = self.told & {"settled", "refused"} or self.told & {"accepted"} or self.told & {"unknown"} or {"nothing"}
        for told in definite:
            yield Promise(self.username, request_id(self.username, self.key), self.kind, self.figure, told)


class Callers:
    """Some users, each with one request at a time. `answers` has the moments of definite answers; `surprises` what no client should ever be told."""

    def __init__(self, origin_url: str, chance: Random, count: int, pause_s: float) -> None:
        self._origin_url = origin_url
        self._chance = chance
        self._pause_s = pause_s
        self._tokens: dict[str, str] = {}
        self._names = [f"soak_{chance.getrandbits(48):012x}" for _ in range(count)]
        self._asked: list[Asked] = []
        self._waiting: dict[str, str] = {}
        self.answers = Gaps()
        self.surprises: list[str] = []

    @property
    def acknowledged(self) -> int:
        """Requests with a definite answer so far."""
        return sum(asked.is_answered for asked in self._asked)

    def promises(self) -> list[Promise]:
        """What all of them were told."""
        return [promise for asked in self._asked for promise in asked.promises()]

    async def run(self, stop: asyncio.Event) -> None:
        """Register, log in, and ask until told to stop; returns when nobody waits for an answer any more."""
        limits = httpx.Limits(max_connections=4 * len(self._names))
        async with httpx.AsyncClient(base_url=self._origin_url, timeout=ANSWER_S, limits=limits) as http, asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(self._live(http, name, stop))

    async def _live(self, http: httpx.AsyncClient, name: str, stop: asyncio.Event) -> None:
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "first_name": "Ann", "last_name": "Lee"}
        await self._until(http, "/auth/register", body, {201, 409}, stop)
        number = 0
        while not stop.is_set():
            asked = self._next(name, number)
            self._asked.append(asked)
            await asyncio.gather(*(self._ask(http, asked) for _ in range(1 + (self._chance.random() < TWICE_SHARE))))
            if asked.is_answered and self._chance.random() < REPEATED_SHARE:
                await self._try(http, asked)
            number += 1
            await _pause(stop, self._pause_s * 2 * self._chance.random())

    def _next(self, name: str, number: int) -> Asked:
        key = f"soak-{number}"
        draw = self._chance.random()
        if number == 0 or draw < 0.3:
            amount = Decimal(self._chance.randrange(100, 100_000)) / 100
            return Asked(name, key, "Deposit", "/balance/deposit", {"amount": str(amount)}, amount)
        if draw < 0.45:
            amount = Decimal(self._chance.randrange(100, 100_000)) / 100
            return Asked(name, key, "Withdrawal", "/balance/withdraw", {"amount": str(amount)}, amount)
        asset, unit = self._chance.choice(sorted(ASSETS.items()))
        quantity = Decimal(unit) * self._chance.randrange(1, 20)
        order = {"asset_id": asset, "quantity": str(quantity), "client_order_id": key}
        if draw < 0.65:
            side = "market_buy" if draw < 0.58 else "market_sell"
            return Asked(name, key, "OrderPlaced", "/orders", {**order, "order_type": side}, quantity)
        if draw < 0.92 or name not in self._waiting:
            self._waiting[name] = key
            return Asked(name, key, "OrderPlaced", "/orders", {**order, **self._terms(asset)}, quantity)
        order_name = self._waiting.pop(name)
        return Asked(name, key, "OrderCancelRequested", f"/orders/{order_id(name, order_name)}/cancel", {}, Decimal(0))

    def _terms(self, asset: str) -> dict[str, Any]:
        """An order that waits, with a price near the market's, so that some fill at once, some later and some never."""
        side = self._chance.choice(["limit_buy", "limit_buy", "limit_sell", "stop_loss_sell", "take_profit_sell"])
        price = (PRICES[asset] * (10_000 + self._chance.randrange(-SWING, SWING + 1)) / 10_000).quantize(Decimal("0.01"))
        force = self._chance.choice(["gtc", "day", "gtd", "gtd"])
        ends = datetime.now(UTC) + timedelta(seconds=self._chance.uniform(2, 8))
        return {"order_type": side, "price": str(price), "time_in_force": force, **({"expires_at": rfc3339(ends)} if force == "gtd" else {})}

    async def _ask(self, http: httpx.AsyncClient, asked: Asked) -> None:
        deadline = time.monotonic() + GIVE_UP_S
        while not asked.is_definite and time.monotonic() < deadline:
            if not await self._try(http, asked):
                await asyncio.sleep(PAUSE_S)

    async def _try(self, http: httpx.AsyncClient, asked: Asked) -> bool:
        """One call; whether it was answered definitely."""
        headers = {"Authorization": f"Bearer {await self._token(http, asked.username)}", "Idempotency-Key": asked.key}
        if self._chance.random() < 0.3:
            headers["Prefer"] = self._chance.choice(["respond-async", "wait=1", "wait=20"])
        try:
            answer = await http.post(API + asked.path, json=asked.body, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return False  # nothing left this process
        except httpx.TransportError:
            asked.told.add("unknown")
            return False
        told = self._told(asked, answer)
        if told:
            asked.told.add(told)
        if told in {"settled", "refused", "accepted"}:
            self.answers.note()
            return True
        return False

    def _told(self, asked: Asked, answer: httpx.Response) -> Told | None:
        code = "" if answer.is_success else _code(answer)
        by_settlement = "consistency-token" in answer.headers and code != "idempotency-key-reused"
        match answer.status_code:
            case 200 | 201 | 202 as status:
                return "accepted" if status == 202 else "settled"
            case 404 | 409 | 422 if by_settlement:
                return "refused"
            case 422 if code == "validation-failed" and asked.body.get("time_in_force") == "gtd":
                asked.is_late = True
                return None
            case 401 | 429 | 503 if code != "outcome-unknown":  # nothing was sent by this call
                if answer.status_code == 401:
                    self._tokens.pop(asked.username, None)
                return None
            case 503:
                return "unknown"
        self.surprises.append(f"{asked.path} {asked.key}: {answer.status_code} {answer.text[:300]}")
        return "unknown"

    async def _token(self, http: httpx.AsyncClient, name: str) -> str:
        while name not in self._tokens:
            try:
                answer = await http.post(f"{API}/auth/login", json={"username": name, "password": PASSWORD})
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                self._tokens[name] = answer.json()["access_token"]
            else:
                await asyncio.sleep(PAUSE_S)
        return self._tokens[name]

    async def _until(self, http: httpx.AsyncClient, path: str, body: dict[str, Any], wanted: set[int], stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                if (await http.post(API + path, json=body)).status_code in wanted:
                    return
            except httpx.TransportError:
                pass
            await _pause(stop, PAUSE_S)


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("code", ""))
    except ValueError:
        return ""


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
