"""The accounts that a process knows save the reads, and are never trusted beyond a known outcome."""

from processors.known import KnownAccounts
from processors.work import FOLD_ACTIONS_MAX
from schemas.ledger import Account
from tests.settlement.partition import PARTITION, Partition
from tests.settlement.test_parking import BAD, GOOD, asked


def test_the_least_recently_used_are_dropped_at_the_bound() -> None:
    """Never more than the bound; what a batch worked on stays."""
    known = KnownAccounts(kept_max=2)
    for name in ("a", "b"):
        known.keep(0, Account(name))
    assert known.take("a") == Account("a")
    assert known.take("a") is None
    known.keep(0, Account("a"))
    known.keep(0, Account("c"))
    assert (len(known), known.take("b"), known.take("a")) == (2, None, Account("a"))


def test_a_closed_partition_is_forgotten() -> None:
    """All of its accounts, and none of another's."""
    known = KnownAccounts()
    known.keep(1, Account("a"))
    known.keep(2, Account("b"))
    known.closed(1)
    assert (known.take("a"), known.take("b")) == (None, Account("b"))


async def test_an_ordinary_batch_reads_nothing() -> None:
    """After the first batch the account is known: the next one writes at once."""
    partition = Partition()
    asked(partition, GOOD, "1")
    await partition.run()
    partition.steps.clear()
    asked(partition, GOOD, "2", "3")
    await partition.run()
    assert partition.steps == ["write", "written", "handled", "committed"]
    partition.settle.closed(PARTITION)
    partition.steps.clear()
    asked(partition, GOOD, "4")
    await partition.run()
    assert partition.steps[0] == "accounts"


async def test_an_unknown_outcome_is_followed_by_a_read() -> None:
    """A write without an answer may have happened: its account is loaded before anything else is tried."""
    partition = Partition()
    asked(partition, GOOD, "1")
    await partition.run()
    faults = ["lost-after"]
    partition.ledger.fault = lambda operation: faults.pop() if faults and operation == "write" else "none"  # type: ignore[assignment,return-value]
    partition.steps.clear()
    asked(partition, GOOD, "2")
    await partition.run()
    assert partition.steps[:4] == ["write", "lost", "pause", "accounts"]
    assert partition.kinds(GOOD) == ["DepositSettled"] * 2
    partition.check([GOOD])


async def moved() -> Partition:
    """A partition whose owner knows an account as it was before another owner wrote it: 1 was paid in then, and 3 are there now."""
    partition = Partition()
    asked(partition, GOOD, "1")
    await partition.run()
    other = partition.settle
    partition.restart()
    asked(partition, GOOD, "2")
    await partition.run()
    partition.settle = other
    partition.steps.clear()
    return partition


async def test_an_account_that_moved_is_read_again() -> None:
    """Another owner's write makes what is known old: the version condition tells, and the account is decided anew."""
    partition = await moved()
    asked(partition, GOOD, "3")
    asked(partition, BAD, "3")
    await partition.run()
    assert partition.ledger.account_now(GOOD).cash["USD"].available == 6
    partition.check([GOOD, BAD])


async def test_the_next_fold_is_decided_while_the_store_has_one() -> None:
    """A busy account's folds are stored one after the other without a load between them, each with as many requests as a transaction takes."""
    partition = Partition()
    asked(partition, GOOD, *["1"] * (2 * FOLD_ACTIONS_MAX + 1))
    await partition.run()
    assert partition.steps == ["accounts", "write", "written", "write", "written", "write", "written", "handled", "committed"]
    partition.check([GOOD])


async def test_what_was_decided_ahead_is_forgotten_where_the_write_was_not_stored() -> None:
    """An account that moved meanwhile is loaded, and all of its requests are decided anew on what is there."""
    partition = await moved()
    asked(partition, GOOD, *["1"] * (2 * FOLD_ACTIONS_MAX))
    await partition.run()
    assert partition.steps == ["write", "written", "pause", "accounts", "write", "written", "write", "written", "handled", "committed"]
    assert partition.ledger.account_now(GOOD).cash["USD"].available == 3 + 2 * FOLD_ACTIONS_MAX
    partition.check([GOOD])
