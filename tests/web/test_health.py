"""Health tells the truth about every dependency, in bounded time."""

import asyncio

from infra.http import Background, Health, admin_app
from infra.http_health import JointHealth
from tests.fakes.clock import FakeIds
from tests.web.toy import served


async def well() -> None:
    """A dependency that answers."""


async def away() -> None:
    raise ConnectionRefusedError("port 1")


async def hangs() -> None:
    await asyncio.Event().wait()


async def test_ready() -> None:
    """Ready while every check passes; one that fails or hangs is named, within its bound, and the others are told as well."""
    health = Health(timeout_s=0.05)
    health.check("redis", well)
    assert (await health.ready()).ok
    health = Health(timeout_s=0.05)
    for name, check in (("redis", well), ("kafka", away), ("dynamodb", hangs)):
        health.check(name, check)
    report = await asyncio.wait_for(health.ready(), 1)
    assert not report.ok
    assert report.states == {"redis": "ok", "kafka": "ConnectionRefusedError: port 1", "dynamodb": "no answer in 0.05 s"}


async def test_checked_once() -> None:
    """However many ask at once, a dependency is asked once."""
    asked = 0

    async def counted() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)

    health = Health()
    health.check("redis", counted)
    assert all(report.ok for report in await asyncio.gather(*(health.ready() for _ in range(50))))
    assert asked == 1


async def test_over_http() -> None:
    """/readyz and /livez answer 200 or 503 with the states, without a token; /health sums both up."""
    health, background = Health(timeout_s=0.05), Background()
    alive = True
    health.probe("consumer", lambda: alive)
    health.check("kafka", away)
    async with served(admin_app("worker", ids=FakeIds(), health=health, background=background)) as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "failing", "service": "worker", "checks": {"kafka": "ConnectionRefusedError: port 1"}})
        assert (await client.get("/livez")).json() == {"status": "ok", "service": "worker", "checks": {"consumer": "ok", "background": "ok"}}
        alive = False
        live = await client.get("/livez")
        assert (live.status_code, live.json()["checks"]["consumer"]) == (503, "dead")
        summary = await client.get("/health")
        assert summary.status_code == 503
        assert summary.json()["dependencies"] == {"kafka": "ConnectionRefusedError: port 1"}
        assert (await client.get("/docs")).status_code == 404


async def test_stopping() -> None:
    """A process that stops is alive, but takes no more work."""
    health = Health()
    health.stop()
    assert (await health.ready()).states == {"process": "stopping"}
    assert health.live().ok


async def test_joint() -> None:
    """Several parts are well only while each of them is; equal names do not hide each other."""
    first, second = Health(), Health()
    first.check("redis", well)
    second.check("redis", away)
    second.probe("tasks", lambda: False)
    joint = JointHealth({"commands": first, "queries": second})
    assert (await joint.ready()).states == {"commands.redis": "ok", "queries.redis": "ConnectionRefusedError: port 1"}
    assert joint.live().states == {"queries.tasks": "dead"}
