"""A process ends when it is told to, in time, and with a status that tells whether all was well."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.process import Background, BackgroundFailed

SCRIPT = Path(__file__).with_name("process_under_test.py")
ROOT = SCRIPT.parents[2]
DEADLINE_S = 20.0


@asynccontextmanager
async def started(what: str, shutdown_s: float) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        what,
        str(shutdown_s),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"


async def lines(process: asyncio.subprocess.Process) -> list[dict[str, Any]]:
    output, _ = await process.communicate()
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stops(number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end it with status 0."""
    async with started("obey", 5) as process:
        await ready(process)
        process.send_signal(number)
        said = await lines(process)
        assert process.returncode == 0
        assert [(line["message"], line["signal"]) for line in said] == [("stopping", number.name)]


async def test_fails() -> None:
    """An error ends it with status 1, and one log line with its reason and traceback."""
    async with started("fail", 5) as process:
        (line,) = await lines(process)
        assert process.returncode == 1
        assert (line["level"], line["message"], line["reason"]) == ("critical", "process failed", "it broke")
        assert line["exception"][0]["frames"][-1].endswith(" fail")


@pytest.mark.parametrize(("what", "reason"), [("background_fails", "background task work failed"), ("background_ends", "background task work ended")])
async def test_background(what: str, reason: str) -> None:
    """A background task that ends, with or without an error, ends the process with status 1."""
    async with started(what, 5) as process:
        (line,) = await lines(process)
        assert (process.returncode, line["reason"]) == (1, reason)


@pytest.mark.parametrize("what", ["linger", "block"])
async def test_gone_in_time(what: str) -> None:
    """What does not stop in time is ended, even where the event loop is blocked."""
    async with started(what, 0.2) as process:
        await ready(process)
        process.send_signal(signal.SIGTERM)
        said = await lines(process)
        assert process.returncode == 70
        assert said[-1]["reason"] == "not stopped within 0.2 s"


async def test_second_signal() -> None:
    """A second signal ends it at once."""
    async with started("linger", 60) as process:
        await ready(process)
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert b"stopping" in await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        await lines(process)
        assert process.returncode == 128 + signal.SIGINT


async def test_tasks_are_held_and_ended() -> None:
    """At its end the background cancels its tasks and waits until they have cleaned up; that is no failure."""
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    async with Background() as background:
        background.start("work", work())
        await begun.wait()
        assert background.alive()
    assert cleaned.is_set()
    assert background.alive()


async def test_first_failure_counts() -> None:
    """The first task that fails is the reason; its error is the cause."""

    async def work() -> None:
        raise ValueError("first")

    background = Background()
    background.start("a", work())
    with pytest.raises(BackgroundFailed, match="task a failed") as failed:
        await background.failed()
    assert isinstance(failed.value.__cause__, ValueError)
    assert not background.alive()
