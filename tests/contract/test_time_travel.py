"""A deep account as it was, and why, on a real engine: as few reads as a short one takes."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from infra.cache import Shown
from infra.dynamo import Dynamo
from infra.ledger import Ledger, Stored, Write
from infra.local.stack import Addresses
from processors.domain.decide import decide_all
from query_api.explain import statement_of
from query_api.time_travel import account_at, open_at, version_at
from schemas.ledger import Account, Entry, Order
from schemas.market import AssetFacts, Quote
from schemas.requests import AccountRequest, Deposit, LimitStamp, OrderCancelRequested, OrderPlaced, OrderStamp, OrderType, order_id, request_id
from schemas.statement import Held, adds_up
from tests.contract.conftest import REGION
from tests.domain.given import NOON, USER, logged
from tests.query.test_time_travel import folded, must_equal, opened

DEPTH = 3_000
FOLD = 45
ASSETS = tuple(f"ASSET{number}" for number in range(20))
MUCH = Decimal(10**15)
SECOND = timedelta(seconds=1)


def requests() -> Iterator[AccountRequest]:
    """Deposits, trades in many assets, and orders that wait, some of which are cancelled."""
    yield Deposit(USER, Decimal(10**9), LimitStamp(MUCH))
    for number in range(1, DEPTH):
        match number % 10:
            case 0 | 1:
                yield placed("limit_buy", number)
            case 2:
                yield placed("limit_sell", number + 4)
            case 3 | 4:
                yield OrderCancelRequested(USER, order_id(USER, f"request/{request_id(USER, str(number - 4))}"))
            case 5:
                yield Deposit(USER, Decimal("0.01"), LimitStamp(MUCH))
            case _:
                yield placed("market_buy", number)


def placed(kind: OrderType, number: int) -> OrderPlaced:
    stamp = OrderStamp(Quote(Decimal(10), 41, NOON, NOON + timedelta(days=9)), AssetFacts(8, Decimal("0.00000001"), True, 10), MUCH)
    limit = {"limit_buy": Decimal(1), "limit_sell": Decimal(100)}.get(kind)
    return OrderPlaced(USER, ASSETS[number % len(ASSETS)], kind, Decimal("0.5"), stamp, price=limit)


def at(number: int) -> datetime:
    """When a request came: over a midnight."""
    return NOON + number * 20 * SECOND


class Counted:
    """A client that counts its calls."""

    def __init__(self, dynamo: Dynamo) -> None:
        self._dynamo = dynamo
        self.calls = 0

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.calls += 1
        return await self._dynamo.call(operation, **arguments)


@dataclass(frozen=True, slots=True)
class Deep:
    """The history in a store, the account after it, its entries, and the calls that reads made."""

    ledger: Ledger
    client: Counted
    account: Account
    entries: list[Entry]


@pytest.fixture(scope="module")
async def deep(provisioned: Addresses) -> AsyncIterator[Deep]:
    async with Dynamo(provisioned.dynamodb_url, REGION) as dynamo:
        client = Counted(dynamo)
        ledger = Ledger(client)  # type: ignore[arg-type]
        account, entries = await fill(ledger)
        yield Deep(ledger, client, account, entries)


async def fill(ledger: Ledger) -> tuple[Account, list[Entry]]:
    """The history, so many requests in one write."""
    account, orders, entries = Account(USER), dict[str, Order](), list[Entry]()
    asked = [logged(request, key=str(number), at=at(number), offset=number) for number, request in enumerate(requests())]
    for start in range(0, len(asked), FOLD):
        done = decide_all(account, tuple(asked[start : start + FOLD]), orders)
        assert await ledger.write([Write(account.version, done.account, done.entries, done.orders, done.replaces, done.days)]) == [Stored()]
        account, entries = done.account, [*entries, *done.entries]
        orders |= {order.order_id: order for order in done.orders}
    return account, entries


async def test_versions_of_a_deep_history(deep: Deep) -> None:
    """Whatever version, cash, positions and open orders are those of the plain fold, and what is read is bounded by assets and open orders, not entries."""
    for version in (0, 1, 2, 44, 777, DEPTH // 2, 2_159, 2_160, 2_161, DEPTH - 1, DEPTH):
        deep.client.calls = 0
        then = await account_at(deep.ledger, deep.account, version)
        assert deep.client.calls <= 2 * (len(ASSETS) + 1) + 2
        must_equal(then, folded(deep.entries, version), deep.account)
        open_then = await open_at(deep.ledger, then)
        assert open_then.orders == opened(deep.entries, version)
        assert open_then.count == len(open_then.orders)


async def test_times_of_a_deep_history(deep: Deep) -> None:
    """The last version by then, found by halving."""
    for number in (0, 1, 44, 1_500, 2_159, 2_160, DEPTH - 1):
        deep.client.calls = 0
        for decided, time in ((number, at(number) - SECOND), (number + 1, at(number))):
            found = await version_at(deep.ledger, deep.account, time)
            assert found <= decided
            assert moved(deep.entries, found) == moved(deep.entries, decided)
        assert deep.client.calls <= 2 * 2 * (1 + DEPTH.bit_length())


@pytest.mark.parametrize("unit", ["USD", ASSETS[6]])
async def test_pages_of_a_deep_history(deep: Deep, unit: str) -> None:
    """Every page adds up, opens where the next one closes, and the last opens with nothing."""
    shown, version, pages = Shown(deep.account, deep.account.version, deep.account.at), deep.account.version, []
    while version:
        pages.append(page := await statement_of(deep.ledger, shown, unit, version, 100))
        assert adds_up(unit, page.opening, page.page.rows, page.closing)
        version = page.page.rest.version - 1 if page.page.rest else 0
    assert [page.opening for page in pages] == [*(page.closing for page in pages[1:]), Held()]
    rows = [entry.version for page in pages for entry in page.page.rows]
    assert rows == [entry.version for entry in reversed(deep.entries) if any(posting.unit == unit for posting in entry.postings)]


def moved(entries: Sequence[Entry], version: int) -> int:
    """The version of the newest entry up to one that moved something."""
    return next((entry.version for entry in reversed(entries[:version]) if entry.lines.cash or entry.lines.positions), 0)
