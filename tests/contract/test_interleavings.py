"""Views under truly interleaved work of several processes, on a real Valkey: no reader ever sees an account go back, or anything but the ledger's own."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.cache import Arrived, Cache, CacheUnavailable, Snapshot, Views
from infra.cache_guard import ORDERS_HELD_MAX, ROWS_HELD_MAX, Layout
from infra.generations import POINTER, Generations, Live
from infra.local import ports
from schemas.ledger import Account, Entry, Order
from schemas.results import encode_result
from tests.fakes.cache import CountingCache, answers
from tests.fakes.histories import STEPS, History, HistoryReads
from tests.fakes.pointer import MemoryPointer
from tests.valkey import valkey
from tests.waiting import eventually

PROCESSES = 3
STALL_S_MAX = 0.003
DEADLINE_S = 10.0
LAYOUT = Layout(1_000)
KEPT = MemoryPointer()
USERS = count(1)
PROPERTY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass
class StallingReads(HistoryReads):
    """A ledger whose answers are under way for a while: what was read may be old when it comes."""

    chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - of a test

    async def account(self, username: str) -> Account:
        return await self._late(await super().account(username))

    async def orders(self, username: str, *, before: int | None, limit: int) -> list[Order]:
        return await self._late(await super().orders(username, before=before, limit=limit))

    async def entries(self, username: str, *, before: int | None, limit: int) -> list[Entry]:
        return await self._late(await super().entries(username, before=before, limit=limit))

    async def _late(self, answer: Any) -> Any:
        if self.chance.random() < 1 / 2:
            await asyncio.sleep(self.chance.uniform(0, STALL_S_MAX))
        return answer


@dataclass
class Run:
    """One account, changed by a settlement, shown by a projector that may lag, repeat and lose, read and loaded by several processes."""

    history: History
    reads: StallingReads
    processes: list[Views]
    caches: list[CountingCache]
    live: Live
    chance: random.Random
    published: list[Arrived] = field(default_factory=list)
    settled: bool = False
    begun: bool = False
    shown: bool = False

    async def settle(self) -> None:
        """The ledger has a version before its result is published. A few results never reach this projector."""
        for version, result in enumerate(self.history.results, 1):
            self.reads.visible[self.history.username] = version
            if version == len(self.history.entries) or self.chance.random() > 1 / 8:
                self.published.append(Arrived(result, encode_result(result)))
            await self._pause()
        self.settled = True

    async def project(self) -> None:
        """Batches in order; now and then one is repeated by another process, that took over."""
        done = 0
        while not self.settled or done < len(self.published):
            views = self.chance.choice(self.processes)
            batch = self.published[done : done + self.chance.randint(1, 4)]
            if batch:
                with suppress(CacheUnavailable):  # whoever takes away what is put, and the lease, as fast as this: it is tried again
                    await views.put(batch)
                    done += 0 if done and self.chance.random() < 1 / 6 else len(batch)
                    self.begun = True
            await self._pause()
        self.shown = True

    async def read(self, views: Views) -> None:
        """What one reader sees: never less than before, and at each version what the ledger had at it."""
        seen = 0
        while not self.shown:
            account = await views.account(self.history.username)
            assert account.version >= seen
            assert account.value == self.history.accounts[account.version]
            rows = await views.transactions(self.history.username, ROWS_HELD_MAX)
            assert rows.version >= account.version
            assert rows.value.rows == self.history.rows(rows.version)
            orders = await views.orders(self.history.username, ORDERS_HELD_MAX)
            assert orders.version >= rows.version
            assert [order.order_id for order in orders.value.rows] == [order.order_id for order in self.history.orders(orders.version)]
            seen = orders.version
            await self._pause()

    async def load(self, views: Views) -> None:
        while not self.shown:
            await views.load(self.history.username)
            await self._pause()

    async def evict(self) -> None:
        """The server loses any of the keys (the pointer to the generations is one) or all of them.

        Not before the first result is shown for good: it makes a view by itself, whenever it comes.
        """
        while not self.begun:
            await self._pause()
        while not self.shown:
            keys = [key for generation in self.live.all for key in LAYOUT.keys(self.history.username, generation)]
            keys += [LAYOUT.lease(self.history.username), POINTER]
            await self.caches[0].client.delete(*([self.chance.choice(keys)] if self.chance.random() < 3 / 4 else keys))
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self.chance.choice((0, 0, self.chance.uniform(0, STALL_S_MAX))))


@pytest.fixture(scope="module", params=[Live(), Live(1, 2, "built"), Live(2)], ids=["one-generation", "two-generations", "a-later-one"])
async def live(request: pytest.FixtureRequest, caches: list[CountingCache]) -> AsyncIterator[Live]:
    generations = Generations(caches[0], KEPT)
    await generations.change(Live(), request.param)
    yield request.param
    await generations.change(request.param, Live())


@pytest.fixture(scope="module")
async def caches(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[CountingCache]]:
    """Of each process its own connections."""
    async with valkey(tmp_path_factory.mktemp("valkey")) as server, AsyncExitStack() as stack:
        caches = [CountingCache(server.url, client_name=f"process-{number}") for number in range(PROCESSES)]
        for cache in caches:
            stack.push_async_callback(cache.stop)
            await eventually(partial(answers, cache), DEADLINE_S)  # a first connection has its own bound
        yield caches


def begun(caches: list[CountingCache], live: Live, history: History, seed: int) -> Run:
    chance = random.Random(seed)  # noqa: S311 - of a test
    reads = StallingReads({history.username: history}, visible={history.username: 0}, chance=chance)
    return Run(history, reads, [Views(cache, reads, Generations(cache, KEPT), ttl_s=1_000) for cache in caches], caches, live, chance)


@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=20), seed=st.integers(0, 2**32))
@PROPERTY
async def test_no_reader_sees_an_account_go_back(caches: list[CountingCache], live: Live, steps: list[Any], seed: int) -> None:
    """Settlement, projector, readers, loaders and evictions at once: versions only grow, each is shown as the ledger had it, and the end is the fold."""
    run = begun(caches, live, History(f"user_{next(USERS):06d}").grow(steps), seed)
    readers, loaders = [run.read(views) for views in run.processes], [run.load(views) for views in run.processes[1:]]
    await asyncio.gather(run.settle(), run.project(), *readers, *loaders, run.evict())
    last, name = len(steps), run.history.username
    for views in run.processes:
        assert (await views.account(name)).value == run.history.accounts[last]
        assert (await views.orders(name, ORDERS_HELD_MAX)).value.rows == run.history.orders(last)
        assert (await views.transactions(name, ROWS_HELD_MAX)).value.rows == run.history.rows(last)
    await assert_generations_agree(caches[0], live, name, last)


async def assert_generations_agree(cache: Cache, live: Live, username: str, version: int) -> None:
    for generation in live.all:
        stored = await cache.client.hget(LAYOUT.keys(username, generation)[0], "version")
        assert stored is None or int(stored) == version


async def test_many_misses_in_several_processes_make_one_load_each(caches: list[CountingCache], live: Live) -> None:
    """200 readers of one cold account, in three processes, who all miss before the ledger has answered: one load in each, and all see the same."""
    run = begun(caches, live, History(f"user_{next(USERS):06d}").grow(STEPS), seed=1)
    run.reads.visible.clear()
    run.reads.opened.clear()
    before = sum(cache.answered for cache in caches)
    readers = [asyncio.create_task(run.processes[number % PROCESSES].account(run.history.username)) for number in range(200)]
    await eventually(lambda: sum(cache.answered for cache in caches) - before == len(readers), DEADLINE_S)
    run.reads.opened.set()
    shown = await asyncio.gather(*readers)
    assert {(one.version, one.bypassed) for one in shown} == {(len(STEPS), False)}
    assert run.reads.reads == {"account": PROCESSES, "orders": PROCESSES, "entries": PROCESSES}


@dataclass
class OldReads(HistoryReads):
    """A ledger whose first answer about the account is under way until `arrive` is set."""

    arrive: asyncio.Event = field(default_factory=asyncio.Event)

    async def account(self, username: str) -> Account:
        answer = await super().account(username)
        if self.reads["account"] == 1:
            await self.arrive.wait()
        return answer


async def slow_and_quick(caches: list[CountingCache], history: History) -> tuple[OldReads, Views, Views, "asyncio.Task[Snapshot]"]:
    """Two processes: the first is loading, and is under way with the ledger's answer of version 2."""
    reads = OldReads({history.username: history}, visible={history.username: 2})
    slow, quick = (Views(cache, reads, Generations(cache, KEPT), ttl_s=1_000) for cache in caches[:2])
    loading = asyncio.create_task(slow.load(history.username))
    await eventually(lambda: reads.reads.get("account"), DEADLINE_S)
    return reads, slow, quick, loading


async def test_who_joins_a_load_that_is_overtaken_sees_the_newer_account(caches: list[CountingCache], live: Live) -> None:
    """The ledger's answer is old when it comes, and the view that it would make is there, newer and whole: nobody gets the old one."""
    history = History(f"user_{next(USERS):06d}").grow(STEPS)
    username, last = history.username, len(STEPS)
    reads, slow, quick, loading = await slow_and_quick(caches, history)
    reads.visible.clear()
    assert (await quick.account(username)).version == last
    assert (await slow.orders(username, ORDERS_HELD_MAX)).version == last
    for generation in live.all:
        await caches[0].client.delete(LAYOUT.keys(username, generation)[1])
    orders = asyncio.create_task(slow.orders(username, ORDERS_HELD_MAX))  # joins the load: its part of the view is gone
    asked = caches[0].answered
    await eventually(lambda: caches[0].answered > asked, DEADLINE_S)
    assert (await quick.orders(username, ORDERS_HELD_MAX)).version == last  # and that part is there again
    reads.arrive.set()
    assert ((await orders).version, (await loading).account.version) == (last, last)


@pytest.mark.parametrize("changed_by", ["load", "result"])
async def test_a_load_that_was_overtaken_does_not_show_the_older_account(caches: list[CountingCache], live: Live, changed_by: str) -> None:
    """The view moved on while the ledger's answer was under way, was seen, and is gone again with its version: the old answer does not come in its place."""
    history = History(f"user_{next(USERS):06d}").grow(STEPS)
    username, last = history.username, len(STEPS)
    reads, _, quick, loading = await slow_and_quick(caches, history)
    if changed_by == "load":
        reads.visible.clear()
    assert (await quick.load(username)).kept
    reads.visible.clear()
    if changed_by == "result":
        await quick.put([Arrived(result, encode_result(result)) for result in history.results[2:]])
    assert (await quick.account(username)).version == last
    for generation in live.all:
        await caches[0].client.delete(*LAYOUT.keys(username, generation))
    reads.arrive.set()
    assert ((await loading).account.version, (await loading).kept) == (last, True)
    assert (await quick.account(username)).version == last


async def test_a_load_that_has_just_ended_is_not_joined() -> None:
    """Who asks for a version at the very moment when an older load ends gets one that was read after the question, at whichever step of the loop he asks."""
    history = History(f"user_{next(USERS):06d}").grow(STEPS)
    cache = Cache(f"redis://127.0.0.1:{ports.free()}/0", client_name="nowhere")
    for step in range(40):
        reads = HistoryReads({history.username: history}, visible={history.username: 1})
        views = Views(cache, reads, Generations(cache, KEPT), ttl_s=1_000)
        cache._rests_until = float("inf")  # nothing is asked of it, so that every load takes the same steps
        early = asyncio.create_task(views.load(history.username))
        for _ in range(4):
            await asyncio.sleep(0)
        reads.visible[history.username] = len(STEPS)
        late = []
        for _ in range(step):
            await asyncio.sleep(0)
        for _ in range(3):
            late.append(asyncio.create_task(views.load(history.username, at_least=len(STEPS))))
            await asyncio.sleep(0)
        assert [(await one).account.version for one in late] == [len(STEPS)] * len(late)
        assert (await early).account.version == 1
