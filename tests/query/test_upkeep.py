"""The upkeep of views: what Redis has lost is loaded again, and after a start the accounts that were active last have their views before anybody asks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from events.topics import BrokerError
from infra.cache import Arrived, Cache, CacheUnavailable, Views
from infra.cache_policy import servers
from infra.dynamo import DynamoUnavailable
from infra.generations import Generations
from infra.ledger_bound import TooManyReads
from processors.upkeep import ACCOUNTS_PER_S, AT_ONCE, LOOK_S, RESULTS_MIN, Upkeep, mend, warm
from schemas.results import encode_result
from tests.fakes.histories import History, HistoryReads, begin
from tests.fakes.pointer import MemoryPointer
from tests.valkey import Valkey, valkey
from tests.waiting import eventually

USERS = count(1)
DEADLINE_S = 10.0


@dataclass
class Waits:
    """What was waited for, without waiting."""

    waited_s: list[float] = field(default_factory=list)

    async def __call__(self, time_s: float) -> None:
        self.waited_s.append(time_s)


@pytest.fixture
async def cache(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cache]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as server:
        cache = Cache(server.url, client_name="tests")
        yield cache
        await cache.stop()


def user() -> History:
    return History(f"user_{next(USERS):06d}").grow(("deposit", "buy", "open"))


def ledger_and_views(cache: Cache, histories: list[History]) -> tuple[HistoryReads, Views]:
    reads = HistoryReads({history.username: history for history in histories})
    return reads, Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=1_000)


async def show(views: Views, *histories: History) -> None:
    """All results of some accounts; those shown already are old."""
    await views.put([Arrived(result, encode_result(result)) for history in histories for result in history.results])


def newest(histories: list[History]) -> dict[str, int]:
    """As the newest results have it."""
    return {history.username: len(history.results) for history in histories}


async def test_missing_views_are_loaded_and_others_left_alone(cache: Cache) -> None:
    """Who has a view costs the ledger nothing; who has none has one afterwards; all of it at no more than the rate."""
    histories, waits = [user() for _ in range(30)], Waits()
    reads, views = ledger_and_views(cache, histories)
    for history in histories[:10]:
        await begin(views, reads, history)
    await show(views, *histories[:10])
    missing = await mend(views, newest(histories))
    assert missing == [history.username for history in histories[10:]]
    assert await warm(views, missing, waits) == len(missing)
    assert reads.reads["account"] == len(missing)
    assert sum(waits.waited_s) == pytest.approx(len(missing) / ACCOUNTS_PER_S)
    asked = dict(reads.reads)
    for history in histories:
        shown = await views.account(history.username)
        assert (shown.value, shown.bypassed) == (history.accounts[-1], False)
    assert reads.reads == asked


@dataclass
class Failing:
    """Views of which some cannot be loaded."""

    failures: dict[str, Exception]
    asked: list[str] = field(default_factory=list)

    shown: int | None = 1

    async def version(self, username: str) -> int | None:
        return self.shown

    async def make_up(self, username: str, _version: int) -> None:
        self.asked.append(username)
        if username in self.failures:
            raise self.failures[username]

    async def reach(self, username: str, version: int) -> bool:
        await self.make_up(username, version)
        return True


@pytest.mark.parametrize("error", [DynamoUnavailable("away"), TooManyReads("busy")])
async def test_it_gives_way(error: Exception) -> None:
    """Where the store wants rest, nothing more is asked of it."""
    views = Failing({"user_9": error})
    assert await warm(views, [f"user_{number}" for number in range(100)], Waits()) == 8
    assert len(views.asked) == 8 + AT_ONCE


async def test_an_account_that_cannot_be_loaded_does_not_stop_the_others() -> None:
    """It is told, and the next ones are warmed."""
    views = Failing({"user_1": ValueError("unreadable")})
    with capture_logs() as logs:
        assert await warm(views, [f"user_{number}" for number in range(10)], Waits()) == 10
    assert len(views.asked) == 10
    assert [line["username"] for line in logs if line["event"] == "view is not warmed"] == ["user_1"]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Valkey]:
    """One that is started again with what it wrote to its disk last."""
    async with valkey(tmp_path) as server:
        yield server


@dataclass
class Log:
    """The newest results, as they can be read, and how often that was done."""

    newest: dict[str, int]
    errors: list[Exception] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)

    async def __call__(self, results: int) -> dict[str, int]:
        self.reads.append(results)
        if self.errors:
            raise self.errors.pop()
        return self.newest


async def at_once(_time_s: float) -> None:
    await asyncio.sleep(0.01)


async def test_what_redis_has_lost_is_loaded_again(server: Valkey) -> None:
    """Its host crashes, and it comes back with older views: those that are behind are loaded, others not touched. Until then nobody says how fresh they are."""
    cache = Cache(server.url, client_name="tests")
    histories = [user() for _ in range(12)]
    reads, views = ledger_and_views(cache, histories)
    log = Log(newest(histories))
    keeping = Upkeep(views, lambda: servers(cache), log, accounts_max=0, wait=at_once)
    assert keeping.in_doubt()
    task = asyncio.create_task(keeping.run())
    for history in histories:
        await begin(views, reads, history)
    await show(views, *histories)
    await eventually(lambda: not keeping.in_doubt(), DEADLINE_S)
    await cache.client.save()
    lost = histories[:5]
    for history in lost:
        history.grow(("deposit", "deposit"))
    log.newest |= newest(lost)
    await show(views, *lost)
    log.errors += [BrokerError("away"), DynamoUnavailable("away")]
    await server.stop()
    await server.start()
    await eventually(lambda: len(log.reads) > 1, DEADLINE_S)
    await eventually(lambda: not keeping.in_doubt(), DEADLINE_S)
    assert [await views.version(history.username) for history in histories] == [len(history.results) for history in histories]
    assert reads.reads["account"] == len(lost)
    assert log.reads == [RESULTS_MIN] * 4
    assert not task.done()
    task.cancel()
    await cache.stop()


async def test_nothing_is_read_while_the_same_server_answers(server: Valkey) -> None:
    """One look at the results, however long it goes on; a Redis that does not answer, or whose client was cut off, is no other one."""
    cache, log, looks = Cache(server.url, client_name="tests"), Log({}), count(1)
    _, views = ledger_and_views(cache, [])

    async def look() -> frozenset[str]:
        if next(looks) % 3 == 0:
            raise CacheUnavailable("away")
        return await servers(cache)

    task = asyncio.create_task(Upkeep(views, look, log, accounts_max=0, wait=at_once).run())
    await eventually(lambda: next(looks) > 20, DEADLINE_S)
    assert len(log.reads) == 1
    task.cancel()
    await cache.stop()


async def test_warming_does_not_hold_up_mending() -> None:
    """While views are warmed, however long that takes, another Redis is noticed."""
    log, names = Log({f"user_{number}": 2 for number in range(20)}), {"one"}

    async def wait(time_s: float) -> None:
        await (asyncio.sleep(0.01) if time_s == LOOK_S else asyncio.Event().wait())

    async def look() -> frozenset[str]:
        return frozenset(names)

    views = Failing({}, shown=None)
    task = asyncio.create_task(Upkeep(views, look, log, accounts_max=20, wait=wait).run())
    await eventually(lambda: len(views.asked) == AT_ONCE, DEADLINE_S)
    names.add("two")
    await eventually(lambda: len(log.reads) == 2, DEADLINE_S)
    task.cancel()


async def test_a_redis_that_may_not_be_asked(server: Valkey) -> None:
    """Some services refuse INFO: what can be mended is mended after a start."""
    async with Redis.from_url(server.url) as admin:
        await admin.acl_setuser("limited", enabled=True, passwords=["+secret"], categories=["+@all"], commands=["-info"], keys=["*"], channels=["*"])
    cache = Cache(server.url.replace("redis://", "redis://limited:secret@"), client_name="tests")
    await cache.ping()
    assert await servers(cache) == {"unknown"}
    await cache.stop()


@pytest.mark.parametrize("error", [DynamoUnavailable("away"), TooManyReads("busy"), CacheUnavailable("away")])
async def test_mending_is_not_done_before_all_is_mended(error: Exception) -> None:
    """What is in the way is raised, so that it is tried again; what is wrong with one account alone is not."""
    wanted = {f"user_{number}": 2 for number in range(10)}
    with pytest.raises(type(error)):
        await mend(Failing({"user_9": error}), wanted)
    assert await mend(Failing({"user_1": ValueError("unreadable")}), wanted) == []
