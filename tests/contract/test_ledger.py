"""What every `ParkingStore` must do: the same suite on memory and on a real DynamoDB engine, and on a second one where it is asked for.

`CNOP_TEST_MINISTACK=1` adds ministack. Each test has accounts of its own, so that all of them share one table.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from infra.dynamo import Dynamo, DynamoUnavailable, from_attribute, to_attribute
from infra.ledger import ACTIONS_MAX, NEIGHBOUR, Ledger, Refused, Stored, Unknown, Write
from infra.local import ports
from infra.local.stack import Stack
from infra.parked import ParkingLedger, ParkingStore
from infra.tables import provision
from processors.domain.decide import decide_all
from processors.settlement import Read, Settlement
from schemas.ledger import Account, CashLine, Counters, Entry, Lines, Order, Position, Posting, Refusal
from schemas.requests import LoggedRequest, request_id
from schemas.results import encode_result, result_of
from tests.domain.given import buy, deposit, fence, sell, withdrawal
from tests.fakes.ledger import FaultyDynamo, MemoryLedger

REGION = "us-east-1"
AT = datetime(2026, 11, 25, 8, 21, 42, 123_000, tzinfo=UTC)
TINY = Decimal("0.000000000000000001")
LONGEST = Decimal("12345678901234567890.123456789012345678")
ENGINES = ["dynamodb", *(["ministack"] if os.environ.get("CNOP_TEST_MINISTACK") == "1" else [])]


@pytest.fixture(scope="module")
def ministack_url(machines: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second engine; broker and cache are the session's."""
    others = {"CNOP_KAFKA": machines.kafka, "CNOP_REDIS_URL": machines.redis_url}  # type: ignore[attr-defined]
    env = {**others, "CNOP_DYNAMODB": "ministack", "CNOP_DYNAMODB_PORT": str(ports.free())}
    stack = Stack(tmp_path_factory.mktemp("ministack"), processes=(), env=env)
    try:
        yield stack.up(hold=True).dynamodb_url
    finally:
        stack.down()


@asynccontextmanager
async def connected(request: pytest.FixtureRequest) -> AsyncIterator[Dynamo]:
    """A client of the engine that the fixture's parameter names, with the tables there."""
    url = request.getfixturevalue("ministack_url") if request.param == "ministack" else request.getfixturevalue("machines").dynamodb_url
    await provision(url, REGION)
    async with Dynamo(url, REGION) as dynamo:
        yield dynamo


@pytest.fixture(scope="module", params=["memory", *ENGINES])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[ParkingStore]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    async with connected(request) as dynamo:
        yield ParkingLedger(dynamo)


@pytest.fixture(scope="module", params=ENGINES)
async def dynamo(request: pytest.FixtureRequest) -> AsyncIterator[Dynamo]:
    async with connected(request) as dynamo:
        yield dynamo


def account_of(username: str, version: int = 1, cash: str = "5") -> Account:
    return Account(username, version, AT, cash={"USD": CashLine(Decimal(cash), updated_at=AT)}, counters=Counters("2026-11-25", Decimal(cash), transactions=1))


def entry_of(username: str, version: int = 1, *, name: str = "", refused: bool = False, asset: str | None = None, offset: int | None = None) -> Entry:
    cash = {} if refused or asset else {"USD": CashLine(Decimal(version), updated_at=AT)}
    positions = {asset: Position(Decimal(version), created_at=AT, updated_at=AT)} if asset else {}
    unit = asset or "USD"
    legs = () if refused else (Posting("customer", unit, Decimal(1)), Posting("world", unit, Decimal(-1)))
    return Entry(
        request_id(username, name or str(version)),
        username,
        version,
        AT,
        "Deposit",
        {"type": "Deposit", "amount": "1"},
        3,
        version if offset is None else offset,
        "correlation",
        "trace",
        Lines(Counters("2026-11-25"), cash, positions),
        legs,
        Refusal("limit-exceeded", "too much", "/amount") if refused else None,
    )


def order_of(version: int = 1, name: str = "o") -> Order:
    return Order(f"ord_{name}_{version:08d}", "BTC", "market_buy", Decimal("1.50"), "completed", version, AT, AT, Decimal("3.33"), 7, 10)


def write_of(username: str, version: int = 1, *, entries: int = 1, orders: int = 0) -> Write:
    """A first write of an account: `entries` entries and `orders` orders."""
    return Write(
        0,
        account_of(username, version),
        tuple(entry_of(username, number) for number in range(1, entries + 1)),
        tuple(order_of(number) for number in range(1, orders + 1)),
    )


# Reading back what was written


async def test_nothing_is_there_at_first(store: ParkingStore, user: str) -> None:
    """An account that does not exist is an empty one of version 0; entries and orders are not there."""
    assert await store.account(user) == Account(user)
    assert await store.load([user]) == {user: Account(user)}
    assert await store.load([]) == {}
    assert await store.entry(user, "no-such") is None
    assert await store.order(user, "ord_no_such") is None
    assert await store.entries(user, before=None, limit=5) == []
    assert await store.asset_entries(user, "BTC", before=None, limit=5) == []
    assert await store.orders(user, before=None, limit=5) == []


FULL_ACCOUNT = Account(
    "x",
    2,
    AT,
    "parked",
    {"USD": CashLine(LONGEST, TINY, AT)},
    {"BTC": Position(TINY, Decimal("1.50"), Decimal("0.01"), Decimal("-77.10"), AT, AT), "ETH": Position()},
    Counters("2026-11-25", Decimal("10000.00"), TINY, 12, 3),
)
FULL_ORDER = Order(
    "ord_full_000001",
    "BTC",
    "limit_sell",
    LONGEST,
    "expired",
    5,
    AT,
    AT + timedelta(milliseconds=1),
    TINY,
    10**15,
    1000,
    Decimal("50000.000000000000000001"),
    TINY,
    Decimal("1.10"),
    Decimal("0.01"),
    Decimal("0.02"),
    "mine:1.a_b-c",
    "gtd",
    AT + timedelta(days=1),
)


@pytest.mark.parametrize(
    "account",
    [FULL_ACCOUNT, Account("x", 1, AT), replace(FULL_ACCOUNT, cash={}, positions={"BTC": Position()}), replace(FULL_ACCOUNT, at=AT - timedelta(days=20_000))],
    ids=["full", "least", "no cash", "long ago"],
)
async def test_an_account_is_read_as_it_was_written(store: ParkingStore, user: str, account: Account) -> None:
    """Every field, decimals of 38 digits, and maps that are empty."""
    written = replace(account, username=user)
    assert await store.write([Write(0, written, ())]) == [Stored()]
    assert await store.account(user) == written
    assert (await store.load([user]))[user] == written


@pytest.mark.parametrize("order", [FULL_ORDER, order_of(), replace(FULL_ORDER, price=None, client_order_id="a")], ids=["full", "least", "some"])
async def test_an_order_is_read_as_it_was_written(store: ParkingStore, user: str, order: Order) -> None:
    """Every field, and those that are not set."""
    assert await store.write([Write(0, account_of(user), (), (order,))]) == [Stored()]
    assert await store.order(user, order.order_id) == order
    assert await store.orders(user, before=None, limit=5) == [order]


async def test_an_entry_is_read_as_it_was_written(store: ParkingStore, user: str) -> None:
    """Every field of a full entry, of a refusal and of one that moved nothing."""
    full = replace(
        entry_of(user, 1),
        kind="OrderPlaced",
        payload={"type": "OrderPlaced", "quantity": f"{LONGEST:f}", "client_order_id": "ä€𝄞"},
        lines=Lines(FULL_ACCOUNT.counters, FULL_ACCOUNT.cash, FULL_ACCOUNT.positions, FULL_ORDER),
        postings=(Posting("customer", "BTC", -LONGEST), Posting("market", "BTC", LONGEST), Posting("customer", "USD", TINY), Posting("fees", "USD", -TINY)),
    )
    refused = entry_of(user, 2, refused=True)
    bare = replace(entry_of(user, 3), postings=(), lines=Lines(Counters()), refusal=Refusal("fenced", ""), payload={}, correlation_id="c", trace_id="t")
    assert await store.write([Write(0, account_of(user, 3), (full, refused, bare))]) == [Stored()]
    for entry in (full, refused, bare):
        assert await store.entry(user, entry.request_id) == entry


async def test_a_decided_history_is_read_as_it_was_decided(store: ParkingStore, user: str) -> None:
    """Account, entries and orders that the rules made come back equal."""
    decided, write = decide(user)
    assert await store.write([write]) == [Stored()]
    assert await store.account(user) == decided
    assert [await store.entry(user, entry.request_id) for entry in write.entries] == list(write.entries)
    assert [await store.order(user, order.order_id) for order in write.orders] == list(write.orders)


async def test_a_result_sent_again_is_the_same_to_the_byte(store: ParkingStore, user: str) -> None:
    """The result of the entry as it was decided and of the entry as it was read back are the same bytes."""
    _, write = decide(user)
    await store.write([write])
    for entry in write.entries:
        stored = await store.entry(user, entry.request_id)
        assert stored is not None
        assert encode_result(result_of(stored)) == encode_result(result_of(entry))


def decide(user: str) -> tuple[Account, Write]:
    requests = [deposit("5000.00"), buy("0.10", "300.333", fee_bps=10), sell("0.05", "300"), withdrawal("0.50"), withdrawal("9999"), fence()]
    logged = tuple(
        LoggedRequest(replace(request, username=user), request_id(user, str(number)), AT, 3, number, "c", "t") for number, request in enumerate(requests)
    )
    decided = decide_all(Account(user), logged, {})
    return decided.account, Write(0, decided.account, decided.entries, decided.orders)


# Conditions


async def test_the_version_guards_the_account(store: ParkingStore, user: str) -> None:
    """A write that started from another version than the stored one changes nothing; so does a second first write."""
    assert await store.write([Write(0, account_of(user), (entry_of(user),))]) == [Stored()]
    for loaded in (0, 2, 99):
        refused = await store.write([Write(loaded, account_of(user, 3, "99"), (entry_of(user, 3),))])
        assert refused == [Refused(moved=True)]
    assert await store.account(user) == account_of(user)
    assert await store.entry(user, request_id(user, "3")) is None
    assert await store.write([Write(1, account_of(user, 2), (entry_of(user, 2),))]) == [Stored()]


async def test_a_version_of_nothing_is_no_version(store: ParkingStore, user: str) -> None:
    """A write to an account that should be there and is not is refused."""
    assert await store.write([Write(1, account_of(user, 2), (entry_of(user, 2),))]) == [Refused(moved=True)]
    assert await store.account(user) == Account(user)


async def test_an_entry_in_the_way_is_told(store: ParkingStore, user: str) -> None:
    """A request that has its entry already is refused with that entry, and nothing is changed."""
    first = entry_of(user, 1, name="same", offset=5)
    await store.write([Write(0, account_of(user), (first,))])
    again = entry_of(user, 3, name="same", offset=9)
    refused = await store.write([Write(1, account_of(user, 3), (entry_of(user, 2), again))])
    assert refused == [Refused(moved=False, entries={first.request_id: first})]
    assert await store.entry(user, first.request_id) == first
    assert await store.entry(user, request_id(user, "2")) is None
    assert (await store.account(user)).version == 1


async def test_an_order_in_the_way_is_told(store: ParkingStore, user: str) -> None:
    """An order id that is used already is refused with that order."""
    order = order_of(1, "mine")
    await store.write([Write(0, account_of(user), (entry_of(user),), (order,))])
    refused = await store.write([Write(1, account_of(user, 2), (entry_of(user, 2),), (replace(order, created_version=2),))])
    assert refused == [Refused(moved=False, orders={order.order_id: order})]
    assert await store.order(user, order.order_id) == order


async def test_everything_in_the_way_is_told_at_once(store: ParkingStore, user: str) -> None:
    """Version, two entries and an order at once: all of them are told."""
    write = write_of(user, 2, entries=2, orders=1)
    await store.write([write])
    refused = await store.write([replace(write, loaded_version=7)])
    assert refused == [Refused(True, {entry.request_id: entry for entry in write.entries}, {write.orders[0].order_id: write.orders[0]})]


async def test_the_same_item_twice_is_a_bug(store: ParkingStore, user: str) -> None:
    """Two entries of one request in one write raise, and nothing is stored: the caller folds each id once."""
    with pytest.raises(ClientError):
        await store.write([Write(0, account_of(user, 2), (entry_of(user, 1), entry_of(user, 1)))])
    assert await store.account(user) == Account(user)


async def test_the_same_entry_in_two_writes(store: ParkingStore, user: str) -> None:
    """Accounts have entries of their own: the same request id of two users is two entries."""
    other = f"{user}_2"
    ours, theirs = entry_of(user, name="one"), replace(entry_of(user, name="one"), username=other)
    assert await store.write([Write(0, account_of(user), (ours,)), Write(0, account_of(other), (theirs,))]) == [Stored(), Stored()]
    assert await store.entry(user, ours.request_id) == ours
    assert await store.entry(other, ours.request_id) == theirs


# Packing


async def test_many_writes_of_many_sizes_are_stored(store: ParkingStore, user: str) -> None:
    """250 accounts, from a single entry to a whole transaction's worth, are all stored, and the outcomes come in their order."""
    writes = [write_of(f"{user}_{number}", entries=1 + number % 3, orders=number % 2) for number in range(248)]
    writes[7:7] = [write_of(f"{user}_big_{number}", entries=ACTIONS_MAX - 1 - 49 * number, orders=49 * number) for number in range(2)]
    assert await store.write(writes) == [Stored()] * 250
    found = await store.load([write.account.username for write in writes])
    assert found == {write.account.username: write.account for write in writes}


async def test_a_refused_neighbour(store: ParkingStore, user: str) -> None:
    """Where one write of a transaction is refused the others are not stored, and are told that nothing is wrong with them."""
    await store.write([write_of(f"{user}_b")])
    writes = [write_of(f"{user}_{name}") for name in "abc"]
    told = await store.write(writes)
    assert told[0] == told[2] == Unknown(NEIGHBOUR)
    assert isinstance(told[1], Refused)
    assert told[1].moved
    assert await store.account(f"{user}_a") == Account(f"{user}_a")
    assert await store.entry(f"{user}_c", writes[2].entries[0].request_id) is None
    assert await store.write([writes[0], writes[2]]) == [Stored(), Stored()]


async def test_more_accounts_than_one_read_takes(store: ParkingStore, user: str) -> None:
    """230 accounts, of which every other one is there."""
    names = [f"{user}_{number}" for number in range(230)]
    await store.write([write_of(name) for name in names[::2]])
    found = await store.load(names)
    assert list(found) == names
    assert [account.version for account in found.values()] == [1, 0] * 115


# Lists


async def test_entries_come_newest_first_without_refusals(store: ParkingStore, user: str) -> None:
    """The history has what moved something; a refusal has an entry and no line in it."""
    entries = tuple(entry_of(user, version, refused=version % 3 == 0) for version in range(1, 11))
    await store.write([Write(0, account_of(user, 10), entries)])
    assert versions(await store.entries(user, before=None, limit=100)) == [10, 8, 7, 5, 4, 2, 1]
    assert versions(await store.entries(user, before=None, limit=3)) == [10, 8, 7]
    assert versions(await store.entries(user, before=7, limit=2)) == [5, 4]
    assert versions(await store.entries(user, before=6, limit=2)) == [5, 4]
    assert versions(await store.entries(user, before=1, limit=2)) == []
    assert versions(await store.entries(user, before=0, limit=2)) == []
    assert await store.entry(user, entries[2].request_id) == entries[2]


async def test_entries_over_many_pages(store: ParkingStore, user: str) -> None:
    """Paging by `before` meets every entry once, whatever the page; versions sort as numbers."""
    for start in range(0, 240, 80):
        entries = tuple(entry_of(user, version) for version in range(start + 1, start + 81))
        assert await store.write([Write(start, account_of(user, start + 80), entries)]) == [Stored()]
    for limit in (1, 7, 100, 239, 240, 241):
        met: list[int] = []
        while page := await store.entries(user, before=met[-1] if met else None, limit=limit):
            assert len(page) <= limit
            met += versions(page)
            if limit == 1 and len(met) == 20:
                break
        assert met == list(range(240, 0, -1))[: len(met)]
        assert limit == 1 or len(met) == 240


async def test_entries_too_large_for_one_answer(store: ParkingStore, user: str) -> None:
    """More than a megabyte of history: the store's own pages are joined."""
    payload = {"type": "Deposit", "note": "x" * 20_000}
    for start in range(0, 80, 20):
        entries = tuple(replace(entry_of(user, version), payload=payload) for version in range(start + 1, start + 21))
        assert await store.write([Write(start, account_of(user, start + 20), entries)]) == [Stored()]
    assert versions(await store.entries(user, before=None, limit=100)) == list(range(80, 0, -1))


async def test_entries_of_an_asset(store: ParkingStore, user: str) -> None:
    """Only those that moved this very asset, newest first, refusals and cash not among them."""
    assets = ["BTC", "BTC2", None, "BTC", "ETH", "BTC", None, "BT", "BTC"]
    entries = tuple(entry_of(user, version, asset=asset) for version, asset in enumerate(assets, 1))
    await store.write([Write(0, account_of(user, 9), entries)])
    assert versions(await store.asset_entries(user, "BTC", before=None, limit=10)) == [9, 6, 4, 1]
    assert versions(await store.asset_entries(user, "BTC", before=6, limit=10)) == [4, 1]
    assert versions(await store.asset_entries(user, "BTC", before=9, limit=1)) == [6]
    assert versions(await store.asset_entries(user, "BT", before=None, limit=10)) == [8]
    assert versions(await store.asset_entries(user, "SOL", before=None, limit=10)) == []


async def test_orders_by_the_version_that_placed_them(store: ParkingStore, user: str) -> None:
    """Newest first, paged like entries."""
    orders = tuple(order_of(version) for version in (1, 2, 9, 10, 11))
    await store.write([Write(0, account_of(user, 11), (entry_of(user, 1),), orders)])
    assert [order.created_version for order in await store.orders(user, before=None, limit=100)] == [11, 10, 9, 2, 1]
    assert [order.created_version for order in await store.orders(user, before=10, limit=2)] == [9, 2]
    assert [order.created_version for order in await store.orders(user, before=1, limit=2)] == []


async def test_lists_are_of_one_account(store: ParkingStore, user: str) -> None:
    """Nobody sees another's history, not even one whose name begins alike."""
    await store.write([write_of(user, orders=1), write_of(f"{user}_2")])
    assert len(await store.entries(f"{user}_2", before=None, limit=9)) == 1
    assert await store.orders(f"{user}_2", before=None, limit=9) == []


def versions(entries: Sequence[Entry]) -> list[int]:
    return [entry.version for entry in entries]


# The codec


@pytest.mark.parametrize(
    "value", ["", "ä€𝄞", 0, -5, 10**30, Decimal("1.50"), LONGEST, -TINY, True, False, None, [], [1, ["x"]], {}, {"a": {"b": []}}], ids=repr
)
def test_the_codec_gives_back_what_it_took(value: object) -> None:
    """Text, numbers, truth, nothing, lists and maps."""
    back = from_attribute(to_attribute(value))
    assert back == value
    assert isinstance(back, bool) == isinstance(value, bool)


@pytest.mark.parametrize("value", [5.0, {"a": 1.5}, [0.1], object(), {1, 2}, Decimal], ids=lambda value: type(value).__name__)
def test_the_codec_refuses(value: object) -> None:
    """A float has lost digits already; what has no form in an item is a bug."""
    with pytest.raises(TypeError):
        to_attribute(value)


# Faults that no emulator produces


async def test_a_write_without_an_answer_is_unknown(dynamo: Dynamo, user: str) -> None:
    """Whether the call happened or not, the outcome of all its writes is unknown; the next try tells what is true."""
    for fault, then in (("before", [Stored()]), ("after", [Refused(True, {entry_of(f"{user}_after").request_id: entry_of(f"{user}_after")})])):
        store = Ledger(FaultyDynamo(dynamo, [("transact_write_items", fault)]))  # type: ignore[arg-type] # stands in for it
        write = write_of(f"{user}_{fault}")
        (outcome,) = await store.write([write])
        assert isinstance(outcome, Unknown)
        assert outcome.cause != NEIGHBOUR
        assert await store.write([write]) == then


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded"])
async def test_a_conflict_is_never_a_refusal(dynamo: Dynamo, user: str, reason: str) -> None:
    """A transaction that was cancelled for a passing reason is unknown with that reason; its neighbours are told so."""
    store = Ledger(FaultyDynamo(dynamo, [("transact_write_items", reason)]))  # type: ignore[arg-type]
    writes = [write_of(f"{user}_{name}", entries=2) for name in "ab"]
    assert await store.write(writes) == [Unknown(reason), Unknown(NEIGHBOUR)]
    assert await store.write(writes) == [Stored(), Stored()]


async def test_one_pack_fails_and_the_others_are_stored(dynamo: Dynamo, user: str) -> None:
    """What befalls one transaction is not told of another."""
    store = Ledger(FaultyDynamo(dynamo, [("transact_write_items", "before")]))  # type: ignore[arg-type]
    told = await store.write([write_of(f"{user}_{number}", entries=60) for number in range(3)])
    assert sorted(type(outcome).__name__ for outcome in told) == ["Stored", "Stored", "Unknown"]


@pytest.mark.parametrize("operation", ["get_item", "batch_get_item", "query"])
async def test_a_read_without_an_answer_raises(dynamo: Dynamo, user: str, operation: str) -> None:
    """A read that fails in passing raises DynamoUnavailable; it never tells of an empty account."""
    store = ParkingLedger(FaultyDynamo(dynamo, [(operation, "before")] * 3))  # type: ignore[arg-type]
    reads: dict[str, Sequence[Callable[[], object]]] = {
        "get_item": (lambda: store.account(user), lambda: store.entry(user, "x"), lambda: store.order(user, "x")),
        "batch_get_item": (lambda: store.load([user]),) * 3,
        "query": (
            lambda: store.entries(user, before=None, limit=1),
            lambda: store.asset_entries(user, "BTC", before=None, limit=1),
            lambda: store.orders(user, before=None, limit=1),
        ),
    }
    for read in reads[operation]:
        with pytest.raises(DynamoUnavailable):
            await read()  # type: ignore[misc]
    assert await store.account(user) == Account(user)


SCRIPTS = {
    "no fault": [],
    "the load fails": [("batch_get_item", "before")] * 3,
    "never arrived": [("transact_write_items", "before")] * 2,
    "arrived without an answer": [("transact_write_items", "after")],
    "conflict, then no answer": [("transact_write_items", "TransactionConflict"), ("transact_write_items", "after"), ("batch_get_item", "before")],
    "throttled for a while": [("transact_write_items", "ThrottlingError")] * 5,
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_settlement_gets_through(dynamo: Dynamo, user: str, script: list[tuple[str, str]]) -> None:
    """Whatever befalls the calls, each request has one entry, and the same batch again gives the same results."""

    async def at_once(_: int) -> None:
        """No pause is needed where the fault is in a script."""

    faulty = FaultyDynamo(dynamo, script)
    settle = Settlement(ParkingLedger(faulty), at_once, lambda: AT, log_lines_max=0)  # type: ignore[arg-type]
    batch = [
        Read(LoggedRequest(replace(request, username=name), request_id(name, str(number)), AT, 3, 2 * number + who, "c", "t"), None, None, None)
        for number, request in enumerate([deposit("100.00"), buy("1", "60"), buy("1", "60"), withdrawal("5")])
        for who, name in enumerate((user, f"{user}_2"))
    ]
    results = (await settle(batch)).results
    assert not faulty.script
    assert [result.causation_id for result in results] == [read.logged.request_id for read in batch]
    assert [result.sequence for result in results] == [1, 1, 2, 2, 3, 3, 4, 4]
    account = await Ledger(dynamo).account(user)
    assert (account.version, account.cash["USD"].available, account.positions["BTC"].available) == (4, 35, 1)
    assert (await settle(batch)).results == results
