"""Reads that share round trips: each is answered for itself, and none is harmed by what becomes of another."""

import asyncio
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY
from redis.exceptions import ResponseError

from infra.cache_client import PIPELINE_MAX, Cache, CacheUnavailable, Call, Script
from tests.valkey import Valkey

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
