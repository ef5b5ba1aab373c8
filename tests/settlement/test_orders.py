"""Orders in the settlement shell: what it reads before it decides, what it passes over, and what it tells, wherever the process dies."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from infra.ledger_items import order_item
from processors.parking import PARKED_A_MINUTE_MAX, TooManyParked
from schemas.ledger import Order
from schemas.requests import (
    AccountRequest,
    DrainRequested,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderTriggered,
    order_id,
)
from schemas.tables import order_sk
from tests.domain.given import NOON, USER, buy, deposit, order
from tests.settlement.partition import Partition

OTHER = "other_00"


def limit_buy(name: str, *, limit: str = "90", quantity: str = "1") -> OrderPlaced:
    """An order that waits: the market is at 100."""
    return order("limit_buy", quantity, "100", limit=limit, client_order_id=name)


def trigger(name: str, *, price: str = "90", sequence: int = 42) -> OrderTriggered:
    return OrderTriggered(USER, order_id(USER, name), Decimal(price), sequence, NOON + timedelta(days=1))


def cancel(name: str) -> OrderCancelRequested:
    return OrderCancelRequested(USER, order_id(USER, name))


async def settled(*requests: AccountRequest) -> Partition:
    """A partition whose process has settled these, each in a batch of its own, and has been started anew."""
    partition = Partition(batch_max=1)
    partition.ask(*requests)
    await partition.run()
    partition.restart()
    partition.batch_max = 500
    partition.told.clear()
    partition.steps.clear()
    return partition


async def order_of(partition: Partition, name: str) -> Order:
    found = await partition.ledger.order(USER, order_id(USER, name))
    assert found
    return found


def free_and_held(partition: Partition) -> tuple[Decimal, Decimal]:
    line = partition.ledger.account_now(USER).cash["USD"]
    return line.available, line.held


async def test_an_order_of_an_earlier_batch_is_read_and_filled() -> None:
    """A trigger fills an order that this process has never seen; the difference to what was held is free again."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    assert free_and_held(partition) == (Decimal(910), Decimal(90))
    partition.ask(trigger("mine", price="80"))
    await partition.run()
    assert partition.kinds(USER) == ["OrderFilled"]
    assert free_and_held(partition) == (Decimal(920), Decimal(0))
    assert (await order_of(partition, "mine")).average_price == Decimal(80)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (cancel("mine"), "cancelled"),
        (OrderRevoked(USER, order_id(USER, "mine"), "asset-inactive"), "cancelled"),
        (trigger("mine"), "completed"),
    ],
    ids=lambda row: type(row).__name__ if not isinstance(row, str) else row,
)
async def test_an_order_is_placed_and_closed_in_one_batch(request_: AccountRequest, status: str) -> None:
    """Placed and closed in one write, the order is stored once, as it is at the end; both results are told."""
    partition = Partition()
    partition.ask(deposit("1000"), limit_buy("mine"), request_)
    await partition.run()
    assert partition.kinds(USER)[:2] == ["DepositSettled", "OrderAccepted"]
    assert (await order_of(partition, "mine")).status == status
    assert partition.steps.count("write") == 1
    partition.check([USER])


async def test_only_batches_that_name_orders_read_them() -> None:
    """Deposits and new orders are settled without a further read."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    partition.ask(deposit("1"), limit_buy("other"), buy("1", "1"))
    await partition.run()
    assert "named" not in partition.steps
    partition.ask(cancel("mine"), cancel("other"))
    await partition.run()
    assert partition.steps.count("named") == 1


NOTHING_TO_DO: dict[str, AccountRequest] = {
    "no such order": trigger("none"),
    "not due": trigger("mine", price="90.01"),
    "placed when the price was known": trigger("mine", sequence=41),
    "closed": trigger("closed"),
    "its time has not come": OrderExpiryReached(USER, order_id(USER, "mine")),
    "revoked when closed": OrderRevoked(USER, order_id(USER, "closed"), "asset-inactive"),
}


@pytest.mark.parametrize("name", NOTHING_TO_DO)
async def test_a_request_from_inside_that_finds_nothing_leaves_nothing(name: str) -> None:
    """No entry, no version, no result, and the offset goes on; what stands around it is settled as if it were not there."""
    partition = await settled(deposit("1000"), limit_buy("mine"), limit_buy("closed"), cancel("closed"))
    before = partition.ledger.account_now(USER).version
    partition.ask(deposit("1"), NOTHING_TO_DO[name], deposit("2"))
    await partition.run()
    assert partition.kinds(USER) == ["DepositSettled"] * 2
    assert [entry.version for entry in partition.ledger.entries_now(USER)] == list(range(1, before + 3))
    assert partition.committed == len(partition.log)


async def test_a_request_from_inside_alone_is_passed_over_without_a_write() -> None:
    """Where nothing else is to be done nothing is written."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    partition.ask(trigger("mine", price="91"))
    await partition.run()
    assert (partition.told, partition.steps.count("write"), partition.committed) == ([], 0, len(partition.log))


async def test_a_user_who_cancels_in_vain_is_told() -> None:
    """A cancel always leaves an entry: of an order that is closed with the order as it stands, of none with `not-found`."""
    partition = await settled(deposit("1000"), limit_buy("mine"), trigger("mine"))
    partition.ask(cancel("mine"), cancel("none"))
    await partition.run()
    closed, unknown = partition.results(USER)
    assert closed.refusal
    assert unknown.refusal
    assert (closed.refusal.code, unknown.refusal.code) == ("order-not-open", "not-found")
    assert closed.refusal.order == await order_of(partition, "mine")


HISTORY: Sequence[AccountRequest] = (
    deposit("1000"),
    limit_buy("a"),
    limit_buy("b"),
    trigger("a"),
    trigger("a", price="85", sequence=43),
    cancel("a"),
    replace(limit_buy("c"), time_in_force="gtd", expires_at=NOON + timedelta(milliseconds=9)),
    OrderExpiryReached(USER, order_id(USER, "c")),
    cancel("b"),
    deposit("2"),
    trigger("b"),
    OrderExpiryReached(USER, order_id(USER, "c")),
    trigger("c"),
    limit_buy("a"),
    deposit("1"),
)
KINDS = [
    "DepositSettled",
    "OrderAccepted",
    "OrderAccepted",
    "OrderFilled",
    "OrderCancelRejected",
    "OrderAccepted",
    "OrderCancelled",
    "DepositSettled",
    "OrderExpired",
    "OrderRejected",
    "DepositSettled",
]


@pytest.mark.parametrize("batch_max", [1, 2, 3, 5, 500])
async def test_a_crash_anywhere_changes_nothing(batch_max: int) -> None:
    """Wherever the process dies, results are told once, in order, and of what was filled before the crash too: it finds its order filled by itself."""
    for crash_at in range(1, 200):
        partition = Partition(batch_max=batch_max)
        partition.ask(*HISTORY)
        partition.crash_at = crash_at
        await partition.run()
        assert partition.kinds(USER) == KINDS, crash_at
        partition.check([USER])
        assert free_and_held(partition) == (Decimal(913), Decimal(0))
        if partition.crash_at is not None:
            return
    pytest.fail("the history is longer than that")


async def test_an_order_that_changed_since_it_was_read_is_decided_anew() -> None:
    """The store refuses a change of an order that is not as it was read, although the account's version is as expected, and tells how it is now."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    found = await order_of(partition, "mine")
    stale = replace(found, updated_version=found.updated_version + 7)
    partition.ledger.damage(USER, order_item(USER, stale), sk=order_sk(found.order_id))
    read = partition.ledger.named

    async def lags(wanted: object) -> object:
        named = await read(wanted)  # type: ignore[arg-type]
        partition.ledger.named = read  # type: ignore[method-assign] # the second read is of the order as it is
        return {username: replace(one, orders={found.order_id: found}) for username, one in named.items()}

    partition.ledger.named = lags  # type: ignore[assignment, method-assign] # a store that answers with what was there before
    partition.ask(trigger("mine"))
    await partition.run()
    assert partition.kinds(USER) == ["OrderFilled"]
    assert partition.steps.count("write") == 2


async def test_an_order_that_another_owner_filled_meanwhile_is_read_again() -> None:
    """An owner that lost the partition stores a fill late: the version has moved, and the order is read again with the account before a cancel is decided."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    late = Partition()
    late.ledger, late.log = partition.ledger, list(partition.log)
    late.ask(trigger("mine"))
    partition.log.append(late.log[-1])
    partition.ask(cancel("mine"))
    late.restart()
    late.committed = partition.committed
    writes = 0

    async def overtaken(name: str) -> None:
        nonlocal writes
        writes += name == "write"
        if name == "write" and writes == 1:
            await late.batch()

    partition.step = overtaken  # type: ignore[method-assign] # the harness's own
    partition.ledger.step = overtaken
    partition.restart()
    await partition.run()
    assert partition.kinds(USER) == ["OrderFilled", "OrderCancelRejected"]
    partition.ledger.step = partition.step
    assert free_and_held(partition) == (Decimal(910), Decimal(0))


async def test_an_order_that_cannot_be_read_parks_its_account_alone() -> None:
    """A cancel parks the account, others settle; once the order is mended a drain decides what waited. A trigger parks nobody: it is dropped."""
    partition = await settled(deposit("1000"), limit_buy("mine"), replace(deposit("5"), username=OTHER))
    sk = order_sk(order_id(USER, "mine"))
    before = partition.ledger.damage(USER, {"order": {"S": "damaged"}}, sk=sk)
    partition.ask(trigger("mine"), replace(deposit("6"), username=OTHER))
    await partition.run()
    assert (partition.kinds(USER), partition.kinds(OTHER)) == ([], ["DepositSettled"])
    partition.ask(cancel("mine"), replace(deposit("7"), username=OTHER))
    await partition.run()
    assert partition.kinds(USER) == ["AccountParked"]
    assert partition.kinds(OTHER) == ["DepositSettled"] * 2
    partition.ask(DrainRequested(USER))
    await partition.run()
    assert partition.kinds(USER) == ["AccountParked", "AccountDrained"]
    assert partition.ledger.account_now(USER).status == "parked"
    partition.ledger.damage(USER, before, sk=sk)
    partition.ask(DrainRequested(USER))
    await partition.run()
    assert partition.kinds(USER)[2:] == ["OrderCancelled", "AccountDrained"]
    assert partition.ledger.account_now(USER).status == "active"


async def test_too_many_failures_of_requests_from_inside_stop_the_process() -> None:
    """A release that fails at triggers must not drop them all: the process ends, its offsets where they were."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    partition.ledger.damage(USER, {"order": {"S": "damaged"}}, sk=order_sk(order_id(USER, "mine")))
    partition.batch_max = 1
    partition.ask(*(trigger("mine", sequence=sequence) for sequence in range(42, 42 + PARKED_A_MINUTE_MAX + 1)))
    with pytest.raises(TooManyParked):
        await partition.run()
    assert partition.committed == len(partition.log) - 1


async def test_what_waits_is_drained_with_its_orders() -> None:
    """Requests about orders that waited in a parked account are decided in their order; those with nothing to do leave nothing."""
    partition = await settled(deposit("1000"), limit_buy("a"), limit_buy("b"))
    before = partition.break_item(USER)
    partition.ask(deposit("1"), trigger("a"), trigger("a", sequence=43), cancel("b"), trigger("b"), limit_buy("c"), cancel("c"), trigger("c"))
    await partition.run()
    partition.ledger.damage(USER, before)
    partition.ask(DrainRequested(USER))
    await partition.run()
    kinds = ["AccountParked", "DepositSettled", "OrderFilled", "OrderCancelled", "OrderAccepted", "OrderCancelled", "AccountDrained"]
    assert partition.kinds(USER) == kinds
    assert free_and_held(partition) == (Decimal(911), Decimal(0))
    assert partition.ledger.waiting_now(USER) == []


async def test_what_is_asked_again_does_not_wait_in_a_parked_account() -> None:
    """Expiries and revocations come again for as long as their order is open: waiting, they would gather. A trigger waits: its price may not come again."""
    partition = await settled(deposit("1000"), limit_buy("a"), limit_buy("b"))
    before = partition.break_item(USER)
    ends = [OrderExpiryReached(USER, order_id(USER, "a")), OrderRevoked(USER, order_id(USER, "b"), "asset-inactive")]
    partition.ask(deposit("1"), *ends, trigger("a"), *ends)
    await partition.run()
    partition.ask(*ends)
    await partition.run()
    assert [one.type.split(".")[-2] for one in partition.ledger.waiting_now(USER)] == ["Deposit", "OrderTriggered"]
    partition.ledger.damage(USER, before)
    partition.ask(DrainRequested(USER), ends[1])
    await partition.run()
    assert partition.kinds(USER) == ["AccountParked", "DepositSettled", "OrderFilled", "AccountDrained", "OrderCancelled"]


async def test_a_fill_that_was_stored_and_not_told_is_told_by_the_next_owner() -> None:
    """The next owner finds the order filled and the trigger with nothing to do; it looks for the trigger's entry, and tells it."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    partition.ask(trigger("mine"))
    partition.crash_at = 1 + [*(await settled_steps()), "handled"].index("handled")
    await partition.run_until_crash()
    assert (partition.told, (await order_of(partition, "mine")).status) == ([], "completed")
    partition.restart()
    await partition.run()
    assert partition.kinds(USER) == ["OrderFilled"]


async def settled_steps() -> list[str]:
    """The steps of filling one order."""
    partition = await settled(deposit("1000"), limit_buy("mine"))
    partition.ask(trigger("mine"))
    await partition.run()
    return partition.steps
