"""What every ledger must tell of the days of an account: the same on memory and on a real engine."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from infra.ledger import Stored, Write
from infra.parked import ParkingStore
from schemas.instants import day_of
from schemas.ledger import Account, Position
from tests.contract.test_ledger import AT, account_of, entry_of, order_of

PAGE_BYTES = 1_000_000
"""What a page of the engine holds at most, about."""
FAR = "9999-12-31"


async def keep(store: ParkingStore, *days: Account) -> None:
    """Write an account that has these days behind it, among items of other kinds."""
    last = days[-1]
    for number, day in enumerate(days):
        after = replace(last, version=last.version + 1 + number)
        entries = (entry_of(day.username),) if number == 0 else ()
        orders = (order_of(),) if number == 0 else ()
        assert await store.write([Write(last.version + number if number else 0, after, entries, orders, days=(day,))]) == [Stored()]


async def test_days_of_a_span(store: ParkingStore, user: str) -> None:
    """Oldest first, the first and the last of the span included, and before them the newest earlier one; so many at most."""
    kept = [replace(account_of(user, version), at=AT + timedelta(days=day)) for version, day in enumerate((0, 1, 5, 40), 1)]
    await keep(store, *kept)
    names = [day_of(account.at) for account in kept]
    assert await store.days(user, names[0], names[3], limit=9) == kept
    assert await store.days(user, names[1], names[2], limit=9) == kept[:3]
    assert await store.days(user, "2026-11-27", "2026-11-27", limit=9) == kept[1:2]
    assert await store.days(user, "2026-12-01", FAR, limit=9) == kept[2:]
    assert await store.days(user, "0001-01-01", FAR, limit=1) == kept[:1]
    assert await store.days(user, names[1], FAR, limit=2) == kept[:3]
    assert await store.days(user, "2030-01-01", FAR, limit=9) == kept[3:]
    assert await store.days(user, "0001-01-01", "2026-11-24", limit=9) == []


async def test_an_account_without_days(store: ParkingStore, user: str) -> None:
    """Of an account that is not there, and of one that is there and has entries and orders only, there are none."""
    assert await store.days(user, "0001-01-01", FAR, limit=9) == []
    assert await store.write([Write(0, account_of(user), (entry_of(user),), (order_of(),))]) == [Stored()]
    assert await store.days(user, "0001-01-01", FAR, limit=9) == []
    assert await store.days(user, "2026-11-25", FAR, limit=9) == []


async def test_days_beyond_a_page(store: ParkingStore, user: str) -> None:
    """However many bytes they have, none is missing."""
    positions = {f"ASSET{number:05}": Position(Decimal(number), created_at=AT, updated_at=AT) for number in range(250)}
    kept = [replace(account_of(user, version), at=AT + timedelta(days=version), positions=positions) for version in range(1, 51)]
    await keep(store, *kept)
    assert 50 * len(repr(positions)) > 2 * PAGE_BYTES
    assert await store.days(user, day_of(kept[1].at), FAR, limit=99) == kept
