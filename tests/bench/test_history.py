"""The recomputation that the replay of a price file is compared with, by hand."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from bench.history import compared, recomputed
from schemas.ledger import Counters, Entry, Lines, Posting
from schemas.market import PriceChanged
from tests.domain.given import NOON, USER

SECOND = timedelta(seconds=1)


def entry(version: int, *legs: tuple[str, str, str]) -> Entry:
    postings = tuple(Posting(account, unit, Decimal(amount)) for account, unit, amount in legs)  # type: ignore[arg-type]
    return Entry(str(version), USER, version, NOON + version * SECOND, "Deposit", {}, 0, version, "c", "t", Lines(Counters()), postings)


ENTRIES = (
    entry(1, ("customer", "USD", "10.00"), ("world", "USD", "-10.00")),
    entry(2, ("customer", "USD", "-4.00"), ("held", "USD", "4.00")),
    entry(3, ("customer", "USD", "-1.00"), ("market", "USD", "1.00"), ("customer", "BTC", "0.3"), ("market", "BTC", "-0.3")),
)
PRICES = (PriceChanged("BTC", Decimal("3.33"), 1, NOON + 3 * SECOND), PriceChanged("BTC", Decimal("3.35"), 2, NOON + 5 * SECOND))


def test_a_recomputed_point() -> None:
    """What is held is still there, what comes at the very moment is not there yet, and a part of a cent is dropped."""
    assert recomputed(ENTRIES, PRICES, NOON) == (Decimal(0), Decimal(0), [])
    assert recomputed(ENTRIES, PRICES, NOON + 3 * SECOND) == (Decimal(10), Decimal(0), [])
    assert recomputed(ENTRIES, PRICES[1:], NOON + 5 * SECOND) == (Decimal(9), Decimal(0), ["BTC"])
    assert recomputed(ENTRIES, PRICES, NOON + 5 * SECOND) == (Decimal(9), Decimal("0.99"), [])
    assert recomputed(ENTRIES, PRICES, NOON + 6 * SECOND) == (Decimal(9), Decimal("1.00"), [])


def test_a_cent_is_noticed() -> None:
    """In any figure of any point, the one of now included."""

    def answer(**changes: Any) -> dict[str, Any]:
        point = {"at": "2026-11-25T12:00:04.000Z", "value": "9.99", "cash": "9.00", "asset_value": "0.99", "unpriced_assets": []}
        now = {"at": "2026-11-25T12:00:04.500Z", "value": "10.00", "cash": "9.00", "asset_value": "1.00", "unpriced_assets": []}
        return {"period": "1h", "interval": "1m", "data": [{**point, **changes}, now]}

    assert compared(answer(), ENTRIES, PRICES) == []
    for changes in ({"value": "9.98"}, {"cash": "9.01"}, {"asset_value": "0.98"}, {"unpriced_assets": ["BTC"]}, {"at": "2026-11-25T12:00:03.000Z"}):
        assert len(compared(answer(**changes), ENTRIES, PRICES)) == 1
    assert len(compared(answer(), ENTRIES, PRICES[:1])) == 1
