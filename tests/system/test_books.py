"""The books of all users of these tests, after all that happened: they add up, and every account is the sum of its entries."""

from collections import Counter, defaultdict
from decimal import Decimal

from events.topics import REQUESTS, RESULTS
from schemas.ledger import Account, CashLine, Entry, Order, Position
from schemas.money import exact
from schemas.results import decode_result
from tests.system.running import System, answered

ZERO = Decimal(0)


async def test_the_books_add_up(system: System) -> None:
    """Per unit all legs of everybody sum to zero, and what customers have is what the world, the market and the fees gave."""
    user = await system.user("100.00")  # so that there is something in the books of a lone run of this test
    answered(await user.order("ETH", "0.01"), 201)
    legs: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(lambda: ZERO))
    accounts = await system.accounts()
    assert user.username in {account.username for account in accounts}
    for account in accounts:
        entries = await system.entries(account.username)
        check(account, entries)
        for entry in entries:
            for posting in entry.postings:
                legs[posting.unit][posting.account] += posting.amount
        held(account, legs)
    for unit, sums in legs.items():
        assert sum(sums.values(), ZERO) == ZERO, unit
        assert sums["customer"] >= ZERO, unit


async def test_every_result_once(system: System) -> None:
    """The results topic has one result for each entry of everybody, in the order of versions, in the partition of its request."""
    published: dict[str, list[tuple[int, str]]] = defaultdict(list)
    partitions: dict[str, set[int]] = defaultdict(set)
    for record in await system.records(RESULTS):
        result = decode_result(record.value)
        published[result.username].append((result.version, result.request_id))
        partitions[result.username].add(record.partition)
    for account in await system.accounts():
        entries = await system.entries(account.username)
        assert published.pop(account.username) == [(entry.version, entry.request_id) for entry in entries]
        assert partitions[account.username] == {entry.partition for entry in entries}
    assert not published


async def test_every_acknowledged_request_is_decided(system: System) -> None:
    """Nothing that is in the log of requests, and can be read, is without an entry."""
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    for record in await system.records(REQUESTS):
        headers = dict(record.headers)
        if headers["ce_source"] == b"urn:cnop:command-api":  # what comes from inside may find nothing to do
            asked[record.key.decode()][headers["ce_id"].decode()] += 1
    for username, ids in asked.items():
        assert ids.keys() <= {entry.request_id for entry in await system.entries(username)}, username


@exact
def check(account: Account, entries: list[Entry]) -> None:
    """An account item equals the fold of its entries: versions, counters, every line by its legs, and what is held by the open orders."""
    assert [entry.version for entry in entries] == list(range(1, account.version + 1))
    assert account.counters == [entry.lines.counters for entry in entries if entry.parking is None][-1]
    moved: dict[tuple[str, str], Decimal] = defaultdict(lambda: ZERO)
    orders: dict[str, Order] = {}
    rows = 0
    for entry in entries:
        sums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for posting in entry.postings:
            sums[posting.unit] += posting.amount
            moved[posting.account, posting.unit] += posting.amount
            rows += (posting.account, posting.unit) == ("customer", "USD")
        if order := entry.lines.order:
            assert order.order_id not in orders or orders[order.order_id].status == "open", order
            orders[order.order_id] = order
        assert not any(sums.values()), entry
        assert not (entry.refusal and entry.postings), entry
    still_open = [order for order in orders.values() if order.status == "open"]
    assert (account.counters.transactions, account.counters.orders, account.counters.open_orders) == (rows, len(orders), len(still_open))
    holds: dict[str, Decimal] = defaultdict(lambda: ZERO)
    for order in still_open:
        holds["USD" if order.order_type.endswith("buy") else order.asset_id] += order.held
    lines: dict[str, CashLine | Position] = {**account.cash, **account.positions}
    assert {unit for house, unit in moved if house in ("customer", "held")} == lines.keys()
    for unit, line in lines.items():
        assert (line.available, line.held) == (moved["customer", unit], moved["held", unit]), unit
        assert line.held == holds[unit], unit
        assert min(line.available, line.held) >= ZERO


def held(account: Account, legs: dict[str, dict[str, Decimal]]) -> None:
    """Nobody has anything of a unit that was never moved."""
    assert {*account.cash, *account.positions} <= legs.keys()
