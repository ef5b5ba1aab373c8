"""A full Redis, a real one: views go and come back, and nothing else does; a policy under which more could go is refused."""

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from structlog.testing import capture_logs

from infra.cache import Arrived, Cache, CacheUnavailable, Denylist, Views
from infra.cache_guard import Layout
from infra.cache_policy import CachePolicy, UnsafePolicy
from infra.denylist import DENYLIST
from infra.generations import FIRST, POINTER, Generations, Live
from infra.market import ASSETS_KEY, PRICES_KEY, MarketCache
from schemas.results import encode_result
from tests.fakes.clock import FakeClock
from tests.fakes.histories import History, HistoryReads, begin
from tests.fakes.pointer import MemoryPointer
from tests.query.door import MemoryMarket
from tests.valkey import Valkey, cluster, valkey

USERS = count(1)
MEMORY_BYTES = 8 * 2**20
USERS_MAX = 3_000
STEPS = ("deposit", "buy", "open", "sell", "buy", "deposit")


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def cache(server: Valkey) -> AsyncIterator[Cache]:
    cache = Cache(server.url, client_name="tests")
    await cache.client.config_set("maxmemory", MEMORY_BYTES)
    yield cache
    await cache.stop()


def user() -> History:
    return History(f"user_{next(USERS):06d}").grow(STEPS)


def arrived(history: History, *versions: int) -> list[Arrived]:
    results = [history.results[version - 1] for version in versions or range(1, len(STEPS) + 1)]
    return [Arrived(result, encode_result(result)) for result in results]


def views_of(cache: Cache, *histories: History) -> tuple[Views, HistoryReads]:
    reads = HistoryReads({history.username: history for history in histories})
    return Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=1_000), reads


async def evicted(cache: Cache) -> int:
    return int((await cache.client.info("stats"))["evicted_keys"])


async def test_only_views_are_evicted(cache: Cache) -> None:
    """Filled beyond its memory, Redis keeps denylist, pointer and market; what it evicted is loaded again when it is read, and never shown in part."""
    clock, table = FakeClock(), MemoryMarket()
    denylist, market, generations = Denylist(cache, clock), MarketCache(cache, table, memory_s=0), Generations(cache, MemoryPointer())  # type: ignore[arg-type]
    tokens = [f"token {number}" for number in range(500)]
    for token in tokens:
        await denylist.revoke(token, clock.now() + timedelta(seconds=1_000))
    await market.snapshot()
    await generations.change(Live(), Live(1, 2, "kept"))
    views, reads = views_of(cache)
    while await evicted(cache) < 2_000:
        some = [user() for _ in range(40)]
        assert len(reads.histories) < USERS_MAX
        reads.histories |= {history.username: history for history in some}
        await views.put([one for history in some for one in arrived(history)])
    assert await cache.client.exists(DENYLIST, ASSETS_KEY, PRICES_KEY, POINTER) == 4
    assert all(await asyncio.gather(*(denylist.is_revoked(token, "family") for token in tokens)))
    assert await generations.read() == Live(1, 2, "kept")
    table.away = True
    assert (await market.snapshot()).assets
    for history in list(reads.histories.values())[::5]:
        shown = await views.account(history.username)
        assert (shown.value, shown.bypassed) == (history.accounts[-1], False)
        assert (await views.orders(history.username, 50)).value.rows == history.orders()
        assert (await views.transactions(history.username, 50)).value.rows == history.rows()
    assert reads.reads["account"]


async def test_a_result_for_a_view_of_which_a_part_was_evicted(cache: Cache) -> None:
    """Under pressure results go on: each account ends at its last version, whole."""
    histories = [user() for _ in range(USERS_MAX // 4)]
    await cache.client.config_set("maxmemory", MEMORY_BYTES // 2)
    views, _ = views_of(cache, *histories)
    for version in range(1, len(STEPS) + 1):
        for start in range(0, len(histories), 50):
            await views.put([one for history in histories[start : start + 50] for one in arrived(history, version)])
    assert await evicted(cache)
    for history in histories[::10]:
        assert (await views.account(history.username)).value == history.accounts[-1]
        assert (await views.orders(history.username, 50)).value.rows == history.orders()


async def test_full_of_what_may_not_go(cache: Cache) -> None:
    """Where no more room can be made, results are taken and told, the view goes again at once, reads load it, and the denylist is read but not added to."""
    clock, shown = FakeClock(), user()
    views, reads = views_of(cache, shown)
    denylist = Denylist(cache, clock)
    await denylist.revoke("token", clock.now() + timedelta(seconds=1_000))
    await fill(cache)
    for version in range(1, len(STEPS) + 1):
        await views.put(arrived(shown, version))
        assert not await cache.client.exists(*Layout(1_000).keys(shown.username, FIRST))
    assert (await views.account(shown.username)).value == shown.accounts[-1]
    assert (await views.orders(shown.username, 50)).value.rows == shown.orders()
    assert not (await views.make_up(shown.username, len(STEPS))).kept  # gone again is not behind
    assert await denylist.is_revoked("token", "family")
    with pytest.raises(CacheUnavailable):
        await denylist.revoke("another", clock.now() + timedelta(seconds=1_000))
    assert await denylist.is_revoked("token", "family")
    await cache.client.config_set("maxmemory", 4 * MEMORY_BYTES)
    await views.put(arrived(shown))
    asked = reads.reads["account"]
    assert (await views.account(shown.username)).value == shown.accounts[-1]
    assert reads.reads["account"] == asked


async def test_full_under_a_policy_that_evicts_nothing(cache: Cache) -> None:
    """A result that finds no room changes nothing and is to be repeated, other calls go on meanwhile; with room it is shown."""
    shown = user()
    views, reads = views_of(cache, shown)
    await begin(views, reads, shown)
    await views.put(arrived(shown, 1, 2, 3))
    await cache.client.config_set("maxmemory-policy", "noeviction")
    await fill(cache)
    for _ in range(2):
        with pytest.raises(CacheUnavailable):
            await views.put(arrived(shown, 4))
        account = await views.account(shown.username)
        assert (account.value, account.bypassed) == (shown.accounts[3], False)
        assert (await views.transactions(shown.username, 50)).value.rows == shown.rows(3)
    await cache.client.config_set("maxmemory", 4 * MEMORY_BYTES)
    assert (await views.put(arrived(shown, 4))).put == 1
    assert (await views.account(shown.username)).value == shown.accounts[4]


async def fill(cache: Cache) -> None:
    """Use more than the server may have, with what has no lifetime."""
    await cache.client.config_set("maxmemory", 0)
    await cache.client.set("ballast", b"x" * MEMORY_BYTES)
    await cache.client.config_set("maxmemory", MEMORY_BYTES)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_policy_that_may_evict_the_denylist_is_refused(cache: Cache, policy: str) -> None:
    """The process is not ready under it, however it came about, and is again once it is changed."""
    check = CachePolicy(cache, look_s=0).check
    await check()
    await cache.client.config_set("maxmemory-policy", policy)
    with pytest.raises(UnsafePolicy, match=policy):
        await check()
    await cache.client.config_set("maxmemory-policy", "volatile-ttl")
    await check()


async def test_between_two_looks_the_answer_stays(cache: Cache) -> None:
    """The server is not asked for its figures with each question of readiness, and what was found unsafe stays so."""
    policy = CachePolicy(cache)
    await cache.client.config_set("maxmemory-policy", "allkeys-lru")
    for _ in range(2):
        with pytest.raises(UnsafePolicy):
            await policy.check()


async def test_what_is_not_good_is_told_once(cache: Cache) -> None:
    """A policy that evicts nothing, and no bound of memory, are warned of, and do not make the process unready."""
    check = CachePolicy(cache, look_s=0).check
    await cache.client.config_set("maxmemory-policy", "noeviction")
    await cache.client.config_set("maxmemory", 0)
    with capture_logs() as logs:
        for _ in range(3):
            await check()
    assert [("noeviction" in line["event"], "maxmemory)" in line["event"]) for line in logs] == [(False, True), (True, False)]
    assert math.isnan(REGISTRY.get_sample_value("cnop_redis_memory_share") or 0)


async def test_a_server_that_tells_nothing_is_warned_of(server: Valkey, cache: Cache) -> None:
    """Where INFO is forbidden the policy is for whoever runs Redis to see to."""
    await cache.client.execute_command("ACL", "SETUSER", "limited", "on", "nopass", "~*", "+@all", "-info")
    limited = Cache(server.url.replace("redis://", "redis://limited:any@"), client_name="tests")
    with capture_logs() as logs:
        for _ in range(2):
            await CachePolicy(limited, look_s=0).check()
    await limited.stop()
    assert ["cannot be looked at" in line["event"] for line in logs] == [True, True]


async def test_the_figures_of_a_server(cache: Cache) -> None:
    """Memory in use and evictions are told."""
    await cache.client.set("ballast", b"x" * (MEMORY_BYTES // 4))
    await CachePolicy(cache).check()
    assert 1 / 4 < (REGISTRY.get_sample_value("cnop_redis_memory_share") or 0) < 1
    assert REGISTRY.get_sample_value("cnop_redis_evicted_keys") == 0


async def test_one_node_of_a_cluster_is_enough_to_be_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each primary is looked at."""
    async with cluster(tmp_path_factory.mktemp("cluster")) as running:
        cache = Cache(running.url, client_name="tests")
        check = CachePolicy(cache, look_s=0).check
        await check()
        async with Redis.from_url(running.primaries[1].url) as node:
            await node.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(UnsafePolicy):
            await check()
        await cache.stop()
