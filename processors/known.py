"""The accounts that a settlement process knows: as they were after its last write, so that an ordinary batch is not preceded by a read.

Nothing here is trusted: every write has the condition that the account's version is the one it started from. An account is taken out while
a batch works on it and comes back when the outcome is known, so whatever happens to the batch, nothing stale stays behind.
"""

from typing import Final

from prometheus_client import Counter

from schemas.ledger import Account

ACCOUNTS_KEPT_MAX: Final = 20_000

LOOKED_UP: Final = Counter("cnop_known_accounts_total", "Accounts of a batch: known from an earlier one, or read from the ledger", ["outcome"])
_HIT: Final = LOOKED_UP.labels("known")
_MISS: Final = LOOKED_UP.labels("read")


class KnownAccounts:
    """Accounts by name, the least recently used ones dropped at the bound."""

    def __init__(self, kept_max: int = ACCOUNTS_KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._kept: dict[str, tuple[int, Account]] = {}

    def take(self, username: str) -> Account | None:
        """The account, which is not kept any more; None where it is not known."""
        kept = self._kept.pop(username, None)
        (_HIT if kept else _MISS).inc()
        return kept[1] if kept else None

    def keep(self, partition: int, account: Account) -> None:
        """Know an account of a partition from now on."""
        self._kept[account.username] = (partition, account)
        if len(self._kept) > self._kept_max:
            del self._kept[next(iter(self._kept))]

    def closed(self, partition: int) -> None:
        """Forget all of a partition: another process may write there now."""
        self._kept = {username: kept for username, kept in self._kept.items() if kept[0] != partition}

    def __len__(self) -> int:
        return len(self._kept)
