"""What reads of the views give, and the count of them by where the answer came from."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

from prometheus_client import Counter

from infra.cache_guard import ORDERS_HELD_MAX, ROWS_HELD_MAX, Page
from schemas.ledger import Account, Order
from schemas.views import Transaction

T = TypeVar("T")
R = TypeVar("R")

READS: Final = Counter("cnop_view_reads_total", "Reads of account views, by where the answer came from", ["view", "source"])


class Shown(NamedTuple, Generic[T]):
    """What a read shows, a tuple since each read makes one: everything up to the account's `version`, which was decided `at`.

    `is_current`: it was read from the ledger, and shows all that was settled. `bypassed`: that was so because the cache is away.
    """

    value: T
    version: int
    at: datetime
    is_current: bool = False
    bypassed: bool = False

    def of(self, value: R) -> "Shown[R]":
        """The same of another value."""
        return Shown(value, self.version, self.at, self.is_current, self.bypassed)


class Recent(NamedTuple, Generic[R]):
    """The newest rows of a list, newest first, without holes; the list has `total` rows. `whole`: there are no others."""

    rows: list[R]
    total: int
    whole: bool

    def reaches(self, count: int) -> bool:
        """Whether the first `count` rows of the list are here, or all that there are."""
        return self.whole or len(self.rows) >= count


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole view, loaded from the ledger. `kept`: Redis shows it, or something newer."""

    account: Account
    orders: list[Order]
    rows: list[Transaction]
    kept: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether the lists have what the account counts. DynamoDB may answer a query while a transaction is becoming visible row by row."""
        counted = self.account.counters
        return len(self.orders) == min(counted.orders, ORDERS_HELD_MAX) and len(self.rows) == min(counted.transactions, ROWS_HELD_MAX)


def shown(view: str, source: str, value: T, seen: Account | Page[Any]) -> Shown[T]:
    """A value that was read of a view and `source`, which is counted, and in which the account was at some version."""
    _reads(view, source).inc()
    return Shown(value, seen.version, seen.at, is_current=source != "view", bypassed=source == "bypass")


def source_of(page: Page[Any] | Snapshot | None) -> str:
    """`view`, `load`, or `bypass`, where the cache is away."""
    if page is None:
        return "bypass"
    return "view" if isinstance(page, Page) else "load"


def seen_in(page: Page[Any] | Snapshot) -> Account | Page[Any]:
    """What tells version and time."""
    return page if isinstance(page, Page) else page.account


def newest_of(rows: list[R], limit: int, total: int) -> Recent[R]:
    """The first of some rows of a list."""
    return Recent(rows[:limit], total, whole=len(rows) == total and total <= limit)


@cache
def _reads(view: str, source: str) -> Counter:
    return READS.labels(view, source)
