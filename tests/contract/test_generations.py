"""Two generations of the views on a real Valkey: for each account they are at the same version, or one of them has nothing of it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.cache import Arrived, Cache, CacheUnavailable, Views
from infra.cache_guard import Layout
from infra.dynamo import Dynamo, DynamoUnavailable
from infra.generations import FIRST, POINTER, SETTLED_S, Conflict, Generations, KeptPointer, Live, Pointed
from infra.local.stack import Addresses
from schemas.results import encode_result
from schemas.tables import GENERATIONS_KEY, LEDGER
from tests.fakes.histories import STEPS, History, HistoryReads, begin
from tests.fakes.pointer import MemoryPointer
from tests.valkey import Valkey, valkey

TTL_S = 1_000
SECOND = FIRST + 1
ALONE, BOTH, TURNED = Live(FIRST), Live(FIRST, SECOND, "building"), Live(SECOND, FIRST, "kept")
LAYOUT = Layout(TTL_S)
USERS = count(1)
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Told(Generations):
    """A process that knows at once of a change, as all do after a moment."""

    async def live(self) -> Live:
        return await self.read()


class Losing(MemoryPointer):
    """Redis loses everything before the pointer is kept the given time, and another process misses it."""

    def __init__(self, cache: Cache, at: int) -> None:
        super().__init__()
        self._cache = cache
        self._left = at

    async def put(self, pointed: Pointed) -> None:
        self._left -= 1
        if not self._left:
            await self._cache.client.flushdb()
            await Generations(self._cache, self).live()
        await super().put(pointed)


class Overtaken(MemoryPointer):
    """Another operator changes the pointer while it is kept, once."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self._other: Generations | None = Generations(cache, self)

    async def put(self, pointed: Pointed) -> None:
        other, self._other = self._other, None
        if other:
            await other.change(ALONE, Live(FIRST, 7, "building"))
        await super().put(pointed)


class Away(MemoryPointer):
    """The ledger does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def get(self) -> Pointed:
        self.asked += 1
        raise DynamoUnavailable("away")


class Remembering(Generations):
    """A process that has read the pointer a moment ago whenever it acts, until it reads it again."""

    async def live(self) -> Live:
        self._last = getattr(self, "_last", None) or await super().read()
        return self._last

    async def read(self) -> Live:
        self._last = await super().read()
        return self._last


@pytest.fixture
async def dynamo(provisioned: Addresses) -> AsyncIterator[Dynamo]:
    """Without a pointer, before and after."""
    async with Dynamo(provisioned.dynamodb_url, "us-east-1") as connected:
        await connected.call("delete_item", TableName=LEDGER.name, Key=GENERATIONS_KEY)
        yield connected
        await connected.call("delete_item", TableName=LEDGER.name, Key=GENERATIONS_KEY)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
async def cache(server: Valkey) -> AsyncIterator[Cache]:
    cache = Cache(server.url, client_name="tests")
    await cache.client.delete(POINTER)
    yield cache
    await cache.stop()


def arrived(history: History, *versions: int) -> list[Arrived]:
    results = [history.results[version - 1] for version in versions]
    return [Arrived(result, encode_result(result)) for result in results]


def given_history(*steps: str) -> tuple[History, HistoryReads]:
    history = History(f"holder_{next(USERS):06d}").grow(steps)
    return history, HistoryReads({history.username: history})


async def versions(cache: Cache, username: str) -> tuple[int | None, int | None]:
    """Of both generations."""
    first, second = [await cache.client.hget(LAYOUT.keys(username, generation)[0], "version") for generation in (FIRST, SECOND)]
    return (int(first) if first else None, int(second) if second else None)


async def test_without_a_pointer_the_first_generation_serves(cache: Cache) -> None:
    """As after the loss of all of Redis."""
    assert await Generations(cache, MemoryPointer()).live() == ALONE


@pytest.mark.parametrize("kind", ["memory", "table"])
@pytest.mark.parametrize("live", [ALONE, BOTH, TURNED, Live(SECOND)])
async def test_a_lost_pointer_is_put_back_as_it_was(cache: Cache, dynamo: Dynamo, kind: str, live: Live) -> None:
    """By whoever misses it."""
    kept = MemoryPointer() if kind == "memory" else KeptPointer(dynamo)
    assert await kept.get() == Pointed()
    generations = Generations(cache, kept)
    if live != ALONE:
        await generations.change(ALONE, live)
    await cache.client.delete(POINTER)
    assert await Generations(cache, kept).live() == live
    assert await cache.client.exists(POINTER)


@pytest.mark.parametrize("kind", ["memory", "table"])
async def test_the_newest_pointer_is_kept(dynamo: Dynamo, kind: str) -> None:
    """By number: one that comes late, or again, changes nothing."""
    kept = MemoryPointer() if kind == "memory" else KeptPointer(dynamo)
    for number, live in ((3, TURNED), (2, BOTH), (3, Live(7))):
        await kept.put(Pointed(live, number))
        assert await kept.get() == Pointed(TURNED, 3)
    await kept.put(Pointed(Live(SECOND), 4))
    assert await kept.get() == Pointed(Live(SECOND), 4)


@pytest.mark.parametrize("at", [1, 2])
async def test_a_change_that_redis_loses_is_made_all_the_same(cache: Cache, at: int) -> None:
    """Lost before it is made, or after that and before it is kept; and somebody else puts the old pointer back."""
    kept = Losing(cache, at)
    operator = Generations(cache, kept)
    await operator.change(ALONE, BOTH)
    assert await operator.read() == BOTH
    assert kept.kept.live == BOTH
    await cache.client.flushdb()
    assert await Generations(cache, kept).live() == BOTH


async def test_a_change_of_an_operator_who_stood_still_is_not_kept(cache: Cache) -> None:
    """It does not wait for the next loss."""
    kept = Overtaken(cache)
    with pytest.raises(Conflict):
        await Generations(cache, kept).change(ALONE, BOTH)
    assert kept.kept.live == Live(FIRST, 7, "building")


async def test_a_redis_that_was_set_back_is_followed(cache: Cache) -> None:
    """The pointer that is there counts, and the next change is the newest that is kept."""
    kept = MemoryPointer()
    await kept.put(Pointed(Live(7), 40))
    await cache.client.hset(POINTER, mapping={"number": "38", "serving": "6"})
    operator = Generations(cache, kept)
    await operator.change(Live(6), Live(6, 8, "building"))
    assert (await kept.get()).live == Live(6, 8, "building")


async def test_a_pointer_of_before_numbers(cache: Cache) -> None:
    """Is as good as any."""
    await cache.client.hset(POINTER, mapping={"serving": str(SECOND), "standby": str(FIRST), "state": "kept"})
    kept = MemoryPointer()
    operator = Generations(cache, kept)
    assert await operator.read() == TURNED
    await operator.change(TURNED, Live(SECOND))
    assert kept.kept.live == Live(SECOND)


async def test_a_lost_pointer_while_the_ledger_is_away(cache: Cache) -> None:
    """Then nothing is known, as while Redis is away; not everybody who asks waits for the ledger."""
    away = Away()
    generations = Generations(cache, away)
    for told in await asyncio.gather(*(generations.live() for _ in range(20)), return_exceptions=True):
        assert isinstance(told, CacheUnavailable)
    assert away.asked == 1


async def test_only_one_of_two_operators_changes_the_pointer(cache: Cache) -> None:
    """A change starts from what the operator has seen, and fails where that is over."""
    kept = MemoryPointer()
    one, other = Generations(cache, kept), Generations(cache, kept)
    await one.change(ALONE, BOTH)
    with pytest.raises(Conflict):
        await other.change(ALONE, Live(FIRST, 7, "building"))
    assert await other.read() == BOTH
    await other.change(BOTH, TURNED)
    assert await one.read() == TURNED
    await one.change(TURNED, Live(SECOND))
    assert await other.read() == Live(SECOND)


async def test_the_pointer_has_no_lifetime(cache: Cache) -> None:
    """The eviction policy takes only keys that have one."""
    await Generations(cache, MemoryPointer()).change(ALONE, BOTH)
    assert await cache.client.ttl(POINTER) == -1


async def test_a_process_learns_of_a_change_in_time(cache: Cache) -> None:
    """What was known is asked again after a bounded time, once for all callers."""
    watching = Generations(cache, MemoryPointer())
    assert await watching.live() == ALONE
    await Generations(cache, MemoryPointer()).change(ALONE, BOTH)
    async with asyncio.timeout(SETTLED_S / 2):
        while await watching.live() != BOTH:  # noqa: ASYNC110 - what is waited for is another process's doing
            await asyncio.sleep(0.01)


async def test_nobody_acts_on_a_pointer_that_cannot_be_read(server: Valkey) -> None:
    """While Redis is away nothing is known, and so nothing is read from it or put into it."""
    cache = Cache(f"redis://127.0.0.1:{server.port + 1}/0", client_name="tests")
    with pytest.raises(CacheUnavailable):
        await Generations(cache, MemoryPointer()).live()
    await cache.stop()


async def test_a_loss_of_redis_moves_nobody_to_another_generation(cache: Cache) -> None:
    """One process has read the pointer just before the loss, another one reads it just after: what the one shows, the other reads."""
    history, reads = given_history("deposit", "buy", "open")
    kept = MemoryPointer()
    await Generations(cache, kept).change(ALONE, BOTH)
    await Generations(cache, kept).change(BOTH, TURNED)
    await Generations(cache, kept).change(TURNED, Live(SECOND))
    projector, door = (Views(cache, reads, Remembering(cache, kept), ttl_s=TTL_S) for _ in range(2))
    await projector.put(arrived(history, 1))
    assert (await door.account(history.username)).version == 1
    await cache.client.flushdb()
    await projector.put(arrived(history, 1, 2))
    assert (await door.account(history.username)).version == 2
    await projector._generations.read()
    await projector.put(arrived(history, 3))
    assert (await door.account(history.username)).version == 3


async def test_results_go_to_both(cache: Cache) -> None:
    """Whatever moves on an account that is in both generations moves it on in both."""
    history, reads = given_history("deposit", "buy", "open", "close")
    await Generations(cache, MemoryPointer()).change(ALONE, BOTH)
    views = Views(cache, reads, Told(cache, MemoryPointer()), ttl_s=TTL_S)
    await begin(views, reads, history)
    await views.put(arrived(history, 1, 2, 3, 4))
    assert await versions(cache, history.username) == (4, 4)
    assert not reads.reads
    for one, other in zip(LAYOUT.keys(history.username, FIRST), LAYOUT.keys(history.username, SECOND), strict=True):
        assert await cache.client.dump(one) == await cache.client.dump(other)


async def test_a_result_does_not_begin_a_view_of_the_new_generation_in_the_middle(cache: Cache) -> None:
    """What the new generation does not have yet comes whole, with the building or with the next load."""
    history, reads = given_history("deposit", "buy", "open")
    views = Views(cache, reads, Told(cache, MemoryPointer()), ttl_s=TTL_S)
    await begin(views, reads, history)
    await views.put(arrived(history, 1, 2))
    await Generations(cache, MemoryPointer()).change(ALONE, BOTH)
    assert (await views.put(arrived(history, 3))).put == 1
    assert await versions(cache, history.username) == (3, None)
    assert await views.refill(history.username)
    assert await versions(cache, history.username) == (3, 3)


async def test_an_account_that_was_read_before_does_not_come_in_behind_the_one_that_serves(cache: Cache) -> None:
    """What was decided between the reading of an account and its putting is not missing in the new generation: the account is read again."""
    history, reads = given_history("deposit", "buy", "open")
    views = Views(cache, reads, Told(cache, MemoryPointer()), ttl_s=TTL_S)
    await views.put(arrived(history, 1, 2, 3))
    await Generations(cache, MemoryPointer()).change(ALONE, BOTH)
    assert await views.refill(history.username)
    assert await versions(cache, history.username) == (3, 3)


async def test_a_view_that_is_wrong_is_made_anew(cache: Cache) -> None:
    """A view of the right version with wrong contents is replaced where that is asked for, and only then."""
    history, reads = given_history("deposit", "buy", "open")
    views = Views(cache, reads, Told(cache, MemoryPointer()), ttl_s=TTL_S)
    await views.put(arrived(history, 1, 2, 3))
    await cache.client.hset(LAYOUT.keys(history.username, FIRST)[0], "cash:USD", '{"available":"1","held":"0","updated_at":"2026-11-25T00:00:00.000Z"}')
    await views.refill(history.username)
    assert (await views.account(history.username)).value != history.accounts[3]
    assert await views.refill(history.username, anew=True)
    assert (await views.account(history.username)).value == history.accounts[3]


async def test_making_a_view_anew_does_not_take_it_back(cache: Cache) -> None:
    """Also then a version never goes back: the account is read again."""
    history, reads = given_history("deposit", "buy", "open")
    views = Views(cache, reads, Told(cache, MemoryPointer()), ttl_s=TTL_S)
    await views.put(arrived(history, 1, 2, 3))
    assert await views.refill(history.username, anew=True)
    assert (await views.account(history.username)).version == 3


async def test_what_moves_a_view_on_is_told(cache: Cache) -> None:
    """On the account's channel: the record of a result that was shown, or the version of a view that was put whole; nothing where nothing has changed."""
    history, reads = given_history("deposit", "buy", "open")
    views = Views(cache, reads, Told(cache, MemoryPointer()), ttl_s=TTL_S)
    await begin(views, reads, history)
    async with cache.client.pubsub() as changes:
        await changes.subscribe(f"changes:{history.username}")
        await views.put(arrived(history, 1))
        await views.put(arrived(history, 1))
        await views.put(arrived(history, 3))
        told: list[bytes] = []
        async with asyncio.timeout(5):
            while len(told) < 2:
                message = await changes.get_message(ignore_subscribe_messages=True, timeout=1)
                told += [message["data"]] if message else []
    assert told == [encode_result(history.results[0]), b"loaded 3"]


@given(steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=20), data=st.data())
@PROPERTY
async def test_a_switch_at_any_moment_takes_no_reader_back(cache: Cache, steps: list, data: st.DataObject) -> None:
    """Results, building, loads, evictions and switches in any order: whichever generation is read, a version that was seen stays seen."""
    history, reads = given_history(*steps)
    generations = Told(cache, MemoryPointer())
    await cache.client.delete(POINTER)
    await generations.change(ALONE, BOTH)
    views = Views(cache, reads, generations, ttl_s=TTL_S)
    last, seen, projected = len(steps), 0, 0
    for action in data.draw(st.lists(st.sampled_from(("put", "put", "refill", "load", "evict", "switch")), min_size=5, max_size=30)):
        reads.visible[history.username] = data.draw(st.integers(max(seen, projected), last))
        match action:
            case "put" if projected < reads.visible[history.username]:
                projected += 1
                await views.put(arrived(history, projected))
            case "refill":
                await views.refill(history.username)
            case "load":
                await views.load(history.username)
            case "evict":
                generation = data.draw(st.sampled_from((FIRST, SECOND)))
                await cache.client.delete(data.draw(st.sampled_from(LAYOUT.keys(history.username, generation)[1:])))
            case "switch":
                live = await generations.live()
                await generations.change(live, TURNED if live == BOTH else BOTH)
        first, second = await versions(cache, history.username)
        assert first is None or second is None or first == second
        version = (await views.account(history.username)).version
        assert version >= seen
        assert version >= projected
        seen = version
