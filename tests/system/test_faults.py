"""What the system promises while parts of it are away or die: nothing acknowledged is lost, nothing happens twice, and it is itself again by itself."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from events.topics import RESULTS
from infra.cache_client import Cache
from infra.generations import KNOWN_S, Generations, KeptPointer, Live
from infra.local.home import MACHINES, PROCESSES, log_file
from schemas.requests import request_id
from schemas.results import decode_result
from tests.system.running import API, BACK_S, CHOSEN, System, User, answered, refused
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)

AWAY_S = 8.0
"""An answer that depends on a part that is away comes within this time: the waits for an acknowledgement and for an outcome are shorter."""
READ_S = 3.0
FLIGHT = 50
USERS = 5
LOSSES = 20
SHUTDOWN_S = float(CHOSEN["CNOP_SHUTDOWN_S"])


async def test_kafka_is_away(system: System) -> None:
    """Writes are refused at once, told as retryable and with a key to repeat them under; reads and logins go on; when Kafka is back so is all."""
    user = await system.user("10.00")
    await system.stop("kafka")
    try:
        keys = [f"away-{number}" for number in range(4)]
        told = [await within(AWAY_S, user.deposit("1.00", Idempotency_Key=key)) for key in keys]
        for key, answer in zip(keys, told, strict=True):
            assert_try_again(answer, key, {"unavailable", "outcome-unknown"})
        quick = await eventually(lambda: unavailable(user), AWAY_S)
        assert quick.elapsed.total_seconds() < 1.0
        for path in ("/balance", "/orders", "/portfolio", "/balance/transactions", "/inventory/assets", "/auth/profile"):
            answered(await within(READ_S, user.get(path)), 200)
        assert await user.balance() == "10.00"
        user.tokens = await system.login(user.username)
        ready = await system.http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "failing")
        assert (await system.http.get("/livez")).status_code == 200
    finally:
        await system.start("kafka")
    await system.whole()
    for key in keys:
        await settles(user, "1.00", key)
    assert await user.balance() == "14.00"
    await each_once(system, user, [*keys, None])


async def test_kafka_does_not_answer(system: System) -> None:
    """A request that was handed over and not acknowledged is told as unknown, with its command; a retry with its key does not double it."""
    user = await system.user("10.00")
    system.kill("kafka", signal.SIGSTOP)
    try:
        await eventually(lambda: all_stand_still(system.stack.pid("kafka")), BACK_S, "every thread of the broker is stopped")
        answer = await within(AWAY_S, user.deposit("1.00"))
        key = answer.headers["Idempotency-Key"]
        body = assert_try_again(answer, key, {"outcome-unknown"})
        assert answer.headers["Location"] == f"{API}/commands/{body['command_id']}"
        assert (await within(READ_S, user.read(f"/commands/{body['command_id']}")))["state"] == "pending"
        assert_try_again(await within(AWAY_S, user.deposit("1.00")), None, {"unavailable"})
        # The first one may still come: to call its repetition "nothing was sent" would invite the caller to send it anew.
        assert_try_again(await within(AWAY_S, user.deposit("1.00", Idempotency_Key=key)), key, {"outcome-unknown"})
    finally:
        system.kill("kafka", signal.SIGCONT)
    await settles(user, "1.00", key)
    assert (await user.read(f"/commands/{body['command_id']}"))["state"] == "settled"
    assert await user.balance() == "11.00"
    await system.whole()
    await each_once(system, user, [None, key])


def all_stand_still(pid: int) -> bool:
    """Whether a stop has come to all threads of a process: on a busy machine that takes a while."""
    return all(task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for task in Path(f"/proc/{pid}/task").iterdir())


@pytest.mark.parametrize("victim", ["settlement", "projector"])
async def test_a_processor_is_killed_under_load(system: System, victim: str) -> None:
    """Of the requests in flight when it dies all that were acknowledged settle, each once, in versions without a gap, and are shown."""
    users = [await system.user() for _ in range(USERS)]
    first = asyncio.Event()

    async def post(number: int) -> tuple[User, str]:
        user = users[number % USERS]
        answer = await user.deposit(f"{number + 1}.00", Prefer="respond-async")
        answered(answer, 202)
        first.set()
        return user, answer.headers["Idempotency-Key"]

    posts = [asyncio.create_task(post(number)) for number in range(FLIGHT)]
    await first.wait()
    pid = system.kill(victim)
    acknowledged = await asyncio.gather(*posts)
    await system.replaced(victim, pid)
    for user in users:
        keys = [key for owner, key in acknowledged if owner is user]
        await eventually(lambda user=user, keys=keys: has_version(user, len(keys)), BACK_S)
        await each_once(system, user, keys)
    total = sum([Decimal(await user.balance()) for user in users], Decimal(0))
    assert total == FLIGHT * (FLIGHT + 1) // 2


async def test_the_projector_is_away(system: System) -> None:
    """A write is answered at the end of its wait all the same, and the next reads show it."""
    user = await system.user("1000.00")
    await system.stop("projector")
    try:
        order = answered(await within(AWAY_S, user.order("ETH", "0.01")), 201)["data"]
        assert (await user.read("/orders"))["data"] == [order]
        assert (await user.read("/portfolio"))["assets"][0]["asset_id"] == "ETH"
        answered(await within(AWAY_S, user.deposit("1.00", Prefer="wait=1")), 201)
        assert await user.balance() == "970.97"
    finally:
        await system.start("projector")
    answered(await user.deposit("1.00"), 201)
    assert await user.balance() == "971.97"


async def test_the_origin_is_killed(system: System) -> None:
    """Whoever got no answer repeats with the same key; each deposit happens once."""
    user = await system.user()
    keys = [f"cut-{number}" for number in range(FLIGHT)]
    first = asyncio.Event()

    async def post(key: str) -> None:
        while True:
            try:
                answer = await user.deposit("1.00", Idempotency_Key=key)
            except httpx.TransportError:
                await eventually(lambda: asyncio.to_thread(system.stack.is_ready, "origin"), BACK_S)
                continue
            first.set()
            if answer.status_code == 201:
                return
            assert answer.status_code in {202, 503}, answer.text

    posts = [asyncio.create_task(post(key)) for key in keys]
    await first.wait()
    pid = system.kill("origin")
    await asyncio.gather(*posts)
    await system.replaced("origin", pid)
    assert await user.balance() == f"{FLIGHT}.00"
    await each_once(system, user, keys)


async def test_the_store_is_away(system: System) -> None:
    """What is cached is shown on; a write that the log took is told as pending and settles when the store is back; one that cannot be checked is refused."""
    user = await system.user("10.00")
    for path in ("/balance", "/inventory/assets"):
        await user.read(path)
    await system.stop("dynamodb")
    try:
        assert await within(READ_S, user.balance()) == "10.00"
        for path in ("/orders", "/balance/transactions", "/portfolio", "/inventory/assets"):
            answered(await within(READ_S, user.get(path)), 200)
        answer = await within(AWAY_S, user.deposit("1.00", Prefer="wait=2"))
        command_id = answered(answer, 202)["command_id"]
        keyed = await within(AWAY_S, user.deposit("1.00", Idempotency_Key="asked"))
        assert_try_again(keyed, "asked", {"unavailable"})
        refused(await within(AWAY_S, user.get(f"/commands/{command_id}")), 503, "unavailable")
        assert (await system.http.get("/readyz")).status_code == 503
    finally:
        await system.start("dynamodb")
    await eventually(lambda: has_version(user, 2), BACK_S)
    assert (await user.read(f"/commands/{command_id}"))["state"] == "settled"
    await settles(user, "1.00", "asked")
    assert await user.balance() == "12.00"
    await system.whole()
    await each_once(system, user, [None, answer.headers["Idempotency-Key"], "asked"])


async def test_the_cache_is_emptied(system: System) -> None:
    """Views fill themselves from the ledger, by a read or by the next result, and show the same as before."""
    reader, writer = [await system.user("1000.00") for _ in range(2)]
    for user in (reader, writer):
        answered(await user.order("BTC", "0.001"), 201)
    before = await picture(reader)
    await system.redis.flushall()
    assert await picture(reader) == before
    answered(await writer.deposit("1.00"), 201)
    assert await writer.balance() == "950.95"
    assert len((await writer.read("/orders"))["data"]) == 1
    assert (await system.http.get(f"{API}/inventory/assets/BTC")).json()["data"]["price_usd"] == 50000.0


async def test_the_cache_is_emptied_while_a_later_generation_is_read(system: System) -> None:
    """After a 201 the next read shows it also then: nobody takes the first generation for the one that is read, not for a moment."""
    cache = Cache(system.addresses.redis_url, client_name="test")
    generations = Generations(cache, KeptPointer(system.dynamo))
    before = await generations.read()
    later = Live(before.serving + 1)
    users = [await system.user("1000.00") for _ in range(LOSSES)]
    await learned(generations, before, later)
    for user in users:
        await system.redis.flushall()
        for deposits in (1, 2):
            answered(await user.deposit("1.00"), 201)
            assert await user.balance() == f"{1000 + deposits}.00"
    assert await generations.read() == later
    await learned(generations, later, before)
    await cache.stop()


async def learned(generations: Generations, before: Live, after: Live) -> None:
    """Set the pointer at once, without the steps that a switch takes, and wait until nobody acts on what was before."""
    await generations.change(before, after)
    loop = asyncio.get_running_loop()
    over = loop.time() + 2 * KNOWN_S
    await eventually(lambda: loop.time() > over, BACK_S)


async def test_the_cache_is_away(system: System) -> None:
    """Reads go to the ledger and say so; writes are refused, since a revoked token could not be told; a logout outlives a restart of the cache."""
    user, gone = await system.user("1000.00"), await system.user()
    answered(await user.order("BTC", "0.001"), 201)
    before = await picture(user)
    answered(await gone.post("/auth/logout", {}), 200)
    await system.stop("valkey")
    try:
        answer = await within(READ_S, user.get("/balance"))
        assert (answered(answer, 200)["current_balance"], answer.headers["Cache-Status"]) == ("949.95", "cnop; fwd=bypass")
        assert await within(AWAY_S, picture(user)) == before
        answer = await within(READ_S, user.deposit("1.00"))
        refused(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    finally:
        await system.start("valkey")
    await settles(user, "1.00", "after")
    assert await user.balance() == "950.95"
    refused(await gone.get("/balance"), 401, "unauthorized")
    await system.whole()


async def test_sigterm(system: System) -> None:
    """Each process finishes and ends by itself, in time and with status 0; its supervisor starts it anew."""
    log = log_file(system.stack.home, "supervisor")
    seen = len(log.read_text())
    pids = {name: system.kill(name, signal.SIGTERM) for name in PROCESSES}
    gone, alive = await asyncio.to_thread(psutil.wait_procs, [process for pid in pids.values() for process in processes(pid)], SHUTDOWN_S)
    assert not alive, f"still there after {SHUTDOWN_S} s: {alive}; gone: {gone}"
    for name, pid in pids.items():
        await system.replaced(name, pid)
    ended = dict(re.findall(r"exited: (\w+) \((exit status \d+|terminated by \w+)", log.read_text()[seen:]))
    assert ended == dict.fromkeys(PROCESSES, "exit status 0")
    user = await system.user("1.00")
    assert await user.balance() == "1.00"


async def test_everything_is_killed_at_once(system: System) -> None:
    """After a start on the same home balances, orders and tokens are what they were, and what was on its way settles once."""
    user = await system.user("1000.00")
    for asset in ("BTC", "ETH"):
        answered(await user.order(asset, "0.001"), 201)
    before = await picture(user)
    flight = [asyncio.create_task(user.deposit("1.00", Prefer="respond-async", Idempotency_Key=f"crash-{number}")) for number in range(FLIGHT)]
    done, _ = await asyncio.wait(flight, return_when=asyncio.FIRST_COMPLETED)
    assert done
    await system.crash_and_restart()
    answers = await asyncio.gather(*flight, return_exceptions=True)
    acknowledged = [number for number, answer in enumerate(answers) if isinstance(answer, httpx.Response) and answer.status_code == 202]
    assert acknowledged
    for number in range(FLIGHT):
        await settles(user, "1.00", f"crash-{number}")
    after = await picture(user)
    assert after["orders"] == before["orders"]
    assert after["holdings"] == before["holdings"]
    assert Decimal(after["cash"]) == Decimal(before["cash"]) + FLIGHT
    await each_once(system, user, [None, None, None, *(f"crash-{number}" for number in range(FLIGHT))])
    assert {name for name in (*MACHINES, *PROCESSES) if system.stack.is_ready(name)} == {*MACHINES, *PROCESSES}


# What must hold


async def each_once(system: System, user: User, keys: Sequence[str | None]) -> None:
    """An account has one entry for each request and no other (None: one of any key), versions 1, 2, 3 …, and each has one result that was published."""
    entries = await system.entries(user.username)
    wanted = Counter(request_id(user.username, key) for key in keys if key)
    assert not wanted - Counter(entry.request_id for entry in entries)
    assert [entry.version for entry in entries] == list(range(1, len(keys) + 1))

    async def published() -> list[tuple[int, str]] | None:
        results = [decode_result(record.value) for record in await system.records(RESULTS, user.username)]
        return [(result.version, result.request_id) for result in results] if len(results) >= len(entries) else None

    assert await eventually(published, BACK_S) == [(entry.version, entry.request_id) for entry in entries]


def assert_try_again(answer: httpx.Response, key: str | None, codes: set[str]) -> dict[str, Any]:
    body = answer.json()
    assert (answer.status_code, body["retryable"]) == (503, True), answer.text
    assert body["code"] in codes
    assert int(answer.headers["Retry-After"]) >= 1
    assert body["command_id"] == answer.headers["Command-Id"]
    assert key is None or answer.headers["Idempotency-Key"] == key
    return dict(body)


async def settles(user: User, amount: str, key: str) -> None:
    """A client that repeats a deposit under its key gets 201 in the end."""

    async def repeat() -> bool:
        try:
            answer = await user.deposit(amount, Idempotency_Key=key)
        except httpx.TransportError:
            return False
        assert answer.status_code in {201, 202, 503}, answer.text
        return answer.status_code == 201

    await eventually(repeat, BACK_S)


async def within(seconds: float, answer: Any) -> Any:
    async with asyncio.timeout(seconds):
        return await answer


async def unavailable(user: User) -> httpx.Response | None:
    answer = await user.deposit("1.00")
    return answer if answer.json().get("code") == "unavailable" else None


async def has_version(user: User, version: int) -> bool:
    answer = await user.get("/balance")
    return answer.status_code == 200 and answer.json()["version"] >= version


async def picture(user: User) -> dict[str, Any]:
    return {
        "cash": await user.balance(),
        "orders": (await user.read("/orders"))["data"],
        "rows": (await user.read("/balance/transactions", limit=100))["transactions"],
        "holdings": [(line["asset_id"], line["quantity"], line["average_cost"]) for line in (await user.read("/assets/balances"))["data"]],
    }


def processes(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.NoSuchProcess:
        return []
