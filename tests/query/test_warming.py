"""Warming: after a loss of Redis the accounts that were active last have their views before anybody asks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from structlog.testing import capture_logs

from infra.cache import Arrived, Cache, Views
from infra.dynamo import DynamoUnavailable
from infra.generations import Generations
from infra.ledger_bound import TooManyReads
from processors.warming import ACCOUNTS_PER_S, AT_ONCE, warm, warm_and_wait
from schemas.results import encode_result
from tests.fakes.histories import History, HistoryReads
from tests.valkey import valkey

USERS = count(1)


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


async def test_missing_views_are_loaded_and_others_left_alone(cache: Cache) -> None:
    """Who has a view costs the ledger nothing; who has none has one afterwards; all of it at no more than the rate."""
    histories, waits = [user() for _ in range(30)], Waits()
    reads = HistoryReads({history.username: history for history in histories})
    views = Views(cache, reads, Generations(cache), ttl_s=1_000)
    await views.put([Arrived(result, encode_result(result)) for history in histories[:10] for result in history.results])
    assert await warm(views, [history.username for history in histories], waits) == len(histories)
    assert reads.reads["account"] == len(histories) - 10
    assert sum(waits.waited_s) == pytest.approx(len(histories) / ACCOUNTS_PER_S)
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

    async def reach(self, username: str, _version: int) -> bool:
        self.asked.append(username)
        if username in self.failures:
            raise self.failures[username]
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


@pytest.mark.parametrize(("accounts_max", "kafka"), [(0, ""), (10, "127.0.0.1:1")], ids=["off", "no-broker"])
async def test_the_task_does_not_end(accounts_max: int, kafka: str) -> None:
    """Switched off, or without a broker to tell who was active: nothing is asked, and the process goes on."""
    views = Failing({})
    task = asyncio.create_task(warm_and_wait(views, lambda: [("cnop.account.results.v1", 0)], kafka, accounts_max=accounts_max))
    done, _ = await asyncio.wait([task], timeout=1)
    assert not done
    assert not views.asked
    task.cancel()
