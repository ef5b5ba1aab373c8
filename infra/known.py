"""What was read a moment ago, and is read again when it has become old: once for all who ask."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class Known(Generic[V]):
    """The last reading, at most `memory_s` old when it is given out. What `read` raises, whoever asks gets; then it is read again for the next one."""

    def __init__(self, read: Callable[[], Awaitable[V]], *, memory_s: float) -> None:
        self._read = read
        self._memory_s = memory_s
        self._value: V | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def value(self) -> V:
        """The reading. Its age counts from before it was read."""
        if self._is_old():
            async with self._reading:
                if self._is_old():
                    return await self.again()
        return self._value  # type: ignore[return-value] # there is one: it is not old

    async def again(self) -> V:
        """Read it now."""
        started = asyncio.get_running_loop().time()
        self._value = await self._read()
        self._read_at = started
        return self._value

    def _is_old(self) -> bool:
        return asyncio.get_running_loop().time() - self._read_at >= self._memory_s
