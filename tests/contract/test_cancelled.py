"""Calls that are given up at any moment: no later call gets their answers, and none of the connections is lost by it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from infra.cache import Arrived, Cache, CacheUnavailable, Denylist, Views
from infra.cache_client import Call, Script
from infra.generations import Generations
from infra.market import MarketCache
from schemas.results import encode_result
from tests.fakes.cache import answers
from tests.fakes.clock import FakeClock
from tests.fakes.histories import History, HistoryReads
from tests.fakes.pointer import MemoryPointer
from tests.query.door import MemoryMarket
from tests.valkey import cluster, valkey, watched
from tests.waiting import eventually

CONNECTIONS = 4
AT_ONCE = 24
CALLS = 3_000
GIVEN_UP_MAX = 1.5
"""A call is given up within this many times what the last one took that was answered: so on a machine of any speed some are and some are not."""
DEADLINE_S = 10.0
WAIT_S = 0.5
LATE_S = 8.0
"""More than an answer may take, with the one repetition that the client makes."""
SEED = 20_261_129
ECHO = Script("echo", "return {KEYS[1], ARGV[1]}")
USERS = count(1)


@dataclass
class Parts:
    """What is called, over one small pool, and what was given up and answered so far."""

    cache: Cache
    views: Views
    denylist: Denylist
    market: MarketCache
    histories: list[History]
    revoked: set[str]
    given_up: int = 0
    answered: int = 0
    took_s: float = 0.001
    numbers: count = field(default_factory=count)  # type: ignore[type-arg]

    async def run(self) -> None:
        number = str(next(self.numbers))
        assert await self.cache.run("echo", lambda: self.cache.client.hget("numbers", str(int(number) % 100))) == str(int(number) % 100).encode()

    async def ask(self) -> None:
        number = str(next(self.numbers) % 100)
        assert await self.cache.ask("HGET", "numbers", number) == number.encode()

    async def ask_script(self) -> None:
        call = Call((f"{{{next(self.numbers)}}}",), (f"argument {next(self.numbers)}",))
        assert await self.cache.ask_script(ECHO, call) == [call.keys[0].encode(), str(call.args[0]).encode()]

    async def scripts(self) -> None:
        calls = [Call((f"{{{next(self.numbers)}}}",), (f"argument {next(self.numbers)}",)) for _ in range(5)]
        assert await self.cache.scripts(ECHO, calls) == [[call.keys[0].encode(), str(call.args[0]).encode()] for call in calls]

    async def account(self) -> None:
        history = self.histories[next(self.numbers) % len(self.histories)]
        shown = await self.views.account(history.username)
        assert shown.value == history.accounts[-1]

    async def orders(self) -> None:
        history = self.histories[next(self.numbers) % len(self.histories)]
        assert (await self.views.orders(history.username, 5)).value.rows == history.orders()[:5]

    async def is_revoked(self) -> None:
        token = f"token {next(self.numbers) % 20}"
        assert await self.denylist.is_revoked(token, "family") == (token in self.revoked)

    async def snapshot(self) -> None:
        snapshot = await self.market.snapshot()
        assert {asset_id for asset_id, price in snapshot.prices.items() if price.asset_id == asset_id} == {"BTC", "ETH"}


@pytest.fixture(scope="module", params=["server", "cluster", "sentinel"])
async def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Parts]:
    kinds = {"server": valkey, "cluster": cluster, "sentinel": watched}
    folder: Path = tmp_path_factory.mktemp(request.param)
    async with kinds[request.param](folder) as running:
        cache, clock = Cache(running.url, client_name="tests", connections_max=CONNECTIONS), FakeClock()
        histories = [History(f"user_{next(USERS):06d}").grow(("deposit", "buy", "open") * size) for size in range(1, 21)]
        views = Views(cache, HistoryReads({history.username: history for history in histories}), Generations(cache, MemoryPointer()), ttl_s=1_000)
        await views.put([Arrived(result, encode_result(result)) for history in histories for result in history.results])
        denylist = Denylist(cache, clock)
        for number in range(0, 20, 3):
            await denylist.revoke(f"token {number}", clock.now() + timedelta(seconds=1_000))
        await cache.client.hset("numbers", mapping={str(number): str(number) for number in range(100)})
        market = MarketCache(cache, MemoryMarket(), memory_s=0)  # type: ignore[arg-type]
        yield Parts(cache, views, denylist, market, histories, {f"token {number}" for number in range(0, 20, 3)})
        await cache.stop()


KINDS: tuple[Callable[[Parts], Awaitable[None]], ...] = (
    Parts.run,
    Parts.ask,
    Parts.ask_script,
    Parts.scripts,
    Parts.account,
    Parts.orders,
    Parts.is_revoked,
    Parts.snapshot,
)


@pytest.mark.parametrize("kind", [*((one,) for one in KINDS), KINDS], ids=[*(one.__name__ for one in KINDS), "all"])
async def test_no_call_gets_the_answer_of_one_that_was_given_up(parts: Parts, kind: tuple[Callable[[Parts], Awaitable[None]], ...]) -> None:
    """Thousands of calls on four connections, many cancelled about when the answer comes: each that ends has its own answer, and afterwards all work."""
    chance = random.Random(SEED)  # noqa: S311 - of a test
    left = iter(range(CALLS // len(KINDS) if len(kind) == 1 else CALLS))
    parts.given_up = parts.answered = 0
    await asyncio.gather(*(_call_again_and_again(parts, kind, chance, left) for _ in range(AT_ONCE)))
    assert parts.given_up > parts.answered / 20
    assert parts.answered > parts.given_up / 20
    await eventually(partial(answers, parts.cache), DEADLINE_S)
    for one in KINDS:
        await asyncio.gather(*(one(parts) for _ in range(CONNECTIONS * 3)))


async def test_none_of_the_connections_is_lost(parts: Parts) -> None:
    """As many calls as there are connections wait in the server at once, after all that was given up."""
    waiting = [parts.cache.run("wait", lambda: parts.cache.client.blpop(["nothing"], timeout=WAIT_S)) for _ in range(CONNECTIONS)]
    started = asyncio.get_running_loop().time()
    assert await asyncio.gather(*waiting) == [None] * CONNECTIONS
    assert asyncio.get_running_loop().time() - started < WAIT_S * CONNECTIONS


async def test_a_late_answer_is_nobodys(parts: Parts) -> None:
    """Whoever waits for an answer that is late is told so in time, and what comes after all is given to no later call."""
    late = [parts.cache.run("wait", lambda: parts.cache.client.blpop(["nothing"], timeout=LATE_S)) for _ in range(CONNECTIONS)]
    started = asyncio.get_running_loop().time()
    assert {type(answer) for answer in await asyncio.gather(*late, return_exceptions=True)} == {CacheUnavailable}
    assert asyncio.get_running_loop().time() - started < LATE_S
    await eventually(partial(answers, parts.cache), DEADLINE_S)
    for one in KINDS:
        await asyncio.gather(*(one(parts) for _ in range(CONNECTIONS * 3)))


async def _call_again_and_again(parts: Parts, kinds: tuple[Callable[[Parts], Awaitable[None]], ...], chance: random.Random, left: object) -> None:
    loop = asyncio.get_running_loop()
    for _ in left:  # type: ignore[attr-defined]
        started = loop.time()
        call = asyncio.ensure_future(chance.choice(kinds)(parts))
        if chance.random() < 1 / 2:
            loop.call_later(chance.uniform(0, GIVEN_UP_MAX) * parts.took_s, call.cancel)
        try:
            await call
        except asyncio.CancelledError:
            parts.given_up += 1
        except CacheUnavailable:  # a call may be late on a busy machine, and is told so
            await eventually(partial(answers, parts.cache), DEADLINE_S)
        else:
            parts.answered += 1
            parts.took_s = loop.time() - started
