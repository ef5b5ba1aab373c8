"""Waiting for a condition with a deadline: the only place in the tests that sleeps."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


async def eventually(condition: Callable[[], T | Awaitable[T]], within_s: float, what: str | Callable[[], str] = "condition") -> T:
    """Ask again and again until the answer is true, and return it. AssertionError, with the last answer and what was waited for, when the time is up."""
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what if isinstance(what, str) else what()}: not within {within_s} s, last answer {answer!r}"
        await asyncio.sleep(POLL_S)
