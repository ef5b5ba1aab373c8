"""The live stream of a whole system: listeners through a projector that is killed, through a lost connection to Redis, and through an order's life."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.listeners import Stream, all_at, close, deposit, faults, open_streams
from infra.clock import SystemClock, SystemIds
from infra.tokens import TokenSigner
from tests.system.running import API, BACK_S, System, answered
from tests.waiting import eventually

LISTENERS = 300
DEPOSITS = 4


def tokens(system: System, count: int, name: str) -> list[str]:
    """Of users who need not be registered: the doors believe their own signature."""
    signer = TokenSigner.from_file(Path(system.stack.environment()["CNOP_JWT_PRIVATE_KEY_FILE"]), SystemClock(), SystemIds())
    return [signer.sign(f"{name}_{number}", "test").text for number in range(count)]


@asynccontextmanager
async def streams_of(system: System, given: Sequence[str]) -> AsyncIterator[list[Stream]]:
    opened = await open_streams(system.addresses.origin_url, given)
    try:
        yield opened
    finally:
        close(opened)


async def test_a_projector_that_is_killed(system: System) -> None:
    """Every listener has every version, or a snapshot that covers it."""
    url, given = system.addresses.origin_url + API, tokens(system, LISTENERS, "listener")
    async with streams_of(system, given) as streams:
        await deposit(url, given, 1)
        await all_at(streams, 1, BACK_S)
        depositing = asyncio.create_task(deposit(url, given, DEPOSITS - 2))
        pid = system.kill("projector")
        await depositing
        await system.replaced("projector", pid)
        await deposit(url, given, 1)
        await all_at(streams, DEPOSITS, BACK_S)
        assert not faults(streams)
        assert {stream.told.version for stream in streams} == {DEPOSITS}


async def test_a_lost_connection_to_redis(system: System) -> None:
    """What was told while nobody was subscribed is covered."""
    url, given = system.addresses.origin_url + API, tokens(system, 20, "cut_off")
    async with streams_of(system, given) as streams:
        for turn in range(1, DEPOSITS + 1):
            await system.redis.client_kill_filter(_type="pubsub")
            await deposit(url, given, 1)
            await all_at(streams, turn, BACK_S)
        assert not faults(streams)


async def test_what_an_order_does(system: System) -> None:
    """Acceptance and cancel of an order, each with the balance after it, over HTTP; a second stream resumes at the last id."""
    user = await system.user("1000.00")
    async with system.http.stream("GET", f"{API}/stream", params={"assets": "BTC"}, headers=user.headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        lines = answer.aiter_lines()
        first = await _event(lines)
        assert (first["event"], first["id"]) == ("snapshot", "1")
        body = {"asset_id": "BTC", "order_type": "limit_buy", "quantity": "0.001", "price": "100.00"}
        order = answered(await user.post("/orders", body), 201)["data"]
        accepted = await _event(lines)
        assert (accepted["event"], accepted["id"]) == ("change", "2")
        assert order["order_id"] in accepted["data"]
        answered(await user.call("DELETE", f"/orders/{order['order_id']}"), 200)
        cancelled = await _event(lines)
        assert cancelled["id"] == "3"
        assert '"status":"cancelled"' in cancelled["data"]
    async with system.http.stream("GET", f"{API}/stream", headers={**user.headers, "Last-Event-ID": "2"}) as answer:
        resumed = await _event(answer.aiter_lines())
        assert (resumed["event"], resumed["id"]) == ("snapshot", "3")


async def _event(lines: AsyncIterator[str]) -> dict[str, str]:
    """The next event of the account."""
    event: dict[str, str] = {}
    async with asyncio.timeout(BACK_S):
        async for line in lines:
            name, _, value = line.partition(": ")
            if line:
                event[name] = value
            elif "id" in event:
                return event
            else:
                event = {}
    raise AssertionError("the stream ended")


async def test_a_door_that_stops(system: System) -> None:
    """The door's stop does not wait for its streams: each is told to come back."""
    given = tokens(system, 5, "restarted")
    async with streams_of(system, given) as streams:
        pid = system.stack.pid("origin")
        await system.stop("origin")
        await eventually(lambda: all(stream.told.ended == "resume" for stream in streams), 1)
        await system.start("origin")
        await system.replaced("origin", pid)
