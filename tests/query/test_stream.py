"""The live stream: every listener has every version of its account, or a snapshot that covers it, whatever gets lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from infra.cache_guard import CHANGES, LOADED
from infra.market import MarketCache
from query_api.stream_hub import LISTENERS_OF_USER_MAX
from query_api.stream_listener import QUEUE_BYTES_MAX
from schemas.ledger import Parking
from schemas.market import PriceChanged
from schemas.results import Result, encode_result
from tests.fakes.histories import History
from tests.query.door import AT, ReadDoor, read_door
from tests.query.listening import DEADLINE_S, Reader, listening
from tests.valkey import Valkey, valkey
from tests.waiting import eventually

QUIET_S = 6_000.0
STEPS = ("deposit", "buy", "open", "deposit", "open")


@pytest.fixture
async def door(server: Valkey, tmp_path: Path) -> AsyncIterator[ReadDoor]:
    """One that tells changes, and whose heartbeats hardly ever come."""
    async with read_door(server.url, tmp_path, heartbeat_s=QUIET_S) as door, door.app.lifespan():
        yield door


@pytest.fixture
async def lively(server: Valkey, tmp_path: Path) -> AsyncIterator[ReadDoor]:
    """One whose heartbeats come fast."""
    async with read_door(server.url, tmp_path, heartbeat_s=0.15) as door, door.app.lifespan():
        yield door


async def publish(door: ReadDoor, *results: Result) -> None:
    """As the guard does it, without moving the view."""
    for result in results:
        await door.cache.client.publish(CHANGES + result.username, encode_result(result))


async def put_price(door: ReadDoor, asset_id: str, price: str, sequence: int) -> None:
    await MarketCache(door.cache, door.market).put_price(PriceChanged(asset_id, Decimal(price), sequence, AT))


async def test_a_snapshot_and_then_each_version(door: ReadDoor) -> None:
    """First the account at one version, then every later one with the lines it touched; the ids are the versions."""
    history = await door.shown(*STEPS)
    async with listening(door, history) as reader:
        first = (await reader.told(1))[0]
        assert (first.name, first.id) == ("snapshot", "5")
        assert first.data["version"] == 5
        balance = (await door.get("/balance", history)).json()
        assert first.data["balance"] == balance
        assert [order["order_id"] for order in first.data["orders"]] == [order.order_id for order in history.orders() if order.status == "open"]
        assert first.data["open_orders"] == 2
        assert {line["asset_id"]: line["quantity"] for line in first.data["holdings"]} == {"SOL": "1"}
        assert first.data["prices"] == []
        history.grow(["withdraw", "close", "buy", "refuse"])
        await door.project(history, 6, 7, 8, 9)
        await reader.told(5)
        assert reader.versions == [5, 6, 7, 8, 9]
        withdrawn, closed, bought, refused = (event.data for event in reader.named("change"))
        assert (withdrawn["type"], withdrawn["order"], withdrawn["code"]) == ("cnop.account.WithdrawalSettled.v1", None, None)
        assert Decimal(withdrawn["balance"]["current_balance"]) == history.accounts[6].cash["USD"].available
        assert (closed["order"]["status"], closed["order"]["order_id"]) == ("cancelled", history.orders(5)[1].order_id)
        assert [line["asset_id"] for line in bought["holdings"]] == ["SOL"]
        assert (refused["code"], refused["balance"], refused["holdings"]) == ("insufficient-funds", None, [])
        assert bought["request_id"] == history.results[7].request_id


async def test_the_answer_is_a_stream_of_events(door: ReadDoor) -> None:
    """Nobody keeps it and no proxy holds it back; it says when to come back; HEAD gets the headers alone."""
    history = await door.shown("deposit")
    async with listening(door, history) as reader:
        await reader.told(1)
        assert reader.status == 200
        assert reader.headers["content-type"] == "text/event-stream"
        assert reader.headers["cache-control"] == "no-store"
        assert reader.headers["x-accel-buffering"] == "no"
        assert reader.headers["x-request-id"]
        assert 1_000 <= reader.retry_ms[0] < 5_000
    async with listening(door, history, method="HEAD") as reader:
        await eventually(lambda: reader.ended, DEADLINE_S)
        assert (reader.status, reader.body) == (200, b"")


async def test_a_new_user_has_a_stream(door: ReadDoor) -> None:
    """An account without any version begins with an empty snapshot, and its first version is a change."""
    history = door.user()
    async with listening(door, history) as reader:
        first = (await reader.told(1))[0]
        assert (first.id, first.data["at"], first.data["balance"]["current_balance"]) == ("0", None, "0.00")
        history.grow(["deposit"])
        await door.project(history, 1)
        assert [event.name for event in await reader.told(2)] == ["snapshot", "change"]


async def test_the_last_id_resumes(door: ReadDoor) -> None:
    """At the account's version there is no snapshot; behind it, and beyond what the ledger has, there is one; the header counts more than the query."""
    history = await door.shown("deposit", "deposit")
    async with listening(door, history, headers={"Last-Event-ID": "2"}, last_event_id="1") as reader:
        history.grow(["deposit"])
        await door.project(history, 3)
        assert [(event.name, event.id) for event in await reader.told(1)] == [("change", "3")]
    async with listening(door, history, last_event_id="2") as reader:
        assert [(event.name, event.id) for event in await reader.told(1)] == [("snapshot", "3")]
    async with listening(door, history, last_event_id="9") as reader:
        assert [(event.name, event.id) for event in await reader.told(1)] == [("snapshot", "3")]


async def test_a_last_id_that_the_view_does_not_show_yet(door: ReadDoor) -> None:
    """What the reader has seen elsewhere is shown, from the ledger if need be."""
    history = await door.shown("deposit")
    history.grow(["deposit", "deposit"])
    async with listening(door, history, last_event_id="3") as reader:
        history.grow(["deposit"])
        await door.project(history, 4)
        assert [(event.name, event.id) for event in await reader.told(1)] == [("change", "4")]


@pytest.mark.parametrize("text", ["-1", "01", "x", "1.0", "9" * 19])
async def test_a_damaged_last_id(door: ReadDoor, text: str) -> None:
    """What is no id is refused, and named."""
    history = await door.shown("deposit")
    answer = await door.client.get("/stream", headers={**door.headers(history), "Last-Event-ID": text})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-header")
    assert answer.json()["errors"][0]["pointer"] == "#/header/Last-Event-ID"
    answer = await door.get("/stream", history, last_event_id=text)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/query/last_event_id")


async def test_a_view_that_is_made_anew_is_told(door: ReadDoor) -> None:
    """What an operator mends has the version that it had: whoever listens gets it all the same, and goes on from there."""
    history = await door.shown("deposit", "deposit")
    await door.cache.client.hset(f"g1:{{{history.username}}}:acct", "cash:USD", '{"available":"99","held":"0","updated_at":"2026-11-25T00:00:00.000Z"}')
    async with listening(door, history) as one, listening(door, history) as other:
        for reader in (one, other):
            assert (await reader.told(1))[0].data["balance"]["current_balance"] == "99.00"
        assert await door.views.refill(history.username, anew=True)
        history.grow(["deposit"])
        for reader in (one, other):
            await reader.told(2)
        await door.project(history, 3)
        for reader in (one, other):
            told = await reader.told(3)
            assert [(event.name, event.id) for event in told] == [("snapshot", "2"), ("snapshot", "2"), ("change", "3")]
            assert Decimal(told[1].data["balance"]["current_balance"]) == history.accounts[2].cash["USD"].available


async def test_what_was_missed_is_covered_by_a_snapshot(door: ReadDoor) -> None:
    """A version that skips others, a view that was loaded as a whole: each is answered with a snapshot of the view; what is old is not told again."""
    history = await door.shown("deposit")
    async with listening(door, history) as reader:
        await reader.told(1)
        history.grow(["deposit", "deposit"])
        await door.views.load(history.username)
        await reader.told(2)
        assert [(event.name, event.id) for event in reader.events] == [("snapshot", "1"), ("snapshot", "3")]
        history.grow(["deposit", "deposit"])
        await door.project(history, 5)  # the guard loads what lies before it
        await reader.told(3)
        assert reader.versions == [1, 3, 5]
        await publish(door, *history.results)
        await door.cache.client.publish(CHANGES + history.username, LOADED + b"5")
        history.grow(["deposit"])
        await door.project(history, 6)
        await reader.told(4)
        assert reader.versions == [1, 3, 5, 6]


async def test_nobody_hears_of_another_user(door: ReadDoor) -> None:
    """Each gets the changes of their own account, also where a message came to the wrong channel."""
    mine, other = await door.shown("deposit"), await door.shown("deposit")
    async with listening(door, mine) as reader, listening(door, other) as second:
        await asyncio.gather(reader.told(1), second.told(1))
        other.grow(["deposit"])
        await door.project(other, 2)
        await second.told(2)
        await door.cache.client.publish(CHANGES + mine.username, encode_result(other.results[1]))
        mine.grow(["deposit"])
        await door.project(mine, 2)
        await reader.told(2)
        assert mine.results[1].request_id == reader.events[1].data["request_id"]
        assert reader.versions == second.versions == [1, 2]


async def test_several_streams_of_one_user(door: ReadDoor) -> None:
    """All get every version through one subscription, which ends with the last of them."""
    history = await door.shown("deposit")
    channel = CHANGES + history.username
    async with listening(door, history) as first, listening(door, history) as second:
        await asyncio.gather(first.told(1), second.told(1))
        history.grow(["deposit"])
        await door.project(history, 2)
        await asyncio.gather(first.told(2), second.told(2))
        assert first.versions == second.versions == [1, 2]
        assert dict(await door.cache.client.pubsub_numsub(channel))[channel.encode()] == 1
    async with listening(door, history) as third:
        await third.told(1)
        history.grow(["deposit"])
        await door.project(history, 3)
        await third.told(2)
    await eventually(lambda: _nobody(door.cache.client, channel), DEADLINE_S)


async def _nobody(redis: Redis, channel: str) -> bool:
    return dict(await redis.pubsub_numsub(channel))[channel.encode()] == 0


async def test_a_lost_subscription(door: ReadDoor) -> None:
    """What was published while the connection to Redis was gone is covered by a snapshot; where nothing was there is none."""
    history, quiet = await door.shown("deposit"), await door.shown("deposit")
    async with listening(door, history) as reader, listening(door, quiet) as still:
        await asyncio.gather(reader.told(1), still.told(1))
        for version in range(2, 12):
            await door.cache.client.client_kill_filter(_type="pubsub")
            history.grow(["deposit"])
            await door.project(history, version)
            await eventually(lambda version=version: reader.versions[-1] == version, DEADLINE_S)
        quiet.grow(["deposit"])
        await door.project(quiet, 2)
        await still.told(2)
        assert [event.name for event in still.events] == ["snapshot", "change"]
        assert_covered(reader, 11)


def assert_covered(reader: Reader, last: int) -> None:
    """Every version, or a snapshot that covers it."""
    seen = 0
    for event in reader.events:
        if event.id is not None:
            version = int(event.id)
            assert version == seen + 1 or (event.name == "snapshot" and version > seen), (seen, event)
            seen = version
    assert seen == last


async def test_a_slow_reader_resumes_with_nothing_missed(door: ReadDoor) -> None:
    """Whoever does not read is told so instead of being sent more, and gets what was missed when it comes back with its last id."""
    history = await door.shown("deposit")
    async with listening(door, history) as reader, listening(door, history) as other:
        await asyncio.gather(reader.told(1), other.told(1))
        reader.reads.clear()
        result = history.grow(["buy"]).results[-1]
        await door.project(history, 2)
        many = 2 * QUEUE_BYTES_MAX // len(encode_result(result))
        await publish(door, *(replace(result, version=version) for version in range(3, many)))
        await eventually(lambda: other.versions and other.versions[-1] == many - 1, DEADLINE_S)
        reader.reads.set()
        await eventually(lambda: reader.ended, DEADLINE_S)
        assert [event.data for event in reader.events if event.name == "resume"] == [{"reason": "slow"}]
        assert reader.events[-1].name == "resume"
        assert len(reader.retry_ms) == 2
        assert reader.versions == list(range(1, reader.versions[-1] + 1))
        assert reader.versions[-1] < many
        assert not other.ended
    async with listening(door, history, headers={"Last-Event-ID": "1"}) as again:
        assert [(event.name, event.id) for event in await again.told(1)] == [("snapshot", "2")]


async def test_heartbeats(lively: ReadDoor) -> None:
    """A quiet stream has a comment now and then; a view that went on without a message is seen then."""
    history = await lively.shown("deposit")
    async with listening(lively, history) as reader:
        await reader.told(3, ":")
        history.grow(["deposit"])
        await lively.cache.client.delete(*[key async for key in lively.cache.client.scan_iter(f"*{{{history.username}}}*")])
        await eventually(lambda: reader.versions == [1, 2], DEADLINE_S)


async def test_prices(door: ReadDoor) -> None:
    """Watched prices are in the snapshot and come as they change, without an id; one without a price comes when it has one."""
    history = await door.shown("deposit")
    async with listening(door, history, assets="btc, SOL") as reader:
        first = (await reader.told(1))[0]
        assert [(price["asset_id"], price["price"]) for price in first.data["prices"]] == [("BTC", "50000.00")]
        await put_price(door, "ETH", "2600.00", 2)
        await put_price(door, "BTC", "50001.50", 2)
        told = (await reader.told(1, "price"))[0]
        assert (told.data["asset_id"], told.data["price"], told.data["sequence"], told.id) == ("BTC", "50001.50", 2, None)
        await put_price(door, "SOL", "9.99", 1)
        assert (await reader.told(2, "price"))[1].data["asset_id"] == "SOL"
    async with listening(door, history, assets="BTC", last_event_id="1") as reader:
        assert [(event.name, event.data["price"]) for event in await reader.told(1)] == [("price", "50001.50")]


async def test_assets_that_cannot_be_watched(door: ReadDoor) -> None:
    """An unknown one is named; what is no id, and too many, are refused."""
    history = await door.shown("deposit")
    answer = await door.get("/stream", history, assets="BTC,NOPE,XX")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown-asset")
    assert "NOPE, XX" in answer.json()["detail"]
    for assets in ("B T", "BTC;ETH", ",".join(f"A{number}" for number in range(51)), "A," * 600):
        answer = await door.get("/stream", history, assets=assets)
        assert (answer.status_code, answer.json()["code"], answer.json()["errors"][0]["pointer"]) == (422, "validation-failed", "#/query/assets")


async def test_streams_of_a_user_are_bounded(door: ReadDoor) -> None:
    """One too many is told to come later; there is room again when one has gone."""
    history = await door.shown("deposit")
    opened = [listening(door, history) for _ in range(LISTENERS_OF_USER_MAX)]
    readers = [await one.__aenter__() for one in opened]
    await asyncio.gather(*(reader.told(1) for reader in readers))
    answer = await door.get("/stream", history)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
    assert answer.headers["Retry-After"]
    await opened.pop().__aexit__(None, None, None)
    async with listening(door, history) as reader:
        await reader.told(1)
    for one in opened:
        await one.__aexit__(None, None, None)


async def test_streams_of_a_process_are_bounded(server: Valkey, tmp_path: Path) -> None:
    """One too many for the process is refused as overload."""
    async with read_door(server.url, tmp_path, listeners_max=1) as door, door.app.lifespan(), listening(door, await door.shown("deposit")) as reader:
        await reader.told(1)
        answer = await door.get("/stream", await door.shown("deposit"))
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")


async def test_a_stop_ends_all_streams(door: ReadDoor) -> None:
    """Streams end at once with what was told before, and say when to come back; none is opened any more."""
    history = await door.shown("deposit")
    async with listening(door, history) as reader:
        await reader.told(1)
        door.app.health.stop()
        await eventually(lambda: reader.ended, DEADLINE_S)
        assert [event.name for event in reader.events] == ["snapshot", "resume"]
        assert reader.events[-1].data == {"reason": "restart"}
        answer = await door.get("/stream", history)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_a_token_that_ends_ends_the_stream(lively: ReadDoor) -> None:
    """Expired and revoked tokens are found at a heartbeat; the other's stream goes on."""
    history = await lively.shown("deposit")
    token = lively.signer.sign(history.username, "family")
    bearer = {"Authorization": f"Bearer {token.text}"}
    async with listening(lively, history, headers=bearer) as reader, listening(lively, await lively.shown("deposit")) as other:
        await asyncio.gather(reader.told(1), other.told(1))
        await lively.denylist.revoke(token.claims.token_id, token.claims.expires_at)
        await eventually(lambda: reader.ended, DEADLINE_S)
        assert reader.events[-1].data == {"reason": "unauthorized"}
        assert not other.ended
        lively.clock.advance(7_200)
        await eventually(lambda: other.ended, DEADLINE_S)
        assert other.events[-1].data == {"reason": "unauthorized"}


async def test_without_redis(tmp_path: Path) -> None:
    """A stream can be opened while Redis is away, from the ledger; changes come when it is back."""
    (tmp_path / "own").mkdir()
    async with valkey(tmp_path / "own") as own, read_door(own.url, tmp_path, heartbeat_s=QUIET_S) as door, door.app.lifespan():
        history = door.user("deposit")
        await own.stop()
        async with listening(door, history) as reader:
            assert [(event.name, event.id) for event in await reader.told(1)] == [("snapshot", "1")]
            history.grow(["deposit"])
            await own.start()
            await eventually(lambda: reader.versions == [1, 2], DEADLINE_S)
            history.grow(["deposit"])
            await eventually(lambda: _projected(door, history, 3), DEADLINE_S)
            await reader.told(3)
            assert_covered(reader, 3)


async def _projected(door: ReadDoor, history: History, version: int) -> bool:
    try:
        await door.project(history, version)
    except ConnectionError:
        return False
    return True


async def test_the_ledger_away(door: ReadDoor) -> None:
    """A stream that cannot begin is refused, and leaves nothing behind."""
    history = door.user("deposit")
    door.reads.away = True
    answer = await door.get("/stream", history)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    door.reads.away = False
    async with listening(door, history) as reader:
        await reader.told(1)


async def test_the_status_of_the_account(door: ReadDoor) -> None:
    """A parked account says so in each change until it is active again."""
    history = await door.shown("deposit")
    history.grow(["refuse", "deposit", "refuse", "deposit"])
    parked, deposit, drained, last = history.results[1:]
    async with listening(door, history, last_event_id="1") as reader:
        await eventually(lambda: reader.status == 200, DEADLINE_S)
        bare = {"refusal": None, "payload": {}}
        await publish(door, replace(parked, kind="AccountParked", parking=Parking("parked", "decision"), **bare), deposit)  # type: ignore[arg-type]
        await publish(door, replace(drained, kind="DrainRequested", parking=Parking("active"), **bare), last)  # type: ignore[arg-type]
        changes = await reader.told(4)
        assert [event.data["status"] for event in changes] == ["parked", "parked", "active", "active"]
        assert changes[1].data["balance"]["status"] == "parked"


async def test_a_token_is_needed(door: ReadDoor) -> None:
    """Without one there is no stream."""
    assert (await door.client.get("/stream")).status_code == 401
