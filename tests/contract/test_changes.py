"""The subscription to changes of views, on a real Valkey: what the guard tells comes to the followers, and what may be missing is told as lost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from infra.cache import Arrived, Cache, Views
from infra.cache_client import PIPELINE_MAX
from infra.cache_guard import CHANGES, LOADED
from infra.changes import Changes
from infra.generations import Generations
from infra.subscription import CHANNELS_AT_ONCE
from schemas.results import Result, encode_result
from tests.fakes.histories import History, HistoryReads, begin
from tests.fakes.pointer import MemoryPointer
from tests.valkey import Valkey
from tests.waiting import eventually

DEADLINE_S = 10.0
NUMBERS = count(1)


@pytest.fixture
async def changes(cache: Cache) -> AsyncIterator[Changes]:
    changes = Changes(cache.client)
    running = asyncio.create_task(changes.run())
    await eventually(lambda: changes.connected, DEADLINE_S)
    yield changes
    running.cancel()
    await asyncio.wait([running])


@dataclass
class Heard:
    """A follower that remembers: results, versions, and how often something may have been lost."""

    results: list[Result] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    losses: int = 0

    def changed(self, result: Result) -> None:
        self.results.append(result)

    def moved(self, version: int) -> None:
        self.versions.append(version)

    def renewed(self, version: int) -> None:
        self.versions.append(-version)

    def lost(self) -> None:
        self.losses += 1


def a_history() -> History:
    return History(f"followed_{next(NUMBERS)}").grow(["deposit", "buy", "open"])


async def test_what_the_guard_tells(cache: Cache, changes: Changes) -> None:
    """Each result that moves the view on, once; a view that was put as a whole or anew, with its version; nothing that changes nothing; nothing of others."""
    history, other = a_history(), a_history()
    reads = HistoryReads({history.username: history, other.username: other})
    views = Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=1_000)
    await begin(views, reads, history)
    heard = Heard()
    assert await changes.follow(history.username, heard)
    arrived = [Arrived(result, encode_result(result)) for result in history.results]
    await views.put([arrived[0], arrived[0]])
    await views.put([Arrived(result, encode_result(result)) for result in other.results])
    await views.put(arrived)
    await cache.client.delete(*[key async for key in cache.client.scan_iter(f"*{{{history.username}}}*")])
    await views.account(history.username)
    assert await views.refill(history.username, anew=True)
    await eventually(lambda: len(heard.versions) > 1, DEADLINE_S)
    assert (heard.results, heard.versions, heard.losses) == (history.results, [3, -3], 0)


async def test_whoever_leaves_hears_no_more(cache: Cache, changes: Changes) -> None:
    """The server forgets the channel, unless it is followed again at once: then nothing is missed."""
    history = a_history()
    channel = CHANGES + history.username
    for _ in range(20):
        heard = Heard()
        assert await changes.follow(history.username, heard)
        assert await cache.client.publish(channel, encode_result(history.results[0])) == 1
        await eventually(lambda heard=heard: heard.results, DEADLINE_S)
        changes.leave(history.username)
    await eventually(lambda: _subscribers(cache, channel, 0), DEADLINE_S)
    assert len(heard.results) == 1


async def _subscribers(cache: Cache, channel: str, number: int) -> bool:
    return dict(await cache.client.pubsub_numsub(channel))[channel.encode()] == number


async def test_junk_is_a_loss(cache: Cache, changes: Changes) -> None:
    """What cannot be read may have been a change; another account's result is none of this one's."""
    history, other, heard = a_history(), a_history(), Heard()
    await changes.follow(history.username, heard)
    for junk in (b"", b"{", LOADED + b"x", encode_result(other.results[0])):
        await cache.client.publish(CHANGES + history.username, junk)
    await cache.client.publish(CHANGES + history.username, encode_result(history.results[0]))
    await eventually(lambda: heard.results, DEADLINE_S)
    assert (heard.results, heard.versions, heard.losses) == (history.results[:1], [], 4)


async def test_every_follower_is_told_of_a_lost_connection(cache: Cache, changes: Changes) -> None:
    """Whether the connection was cut or the server restarted, each follower is told once its channel is back, and hears the next change."""
    followed = {history.username: (history, Heard()) for history in (a_history() for _ in range(2 * CHANNELS_AT_ONCE + 7))}
    assert all(await asyncio.gather(*(changes.follow(username, heard) for username, (_, heard) in followed.items())))
    for losses in (1, 2):
        await cache.client.client_kill_filter(_type="pubsub")
        await eventually(lambda losses=losses: all(heard.losses >= losses for _, heard in followed.values()), DEADLINE_S)
    for username, (history, _) in followed.items():
        assert await cache.client.publish(CHANGES + username, encode_result(history.results[0])) == 1
    await eventually(lambda: all(heard.results for _, heard in followed.values()), DEADLINE_S)


async def test_followed_while_redis_is_away(server: Valkey, cache: Cache, changes: Changes) -> None:
    """It is said that nobody listens; when the server is back the follower is told, and hears the next change."""
    history, heard = a_history(), Heard()
    await server.stop()
    await eventually(lambda: not changes.connected, DEADLINE_S)
    assert not await changes.follow(history.username, heard)
    await server.start()
    await eventually(lambda: heard.losses, DEADLINE_S)
    await cache.client.publish(CHANGES + history.username, encode_result(history.results[0]))
    await eventually(lambda: heard.results, DEADLINE_S)


async def test_the_versions_of_many_views(cache: Cache) -> None:
    """In the order in which they were asked for, over more than one round trip; none for an account without a view."""
    histories = [a_history() for _ in range(PIPELINE_MAX + 3)]
    reads = HistoryReads({history.username: history for history in histories})
    views = Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=1_000)
    for history in histories[:-1]:
        await begin(views, reads, history)
    await views.put([Arrived(result, encode_result(result)) for history in histories[:-1] for result in history.results[:2]])
    shown = await asyncio.gather(*(views.version(history.username) for history in histories))
    assert shown == [2] * (PIPELINE_MAX + 2) + [None]
