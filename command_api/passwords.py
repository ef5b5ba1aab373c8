"""Passwords: argon2id in threads of their own, a few at once, and a wrong answer as dear as a right one.

Parameters are OWASP's minimum for argon2id (Password Storage Cheat Sheet: 19 MiB, 2 passes, 1 lane): one check takes some 20 ms of one core,
so the number of checks at once and of callers in the queue bounds what logins can take from the door.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from prometheus_client import Gauge, Histogram

T = TypeVar("T")

MEMORY_KIB: Final = 19_456
PASSES: Final = 2
LANES: Final = 1
AT_ONCE: Final = 2
WAITING_MAX: Final = 64
"""Callers that may wait for their turn; at 20 ms a check and two at once the last one waits well under a second."""

HASH_S: Final = Histogram(
    "cnop_password_seconds", "Password hashes and checks, their wait for a turn included", buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)
)
WAITING: Final = Gauge("cnop_password_waiting", "Callers waiting for or doing a password hash or check")


class TooManyPasswords(RuntimeError):
    """So many callers wait for a password check already that one more is refused."""


class Passwords:
    """Makes and checks password hashes. `stop` waits for the threads."""

    def __init__(
        self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES, lanes: int = LANES, at_once: int = AT_ONCE, waiting_max: int = WAITING_MAX
    ) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes, type=Type.ID)
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="argon2")
        self._waiting = 0
        self._waiting_max = waiting_max
        self._nobodys_hash = self._hasher.hash("the password of nobody")

    async def hash(self, password: str) -> str:
        """A salted hash, with its parameters, as text. TooManyPasswords at the bound."""
        return await self._in_thread(lambda: self._hasher.hash(password))

    async def check(self, password_hash: str | None, password: str) -> bool:
        """Whether the password is the hashed one. Without a hash the answer is no, after the same work. TooManyPasswords at the bound."""
        right = await self._in_thread(lambda: self._verify(password_hash or self._nobodys_hash, password))
        return right and password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Whether a hash was made with other parameters than these, and should be replaced while the password is at hand."""
        return self._hasher.check_needs_rehash(password_hash)

    def stop(self) -> None:
        """End the threads; what runs is finished."""
        self._threads.shutdown(cancel_futures=True)

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._waiting_max:
            raise TooManyPasswords(f"{self._waiting_max} callers wait already")
        self._count(1)
        try:
            with HASH_S.time():
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._waiting += change
        WAITING.set(self._waiting)
