"""Settlement falls behind: the backlog grows in Kafka up to a bound, the door refuses what is over it and holds nothing, and takes it again by itself."""

import asyncio
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.system.running import BACK_S, CHOSEN, System, User, answered, refused
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(180)

LAG_MAX = int(CHOSEN["CNOP_LAG_MAX"])
AT_ONCE = 50
GROWTH_MAX = 32 * 2**20
REFUSED = 2_000


async def test_a_backlog_is_bounded(system: System) -> None:
    """Over the bound 503 with a time to come back, for writes alone, and no memory for them; drained, all is taken again and each request settled once."""
    user, key = await system.user("1.00"), "asked-before"
    await system.stop("settlement")
    try:
        pending = answered(await user.deposit("1.00", Idempotency_Key=key, Prefer="respond-async"), 202)
        sent = 1 + await fill(user)
        shed = await user.deposit("1.00")
        assert refused(shed, 503, "overloaded")["retryable"]
        assert 1 <= int(shed.headers["Retry-After"]) <= 30
        assert "This call sent nothing." in shed.json()["detail"]
        assert await user.balance() == "1.00"
        assert answered(await user.get(f"/commands/{pending['command_id']}"), 200)["state"] == "pending"
        fence = await user.call("POST", f"/commands/{pending['command_id']}/fence", headers={"Prefer": "respond-async"})
        assert answered(fence, 202)["state"] == "pending"
        await holds_nothing(system, user)
    finally:
        await system.start("settlement")
    answered(await eventually(lambda: taken(user), BACK_S), 201)
    assert await user.balance() == f"{sent + 2}.00"


async def fill(user: User) -> int:
    """Send, without waiting for outcomes, until one is refused; returns how many were taken."""
    taken_in_all = 0
    while True:
        answers = await asyncio.gather(*(user.deposit("1.00", Prefer="respond-async") for _ in range(AT_ONCE)))
        codes = [answer.status_code for answer in answers]
        taken_in_all += codes.count(202)
        if set(codes) != {202}:
            assert set(codes) <= {202, 503}
            assert taken_in_all >= LAG_MAX
            return taken_in_all


async def holds_nothing(system: System, user: User) -> None:
    """What is refused leaves nothing behind in the door, however much of it comes."""
    door = psutil.Process(system.stack.pid("origin"))
    await asyncio.gather(*(user.deposit("1.00") for _ in range(AT_ONCE)))
    before = door.memory_info().rss
    for _ in range(REFUSED // AT_ONCE):
        answers = await asyncio.gather(*(user.deposit("1.00") for _ in range(AT_ONCE)))
        assert {answer.status_code for answer in answers} == {503}
    assert door.memory_info().rss - before < GROWTH_MAX
    figures = await metrics(system)
    assert (figures["cnop_waiters"], figures["cnop_publishes_in_flight"], figures["cnop_bodies_held_bytes"]) == (0, 0, 0)
    assert figures["cnop_requests_shed_total"] >= REFUSED
    assert figures["cnop_settlement_behind_closed"] == 1


async def metrics(system: System) -> dict[str, float]:
    """Sums over all labels."""
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families((await system.http.get("/metrics")).text):
        for sample in family.samples:
            figures[sample.name] = figures.get(sample.name, 0) + sample.value
    return figures


async def taken(user: User) -> httpx.Response | Any:
    answer = await user.deposit("1.00", Idempotency_Key="taken-again")
    return answer if answer.status_code == 201 else None
