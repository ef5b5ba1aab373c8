"""What is told of requests: together, in their order, soon, and nothing is left out at a scrape or at the end."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import structlog
from prometheus_client import REGISTRY

from infra import gathered
from infra.gathered import WAITING_MAX
from infra.http_access_log import AccessLog, Ended
from tests.waiting import eventually
from tests.web.toy import DEADLINE_S, Door, served

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
LATE_S = 3_600.0


def ended(number: int) -> Ended:
    """A request that ended `number` seconds after a moment."""
    return Ended((MOMENT + timedelta(seconds=number), f"r-{number}", "alice_1"), "GET", "/rows", 200, 0.01, None)


async def test_requests_of_one_moment_are_told_together() -> None:
    """In the order of their ends, with the moment and the user of each, and without anybody asking for it."""
    log = AccessLog()
    with structlog.testing.capture_logs() as lines:
        for number in range(3):
            log.add(ended(number))
        assert not lines
        await eventually(lambda: lines, DEADLINE_S)
    assert [(line["request_id"], line["timestamp"], line["username"]) for line in lines] == [
        (f"r-{number}", MOMENT + timedelta(seconds=number), "alice_1") for number in range(3)
    ]


async def test_those_that_wait_are_bounded() -> None:
    """Many of them are told of before their time, and then the count begins again."""
    log = AccessLog()
    with structlog.testing.capture_logs() as lines:
        for number in range(WAITING_MAX):
            log.add(ended(number))
        assert len(lines) == WAITING_MAX
        log.add(ended(0))
        assert len(lines) == WAITING_MAX
        log.flush()
        assert len(lines) == WAITING_MAX + 1


async def test_a_scrape_counts_every_request_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that would still wait."""
    monkeypatch.setattr(gathered, "GATHER_S", LATE_S)
    name = 'cnop_http_request_seconds_count{method="DELETE",route="/api/v1/rows/{row_id}",status="4xx"}'

    def count(page: str) -> float:
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))

    door = Door()
    async with served(door.app) as client:
        before = count((await client.get("/metrics")).text)
        for _ in range(3):
            await client.delete("/api/v1/rows/abc", headers=door.bearer())
        assert count((await client.get("/metrics")).text) == before + 3


async def test_a_door_that_stops_has_told_of_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of those that would still wait."""
    monkeypatch.setattr(gathered, "GATHER_S", LATE_S)
    door = Door()
    with structlog.testing.capture_logs() as lines:
        async with served(door.app) as client:
            await client.get("/api/v1/me", headers={**door.bearer(), "X-Request-ID": "r-last"})
            assert not [line for line in lines if line["event"] == "request"]
    assert [(line["request_id"], line["username"]) for line in lines if line["event"] == "request"] == [("r-last", "alice_1")]


async def test_a_request_that_ends_after_the_door_is_told_of_at_once() -> None:
    """The server cuts off what runs when its time to stop is over, and waits for it no more: the loop may end before a timer would."""
    log = AccessLog()
    with structlog.testing.capture_logs() as lines:
        async with log.lifespan(None):
            log.add(ended(0))
            assert not lines
        log.add(ended(1))
        assert [line["request_id"] for line in lines] == ["r-0", "r-1"]


async def test_what_is_counted_does_not_depend_on_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request is, where a line cannot be written."""
    log = AccessLog()

    def refuses(_event: str, **_said: object) -> None:
        raise OSError("no space left")

    def count() -> float:
        return REGISTRY.get_sample_value("cnop_http_request_seconds_count", {"method": "GET", "route": "/rows", "status": "2xx"}) or 0.0

    before = count()
    monkeypatch.setattr(log, "_log", SimpleNamespace(info=refuses))
    for number in range(3):
        log.add(ended(number))
    with pytest.raises(OSError, match="no space"):
        log.flush()
    assert count() == before + 3
