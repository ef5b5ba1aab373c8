"""Waiting for a condition with a deadline: the only place in the tests that sleeps."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.02


async def eventually(condition: Callable[[], Any | Awaitable[Any]], within_s: float) -> Any:
    """The first true answer of a condition, plain or async. AssertionError, with the last answer, where none comes in time."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not true within {within_s} s; the last answer was {answer!r}")
        await asyncio.sleep(POLL_S)
