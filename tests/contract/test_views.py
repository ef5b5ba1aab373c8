"""The account views on a real Valkey: whatever comes in whatever order, a view is what the ledger held at its version."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from infra.cache import Arrived, Cache, CacheUnavailable, Denylist, LedgerBehind, Views
from infra.cache_guard import GAP, GUARD, LEASE, ORDERS_HELD_MAX, READ_ORDERS, READ_ROWS, ROWS_HELD_MAX, Layout
from infra.generations import FIRST, Generations
from schemas.results import encode_result
from tests.fakes.cache import CountingCache
from tests.fakes.clock import FakeClock
from tests.fakes.histories import STEPS, History, HistoryReads, begin
from tests.fakes.pointer import MemoryPointer
from tests.valkey import Valkey, valkey
from tests.waiting import eventually

TTL_S = 1_000
USERS = count(1)
LAYOUT = Layout(TTL_S)
PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EVERYTHING = ("deposit", "buy", "open", "sell", "refuse", "close", "withdraw", "buy")


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Valkey]:
    async with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
async def cache(server: Valkey) -> AsyncIterator[CountingCache]:
    cache = CountingCache(server.url, client_name="tests")
    yield cache
    await cache.stop()


def user() -> str:
    return f"user_{next(USERS):06d}"


def arrived(history: History, *versions: int, reply_to: str | None = None) -> list[Arrived]:
    results = [history.results[version - 1] for version in versions]
    return [Arrived(result, encode_result(result), reply_to) for result in results]


def views_of(cache: Cache, *histories: History) -> tuple[Views, HistoryReads]:
    reads = HistoryReads({history.username: history for history in histories})
    return Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=TTL_S), reads


async def assert_shows(views: Views, history: History, version: int) -> None:
    """Everything that the views tell equals the plain fold of the history up to a version."""
    account = await views.account(history.username)
    assert account.value == history.accounts[version]
    orders = await views.orders(history.username, ORDERS_HELD_MAX)
    assert orders.value.rows == history.orders(version)[:ORDERS_HELD_MAX]
    assert (orders.version, orders.value.total, orders.value.whole) == (version, len(history.orders(version)), len(history.orders(version)) <= ORDERS_HELD_MAX)
    rows = await views.transactions(history.username, ROWS_HELD_MAX)
    assert rows.value.rows == history.rows(version)[:ROWS_HELD_MAX]
    assert (rows.version, rows.value.total) == (version, len(history.rows(version)))
    for order in history.orders(version):
        assert (await views.order(history.username, order.order_id)).value == order


@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=25), data=st.data())
@PROPERTY
async def test_any_order_of_delivery_ends_at_the_plain_fold_and_never_goes_back(cache: Cache, steps: list, data: st.DataObject) -> None:
    """Results in any order, some twice, between loads and lost keys: the version never falls, and the end is the fold."""
    history = History(user()).grow(steps)
    views, reads = views_of(cache, history)
    last = len(steps)
    deliveries = data.draw(st.permutations([*range(1, last + 1), *data.draw(st.lists(st.integers(1, last), max_size=8))]))
    shown = 0
    while deliveries:
        some, deliveries = deliveries[: (size := data.draw(st.integers(1, 4)))], deliveries[size:]
        reads.visible[history.username] = max([shown, *some, data.draw(st.integers(1, last))])
        match data.draw(st.sampled_from(("put", "put", "load", "evict"))):
            case "load":
                await views.load(history.username)
            case "evict":
                await cache.client.delete(data.draw(st.sampled_from(LAYOUT.keys(history.username, FIRST)[1:])))
        await views.put(arrived(history, *some))
        version = (await views.account(history.username)).version
        assert version >= shown
        assert version >= max(some)
        shown = version
    reads.visible[history.username] = last
    await views.put(arrived(history, last))
    await assert_shows(views, history, last)


@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=30))
@PROPERTY
async def test_results_in_order_need_no_ledger(cache: Cache, steps: list) -> None:
    """From a view of any version on results alone make the next ones: the ledger is not asked once."""
    history = History(user()).grow(steps)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    projected = await views.put(arrived(history, *range(1, len(steps) + 1)))
    assert (projected.put, projected.old, projected.loaded) == (len(steps), 0, 0)
    await assert_shows(views, history, len(steps))
    assert not reads.reads


async def test_a_load_and_the_results_make_the_same_view(cache: Cache) -> None:
    """A view that was loaded is field by field the one that results have made."""
    history = History(user()).grow(EVERYTHING * 3)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    account, orders, index, rows = LAYOUT.keys(history.username, FIRST)

    async def raw() -> list:
        return [
            {name: value for name, value in (await cache.client.hgetall(account)).items() if name not in {b"status", b"stamp"}},
            await cache.client.hgetall(orders),
            await cache.client.zrange(index, 0, -1, withscores=True),
            await cache.client.lrange(rows, 0, -1),
        ]

    await views.put(arrived(history, *range(1, len(history.entries) + 1)))
    by_results = await raw()
    await cache.client.delete(account)
    await views.load(history.username)
    assert await raw() == by_results


async def test_a_list_is_read_again_only_where_the_view_has_changed(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every result, load, and load in the place of a damaged view gives it another stamp, and the next reader the new lists; until then none is sent again."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    keys, stamps, scripts = LAYOUT.keys(history.username, FIRST), list[bytes](), list[str]()
    ask_script = cache.ask_script
    monkeypatch.setattr(cache, "ask_script", lambda script, call: scripts.append(script.name) or ask_script(script, call))

    async def changed(version: int) -> None:
        stamp = await cache.client.hget(keys[0], "stamp")
        assert stamp not in stamps
        stamps.append(stamp)
        scripts.clear()
        for _ in range(3):
            await assert_shows(views, history, version)
        assert len(scripts) == len(set(scripts)) + max(0, len(history.orders(version)) - 1)

    for version in range(1, len(EVERYTHING) + 1):
        await views.put(arrived(history, version))
        await changed(version)
    await cache.client.delete(*keys)
    await views.load(history.username)
    await changed(len(EVERYTHING))
    await cache.client.hset(keys[1], history.orders()[0].order_id, "no order")
    assert await views.refill(history.username, anew=True)
    await changed(len(EVERYTHING))


@pytest.mark.parametrize("field", ["stamp", "version", "username"])
async def test_what_a_reader_remembers_is_of_no_other_view(cache: Cache, field: str) -> None:
    """A view that has no stamp, was moved on without one (by an earlier release), or is another user's, is not taken for the one that was read."""
    history = History(user()).grow([*EVERYTHING, "open"])
    views, reads = views_of(cache, history)
    before = reads.visible[history.username] = len(EVERYTHING)
    await views.load(history.username)
    await assert_shows(views, history, before)
    keys = LAYOUT.keys(history.username, FIRST)
    match field:
        case "stamp":
            await cache.client.hdel(keys[0], field)
        case "version":
            await cache.client.hset(keys[0], field, before + 1)
        case _:
            await cache.client.hset(keys[0], field, "another")
    loads = reads.reads["account"]
    shown = await views.orders(history.username, ORDERS_HELD_MAX)
    assert shown.value.rows == history.orders(before)
    assert (shown.version, reads.reads["account"] - loads) == (before + (field == "version"), int(field == "username"))


async def test_a_view_that_is_behind_and_cannot_be_put(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the older one is still shown it is to be tried again; where there is none, nothing is behind; what the ledger does not have is another matter."""
    history = History(user()).grow(["deposit"] * 4)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    await views.put(arrived(history, 1, 2, 3))

    async def overtaken(*_given: object, **_options: object) -> bytes:
        return GAP

    with monkeypatch.context() as patched:
        patched.setattr(views, "_put_whole", overtaken)
        with pytest.raises(CacheUnavailable):
            await views.make_up(history.username, 4)
        assert (await views.make_up(history.username, 3)).kept
        with pytest.raises(LedgerBehind):
            await views.make_up(history.username, 5)
        await cache.client.delete(*LAYOUT.keys(history.username, FIRST))
        assert not (await views.make_up(history.username, 4)).kept
    assert (await views.make_up(history.username, 4)).kept
    await assert_shows(views, history, 4)


async def test_a_gap_is_filled_from_the_ledger(cache: Cache) -> None:
    """A result whose predecessors are missing loads the whole account, once for the batch, and never shows a part."""
    history = History(user()).grow(EVERYTHING * 2)
    views, reads = views_of(cache, history)
    reads.visible[history.username] = 12
    await begin(views, reads, history)
    await views.put(arrived(history, 1, 2, 3))
    projected = await views.put(arrived(history, 7, 8, 9))
    assert (projected.put, projected.old, projected.loaded) == (0, 0, 1)
    assert reads.reads["account"] == 1
    await assert_shows(views, history, 12)


async def test_a_result_that_the_ledger_does_not_have_is_an_error(cache: Cache) -> None:
    """A gap that the ledger cannot close is told, and nothing is shown that is not there."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    reads.visible[history.username] = 2
    with pytest.raises(LedgerBehind):
        await views.put(arrived(history, 5))
    await assert_shows(views, history, 2)


async def test_recent_lists_are_bounded_and_without_holes(cache: Cache) -> None:
    """Beyond the maximum the oldest fall out, and the change of one that fell out does not bring it back."""
    history = History(user()).grow(("open", *("buy",) * (ORDERS_HELD_MAX + 5), "close", "buy"))
    views, _ = views_of(cache, history)
    await views.put(arrived(history, *range(1, len(history.entries) + 1)))
    await assert_shows(views, history, len(history.entries))
    assert not (await views.orders(history.username, ORDERS_HELD_MAX)).value.whole
    assert await cache.client.hlen(LAYOUT.keys(history.username, FIRST)[1]) == ORDERS_HELD_MAX
    assert await cache.client.llen(LAYOUT.keys(history.username, FIRST)[3]) == ROWS_HELD_MAX


async def test_many_cold_reads_make_one_load(cache: CountingCache) -> None:
    """200 callers of every kind who find nothing before the ledger has answered share one load of it."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    for script in (READ_ORDERS, READ_ROWS):
        await cache.client.script_load(script.text)
    reads.opened.clear()
    before = cache.answered
    calls = [lambda: views.account(history.username), lambda: views.orders(history.username, 10), lambda: views.transactions(history.username, 10)]
    callers = [asyncio.create_task(calls[number % 3]()) for number in range(200)]
    await eventually(lambda: cache.answered - before == len(callers), within_s=10)
    reads.opened.set()
    shown = await asyncio.gather(*callers)
    assert {one.version for one in shown} == {len(EVERYTHING)}
    assert reads.reads == {"account": 1, "orders": 1, "entries": 1}


async def test_an_abandoned_cold_read_does_not_take_the_others_with_it(cache: Cache) -> None:
    """The caller whose read began the load goes away; those who joined still get the view."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    first, second = (asyncio.create_task(views.load(history.username)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).account == history.accounts[-1]
    assert reads.reads["account"] == 1


@pytest.mark.parametrize("lost", [1, 2, 3], ids=["orders", "order-index", "rows"])
async def test_a_view_that_lost_a_key_is_loaded_again(cache: Cache, lost: int) -> None:
    """The server may evict one key of a view and leave the others: lists are then not told as shorter, they are loaded."""
    history = History(user()).grow(EVERYTHING)
    views, _ = views_of(cache, history)
    await views.put(arrived(history, *range(1, len(EVERYTHING) + 1)))
    await cache.client.delete(LAYOUT.keys(history.username, FIRST)[lost])
    await assert_shows(views, history, len(EVERYTHING))


@pytest.mark.parametrize("lost", [1, 2, 3], ids=["orders", "order-index", "rows"])
async def test_the_next_result_does_not_hide_that_a_key_was_lost(cache: Cache, lost: int) -> None:
    """A result on an incomplete view loads it; added to what is left it would make a list with a hole look right."""
    history = History(user()).grow((*EVERYTHING, "buy"))
    views, _ = views_of(cache, history)
    await views.put(arrived(history, *range(1, len(history.entries))))
    await cache.client.delete(LAYOUT.keys(history.username, FIRST)[lost])
    assert (await views.put(arrived(history, len(history.entries)))).loaded == 1
    await assert_shows(views, history, len(history.entries))


async def test_an_older_load_does_not_replace_a_newer_view_that_lost_a_key(cache: Cache) -> None:
    """Even an incomplete view never goes back: the loader is told to load again."""
    history = History(user()).grow(EVERYTHING)
    views, _ = views_of(cache, history)
    await views.load(history.username)
    await cache.client.delete(LAYOUT.keys(history.username, FIRST)[3])
    lease = await cache.script(LEASE, LAYOUT.lease_call(history.username))
    assert await cache.script(GUARD, LAYOUT.whole_call(history.accounts[5], history.orders(5), history.rows(5), (FIRST,), lease)) == GAP
    assert (await views.account(history.username)).version == len(EVERYTHING)


async def test_an_old_order_does_not_come_back_into_a_shorter_list(cache: Cache) -> None:
    """A view that holds fewer orders than there are takes no change of one that it does not hold: between them would be a hole."""
    history = History(user()).grow(("open", "buy", "buy", "buy", "close"))
    views, _ = views_of(cache, history)
    lease = await cache.script(LEASE, LAYOUT.lease_call(history.username))
    await cache.script(GUARD, LAYOUT.whole_call(history.accounts[4], history.orders(4)[:2], history.rows(4), (FIRST,), lease))
    assert (await views.put(arrived(history, 5))).put == 1
    assert (await views.orders(history.username, 10)).value.rows == history.orders(5)[:2]
    assert (await views.order(history.username, history.orders(5)[3].order_id)).value == history.orders(5)[3]


async def test_another_users_view_is_not_shown(cache: Cache) -> None:
    """A view that says to be somebody else's is a miss, for reads and for results."""
    history = History(user()).grow(EVERYTHING)
    views, _ = views_of(cache, history)
    account = LAYOUT.keys(history.username, FIRST)[0]
    await views.put(arrived(history, *range(1, len(EVERYTHING) + 1)))
    await cache.client.hset(account, "username", "mallory")
    assert (await views.account(history.username)).value == history.accounts[-1]
    assert await cache.client.hget(account, "username") == history.username.encode()
    await cache.client.hset(account, "username", "mallory")
    assert (await views.put(arrived(history, len(EVERYTHING)))).loaded == 1
    await assert_shows(views, history, len(EVERYTHING))


@pytest.mark.parametrize(("key", "field"), [(0, "counters"), (0, "cash:USD"), (1, None)], ids=["counters", "cash", "order"])
async def test_a_view_that_cannot_be_read_is_loaded_again(cache: Cache, key: int, field: str | None) -> None:
    """What another release wrote in another shape is a miss, not an error, and gives way to what is loaded."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    await views.put(arrived(history, *range(1, len(EVERYTHING) + 1)))
    await cache.client.hset(LAYOUT.keys(history.username, FIRST)[key], field or history.orders()[0].order_id, '{"orders": "many", "available": "much"}')
    await assert_shows(views, history, len(EVERYTHING))
    assert reads.reads["account"] == 1


async def test_an_account_that_does_not_exist_is_empty(cache: Cache) -> None:
    """A new user has a view of version 0, which the first result moves on."""
    history = History(user()).grow(["deposit"])
    views, reads = views_of(cache, history)
    reads.visible[history.username] = 0
    await assert_shows(views, history, 0)
    assert (await views.order(history.username, "ord_unknown")).value is None
    reads.visible[history.username] = 1
    assert (await views.put(arrived(history, 1))).put == 1
    await assert_shows(views, history, 1)


async def test_every_key_of_a_view_has_a_lifetime(cache: Cache) -> None:
    """All keys of a view expire, together, and views of several users not all at the same moment."""
    lifetimes = set()
    for _ in range(5):
        history = History(user()).grow(EVERYTHING)
        views, _ = views_of(cache, history)
        await views.put(arrived(history, *range(1, len(EVERYTHING) + 1)))
        expiries = {await cache.client.pexpiretime(key) for key in LAYOUT.keys(history.username, FIRST)}
        assert len(expiries) == 1
        lifetimes.add(await cache.client.ttl(LAYOUT.keys(history.username, FIRST)[0]))
    assert all(0.9 * TTL_S - 2 <= lifetime <= TTL_S for lifetime in lifetimes)
    assert len(lifetimes) > 1


async def test_replies_follow_the_view(server: Valkey, cache: Cache) -> None:
    """A waiting door is told each result once the view shows it: after a put, after a gap was closed, and for one shown before."""
    history = History(user()).grow(EVERYTHING)
    views, _ = views_of(cache, history)
    channel = f"reply:{history.username.replace('_', '-')}"
    async with Redis.from_url(server.url) as client, client.pubsub() as door:
        await door.subscribe(channel)
        await _told(door, "subscribe")
        for versions in ((1, 2), (2,), (6, 7)):
            await views.put(arrived(history, *versions, reply_to=channel))
            for version in versions:
                assert await _told(door, "message") == encode_result(history.results[version - 1])
                assert (await views.account(history.username)).version >= version


async def _told(door: object, kind: str) -> bytes:
    async with asyncio.timeout(5), aclosing(door.listen()) as messages:  # type: ignore[attr-defined]
        async for message in messages:
            if message["type"] == kind:
                return message["data"]
    raise AssertionError("nothing was told")


async def test_a_lost_script_is_given_again(cache: Cache) -> None:
    """A server that restarted has no scripts: the call gives it the text and goes on."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    await cache.client.script_flush()
    assert (await views.put(arrived(history, 1, 2, 3))).put == 3
    await cache.client.script_flush()
    assert (await views.orders(history.username, 5)).version == 3


async def test_reach_waits_for_the_projector(cache: Cache) -> None:
    """A reader with a token waits for its version, which the projector brings; the ledger is not asked."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    await begin(views, reads, history)
    await views.put(arrived(history, 1, 2))
    waiting = asyncio.create_task(views.reach(history.username, 4))
    await asyncio.sleep(0)
    await views.put(arrived(history, 3, 4))
    assert await waiting
    assert not reads.reads


async def test_reach_loads_what_the_projector_does_not_bring(cache: Cache) -> None:
    """Where the projector is behind, the ledger is asked, and the view moves on; a version that nobody has is not reached."""
    history = History(user()).grow(EVERYTHING)
    views, _ = views_of(cache, history)
    await views.put(arrived(history, 1, 2))
    assert await views.reach(history.username, 8)
    assert (await views.account(history.username)).version == 8
    assert not await views.reach(history.username, 9)


async def test_a_load_begun_too_early_is_not_taken_for_a_later_version(cache: Cache) -> None:
    """Who joins a load that may have read before their write gets another one."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    reads.visible[history.username] = 2
    early = asyncio.create_task(views.load(history.username))
    while not reads.reads.get("account"):  # noqa: ASYNC110 - lets the load go on, step by step
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    reads.visible[history.username] = 8
    assert (await views.load(history.username, at_least=8)).account.version == 8
    assert (await early).account.version == 2


@pytest.mark.parametrize("torn", ["orders", "entries"])
async def test_a_load_with_a_hole_is_not_kept(cache: Cache, torn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query may miss a row of the version that the account already has: what the lists lack by the account's own count is read again."""
    history = History(user()).grow(EVERYTHING)
    views, reads = views_of(cache, history)
    whole = getattr(reads, torn)

    async def without_the_newest(*place: object, **bounds: object) -> list[object]:
        monkeypatch.undo()
        return list(await whole(*place, **bounds))[1:]

    monkeypatch.setattr(reads, torn, without_the_newest)
    loaded = await views.load(history.username)
    assert loaded.kept
    assert reads.reads[torn] == 2
    assert loaded.is_whole


async def test_reads_go_on_while_redis_is_away(tmp_path: object) -> None:
    """Without Redis every read answers from the ledger and says so; the projector's put fails; when Redis is back, both go on."""
    history = History(user()).grow(EVERYTHING)
    async with valkey(tmp_path) as server:  # type: ignore[arg-type]
        cache = Cache(server.url, client_name="tests")
        views, _ = views_of(cache, history)
        await views.put(arrived(history, 1))
        await server.stop()
        shown = await views.account(history.username)
        assert (shown.value, shown.bypassed) == (history.accounts[-1], True)
        await assert_shows(views, history, len(EVERYTHING))
        assert (await views.order(history.username, "ord_unknown")).value is None
        assert await views.reach(history.username, 5)
        with pytest.raises(CacheUnavailable):
            await views.put(arrived(history, 2))
        await server.start()
        await cache.ping()
        assert (await views.put(arrived(history, 2))).loaded == 1
        assert not (await views.account(history.username)).bypassed
        await cache.stop()


async def test_the_denylist(cache: Cache) -> None:
    """A revoked token or family is refused until it has expired for a minute, has no lifetime of its own, and never a shorter one than was said."""
    clock = FakeClock()
    denylist = Denylist(cache, clock)
    soon, later = FakeClock(clock.now()), FakeClock(clock.now())
    soon.advance(100)
    later.advance(1_000)
    assert not await denylist.is_revoked("token-1", "family-1")
    await denylist.revoke("token-1", soon.now())
    await denylist.revoke_family("family-2", later.now())
    await denylist.revoke_family("family-2", soon.now())
    assert await denylist.is_revoked("token-1", "family-1")
    assert await denylist.is_revoked("token-9", "family-2")
    assert not await denylist.is_revoked("family-2", "token-1")
    assert await cache.client.ttl("denylist") == -1
    clock.advance(161)
    await denylist.revoke("token-3", later.now())
    assert not await denylist.is_revoked("token-1", "family-1")
    assert await denylist.is_revoked("token-9", "family-2")
    assert await cache.client.zcard("denylist") == 2
