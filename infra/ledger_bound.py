"""Consistent ledger reads with a bound: a storm of cold views or a lost cache must not take the ledger's capacity from settlement."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import Counter

from infra.parked import ParkedReads
from schemas.ledger import Account, Entry, Order

READS_AT_ONCE: Final = 16
READS_WAITING_MAX: Final = 1_000
"""Reads waiting for their turn in one process; one more is refused."""

SHED: Final = Counter("cnop_ledger_reads_shed_total", "Ledger reads refused at the bound")


class TooManyReads(RuntimeError):
    """So many reads of the store wait already that one more is refused. It may be repeated later."""


class Turns:
    """Lets so many at once go on, and so many wait."""

    def __init__(self, at_once: int, waiting_max: int) -> None:
        self._slots = asyncio.Semaphore(at_once)
        self._waiting = 0
        self._waiting_max = waiting_max

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and have it. TooManyReads where too many wait already."""
        if self._waiting >= self._waiting_max:
            SHED.inc()
            raise TooManyReads(f"{self._waiting_max} reads wait already")
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


class BoundedReads:
    """The reads of a ledger, so many at once. Implements `ParkedReads`; each call may raise TooManyReads."""

    def __init__(self, ledger: ParkedReads, *, at_once: int = READS_AT_ONCE, waiting_max: int = READS_WAITING_MAX) -> None:
        self._ledger = ledger
        self._turns = Turns(at_once, waiting_max)

    async def account(self, username: str) -> Account:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.account(username)

    async def entry(self, username: str, request_id: str) -> Entry | None:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.entry(username, request_id)

    async def order(self, username: str, order_id: str) -> Order | None:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.order(username, order_id)

    async def entries(self, username: str, *, before: int | None, limit: int) -> list[Entry]:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.entries(username, before=before, limit=limit)

    async def asset_entries(self, username: str, asset_id: str, *, before: int | None, limit: int) -> list[Entry]:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.asset_entries(username, asset_id, before=before, limit=limit)

    async def orders(self, username: str, *, before: int | None, limit: int) -> list[Order]:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.orders(username, before=before, limit=limit)

    async def days(self, username: str, first: str, last: str, *, limit: int) -> list[Account]:
        """See `LedgerReads`."""
        async with self._turns.turn():
            return await self._ledger.days(username, first, last, limit=limit)

    async def waits(self, username: str, request_id: str) -> bool:
        """See `ParkedReads`."""
        async with self._turns.turn():
            return await self._ledger.waits(username, request_id)
