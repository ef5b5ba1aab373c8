"""The door's side of the replies, on a real Valkey that can be stopped."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from infra.cache import Cache
from infra.replies import Replies, TooManyWaiters
from schemas.results import Result, encode_result
from tests.fakes.histories import History
from tests.valkey import Valkey, valkey
from tests.waiting import eventually

DEADLINE_S = 10.0


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[Valkey]:
    """One that a test may stop."""
    async with valkey(tmp_path) as started:
        yield started


@pytest.fixture
async def replies(cache: Cache) -> AsyncIterator[Replies]:
    async with listening(cache) as started:
        yield started


class listening:  # noqa: N801 - used like a function
    """Replies that are subscribed and run."""

    def __init__(self, cache: Cache, waiters_max: int = 10) -> None:
        self._replies = Replies(cache.client, str(uuid4()), waiters_max=waiters_max)

    async def __aenter__(self) -> Replies:
        await self._replies.start()
        self._task = asyncio.create_task(self._replies.run())
        return self._replies

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def a_result() -> Result:
    return History(f"user_{uuid4().hex[:10]}").grow(["deposit"]).results[0]


async def test_a_reply_reaches_every_waiter_of_its_request(cache: Cache, replies: Replies) -> None:
    """All callers that wait for a request get its result, and nobody else does."""
    mine, other = a_result(), a_result()
    with replies.expect(mine.request_id) as first, replies.expect(mine.request_id) as second, replies.expect(other.request_id) as third:
        assert await cache.client.publish(replies.channel, encode_result(mine)) == 1
        assert await first.result(DEADLINE_S) == mine
        assert await second.result(DEADLINE_S) == mine
        assert await third.result(0) is None
    assert replies.waiting == 0


async def test_subscribed_before_the_first_publish(cache: Cache) -> None:
    """When `start` returns the server knows the subscription: a reply that is sent at once is not lost, even before the task runs."""
    replies, result = Replies(cache.client, str(uuid4()), waiters_max=1), a_result()
    await replies.start()
    assert await cache.client.publish(replies.channel, encode_result(result)) == 1
    task = asyncio.create_task(replies.run())
    with replies.expect(result.request_id) as waiter:
        assert await waiter.result(DEADLINE_S) == result
    task.cancel()
    await asyncio.wait([task])


async def test_waiters_are_bounded_and_released(cache: Cache) -> None:
    """One waiter too many is refused; a caller that is cancelled while it waits leaves nothing behind."""
    async with listening(cache, waiters_max=1) as replies:

        async def wait() -> None:
            with replies.expect("a") as waiter:
                await waiter.result(DEADLINE_S)

        task = asyncio.create_task(wait())
        await eventually(lambda: replies.waiting == 1, DEADLINE_S)
        with pytest.raises(TooManyWaiters), replies.expect("b"):
            pass
        task.cancel()
        await asyncio.wait([task])
        assert replies.waiting == 0
        with replies.expect("b"):
            pass


async def test_junk_on_the_channel_is_ignored(cache: Cache, replies: Replies) -> None:
    """What is no result is dropped, and the next reply is handed out."""
    result = a_result()
    with replies.expect(result.request_id) as waiter:
        for junk in (b"", b"{", b'{"username":1}'):
            await cache.client.publish(replies.channel, junk)
        await cache.client.publish(replies.channel, encode_result(result))
        assert await waiter.result(DEADLINE_S) == result


async def test_a_lost_connection_wakes_the_waiters(own_server: Valkey) -> None:
    """After a reconnect every waiter is told to look into the ledger, and replies come again."""
    cache = Cache(own_server.url, client_name="test")
    result = a_result()
    async with listening(cache) as replies:
        with replies.expect(result.request_id) as waiter:
            await own_server.stop()
            await eventually(lambda: not replies.connected, DEADLINE_S)
            await own_server.start()
            started = asyncio.get_running_loop().time()
            assert await waiter.result(DEADLINE_S) is None
            assert asyncio.get_running_loop().time() - started < DEADLINE_S
            assert replies.connected

            async def heard() -> bool:
                return int(await cache.client.publish(replies.channel, encode_result(result))) == 1

            await eventually(heard, DEADLINE_S)
            assert await waiter.result(DEADLINE_S) == result
    await cache.stop()
