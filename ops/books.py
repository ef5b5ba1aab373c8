"""The proof that the books add up, from the ledger alone: every leg of every journal entry of some users, folded again and compared."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from infra.ledger import LedgerReads
from schemas.ledger import Account, Entry
from schemas.money import CURRENCY_SCALES, ZERO, exact, plain

PAGE: Final = 100
USERS_AT_ONCE: Final = 8

Holdings = Mapping[str, Decimal]
"""All that a user owns, free or held, by currency and asset."""


@dataclass(slots=True)
class Books:
    """The sum of all legs by unit and account (`customer`, `world`, `market`, `fees`), and everything that does not fit, in words."""

    legs: dict[str, dict[str, Decimal]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(lambda: ZERO)))
    entries: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


async def audit(ledger: LedgerReads, shown: Mapping[str, Holdings], moved: Mapping[str, int] | None, step: Callable[[], None]) -> Books:
    """Check the users that `shown` names.

    Each entry's legs sum to zero per unit; the fold of a user's customer legs is what the account item has, and what the API showed
    (`shown`); where it is known how many requests of a user were settled (`moved`), there are as many entries. `step` is called per user.
    """
    books = Books()
    slots = asyncio.Semaphore(USERS_AT_ONCE)

    async def one(username: str) -> None:
        async with slots:
            account, entries = await ledger.account(username), await _all_entries(ledger, username)
        _check(books, account, entries, shown[username], None if moved is None else moved[username])
        step()

    async with asyncio.TaskGroup() as group:
        for username in shown:
            group.create_task(one(username))
    for unit, accounts in books.legs.items():
        if rest := total(accounts.values()):
            books.faults.append(f"{unit}: all legs sum to {plain(rest)}, not to zero")
    books.faults.sort()
    return books


def units(books: Books) -> list[str]:
    """The units that moved, currencies first."""
    return sorted(books.legs, key=lambda unit: (unit not in CURRENCY_SCALES, unit))


@exact
def total(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum."""
    return sum(amounts, ZERO)


async def _all_entries(ledger: LedgerReads, username: str) -> list[Entry]:
    entries: list[Entry] = []
    before: int | None = None
    while page := await ledger.entries(username, before=before, limit=PAGE):
        entries += page
        before = page[-1].version
    return entries


@exact
def _check(books: Books, account: Account, entries: Sequence[Entry], shown: Holdings, moved: int | None) -> None:
    folded: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for entry in entries:
        sums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for leg in entry.postings:
            sums[leg.unit] += leg.amount
            books.legs[leg.unit][leg.account] += leg.amount
            if leg.account == "customer":
                folded[leg.unit] += leg.amount
        books.faults += [f"{account.username} version {entry.version}: legs in {unit} sum to {plain(rest)}" for unit, rest in sums.items() if rest]
    books.entries += len(entries)
    versions = [entry.version for entry in entries]
    if len(set(versions)) != len(versions) or max(versions, default=0) > account.version:
        books.faults.append(f"{account.username}: versions of entries repeat or go beyond the account's version {account.version}")
    if moved is not None and moved != len(entries):
        books.faults.append(f"{account.username}: {moved} requests were settled, the ledger has {len(entries)} entries that moved something")
    _compare(books, f"{account.username}: the account item", folded, _owned(account))
    _compare(books, f"{account.username}: the API", folded, shown)


def _compare(books: Books, where: str, folded: Holdings, other: Holdings) -> None:
    for unit in sorted({*folded, *other}):
        expected, found = folded.get(unit, ZERO), other.get(unit, ZERO)
        if expected != found:
            books.faults.append(f"{where} has {plain(found)} {unit}, the entries give {plain(expected)}")


def _owned(account: Account) -> dict[str, Decimal]:
    cash = {unit: line.available + line.held for unit, line in account.cash.items()}
    return cash | {asset_id: position.quantity for asset_id, position in account.positions.items()}
