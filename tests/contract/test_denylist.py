"""The denylist on a real Valkey: callers that ask at once share a look, and each is told the truth of a moment after it asked."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from infra.cache_client import PIPELINE_MAX, Cache, CacheUnavailable
from infra.clock import SystemClock
from infra.denylist import Denylist
from infra.local.stack import Addresses
from tests.valkey import valkey

CALLERS = 3 * PIPELINE_MAX


@pytest.fixture
async def cache(machines: Addresses) -> AsyncIterator[Cache]:
    connected = Cache(machines.redis_url, client_name="test")
    yield connected
    await connected.stop()


def looks() -> float:
    return REGISTRY.get_sample_value("cnop_redis_seconds_count", {"operation": "reads"}) or 0


async def test_many_ask_at_once(cache: Cache) -> None:
    """Each gets the answer about its own token and family, in a few round trips for all of them."""
    denylist, run = Denylist(cache, SystemClock()), uuid4().hex
    until = SystemClock().now() + timedelta(hours=1)
    await asyncio.gather(*(denylist.revoke(f"{run}-{number}", until) for number in range(0, CALLERS, 7)))
    await denylist.revoke_family(f"{run}-bad", until)
    before = looks()
    told = await asyncio.gather(*(denylist.is_revoked(f"{run}-{number}", f"{run}-{'bad' if number % 5 == 0 else 'good'}") for number in range(CALLERS)))
    assert told == [number % 7 == 0 or number % 5 == 0 for number in range(CALLERS)]
    assert looks() - before <= CALLERS / PIPELINE_MAX + 1


async def test_what_was_revoked_before_is_known(cache: Cache) -> None:
    """A call that comes while a look is under way is not answered by that one, which may have been too early."""
    denylist, token = Denylist(cache, SystemClock()), uuid4().hex
    for number in range(50):
        early = asyncio.create_task(denylist.is_revoked("other", "family"))
        await asyncio.sleep(0)
        await denylist.revoke(f"{token}-{number}", SystemClock().now() + timedelta(hours=1))
        assert await denylist.is_revoked(f"{token}-{number}", "family")
        assert not await early


async def test_a_caller_that_goes_takes_nobody_along(cache: Cache) -> None:
    """One that is cancelled while it waits leaves the others their answers."""
    denylist = Denylist(cache, SystemClock())
    callers = [asyncio.create_task(denylist.is_revoked(uuid4().hex, "family")) for _ in range(10)]
    await asyncio.sleep(0)
    callers[0].cancel()
    assert await asyncio.gather(*callers[1:]) == [False] * 9


async def test_away(tmp_path: Path) -> None:
    """While Redis is away every call says so, and does again what it is for when Redis is back."""
    async with valkey(tmp_path) as server:
        cache = Cache(server.url, client_name="test")
        denylist = Denylist(cache, SystemClock())
        assert not await denylist.is_revoked("token", "family")
        await server.stop()
        told = await asyncio.gather(*(denylist.is_revoked("token", "family") for _ in range(5)), return_exceptions=True)
        assert [type(one) for one in told] == [CacheUnavailable] * 5
        await cache.stop()
