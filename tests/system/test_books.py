"""The books of all users of these tests, after all that happened: they add up, and every account is the sum of its entries."""

from collections import Counter, defaultdict
from decimal import Decimal

from events.topics import REQUESTS, RESULTS
from schemas.ledger import Account, CashLine, Entry, Position
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
        if headers["ce_source"] == b"urn:cnop:command-api":
            asked[record.key.decode()][headers["ce_id"].decode()] += 1
    for username, ids in asked.items():
        assert ids.keys() <= {entry.request_id for entry in await system.entries(username)}, username


@exact
def check(account: Account, entries: list[Entry]) -> None:
    """An account item equals the fold of its entries: versions, counters, and every line by its legs."""
    assert [entry.version for entry in entries] == list(range(1, account.version + 1))
    assert account.counters == [entry.lines.counters for entry in entries if entry.parking is None][-1]
    moved: dict[str, Decimal] = defaultdict(lambda: ZERO)
    rows = orders = 0
    for entry in entries:
        sums: dict[str, Decimal] = defaultdict(lambda: ZERO)
        for posting in entry.postings:
            sums[posting.unit] += posting.amount
            if posting.account == "customer":
                moved[posting.unit] += posting.amount
                rows += posting.unit == "USD"
        orders += entry.lines.order is not None
        assert not any(sums.values()), entry
        assert not (entry.refusal and entry.postings), entry
    assert (account.counters.transactions, account.counters.orders) == (rows, orders)
    have = {unit: line.available + line.held for unit, line in account.cash.items()}
    have |= {unit: position.quantity for unit, position in account.positions.items()}
    assert have == {unit: moved[unit] for unit in have.keys() | moved.keys()}
    lines: list[CashLine | Position] = [*account.cash.values(), *account.positions.values()]
    for line in lines:
        assert min(line.available, line.held) >= ZERO


def held(account: Account, legs: dict[str, dict[str, Decimal]]) -> None:
    """Nobody has anything of a unit that was never moved."""
    assert {*account.cash, *account.positions} <= legs.keys()
