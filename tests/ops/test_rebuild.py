"""Building a generation on real machines: complete, whatever happens meanwhile; interrupted and gone on with; compared before it is read."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from infra.build_state import OPERATOR, Build, BuildState, Busy
from infra.cache import REFILL_ATTEMPTS_MAX, Arrived, Cache, Views
from infra.cache_client import Call, Script
from infra.cache_guard import GAP, GUARD, Layout
from infra.clock import SystemIds
from infra.dynamo import Dynamo
from infra.generations import FIRST, SETTLED_S, Generations, Live
from infra.ledger import Stored, Write
from infra.ledger_accounts import Page, Place, account_pages, items_about
from infra.parked import ParkingLedger
from infra.view_check import ViewCheck
from ops.rebuild import LEDGER, RESULTS, NotNow, Parts, drop, rebuild, switch
from schemas.results import encode_result
from tests.engine import engine
from tests.fakes.histories import History
from tests.fakes.pointer import MemoryPointer
from tests.valkey import valkey
from tests.waiting import eventually

TTL_S = 1_000
SECOND = FIRST + 1
ACCOUNTS = 20
PAGE = 16
LAYOUT = Layout(TTL_S)
STEPS = ("deposit", "buy", "open", "close", "deposit")
NAMES = count(1)


class Quiet:
    """Takes the progress. `at_step` is called with each step's number."""

    def __init__(self, at_step: Callable[[int], object] = lambda _: None) -> None:
        self.phases: list[str] = []
        self._at_step = at_step
        self._steps = count(1)

    def phase(self, text: str, *, items: int | None = None) -> None:
        self.phases.append(text)

    def step(self, build: Build, items: int) -> None:
        self._at_step(next(self._steps))


class Interrupted(Exception):
    """What an operator's Ctrl-C does to a building."""


class Told(Generations):
    """A process that knows at once of a change, as all do after the pause that these tests leave out."""

    async def live(self) -> Live:
        return await self.read()


class Stage:
    """A ledger with accounts, their views, and what a building needs."""

    def __init__(self, cache: Cache, dynamo: Dynamo, histories: list[History]) -> None:
        self.cache, self.dynamo, self.histories = cache, dynamo, histories
        self.ledger = ParkingLedger(dynamo)
        self.kept = MemoryPointer()
        self.generations = Told(cache, self.kept)
        self.views = Views(cache, self.ledger, self.generations, ttl_s=TTL_S)
        self.check = ViewCheck(cache, LAYOUT)
        self.paused: list[float] = []

    async def account(self, *steps: str, project: bool = True) -> History:
        history = History(f"built_{next(NAMES):06d}").grow(steps or STEPS)
        for entry, account in zip(history.entries, history.accounts[1:], strict=True):
            await self._write(history, entry.version, account)
        self.histories.append(history)
        if project:
            await self.project(history, *range(1, len(history.entries) + 1))
        return history

    async def more(self, history: History, *steps: str) -> None:
        """Further decisions, stored and shown."""
        first = len(history.entries) + 1
        history.grow(steps)
        for version in range(first, len(history.entries) + 1):
            await self._write(history, version, history.accounts[version])
            await self.project(history, version)

    async def project(self, history: History, *versions: int, again: bool = False) -> None:
        results = [history.results[version - 1] for version in versions]
        await self.views.put([Arrived(result, encode_result(result)) for result in results], again=again)

    def parts(self, watcher: Quiet | None = None) -> Parts:
        """Of a new operator."""

        async def pause(seconds: float) -> None:
            self.paused.append(seconds)

        return Parts(
            generations=Told(self.cache, self.kept),
            views=self.views,
            check=self.check,
            state=BuildState(self.cache, SystemIds().new()),
            account=self.ledger.account,
            accounts=partial(account_pages, self.dynamo, page_items=PAGE),
            replay=self._replay,
            items_about=partial(items_about, self.dynamo),
            watcher=watcher or Quiet(),
            timer=lambda: 0.0,
            pause=pause,
        )

    async def assert_built(self, generation: int = SECOND) -> None:
        """Both generations have every account at its newest version."""
        for history in self.histories:
            compared = (await self.check.compare([history.username], FIRST, generation))[0]
            assert (compared.other, compared.differs) == (len(history.entries), ()), history.username

    async def _write(self, history: History, version: int, account: object) -> None:
        entry = history.entries[version - 1]
        order = entry.lines.order
        replaces = {order.order_id: order.created_version} if order and order.created_version != version else {}
        write = Write(version - 1, history.accounts[version], (entry,), (order,) if order else (), replaces)
        assert await self.ledger.write([write]) == [Stored()]

    async def _replay(self, place: Place | None) -> AsyncIterator[Page]:
        for number, history in enumerate(self.histories[int((place or {"next": "0"})["next"]) :], 1):
            await self.project(history, *range(1, len(history.entries) + 1), again=True)
            yield Page([], {"next": str(number)}, len(history.entries))
        yield Page([], None, 0)


@pytest.fixture(scope="module")
async def machines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, Dynamo, list[History]]]:
    """The ledger, and what is in it, is that of all tests here; each begins with views of all of it."""
    folder: Path = tmp_path_factory.mktemp("machines")
    async with valkey(folder) as server, engine(folder) as dynamo:
        yield server.url, dynamo, []


@pytest.fixture
async def stage(machines: tuple[str, Dynamo, list[History]]) -> AsyncIterator[Stage]:
    url, dynamo, histories = machines
    cache = Cache(url, client_name="tests")
    await cache.client.flushdb()
    stage = Stage(cache, dynamo, histories)
    for history in histories:
        await stage.project(history, *range(1, len(history.entries) + 1))
    while len(histories) < ACCOUNTS:
        await stage.account()
    yield stage
    await cache.stop()


async def build(stage: Stage, watcher: Quiet | None = None, *, source: str = LEDGER, anew: bool = False) -> Build:
    return await rebuild(stage.parts(watcher), source=source, per_s=1_000_000, anew=anew)


@pytest.mark.parametrize("source", [LEDGER, RESULTS])
async def test_a_generation_is_built_from_either_source(stage: Stage, source: str) -> None:
    """Every account is in it at its version, the comparison finds nothing, and it is not read before the switch."""
    built = await build(stage, source=source)
    assert (built.generation, built.differ, built.failed) == (SECOND, {}, [])
    assert built.checked >= ACCOUNTS
    await stage.assert_built()
    assert await stage.generations.read() == Live(FIRST, SECOND, "built")
    assert stage.paused[0] == SETTLED_S


async def test_results_that_are_shown_again_do_not_show_an_old_account(stage: Stage) -> None:
    """Of an account whose view is gone, a part of its results shown again makes none in the generation that is read: a reader loads the newest."""
    history = stage.histories[0]
    await stage.generations.change(Live(FIRST), Live(FIRST, SECOND, "building"))
    await stage.cache.client.delete(*LAYOUT.keys(history.username, FIRST))
    await stage.project(history, 1, 2, again=True)
    assert (await stage.views.account(history.username)).version == len(history.entries)
    await stage.project(history, *range(3, len(history.entries) + 1), again=True)
    compared = (await stage.check.compare([history.username], FIRST, SECOND))[0]
    assert (compared.one, compared.other, compared.differs) == (len(history.entries), len(history.entries), ())


async def test_what_is_decided_meanwhile_is_in_it(stage: Stage) -> None:
    """Accounts that change, come up and lose their views while the building goes through them."""
    tasks: list[asyncio.Task[object]] = []

    def change(step: int) -> None:
        if step > ACCOUNTS:
            return
        history = stage.histories[step % ACCOUNTS]
        tasks.append(asyncio.create_task(stage.more(history, "deposit", "buy")))
        tasks.append(asyncio.create_task(stage.account("deposit")))
        tasks.append(asyncio.create_task(stage.cache.client.delete(*LAYOUT.keys(stage.histories[(step + 9) % ACCOUNTS].username, FIRST))))

    built = await build(stage, Quiet(change))
    await asyncio.gather(*tasks)
    assert built.failed == []
    for history in stage.histories:
        await stage.views.account(history.username)
    await stage.assert_built()


@pytest.mark.parametrize(("busy", "failed"), [(REFILL_ATTEMPTS_MAX - 1, False), (2 * REFILL_ATTEMPTS_MAX, True)])
async def test_an_account_that_changes_all_the_while_is_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch, busy: int, failed: bool) -> None:
    """Whenever it is loaded it has moved on, as an account in the middle of a busy hour: it counts as not made only after many tries, in both passes."""
    name, tries, run = stage.histories[0].username, count(1), stage.cache.script

    async def has_moved_on(script: Script, call: Call) -> Any:
        return GAP if script is GUARD and f"{{{name}}}" in call.keys[0] and next(tries) <= busy else await run(script, call)

    monkeypatch.setattr(stage.cache, "script", has_moved_on)
    assert (name in (await build(stage)).failed) is failed


@pytest.mark.parametrize("at", [1, 3, 12], ids=["at once", "in the middle", "while comparing"])
async def test_an_interrupted_building_goes_on(stage: Stage, at: int) -> None:
    """Broken off at any step, the next call goes on from there, and what was loaded is not loaded again."""

    def break_off(step: int) -> None:
        if step == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        await build(stage, Quiet(break_off))
    left = await BuildState(stage.cache, "other").read()
    assert left is not None
    assert (await stage.generations.read()).state == "building"
    await stage.more(stage.histories[0], "deposit")
    built = await build(stage)
    assert built.generation == left.generation == SECOND
    assert built.items >= left.items or built.is_read
    await stage.assert_built()


async def test_a_building_is_begun_again_where_that_is_asked_for(stage: Stage) -> None:
    """From the first account on, under another number."""

    def break_off(step: int) -> None:
        if step == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        await build(stage, Quiet(break_off))
    assert (await build(stage, anew=True)).generation == SECOND + 1
    await stage.assert_built(SECOND + 1)


async def test_views_that_were_wrong_are_told(stage: Stage) -> None:
    """Where the generation that is read shows something else, the account and its fields are named; the new one has what the ledger says."""
    wrong = stage.histories[3]
    account, _, _, rows = LAYOUT.keys(wrong.username, FIRST)
    await stage.cache.client.hset(account, "cash:USD", '{"available":"7","held":"0","updated_at":"2026-11-25T00:00:00.000Z"}')
    await stage.cache.client.lset(rows, 0, "{}")
    built = await build(stage)
    assert built.differ == {wrong.username: ["cash:USD", "tx"]}
    await switch(stage.parts(), back=False)
    assert (await stage.views.account(wrong.username)).value == wrong.accounts[-1]


async def test_switched_and_rolled_back(stage: Stage) -> None:
    """Both ways the readers go on seeing the newest versions; what is decided between is in both."""
    await build(stage)
    history = stage.histories[0]
    assert await switch(stage.parts(), back=False) == Live(SECOND, FIRST, "kept")
    await stage.more(history, "deposit")
    assert (await stage.views.account(history.username)).version == len(history.entries)
    assert await switch(stage.parts(), back=True) == Live(FIRST, SECOND, "kept")
    assert (await stage.views.account(history.username)).version == len(history.entries)
    assert await switch(stage.parts(), back=True) == Live(SECOND, FIRST, "kept")


async def test_a_generation_that_is_given_up_leaves_nothing(stage: Stage) -> None:
    """All its keys go, after every process has learned of it; the other one stays as it is, and the next one has another number."""
    await build(stage)
    await switch(stage.parts(), back=False)
    generation, keys = await drop(stage.parts())
    assert (generation, keys > ACCOUNTS) == (FIRST, True)
    assert [key async for key in stage.cache.client.scan_iter(match="g1:*")] == []
    assert await stage.generations.read() == Live(SECOND)
    assert (await build(stage)).generation == SECOND + 1


@pytest.mark.parametrize("how", ["drop", "rebuild"])
async def test_giving_up_that_was_interrupted_is_done_again(stage: Stage, how: str) -> None:
    """Nothing is put into the generation any more, but its keys are there: the same command takes them away, and so does the next building."""
    await build(stage)
    parts = stage.parts()

    async def interrupted(_seconds: float) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        await drop(replace(parts, pause=interrupted))
    live = await stage.generations.read()
    assert (live, live.all) == (Live(FIRST, SECOND, "dropping"), (FIRST,))
    with pytest.raises(NotNow):
        await switch(stage.parts(), back=False)
    if how == "drop":
        generation, keys = await drop(stage.parts())
        assert (generation, keys > ACCOUNTS) == (SECOND, True)
        assert await stage.generations.read() == Live(FIRST)
    else:
        assert (await build(stage)).generation == SECOND + 1
    assert [key async for key in stage.cache.client.scan_iter(match="g2:*")] == []


async def test_beginning_again_leaves_nothing_of_before(stage: Stage) -> None:
    """What the first try has made wrong is not kept: the generation gets another number, and the old one's keys go."""

    def break_off(step: int) -> None:
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        await build(stage, Quiet(break_off))
    built = [key async for key in stage.cache.client.scan_iter(match="g2:*:acct")]
    await stage.cache.client.hset(built[0], "cash:USD", '{"available":"7","held":"0","updated_at":"2026-11-25T00:00:00.000Z"}')
    again = await build(stage, anew=True)
    assert (again.generation, again.differ) == (SECOND + 1, {})
    assert [key async for key in stage.cache.client.scan_iter(match="g2:*")] == []


async def test_a_command_keeps_its_right_to_work(stage: Stage) -> None:
    """It is renewed however long one part takes; a command that has lost it writes nothing."""
    state = BuildState(stage.cache, "slow", keep_s=0.05)
    async with state.alone():
        await stage.cache.client.expire(OPERATOR, 2)

        async def is_renewed() -> bool:
            return int(await stage.cache.client.ttl(OPERATOR)) > 2

        await eventually(is_renewed, within_s=5)
        await stage.cache.client.set(OPERATOR, "other")
        with pytest.raises(Busy):
            await state.write(Build(generation=9, source=LEDGER))
    assert await state.read() is None


async def test_only_one_operator_at_a_time(stage: Stage) -> None:
    """A second command is refused while the first one works."""
    async with BuildState(stage.cache, "other").alone():
        for command in (build(stage), switch(stage.parts(), back=False), drop(stage.parts())):
            with pytest.raises(Busy):
                await command


async def test_what_is_not_to_be_done_now(stage: Stage) -> None:
    """Each refusal says what there is instead; nothing is changed by it."""
    for command in (switch(stage.parts(), back=False), switch(stage.parts(), back=True), drop(stage.parts())):
        with pytest.raises(NotNow):
            await command
    await build(stage)
    for command in (build(stage), switch(stage.parts(), back=True)):
        with pytest.raises(NotNow):
            await command
    await switch(stage.parts(), back=False)
    for command in (build(stage), switch(stage.parts(), back=False)):
        with pytest.raises(NotNow):
            await command


async def test_a_redis_that_lost_everything_ends_the_building(stage: Stage) -> None:
    """The pointer is gone with the views: nothing is switched to a generation that nobody writes any more."""

    def lose(step: int) -> None:
        if step == 2:
            lost.append(asyncio.create_task(stage.cache.client.flushdb()))

    lost: list[asyncio.Task[object]] = []
    with pytest.raises((NotNow, Busy)):
        await build(stage, Quiet(lose))
    assert (await stage.generations.read()).serving == FIRST


async def test_the_rate_is_kept(stage: Stage) -> None:
    """So many accounts a second on the whole, however fast they are loaded."""
    await rebuild(stage.parts(), source=LEDGER, per_s=10, anew=False)
    assert sum(stage.paused[1:]) >= (ACCOUNTS - 16) / 10
