"""Ledger reads with a bound: so many at once, so many waiting, and the next one is refused at once."""

import asyncio

import pytest

from infra.ledger_bound import BoundedReads, TooManyReads
from schemas.ledger import Account
from tests.fakes.histories import HistoryReads


class Slow(HistoryReads):
    """Answers when told to; counts how many ask at the same time."""

    def __init__(self) -> None:
        super().__init__({})
        self.go = asyncio.Event()
        self.now = self.most = 0

    async def account(self, username: str) -> Account:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        return Account(username)


async def test_no_more_than_so_many_at_once() -> None:
    """Those over it wait for their turn and are answered."""
    slow = Slow()
    bounded = BoundedReads(slow, at_once=3, waiting_max=100)
    reads = [asyncio.create_task(bounded.account(f"reader_{number}")) for number in range(20)]
    await asyncio.sleep(0)
    slow.go.set()
    assert [account.username for account in await asyncio.gather(*reads)] == [f"reader_{number}" for number in range(20)]
    assert slow.most == 3


async def test_one_more_than_may_wait_is_refused() -> None:
    """And a turn given up by a caller who went away is free again."""
    slow = Slow()
    bounded = BoundedReads(slow, at_once=1, waiting_max=2)
    reads = [asyncio.create_task(bounded.account("reader")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyReads):
        await bounded.account("reader")
    reads[1].cancel()
    await asyncio.sleep(0)
    reads.append(asyncio.create_task(bounded.account("reader")))
    await asyncio.sleep(0)
    slow.go.set()
    assert [isinstance(answer, Account) for answer in await asyncio.gather(*reads, return_exceptions=True)] == [True, False, True, True]
