"""Reads that share round trips: each is answered for itself, and none is harmed by what becomes of another."""

import asyncio
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra import cache_client
from infra.cache_client import ANSWER_S, PIPELINE_MAX, Cache, CacheUnavailable, Call, Script
from infra.local import ports
from tests.valkey import Valkey
from tests.waiting import eventually

READERS = 3 * PIPELINE_MAX
ECHO = Script("echo", "return {KEYS[1], ARGV[1]}")


def round_trips() -> float:
    return REGISTRY.get_sample_value("cnop_redis_seconds_count", {"operation": "reads"}) or 0


async def test_many_share_few_round_trips(cache: Cache) -> None:
    """Each reader gets the answer to its own command."""
    await cache.client.mset({f"k{number}": number for number in range(READERS)})
    before = round_trips()
    told = await asyncio.gather(*(cache.ask("GET", f"k{number}") for number in range(READERS)))
    assert [int(one) for one in told] == list(range(READERS))
    assert round_trips() - before <= READERS / PIPELINE_MAX + 1


async def test_it_sees_what_was_written_before_it(cache: Cache) -> None:
    """Also where a round trip is under way when it is asked."""
    key = uuid4().hex

    async def written_and_read(number: int) -> bool:
        name = f"{key}{number}"
        await cache.client.set(name, number)
        return int(await cache.ask("GET", name)) == number

    assert all(await asyncio.gather(*(written_and_read(number) for number in range(200))))


async def test_a_wrong_command_is_its_own_readers_error(cache: Cache) -> None:
    """Those that share its round trip are answered."""
    await cache.client.set("text", "x")
    told = await asyncio.gather(cache.ask("GET", "text"), cache.ask("HGETALL", "text"), cache.ask("GET", "none"), return_exceptions=True)
    assert told[0] == b"x"
    assert isinstance(told[1], ResponseError)
    assert told[2] is None


async def test_a_script_that_the_server_has_lost(cache: Cache) -> None:
    """The server is given it, and all readers are answered."""
    await cache.client.script_flush()
    calls = [Call((f"k{number}",), (number,)) for number in range(20)]
    told = await asyncio.gather(*(cache.ask_script(ECHO, call) for call in calls))
    assert told == [[call.keys[0].encode(), str(call.args[0]).encode()] for call in calls]


async def test_a_slow_server_is_not_one_that_is_away(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers again and again is waited for, however many answers a round trip has; one that does not is not."""
    monkeypatch.setattr(cache_client, "ANSWER_S", 0.4)
    slow = Cache(server.url, client_name="slow")
    try:
        told = await asyncio.gather(*(slow.ask("BLPOP", f"nothing{number}", "0.25") for number in range(6)))
        assert told == [None] * 6
        with pytest.raises(CacheUnavailable):
            await slow.ask("BLPOP", "nothing", "5")
    finally:
        await slow.stop()


async def test_a_server_without_its_primary_is_away(cache: Cache, server: Valkey) -> None:
    """It answers that it has nothing to say, to each command by itself: whoever asked turns to the ledger, as where nobody answers."""
    await cache.client.config_set("replica-serve-stale-data", "no")
    await cache.client.execute_command("REPLICAOF", "127.0.0.1", ports.free())
    told = await asyncio.gather(*(cache.ask("GET", "x") for _ in range(3)), return_exceptions=True)
    assert {type(one) for one in told} == {CacheUnavailable}


async def test_whoever_asks_while_a_connection_is_given_back(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is answered, also where that fails."""
    pool = cache.client.connection_pool
    release, late = pool.release, []

    async def fails_once(connection: object) -> None:
        await release(connection)
        if not late:
            late.append(asyncio.create_task(cache.ask("GET", "second")))
            await asyncio.sleep(0)
            raise RedisTimeoutError("closing takes too long")

    monkeypatch.setattr(pool, "release", fails_once)
    assert await cache.ask("GET", "first") is None
    await eventually(lambda: late, ANSWER_S, "the connection is given back")
    async with asyncio.timeout(ANSWER_S):
        assert await late[0] is None


async def test_while_the_server_is_away(cache: Cache, server: Valkey) -> None:
    """Every reader is told so, those at once too that come while it is known; and is answered when it is back."""
    await cache.ask("GET", "x")
    await server.stop()
    told = await asyncio.gather(*(cache.ask("GET", "x") for _ in range(20)), return_exceptions=True)
    assert {type(one) for one in told} == {CacheUnavailable}
    with pytest.raises(CacheUnavailable, match="away a moment ago"):
        await cache.ask("GET", "x")
    await server.start()
    await cache.ping()
    assert await cache.ask("GET", "x") is None
