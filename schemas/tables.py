"""The DynamoDB tables: keys, indexes, and the one spelling of every key.

`cnop-ledger` keeps an account's items under one partition key, so that its secondary indexes can be local: a local index can be read
consistently, and a view must never be filled from a lagging one.
"""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final
from zlib import crc32

from schemas.instants import parse_rfc3339, rfc3339
from schemas.money import INTEGER_DIGITS_MAX, SCALE_MAX
from schemas.requests import DueSide

VERSION_DIGITS: Final = 20
PRICE_DIGITS: Final = INTEGER_DIGITS_MAX
PRICE_DECIMALS: Final = SCALE_MAX


@dataclass(frozen=True, slots=True)
class Index:
    """A local secondary index, sorted by one attribute of the given type ("S" or "N"), holding whole items."""

    name: str
    sort_key: str
    sort_type: str


@dataclass(frozen=True, slots=True)
class GlobalIndex:
    """A global secondary index over two string attributes, holding keys alone. It lags; items without the attributes are not in it."""

    name: str
    partition_key: str
    sort_key: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a string partition key, perhaps a string sort key, secondary indexes, and an attribute by which items expire."""

    name: str
    partition_key: str
    sort_key: str | None = None
    indexes: tuple[Index, ...] = field(default_factory=tuple)
    expires_by: str | None = None
    global_indexes: tuple[GlobalIndex, ...] = field(default_factory=tuple)


TTL_ATTRIBUTE: Final = "ttl"
"""Where an item has it (seconds since the epoch), DynamoDB may drop the item after that time; readers do not rely on it."""

ENTRIES_BY_VERSION: Final = Index("entries-by-version", "entry_version", "N")
ENTRIES_BY_ASSET: Final = Index("entries-by-asset", "asset_version", "S")
ORDERS_BY_VERSION: Final = Index("orders-by-version", "order_version", "N")

DUE_ORDERS: Final = GlobalIndex("due-orders", "due_side", "due_price")
EXPIRING_ORDERS: Final = GlobalIndex("expiring-orders", "expiry_shard", "expiry")
"""Open orders only: by the price at which they are due, and by the time at which theirs ends."""

LEDGER: Final = Table("cnop-ledger", "pk", "sk", (ENTRIES_BY_VERSION, ENTRIES_BY_ASSET, ORDERS_BY_VERSION), global_indexes=(DUE_ORDERS, EXPIRING_ORDERS))
IDENTITY: Final = Table("cnop-identity", "pk", "sk", expires_by=TTL_ATTRIBUTE)
MARKET: Final = Table("cnop-market", "pk", "sk", expires_by=TTL_ATTRIBUTE)
TABLES: Final = (LEDGER, IDENTITY, MARKET)

ACCOUNT_SK: Final = "ACCOUNT"
ACCOUNT_PREFIX: Final = "ACCT#"


GENERATIONS_KEY: Final = {"pk": {"S": "PROJECTIONS"}, "sk": {"S": "GENERATIONS"}}
"""The item in the ledger's table that keeps which generations of the views live."""


def account_pk(username: str) -> str:
    """Partition key of everything of one account."""
    return ACCOUNT_PREFIX + username


def username_of(pk: str) -> str:
    """The username in a partition key of an account."""
    return pk.removeprefix(ACCOUNT_PREFIX)


def entry_sk(request_id: str) -> str:
    """Sort key of a journal entry."""
    return f"ENTRY#{request_id}"


ORDER_PREFIX: Final = "ORDER#"


def order_sk(order_id: str) -> str:
    """Sort key of an order."""
    return ORDER_PREFIX + order_id


def order_of(sk: str) -> str:
    """The order id in the sort key of an order."""
    return sk.removeprefix(ORDER_PREFIX)


ORDER_SHARDS: Final = 4
"""Partitions of an index that one asset's orders, or all expiring ones, are spread over: one takes a thousand writes a second."""


def order_shard(username: str) -> int:
    """The shard of an account's open orders."""
    return crc32(username.encode()) % ORDER_SHARDS


BEHIND: Final = "~"
"""Behind a price or a time it makes a key that sorts behind those of all orders with that price or time."""


def due_side(asset_id: str, side: DueSide, shard: int) -> str:
    """Partition key of the index of due orders."""
    return f"{asset_id}#{side}#{shard}"


def due_price(price: Decimal, sequence: int, placed_at: datetime, order_id: str) -> str:
    """Sort key of the index of due orders: the price with all its digits, so that text order is exactly the order of prices; then the sequence of the
    order's quote, the time at which it was placed, and its id.
    """
    return f"{padded_price(price)}#{sequence:0{VERSION_DIGITS}d}#{rfc3339(placed_at)}#{order_id}"


def read_due_side(key: str) -> tuple[str, DueSide]:
    """Asset id and side in a partition key of the index of due orders."""
    asset_id, side, _ = key.split("#")
    return asset_id, "falls" if side == "falls" else "rises"


def read_due_price(key: str) -> tuple[Decimal, int, datetime]:
    """Price, sequence of the quote and time of placing in a sort key of the index of due orders."""
    price, sequence, placed_at, _ = key.split("#")
    return Decimal(price), int(sequence), parse_rfc3339(placed_at)


def padded_price(price: Decimal) -> str:
    """A price as text whose order is that of prices: `PRICE_DIGITS` before the point and `PRICE_DECIMALS` after it. ValueError where it does not fit."""
    text = f"{price:0{PRICE_DIGITS + 1 + PRICE_DECIMALS}.{PRICE_DECIMALS}f}"
    if price < 0 or len(text) != PRICE_DIGITS + 1 + PRICE_DECIMALS or Decimal(text) != price:
        raise ValueError("a price has too many digits for its key")
    return text


def expiry_shard(shard: int) -> str:
    """Partition key of the index of expiring orders."""
    return f"{shard}"


def expiry(expires_at: datetime, order_id: str) -> str:
    """Sort key of the index of expiring orders."""
    return f"{rfc3339(expires_at)}#{order_id}"


DAY_PREFIX: Final = "DAY#"


def day_sk(day: str) -> str:
    """Sort key of an account as it was at the end of a day (`2026-11-25`, UTC) on which something happened."""
    return DAY_PREFIX + day


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


def candles_pk(asset_id: str, interval: str) -> str:
    """Partition key of an asset's candles of one interval that have ended."""
    return f"CANDLES#{asset_id}#{interval}"


def candle_sk(at: datetime) -> str:
    """Sort key of a candle: when it begins, whose text order is the order of time."""
    return rfc3339(at)
