"""A process that does what its argument says. Run by the tests of `infra.process`."""

import asyncio
import sys
import time

from infra import telemetry
from infra.process import Background, run_process
from infra.settings import Settings


async def obey(stop: asyncio.Event) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stop.wait()


async def fail(_stop: asyncio.Event) -> None:
    raise RuntimeError("it broke")


async def linger(stop: asyncio.Event) -> None:
    await obey(stop)
    await asyncio.Event().wait()


async def block(_stop: asyncio.Event) -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        time.sleep(0.01)  # noqa: ASYNC251 - the fault that is tested


async def background_fails(_stop: asyncio.Event) -> None:
    async def work() -> None:
        raise ValueError("no more")

    async with Background() as background:
        background.start("work", work())
        await background.failed()


async def background_ends(_stop: asyncio.Event) -> None:
    async def work() -> None:
        pass

    async with Background() as background:
        background.start("work", work())
        await background.failed()


if __name__ == "__main__":
    telemetry.configure("under-test", Settings())
    run_process(globals()[sys.argv[1]], shutdown_s=float(sys.argv[2]))
