"""Waiting for something that is seen by looking."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], Awaitable[bool]], *, every_s: float, within_s: float) -> None:
    """Look again and again until it holds. TimeoutError past the bound."""
    async with asyncio.timeout(within_s):
        while True:
            if await holds():
                return
            await asyncio.sleep(every_s)
