"""A read door over a real Valkey; the ledger, the market's table and the profiles are in memory."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx

from infra.cache import Arrived, Cache, Denylist, Views
from infra.changes import Changes
from infra.clock import SystemIds
from infra.dynamo import DynamoUnavailable
from infra.generations import Generations
from infra.http import DoorApp, Health
from infra.local import keys
from infra.market import MarketCache
from infra.position import ProjectionLag
from infra.secrets import derive, read_secret
from infra.settings import Settings
from infra.tokens import TokenSigner
from query_api.main import Sources, assemble
from query_api.stream_hub import HEARTBEAT_S, Streams
from schemas.commands import KEY_PURPOSE, command_id
from schemas.identity import Profile
from schemas.market import Asset, PriceChanged
from schemas.results import encode_result
from schemas.views import consistency_token
from tests.fakes.candles import MemoryCandles
from tests.fakes.clock import FakeClock
from tests.fakes.histories import ASSETS, History, HistoryReads, Step, begin
from tests.fakes.pointer import MemoryPointer

AT = datetime(2026, 11, 25, 7, 59, tzinfo=UTC)
PRICES = {"BTC": Decimal("50000.00"), "ETH": Decimal("2500.5")}
"""SOL is listed and has no price."""
_NAMES = (f"reader_{number}" for number in itertools.count(1))


class MemoryMarket:
    """The market's table: what `MarketCache` reads. `away`: it does not answer."""

    def __init__(self) -> None:
        self.away = False

    async def assets(self) -> dict[str, Asset]:
        self._answer()
        return {asset_id: _asset(asset_id, rank) for rank, asset_id in enumerate((*ASSETS, "DOGE"), 1)}

    async def prices(self) -> dict[str, PriceChanged]:
        self._answer()
        return {asset_id: PriceChanged(asset_id, price, 1, AT) for asset_id, price in PRICES.items()}

    def _answer(self) -> None:
        if self.away:
            raise DynamoUnavailable("away")


@dataclass
class Profiles:
    """The profiles: what `IdentityStore.profile` reads."""

    known: dict[str, Profile] = field(default_factory=dict)

    async def profile(self, username: str) -> Profile | None:
        return self.known.get(username)


class AwayReads(HistoryReads):
    """A ledger that can be switched off."""

    away = False

    async def _count(self, read: str) -> None:
        if self.away:
            raise DynamoUnavailable("away")
        await super()._count(read)


@dataclass
class ReadDoor:
    """The door behind `client`, and what stands behind it."""

    client: httpx.AsyncClient
    cache: Cache
    views: Views
    reads: AwayReads
    market: MemoryMarket
    profiles: Profiles
    denylist: Denylist
    clock: FakeClock
    signer: TokenSigner
    secret: bytes
    candles: MemoryCandles
    app: DoorApp

    def user(self, *steps: Step) -> History:
        """A user with a history that is settled and not yet shown."""
        history = History(next(_NAMES)).grow(steps)
        self.reads.histories[history.username] = history
        return history

    async def shown(self, *steps: Step) -> History:
        """A user whose whole history the view shows."""
        history = self.user(*steps)
        await self.project(history, *range(1, len(history.entries) + 1))
        return history

    async def project(self, history: History, *versions: int) -> None:
        if 1 in versions and await self.views.version(history.username) is None:
            await begin(self.views, self.reads, history)
        results = [history.results[version - 1] for version in versions]
        await self.views.put([Arrived(result, encode_result(result)) for result in results])

    def headers(self, history: History, at_least: int | None = None) -> dict[str, str]:
        """Of an authenticated call, perhaps with a consistency token."""
        token = self.signer.sign(history.username, "family").text
        return {"Authorization": f"Bearer {token}"} | ({} if at_least is None else {"Consistency-Token": consistency_token(history.username, at_least)})

    async def get(self, path: str, history: History, at_least: int | None = None, **query: Any) -> httpx.Response:
        return await self.client.get(path, params=query, headers=self.headers(history, at_least))

    def command_id(self, history: History, request_id: str) -> str:
        return command_id(derive(self.secret, KEY_PURPOSE), history.username, request_id)


@asynccontextmanager
async def read_door(redis_url: str, folder: Path, *, listeners_max: int = 100, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[ReadDoor]:
    """A door that answers. Its lifespan is not begun: streams tell no changes until it is."""
    files = {"jwt_private_key_file": folder / "private.pem", "jwt_public_key_file": folder / "public.pem", "secret_file": folder / "secret"}
    keys.ensure(files["jwt_private_key_file"], files["jwt_public_key_file"], files["secret_file"])
    settings = Settings(redis_url=redis_url, **files)
    clock, cache, reads, market, profiles = FakeClock(), Cache(redis_url, client_name="test"), AwayReads({}), MemoryMarket(), Profiles()
    await cache.client.flushdb()
    candles = MemoryCandles()
    views, denylist = Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=1_000), Denylist(cache, clock)
    shown, lag = MarketCache(cache, market, memory_s=0), ProjectionLag(cache, clock, memory_s=0)
    bounds: dict[str, Any] = {"listeners_max": listeners_max, "heartbeat_s": heartbeat_s}
    streams = Streams(views, Changes(cache.client), market=shown, revocations=denylist, clock=clock, **bounds)
    sources = Sources(reads, views, shown, candles, profiles, denylist, lag, streams)
    health = Health()
    health.check("redis", cache.ping)
    app = assemble(settings, sources, clock, SystemIds(), health)
    signer = TokenSigner.from_file(settings.jwt_private_key_file, clock, SystemIds())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v1") as client:
        yield ReadDoor(client, cache, views, reads, market, profiles, denylist, clock, signer, read_secret(settings.secret_file), candles, app)
    await cache.stop()


def _asset(asset_id: str, rank: int) -> Asset:
    text: dict[str, Any] = {"name": f"{asset_id} Coin", "description": "A coin.", "category": "coin", "symbol": asset_id, "image": None}
    figures = dict.fromkeys(("circulating_supply", "total_supply", "max_supply", "ath", "ath_date", "atl", "atl_date"))
    scales: dict[str, Any] = {"quantity_scale": 8, "price_scale": 2, "minimum_quantity": Decimal("0.0001"), "volatility": Decimal("0.1")}
    return Asset(asset_id=asset_id, market_cap_rank=rank, price_usd=Decimal(1), is_active=True, **text, **figures, **scales)
