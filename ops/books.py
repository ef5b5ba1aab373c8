"""The proof that the books add up, from the ledger alone: every leg of every journal entry of some users, folded again and compared.

Legs of `customer` sum to what a user can dispose of, legs of `held` to what open orders hold.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from infra.ledger import LedgerReads
from schemas.ledger import Account, CashLine, Entry, House, Order, Position
from schemas.money import CURRENCY_SCALES, ZERO, exact, plain

PAGE: Final = 100
USERS_AT_ONCE: Final = 8
_OWNED: Final = ("customer", "held")

Owned = Mapping[tuple[House, str], Decimal]
"""What a user owns, by `customer` (free) or `held`, and by currency or asset."""


@dataclass(slots=True)
class Books:
    """The sum of all legs by unit and account (`customer`, `held`, `world`, `market`, `fees`), and everything that does not fit, in words."""

    legs: dict[str, dict[str, Decimal]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(lambda: ZERO)))
    entries: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def balanced(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


async def audit(ledger: LedgerReads, shown: Mapping[str, Owned], moved: Mapping[str, int] | None, step: Callable[[], None]) -> Books:
    """Check the users that `shown` names.

    Each entry's legs sum to zero per unit; the fold of a user's legs is what the account item has, free and held, and what the API showed (`shown`);
    what is held is the sum over the open orders; where it is known how many requests of a user moved something (`moved`), there are as many entries.
    `step` is called per user.
    """
    books = Books()
    slots = asyncio.Semaphore(USERS_AT_ONCE)

    async def one(username: str) -> None:
        async with slots:
            account, entries = await ledger.account(username), await all_entries(ledger, username)
            orders = await _open_orders(ledger, username)
        folded = _fold(books, account, entries, None if moved is None else moved[username])
        _compare(books, f"{username}: the account item has", folded, _owned(account))
        _compare(books, f"{username}: the API has", folded, shown[username])
        _compare(books, f"{username}: the open orders hold", {key: amount for key, amount in folded.items() if key[0] == "held"}, _held(orders))
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


async def all_entries(ledger: LedgerReads, username: str) -> list[Entry]:
    """All entries of an account that moved something, newest first."""
    entries: list[Entry] = []
    before: int | None = None
    while page := await ledger.entries(username, before=before, limit=PAGE):
        entries += page
        before = page[-1].version
    return entries


async def _open_orders(ledger: LedgerReads, username: str) -> list[Order]:
    orders: list[Order] = []
    before: int | None = None
    while page := await ledger.orders(username, before=before, limit=PAGE):
        orders += [order for order in page if order.status == "open"]
        before = page[-1].created_version
    return orders


@exact
def _fold(books: Books, account: Account, entries: Sequence[Entry], moved: int | None) -> Owned:
    """What the legs give, each entry checked on the way."""
    folded: dict[tuple[House, str], Decimal] = defaultdict(lambda: ZERO)
    for entry in entries:
        sums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for leg in entry.postings:
            sums[leg.unit] += leg.amount
            books.legs[leg.unit][leg.account] += leg.amount
            if leg.account in _OWNED:
                folded[leg.account, leg.unit] += leg.amount
        books.faults += [f"{account.username} version {entry.version}: legs in {unit} sum to {plain(rest)}" for unit, rest in sums.items() if rest]
    books.entries += len(entries)
    versions = [entry.version for entry in entries]
    if len(set(versions)) != len(versions) or max(versions, default=0) > account.version:
        books.faults.append(f"{account.username}: versions of entries repeat or go beyond the account's version {account.version}")
    if moved is not None and moved != len(entries):
        books.faults.append(f"{account.username}: {moved} requests were settled, the ledger has {len(entries)} entries that moved something")
    return folded


def _compare(books: Books, where: str, folded: Owned, other: Owned) -> None:
    for account, unit in sorted({*folded, *other}):
        expected, found = folded.get((account, unit), ZERO), other.get((account, unit), ZERO)
        if expected != found:
            held = " held" if account == "held" else ""
            books.faults.append(f"{where} {plain(found)} {unit}{held}, the entries give {plain(expected)}")


def _owned(account: Account) -> dict[tuple[House, str], Decimal]:
    lines: dict[str, CashLine | Position] = {**account.cash, **account.positions}
    free: dict[tuple[House, str], Decimal] = {("customer", unit): line.available for unit, line in lines.items()}
    return free | {("held", unit): line.held for unit, line in lines.items()}


@exact
def _held(orders: Iterable[Order]) -> dict[tuple[House, str], Decimal]:
    held: dict[tuple[House, str], Decimal] = defaultdict(lambda: ZERO)
    for order in orders:
        held["held", order.held_unit] += order.held
    return held
