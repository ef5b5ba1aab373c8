"""What every `ParkingStore` must do: one suite on memory and on a real DynamoDB engine."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from infra.dynamo import Dynamo
from infra.ledger import ACTIONS_MAX, Failed, Refused, Stored, Unknown, Write
from infra.local.stack import Addresses
from infra.parked import WAITING_WRITE_MAX, HeadUnreadable, ParkingLedger, Unreadable, fitting
from processors.domain.parking import draining_entry, parking_entry
from schemas.ledger import Account, CashLine, Counters, Entry, Lines, Order, Parked, Parking, Position, Waiting
from schemas.requests import LoggedRequest, request_id
from schemas.tables import ACCOUNT_SK, LEDGER, account_pk
from tests.domain.given import deposit
from tests.fakes.dynamo import MemoryDynamo
from tests.fakes.ledger import FaultyDynamo, MemoryLedger

REGION = "us-east-1"
AT = datetime(2026, 11, 25, 8, 21, 42, 123_000, tzinfo=UTC)
NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
PARTITION = 3
NUMBERS = count(1)
Store = MemoryLedger | ParkingLedger


@pytest.fixture(scope="module")
async def dynamo(provisioned: Addresses) -> AsyncIterator[Dynamo]:
    async with Dynamo(provisioned.dynamodb_url, REGION) as dynamo:
        yield dynamo


@pytest.fixture(scope="module", params=["memory", "memory engine", "dynamodb"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            yield MemoryLedger()
        case "memory engine":
            yield ParkingLedger(MemoryDynamo())  # type: ignore[arg-type]
        case _:
            async with Dynamo(request.getfixturevalue("provisioned").dynamodb_url, REGION) as dynamo:
                yield ParkingLedger(dynamo)


@pytest.fixture
def user() -> str:
    return f"parked_{next(NUMBERS):06d}"


def account_of(username: str, version: int = 1) -> Account:
    return Account(username, version, AT, cash={"USD": CashLine(Decimal(5), updated_at=AT)}, counters=Counters("2026-11-25", Decimal(5), transactions=1))


def entry_of(username: str, version: int, name: str = "", **changes: Any) -> Entry:
    entry = Entry(
        request_id(username, name or str(version)), username, version, AT, "Deposit", {"type": "Deposit"}, PARTITION, version, "c", "t", Lines(Counters())
    )
    return replace(entry, **changes)


def logged_of(username: str, offset: int) -> LoggedRequest:
    return LoggedRequest(replace(deposit("1"), username=username), request_id(username, f"w{offset}"), AT, PARTITION, offset, "c", "t")


def waiting_of(username: str, offset: int, **changes: Any) -> Waiting:
    waiting = Waiting(PARTITION, offset, AT, request_id(username, f"w{offset}"), "cnop.account.Deposit.v1", '{"username":"x"}', "c", "t")
    return replace(waiting, **changes)


async def given(store: Store, user: str) -> None:
    assert await store.write([Write(0, account_of(user), (entry_of(user, 1),))]) == [Stored()]


async def park(store: Store, user: str, *, version: int = 1, offset: int = 10, listed_at: datetime | None = NOW) -> tuple[Parked, Entry, object]:
    parked = Parked(PARTITION, offset, AT, "decision")
    entry = parking_entry(user, version, AT, logged_of(user, offset), "decision")
    return parked, entry, await store.park(user, version, parked, entry, listed_at=listed_at)


async def damage(store: Store, user: str, **attributes: Any) -> None:
    if isinstance(store, MemoryLedger):
        store.damage(user, attributes)
        return
    if isinstance(store._dynamo, MemoryDynamo):
        store._dynamo.put({**store._dynamo.items[account_pk(user)][ACCOUNT_SK], **attributes})
        return
    names = {f"#{name}": name for name in attributes}
    await store._dynamo.call(
        "update_item",
        TableName=LEDGER.name,
        Key={"pk": {"S": account_pk(user)}, "sk": {"S": ACCOUNT_SK}},
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in attributes),
        ExpressionAttributeNames=names,
        ExpressionAttributeValues={f":{name}": value for name, value in attributes.items()},
    )


# Loading


async def test_one_unreadable_item_hides_no_other(store: Store, user: str) -> None:
    """Accounts are loaded in one call; what is known of one that cannot be read is told, without what it holds."""
    await given(store, user)
    await given(store, f"{user}_b")
    await damage(store, user, cash={"S": "five"})
    loaded = await store.load([user, f"{user}_b", f"{user}_c"])
    assert loaded[f"{user}_b"] == account_of(f"{user}_b")
    assert loaded[f"{user}_c"] == Account(f"{user}_c")
    head = loaded[user]
    assert isinstance(head, Unreadable)
    assert (head.username, head.version, head.at, head.parked) == (user, 1, AT, None)
    assert "five" not in head.reason
    assert "cash" in head.reason


@pytest.mark.parametrize("attributes", [{"version": {"S": "one"}}, {"status": {"S": "parked"}, "at": {"S": "never"}}], ids=["version", "facts"])
async def test_an_item_without_the_facts_of_parking_is_told(store: Store, user: str, attributes: dict[str, Any]) -> None:
    """Where not even version or, of a parked one, the parking can be read, nothing can be done."""
    await given(store, user)
    await damage(store, user, **attributes)
    with pytest.raises(HeadUnreadable, match=user):
        await store.load([user])


async def test_another_accounts_item_is_unreadable(store: Store, user: str) -> None:
    """An item that names another user than its key is nobody's."""
    await given(store, user)
    await damage(store, user, username={"S": "mallory_1"})
    assert isinstance((await store.load([user]))[user], Unreadable)


# Parking


async def test_parking_touches_three_attributes(store: Store, user: str) -> None:
    """Status, version and facts change, with an entry and a place on the list; everything else of the account is as before."""
    await given(store, user)
    parked, entry, outcome = await park(store, user)
    assert outcome == Stored()
    assert (await store.load([user]))[user] == replace(account_of(user, 2), status="parked", parked=parked)
    assert await store.entry(user, entry.request_id) == entry
    assert await store.parked_since(NOW - timedelta(seconds=1)) >= 1
    assert await store.parked_since(NOW) == 0


async def test_an_unreadable_item_can_be_parked(store: Store, user: str) -> None:
    """And holds afterwards what it held."""
    await given(store, user)
    await damage(store, user, at={"S": "yesterday"})
    parked, _, outcome = await park(store, user)
    assert outcome == Stored()
    head = (await store.load([user]))[user]
    assert isinstance(head, Unreadable)
    assert (head.version, head.parked) == (2, parked)
    await damage(store, user, at={"S": "2026-11-25T08:21:42.123Z"})
    assert (await store.load([user]))[user] == replace(account_of(user, 2), status="parked", parked=parked)


async def test_an_account_that_is_not_there_can_be_parked(store: Store, user: str) -> None:
    """The parking makes its item, which is an account's."""
    parked, _, outcome = await park(store, user, version=0)
    assert outcome == Stored()
    assert (await store.load([user]))[user] == Account(user, 1, status="parked", parked=parked)
    _, entry, again = await park(store, user, version=0)
    assert again == Refused(moved=True, entries={entry.request_id: entry})


async def test_the_version_guards_a_parking(store: Store, user: str) -> None:
    """An account that moved is not parked."""
    await given(store, user)
    for version in (0, 2):
        outcome = (await park(store, user, version=version))[2]
        assert isinstance(outcome, Refused)
        assert outcome.moved
    assert (await store.load([user]))[user] == account_of(user)


# Waiting


async def test_what_waits_is_read_in_the_order_of_the_log(store: Store, user: str) -> None:
    """Every field, and behind an offset, and up to a limit; putting it again changes nothing."""
    await given(store, user)
    await park(store, user)
    full = waiting_of(user, 10, reply_to="reply:door", traceparent="00-a-b-01", tracestate="v=1", value='{"ä":"€𝄞"}')
    others = [waiting_of(user, offset) for offset in (11, 100, 2_000_000)]
    for _ in range(2):
        assert await store.put_waiting(user, 2, [others[2], full, *others[:2]]) == Stored()
    assert await store.waiting(user, PARTITION, after=9, limit=9) == [full, *others]
    assert await store.waiting(user, PARTITION, after=10, limit=2) == others[:2]
    assert await store.waiting(user, PARTITION + 1, after=-1, limit=9) == []
    assert await store.waits(user, full.request_id)
    assert not await store.waits(user, request_id(user, "1"))


async def test_nothing_waits_in_an_account_that_is_not_parked_there(store: Store, user: str) -> None:
    """Not in an active account, and not at another version."""
    await given(store, user)
    assert await store.put_waiting(user, 1, [waiting_of(user, 10)]) == Refused(moved=True)
    await park(store, user)
    assert await store.put_waiting(user, 1, [waiting_of(user, 10)]) == Refused(moved=True)
    assert await store.waiting(user, PARTITION, after=-1, limit=9) == []


async def test_what_has_an_entry_does_not_wait(store: Store, user: str) -> None:
    """A request that was decided is handed back with its entry, and nothing is put."""
    await given(store, user)
    await park(store, user)
    decided = entry_of(user, 1)
    refused = await store.put_waiting(user, 2, [waiting_of(user, 10), waiting_of(user, 11, request_id=decided.request_id)])
    assert refused == Refused(moved=False, entries={decided.request_id: decided})
    assert await store.waiting(user, PARTITION, after=-1, limit=9) == []


async def test_a_full_transaction_of_waiting_requests(store: Store, user: str) -> None:
    """As many as are let through are taken, also two records of one request."""
    await given(store, user)
    await park(store, user)
    waiting = [waiting_of(user, offset, request_id=request_id(user, f"w{offset // 2}")) for offset in range(10, 10 + 2 * WAITING_WRITE_MAX)]
    assert len(fitting(waiting)) == WAITING_WRITE_MAX
    assert await store.put_waiting(user, 2, fitting(waiting)) == Stored()
    assert len(await store.waiting(user, PARTITION, after=-1, limit=1_000)) == WAITING_WRITE_MAX


def test_large_requests_are_let_through_by_size() -> None:
    """Never more bytes than a transaction takes, and always one."""
    large = [waiting_of("x", offset, value="x" * 120_000) for offset in range(40)]
    assert 20 < len(fitting(large)) < 40
    assert len(fitting([waiting_of("x", 1, value="x" * 5_000_000)])) == 1
    assert fitting([]) == []


# Draining


def drained(user: str, *, unparks: bool) -> Write:
    entries = tuple(entry_of(user, number, drained_by="d") for number in (3, 4))
    facts = Parking("active" if unparks else "parked", None, tuple(entry.request_id for entry in entries), not unparks)
    drain = replace(logged_of(user, 50), request_id=request_id(user, "drain"))
    after = replace(account_of(user, 5), status=facts.status, parked=None if unparks else Parked(PARTITION, 10, AT, "decision", drained=11))
    order = Order("ord_" + user, "BTC", "market_buy", Decimal(1), "completed", 3, AT, AT, Decimal(3), 7, 10)
    return Write(2, after, (*entries, draining_entry(user, 4, AT, drain, facts)), (order,))


@pytest.mark.parametrize("unparks", [True, False], ids=["the last", "a step"])
async def test_a_step_of_draining_is_stored_whole(store: Store, user: str, unparks: bool) -> None:
    """Account, entries with who drained them, the drain's entry and orders; the last step takes the account off the list."""
    await given(store, user)
    await park(store, user, listed_at=NOW + timedelta(days=1))
    before = await store.parked_since(NOW + timedelta(hours=1))
    write = drained(user, unparks=unparks)
    assert await store.drain(write, unparks=unparks) == Stored()
    assert (await store.load([user]))[user] == write.account
    assert [await store.entry(user, entry.request_id) for entry in write.entries] == list(write.entries)
    assert await store.order(user, write.orders[0].order_id) == write.orders[0]
    assert await store.parked_since(NOW + timedelta(hours=1)) == before - unparks
    again = await store.drain(write, unparks=unparks)
    assert isinstance(again, Refused)
    assert (again.moved, set(again.entries)) == (True, {entry.request_id for entry in write.entries})


async def test_removing_what_is_done(store: Store, user: str) -> None:
    """Up to an offset, of one partition; again is harmless."""
    await given(store, user)
    await park(store, user)
    await store.put_waiting(user, 2, [waiting_of(user, offset) for offset in range(10, 50)])
    assert await store.remove_waiting(user, PARTITION, up_to=44) == 35
    assert await store.remove_waiting(user, PARTITION, up_to=44) == 0
    assert [one.offset for one in await store.waiting(user, PARTITION, after=-1, limit=99)] == list(range(45, 50))
    assert await store.remove_waiting(user, PARTITION + 1, up_to=99) == 0


# What the store does not take


def too_large(user: str) -> Write:
    heavy = {f"A{number:08d}": Position(Decimal(1), created_at=AT, updated_at=AT) for number in range(4_000)}
    return Write(0, replace(account_of(user), positions=heavy), (entry_of(user, 1),))


async def test_the_guilty_one_fails_alone(store: Store, user: str) -> None:
    """Of many accounts in one transaction only the one that the store does not take fails; its neighbours are stored at once."""
    writes = [Write(0, account_of(f"{user}_{name}"), (entry_of(f"{user}_{name}", 1),)) for name in "abc"]
    told = await store.write([writes[0], too_large(user), *writes[1:]])
    assert [type(outcome) for outcome in told] == [Stored, Failed, Stored, Stored]
    assert (await store.load([user]))[user] == Account(user)


async def test_a_step_that_the_store_does_not_take_fails(store: Store, user: str) -> None:
    """Draining into an account that is too large is told as such."""
    assert isinstance(await store.drain(too_large(user), unparks=False), Failed)


@pytest.mark.parametrize("reason", ["TransactionConflict", "ThrottlingError"])
async def test_what_passes_is_no_failure(dynamo: Dynamo, user: str, reason: str) -> None:
    """A conflict or throttling is unknown, whatever is written."""
    await given(ParkingLedger(dynamo), user)
    store = ParkingLedger(FaultyDynamo(dynamo, [("transact_write_items", reason)] * 3))  # type: ignore[arg-type]
    assert (await park(store, user))[2] == Unknown(reason)  # type: ignore[arg-type]
    assert await store.put_waiting(user, 2, [waiting_of(user, 10)]) == Unknown(reason)
    assert await store.drain(drained(user, unparks=True), unparks=True) == Unknown(reason)


async def test_a_validation_reason_is_a_failure(dynamo: Dynamo, user: str) -> None:
    """DynamoDB tells an item that it does not take among the reasons of a cancelled transaction too."""
    store = ParkingLedger(FaultyDynamo(dynamo, [("transact_write_items", "ValidationError")]))  # type: ignore[arg-type]
    told = await store.write([Write(0, account_of(f"{user}_{name}"), (entry_of(f"{user}_{name}", 1),)) for name in "ab"])
    assert [type(outcome) for outcome in told] == [Failed, Unknown]


async def test_accounts_that_are_parked_are_listed(dynamo: Dynamo, user: str) -> None:
    """By name, with how many requests wait behind the mark."""
    store = ParkingLedger(dynamo)
    await given(store, user)
    parked, _, _ = await park(store, user)
    await store.put_waiting(user, 2, [waiting_of(user, offset) for offset in range(10, 15)])
    assert user in await store.parked_accounts()
    assert await store.waiting_count(user, parked) == 5
    assert await store.waiting_count(user, replace(parked, drained=12)) == 2


def test_a_step_fits_into_a_transaction() -> None:
    """The most that a step of draining writes is within the store's bound."""
    from processors.work import DRAIN_MAX  # noqa: PLC0415

    assert 2 * DRAIN_MAX + 3 <= ACTIONS_MAX
