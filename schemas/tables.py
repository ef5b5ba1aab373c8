"""The DynamoDB tables: keys, indexes, and the one spelling of every key.

`cnop-ledger` keeps an account's items under one partition key, so that its secondary indexes can be local: a local index can be read
consistently, and a view must never be filled from a lagging one.
"""

from dataclasses import dataclass, field
from typing import Final

VERSION_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Index:
    """A local secondary index, sorted by one attribute of the given type ("S" or "N"), holding whole items."""

    name: str
    sort_key: str
    sort_type: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a string partition key, perhaps a string sort key, local secondary indexes, and an attribute by which items expire."""

    name: str
    partition_key: str
    sort_key: str | None = None
    indexes: tuple[Index, ...] = field(default_factory=tuple)
    expires_by: str | None = None


TTL_ATTRIBUTE: Final = "ttl"
"""Where an item has it (seconds since the epoch), DynamoDB may drop the item after that time; readers do not rely on it."""

ENTRIES_BY_VERSION: Final = Index("entries-by-version", "entry_version", "N")
ENTRIES_BY_ASSET: Final = Index("entries-by-asset", "asset_version", "S")
ORDERS_BY_VERSION: Final = Index("orders-by-version", "order_version", "N")

LEDGER: Final = Table("cnop-ledger", "pk", "sk", (ENTRIES_BY_VERSION, ENTRIES_BY_ASSET, ORDERS_BY_VERSION))
IDENTITY: Final = Table("cnop-identity", "pk", "sk", expires_by=TTL_ATTRIBUTE)
MARKET: Final = Table("cnop-market", "pk", "sk")
TABLES: Final = (LEDGER, IDENTITY, MARKET)

ACCOUNT_SK: Final = "ACCOUNT"


def account_pk(username: str) -> str:
    """Partition key of everything of one account."""
    return f"ACCT#{username}"


def entry_sk(request_id: str) -> str:
    """Sort key of a journal entry."""
    return f"ENTRY#{request_id}"


def order_sk(order_id: str) -> str:
    """Sort key of an order."""
    return f"ORDER#{order_id}"


PARKED_PREFIX: Final = "PARKED#"
PARKED_PK: Final = "PARKED"
"""Partition key of the list of parked accounts: one item for each, its sort key the username."""
PARTITION_DIGITS: Final = 5
OFFSET_DIGITS: Final = 20


def parked_sk(partition: int, offset: int) -> str:
    """Sort key of a request that waits in a parked account: zero-padded, so that text order is the order of the log."""
    return f"{PARKED_PREFIX}{partition:0{PARTITION_DIGITS}d}#{offset:0{OFFSET_DIGITS}d}"


def asset_version(asset_id: str, version: int) -> str:
    """Sort key of the entries-by-asset index: zero-padded, so that text order is version order."""
    return f"{asset_id}#{version:0{VERSION_DIGITS}d}"


def user_pk(username: str) -> str:
    """Partition key of a user's identity items."""
    return f"USER#{username}"


def email_pk(email: str) -> str:
    """Partition key of the item that makes an email address unique."""
    return f"EMAIL#{email}"


PROFILE_SK: Final = "PROFILE"
EMAIL_SK: Final = "OWNER"


REFRESH_PREFIX: Final = "REFRESH#"


def refresh_sk(family: str) -> str:
    """Sort key of a family of refresh tokens."""
    return REFRESH_PREFIX + family


ASSETS_PK: Final = "ASSETS"
PRICES_PK: Final = "PRICES"
