"""A write door over real Redis and DynamoDB, and behind it the real settlement and the real views; only Kafka is a list."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from command_api.main import Machines, assemble
from events.envelope import Envelope
from events.topics import REQUESTS
from infra.cache import Arrived, Cache, Views
from infra.clock import SystemClock, SystemIds
from infra.dynamo import Dynamo
from infra.generations import Generations
from infra.local import keys
from infra.local.stack import Addresses
from infra.market import MarketStore
from infra.parked import ParkingLedger
from infra.settings import Settings
from processors.settlement import Read, Settlement
from schemas.candles import begun
from schemas.market import Asset, PriceChanged
from schemas.requests import AccountRequest, LoggedRequest, decode_request, encode_request, request_type
from schemas.results import decode_result
from tests.fakes.backlog import FakeBacklog
from tests.fakes.bus import FakeBus
from tests.fakes.pointer import MemoryPointer

REGION = "us-east-1"
PASSWORD = "Correct-Horse-9"
PRICE = Decimal("50000.00")
PRICE_AGE_MAX_S = 86_400
"""The prices here are published once: more than a whole run takes."""


class System:
    """The door behind `client`, and switches for what stands behind it."""

    def __init__(self, dynamo: Dynamo, cache: Cache, settings: Settings) -> None:
        self.bus = FakeBus(self._read)
        self.backlog = FakeBacklog()
        self.ledger = ParkingLedger(dynamo)
        self.views = Views(cache, self.ledger, Generations(cache, MemoryPointer()), ttl_s=settings.view_ttl_s)
        self.settles = asyncio.Event()
        self.settles.set()
        self.replies = True
        self.client: httpx.AsyncClient
        self.machines: Machines
        self._settlement = Settlement(self.ledger, lambda _: asyncio.sleep(0), SystemClock().now, log_lines_max=0)
        self._offset = 0

    async def user(self) -> tuple[str, dict[str, str]]:
        """A new user: name, and the headers of an authenticated call."""
        name = f"user_{SystemIds().new().replace('-', '')[-20:]}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "first_name": "Ann", "last_name": "Lee"}
        assert (await self.client.post("/auth/register", json=body)).status_code == 201
        tokens = await self.client.post("/auth/login", json={"username": name, "password": PASSWORD})
        return name, {"Authorization": f"Bearer {tokens.json()['access_token']}"}

    async def rich_user(self, amount: str = "1000000") -> tuple[str, dict[str, str]]:
        """A new user with cash."""
        name, headers = await self.user()
        assert (await self.client.post("/balance/deposit", json={"amount": amount}, headers=headers)).status_code == 201
        return name, headers

    async def publish(self, request: AccountRequest, request_id: str) -> None:
        """Put a request into the log that does not come through the door."""
        value, now = encode_request(request), SystemClock().now()
        await self.bus.publish(REQUESTS, Envelope(request_id, "test", request_type(request), request.username, now, value, request_id, request_id))

    async def _read(self, _topic: str, envelope: Envelope) -> None:
        await self.settles.wait()
        self._offset += 1
        request = decode_request(envelope.type, envelope.value)
        logged = LoggedRequest(request, envelope.id, SystemClock().now(), 0, self._offset, envelope.correlation_id, envelope.trace_id)
        for result in (await self._settlement([Read(logged, envelope.reply_to, None, None)])).results:
            if self.replies:
                await self.views.put([Arrived(decode_result(result.value), result.value, result.reply_to)])


@asynccontextmanager
async def running(addresses: Addresses, folder: Path, **changes: Any) -> AsyncIterator[System]:
    """A system that takes requests."""
    settings = settings_of(addresses, folder, **changes)
    ids = SystemIds()
    machines = Machines.of(settings, ids)
    await machines.bus.stop(1)
    async with Dynamo(settings.dynamodb_url, REGION) as dynamo:
        cache = Cache(settings.redis_url, client_name="test")
        system = System(dynamo, cache, settings)
        await _list_assets(MarketStore(dynamo))
        system.machines = replace(machines, bus=system.bus, lag=system.backlog)  # type: ignore[type-var]
        app = assemble(settings, system.machines, SystemClock(), ids)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with app.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://test/api/v1") as client:
            system.client = client
            yield system
        await cache.stop()


def settings_of(addresses: Addresses, folder: Path, **changes: Any) -> Settings:
    """Settings of a door with keys of its own, and limits that tests do not meet by chance."""
    files = {"jwt_private_key_file": folder / "private.pem", "jwt_public_key_file": folder / "public.pem", "secret_file": folder / "secret"}
    keys.ensure(files["jwt_private_key_file"], files["jwt_public_key_file"], files["secret_file"])
    machines = {"kafka": addresses.kafka, "dynamodb_url": addresses.dynamodb_url, "redis_url": addresses.redis_url, "aws_region": REGION}
    limits = {"price_age_max_s": PRICE_AGE_MAX_S, "login_attempts_per_minute": 1000, "auth_requests_per_minute": 10_000}
    return Settings(**{**machines, **files, **limits, **changes})


async def _list_assets(store: MarketStore) -> None:
    for asset_id, is_active in (("BTC", True), ("OFF", False), ("NEW", True), ("OLD", True)):
        await store.list_asset(_asset(asset_id, is_active=is_active))
    now = SystemClock().now()
    prices = (PriceChanged("BTC", PRICE, 1, now - timedelta(seconds=1)), PriceChanged("OLD", PRICE, 1, now - 2 * timedelta(seconds=PRICE_AGE_MAX_S)))
    await store.put_prices([begun(price) for price in prices])


def _asset(asset_id: str, *, is_active: bool) -> Asset:
    text: dict[str, Any] = {"name": asset_id, "description": "A coin.", "category": "coin", "symbol": asset_id, "image": None}
    figures = dict.fromkeys(("circulating_supply", "total_supply", "max_supply", "ath", "ath_date", "atl", "atl_date"))
    scales: dict[str, Any] = {"quantity_scale": 8, "price_scale": 2, "minimum_quantity": Decimal("0.0001"), "volatility": Decimal("0.1")}
    return Asset(asset_id=asset_id, market_cap_rank=1, price_usd=PRICE, is_active=is_active, **text, **figures, **scales)
