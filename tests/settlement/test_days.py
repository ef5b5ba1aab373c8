"""The account at the end of each day on which something happened: written with the first decision of a later day, and never again."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from infra.ledger_items import read_account
from schemas.requests import AccountRequest, DrainRequested
from schemas.tables import DAY_PREFIX
from tests.domain.given import MIDNIGHT, NOON, USER, deposit, fence
from tests.settlement.partition import Partition

DAY = timedelta(days=1)


class Calendar(Partition):
    """A partition whose records have the times that they are given."""

    def __init__(self, rows: list[tuple[datetime, AccountRequest]], batch_max: int = 500) -> None:
        super().__init__(batch_max=batch_max)
        self.times = [at for at, _ in rows]
        self.ask(*(request for _, request in rows))

    def at(self, offset: int) -> datetime:
        return self.times[offset]

    def days(self) -> dict[str, Decimal]:
        """Cash at the end of each day that is kept."""
        items = self.ledger.items_now(USER)
        kept = {sk.removeprefix(DAY_PREFIX): read_account(item) for sk, item in items.items() if sk.startswith(DAY_PREFIX)}
        return {day: account.cash["USD"].available for day, account in sorted(kept.items())}


ROWS: list[tuple[datetime, AccountRequest]] = [
    (NOON, deposit("1")),
    (MIDNIGHT - timedelta(milliseconds=1), deposit("2")),
    (MIDNIGHT, deposit("4")),
    (MIDNIGHT - timedelta(seconds=1), deposit("8")),  # the broker's clock was set back: the account's time was not
    (MIDNIGHT + 3 * DAY, deposit("16")),
    (MIDNIGHT + 4 * DAY, fence()),
    (MIDNIGHT + 5 * DAY, deposit("32")),
]
KEPT = {"2026-11-25": Decimal(3), "2026-11-26": Decimal(15), "2026-11-29": Decimal(31), "2026-11-30": Decimal(31)}


@pytest.mark.parametrize("batch_max", [1, 2, 500])
async def test_each_day_is_kept_as_it_ended(batch_max: int) -> None:
    """Days without a decision are not there; the running one is not there yet; batches do not matter."""
    partition = Calendar(ROWS, batch_max)
    await partition.run()
    assert partition.days() == KEPT


async def test_a_crash_anywhere_keeps_the_same_days() -> None:
    """Wherever the process dies."""
    for crash_at in range(1, 100):
        partition = Calendar(ROWS, 3)
        partition.crash_at = crash_at
        await partition.run()
        assert partition.days() == KEPT, crash_at
        if partition.crash_at is not None:
            return
    pytest.fail("the history is longer than that")


async def test_days_that_end_while_an_account_is_parked_are_kept_by_its_draining() -> None:
    """One step of draining ends several days."""
    partition = Calendar(ROWS[:1])
    await partition.run()
    partition.restart()
    before = partition.break_item(USER)
    partition.times += [at for at, _ in ROWS[1:]]
    partition.ask(*(request for _, request in ROWS[1:]))
    await partition.run()
    partition.ledger.damage(USER, before)
    partition.times.append(MIDNIGHT + 5 * DAY)
    partition.ask(DrainRequested(USER))
    await partition.run()
    assert partition.days() == KEPT
    assert partition.ledger.account_now(USER).status == "active"
