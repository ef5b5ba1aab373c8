"""An account whose work fails is parked and drained; nobody else notices, and nothing is lost, doubled or told in another order, wherever the process dies."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from botocore.exceptions import ClientError

from infra.ledger_items import account_item
from infra.parked import HeadUnreadable
from processors.parking import PARKED_A_MINUTE_MAX, TooManyParked
from processors.work import DRAIN_MAX, FAILURES_MAX
from schemas.ledger import CashLine, Position
from schemas.requests import DrainRequested, next_drain_id, parking_id
from schemas.results import result_id
from schemas.tables import account_pk, parked_sk
from tests.domain.given import NOON, buy, deposit, fence, withdrawal
from tests.fakes.parked import ITEM_BYTES_MAX
from tests.settlement.partition import PARTITION, Partition

BAD, GOOD, OTHER = "bad_000", "good_000", "other_00"
NEGATIVE = {"cash": {"USD": CashLine(Decimal(-50), updated_at=NOON)}}
"""Cash that cannot be: a deposit that leaves it negative is a decision that raises, a larger one is not."""


def of(username: str, request: object) -> object:
    return replace(request, username=username)  # type: ignore[type-var]


def asked(partition: Partition, username: str, *amounts: str) -> list[str]:
    return partition.ask(*(of(username, deposit(amount)) for amount in amounts))  # type: ignore[arg-type]


async def broken(**damage: object) -> tuple[Partition, dict[str, object]]:
    """A partition with one account that was settled once and is damaged since, and how its item was before."""
    partition = Partition()
    asked(partition, BAD, "10")
    await partition.run()
    before = partition.break_item(BAD, **damage)
    partition.restart()
    return partition, before


async def parked(*, unreadable: bool = True) -> tuple[Partition, dict[str, object], list[str]]:
    """A partition with one account that is parked and two requests that wait, and another account that is well."""
    partition, before = await broken(**({} if unreadable else NEGATIVE))
    waiting = asked(partition, BAD, "1")
    asked(partition, GOOD, "5", "6")
    waiting += asked(partition, BAD, "100")
    await partition.run()
    return partition, before, waiting


def mend(partition: Partition, before: dict[str, object]) -> None:
    partition.ledger.damage(BAD, before)  # type: ignore[arg-type]


# Parking


@pytest.mark.parametrize("unreadable", [True, False], ids=["unreadable item", "raising decision"])
async def test_a_failing_account_parks_and_the_others_settle(unreadable: bool) -> None:
    """From its first failing request on an account's requests wait; all others of the batch settle; the parking is told, with the next version."""
    partition, _, waiting = await parked(unreadable=unreadable)
    assert partition.kinds(GOOD) == ["DepositSettled"] * 2
    assert partition.kinds(BAD) == ["DepositSettled", "AccountParked"]
    told = partition.results(BAD)[-1]
    assert told.parking
    assert (told.version, told.parking.status, told.parking.cause) == (2, "parked", "undecodable" if unreadable else "decision")
    assert [one.request_id for one in partition.ledger.waiting_now(BAD)] == waiting
    assert partition.ledger.parked_now() == [BAD]
    assert partition.ledger.waiting_now(GOOD) == []


async def test_a_parking_has_the_place_and_id_of_its_record() -> None:
    """The parking's entry has an id that follows from username and place of the causing record, and that place as its own."""
    partition, _, _ = await parked()
    entry = await partition.ledger.entry(BAD, parking_id(BAD, PARTITION, 1))
    assert entry
    assert (entry.partition, entry.offset, entry.version, entry.at) == (PARTITION, 1, 2, partition.at(1))
    assert partition.told[-1].id != result_id(entry.request_id)
    assert result_id(entry.request_id) in {envelope.id for envelope in partition.told}


async def test_an_unreadable_item_keeps_what_it_holds() -> None:
    """Parking touches status, version and the parking's facts of the item, and nothing else."""
    partition, before, _ = await parked()
    mend(partition, before)
    account = partition.ledger.account_now(BAD)
    assert (account.status, account.version, account.cash["USD"].available) == ("parked", 2, 10)
    assert account.parked
    assert (account.parked.partition, account.parked.offset, account.parked.drained) == (PARTITION, 1, None)


async def test_what_waits_has_all_of_its_record() -> None:
    """Type, value, ids, time and the way back of the record are kept."""
    partition, _, _ = await parked()
    partition.ask(of(BAD, deposit("3")), reply_to="reply:door")  # type: ignore[arg-type]
    await partition.run()
    record, waiting = partition.log[-1], partition.ledger.waiting_now(BAD)[-1]
    assert (waiting.partition, waiting.offset, waiting.at) == (PARTITION, len(partition.log) - 1, partition.at(len(partition.log) - 1))
    assert (waiting.request_id, waiting.type, waiting.value.encode()) == (record.id, record.type, record.value)
    assert (waiting.correlation_id, waiting.trace_id, waiting.reply_to) == (record.correlation_id, record.trace_id, "reply:door")


async def test_a_failure_is_tried_again_first() -> None:
    """A failure that passes parks nobody; one that stays is tried so many times, with a pause and a new load each time."""
    partition, before = await broken()
    asked(partition, BAD, "1")

    async def mended(name: str) -> None:
        if name == "pause":
            mend(partition, before)

    partition.ledger.step = mended
    partition.step = mended  # type: ignore[method-assign] # the harness's own
    await partition.run()
    assert partition.kinds(BAD) == ["DepositSettled"] * 2
    again, _, _ = await parked()
    assert again.pauses == FAILURES_MAX - 1


async def test_a_failing_request_in_a_fold_parks_from_there_on() -> None:
    """What stands before the failing request in the log is settled, though all of it would have been one write."""
    partition = Partition()
    asked(partition, BAD, "100")
    await partition.run()
    partition.break_item(BAD, **NEGATIVE)
    partition.restart()
    partition.ask(of(BAD, fence()), of(BAD, deposit("7")), of(BAD, deposit("500")))  # type: ignore[arg-type]
    await partition.run()
    assert partition.kinds(BAD) == ["DepositSettled", "CommandFenced", "AccountParked"]
    assert [one.offset for one in partition.ledger.waiting_now(BAD)] == [2, 3]
    partition.check([BAD])


async def test_a_write_that_the_store_does_not_take_parks() -> None:
    """An account over the size of an item is parked; what its fold holds before the failing request is settled, and so are the neighbours."""
    partition = Partition()
    asked(partition, BAD, "10", "20")
    await partition.run()
    heavy = {f"A{number:08d}": Position(Decimal(1), created_at=NOON, updated_at=NOON) for number in range(6_000)}
    partition.break_item(BAD, positions=heavy)
    partition.restart()
    asked(partition, BAD, "1", "2")
    asked(partition, GOOD, "5")
    await partition.run()
    assert partition.kinds(GOOD) == ["DepositSettled"]
    assert partition.kinds(BAD)[2:] == ["AccountParked"]
    told = partition.results(BAD)[-1].parking
    assert told
    assert told.cause == "store-refused"
    assert len(partition.ledger.waiting_now(BAD)) == 2


async def test_a_fold_that_the_store_does_not_take_is_settled_as_far_as_it_goes() -> None:
    """An account just under the size of an item: what makes it grow fails, and what stands before that in the log is settled."""
    partition = Partition()
    asked(partition, BAD, "100")
    await partition.run()
    heavy = {f"A{number:08d}": Position(Decimal(1), created_at=NOON, updated_at=NOON) for number in range(6_000)}
    base = partition.ledger.account_now(BAD)
    size, full = len(str(account_item(base))), len(str(account_item(replace(base, positions=heavy))))
    fits = int((ITEM_BYTES_MAX - size) / ((full - size) / len(heavy))) - 1
    partition.break_item(BAD, positions=dict(list(heavy.items())[:fits]))
    partition.restart()
    trade = of(BAD, buy("0.1", "50"))
    late = [of(BAD, replace(buy("0.1", "50"), asset_id=f"N{number}")) for number in range(3)]
    partition.ask(of(BAD, fence()), of(BAD, fence()), trade, *late, of(BAD, fence()))  # type: ignore[arg-type]
    await partition.run()
    kinds = partition.kinds(BAD)
    assert kinds[:3] == ["DepositSettled", "CommandFenced", "CommandFenced"]
    assert kinds[-1] == "AccountParked"
    assert len(kinds) + len(partition.ledger.waiting_now(BAD)) == 9
    partition.check([BAD])


async def test_what_was_decided_never_waits() -> None:
    """A request that comes again from its own place gives its stored result, though the account is parked or unreadable by now."""
    partition = Partition()
    asked(partition, BAD, "10", "11")
    await partition.run_until_crash()
    partition.told.clear()
    partition.committed = 0
    partition.break_item(BAD)
    partition.restart()
    asked(partition, BAD, "12")
    await partition.run()
    assert partition.kinds(BAD) == ["DepositSettled", "DepositSettled", "AccountParked"]
    assert [one.offset for one in partition.ledger.waiting_now(BAD)] == [2]


async def test_a_repetition_of_a_decided_request_neither_waits_nor_tells() -> None:
    """The first record of a request wins, parked or not."""
    partition, _, _ = await parked()
    told = len(partition.told)
    partition.log.append(partition.log[0])
    await partition.run()
    assert len(partition.told) == told
    assert len(partition.ledger.waiting_now(BAD)) == 2


async def test_too_many_parked_accounts_stop_the_process() -> None:
    """A release that fails for everybody must not park everybody: past the bound of a minute nothing is parked and the process ends."""
    partition = Partition()
    names = [f"bad_{number:03d}" for number in range(PARKED_A_MINUTE_MAX + 2)]
    for name in names:
        asked(partition, name, "10")
    await partition.run()
    for name in names:
        partition.break_item(name)
        asked(partition, name, "1")
    partition.restart()
    with pytest.raises(TooManyParked):
        await partition.run()
    assert len(partition.ledger.parked_now()) == PARKED_A_MINUTE_MAX
    partition.restart()
    with pytest.raises(TooManyParked):  # a restart does not begin to count anew
        await partition.run()
    partition.now += timedelta(minutes=2)
    partition.restart()
    await partition.run()
    assert partition.ledger.parked_now() == names


async def test_an_item_without_a_version_ends_the_process() -> None:
    """Without a version there is no condition to write under, so nothing is parked."""
    partition = Partition()
    asked(partition, BAD, "10")
    await partition.run()
    partition.ledger.damage(BAD, {"version": {"S": "two"}})
    partition.restart()
    asked(partition, BAD, "1")
    with pytest.raises(HeadUnreadable):
        await partition.run()


async def test_other_failures_end_the_process() -> None:
    """Only one account's own work parks: a store that refuses the caller is nobody's account's fault."""
    partition = Partition()

    async def denied(name: str) -> None:
        if name == "write":
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "TransactWriteItems")

    partition.ledger.step = denied
    asked(partition, BAD, "10")
    with pytest.raises(ClientError):
        await partition.run()
    assert partition.ledger.parked_now() == []


# Draining


async def test_a_mended_account_is_drained_in_order() -> None:
    """What waited is decided in its order with its own times, each result is told, and with the last of it the account is active again."""
    partition, before, waiting = await parked()
    mend(partition, before)
    (drain,) = partition.ask(DrainRequested(BAD))
    asked(partition, BAD, "7")
    await partition.run()
    assert partition.kinds(BAD) == ["DepositSettled", "AccountParked", "DepositSettled", "DepositSettled", "AccountDrained", "DepositSettled"]
    told = partition.results(BAD)
    assert [result.request_id for result in told[2:4]] == waiting
    assert [result.at for result in told[2:4]] == [partition.at(1), partition.at(4)]
    assert told[4].parking
    assert (told[4].request_id, told[4].parking.status, told[4].parking.drained, told[4].parking.goes_on) == (drain, "active", tuple(waiting), False)
    assert told[4].at == partition.at(4)  # of the last decision: a further step must be free to decide with earlier times than the drain's
    account = partition.ledger.account_now(BAD)
    assert (account.status, account.parked, account.cash["USD"].available) == ("active", None, 118)
    assert partition.ledger.waiting_now(BAD) == []
    partition.check([BAD, GOOD])


async def test_long_waiting_is_drained_in_steps() -> None:
    """A step takes so many; the next one is asked for with its results, under an id that follows; requests between the steps wait behind."""
    partition, before, _ = await parked()
    asked(partition, BAD, *["1"] * (2 * DRAIN_MAX))
    await partition.run()
    mend(partition, before)
    (drain,) = partition.ask(DrainRequested(BAD))
    asked(partition, BAD, "2")
    await partition.run()
    steps = [result for result in partition.results(BAD) if result.kind == "DrainRequested"]
    assert [len(result.parking.drained) for result in steps if result.parking] == [DRAIN_MAX, DRAIN_MAX, 3]
    assert [result.request_id for result in steps] == [drain, next_drain_id(drain), next_drain_id(next_drain_id(drain))]
    offsets = [entry.offset for entry in partition.ledger.entries_now(BAD) if entry.kind == "Deposit"]
    assert offsets == sorted(offsets)
    assert partition.ledger.waiting_now(BAD) == []
    partition.check([BAD, GOOD])


async def test_a_request_that_fails_again_stops_the_draining_before_it() -> None:
    """What waits before it is drained, it and all behind it keep waiting, no next step is asked for, and a later drain goes on there."""
    partition, _, waiting = await parked(unreadable=False)
    partition.ask(DrainRequested(BAD))
    await partition.run()
    stopped = partition.results(BAD)[-1].parking
    assert stopped
    assert (stopped.status, stopped.cause, stopped.drained, stopped.goes_on) == ("parked", "decision", (), False)
    assert len(partition.log) == 6
    partition.break_item(BAD, cash={"USD": CashLine(Decimal(-1), updated_at=NOON)})  # the first fits now
    partition.ask(of(BAD, withdrawal("99999")), DrainRequested(BAD))  # type: ignore[arg-type]
    await partition.run()
    drained = partition.results(BAD)[-1].parking
    assert drained
    assert (drained.status, drained.drained[:2], len(drained.drained)) == ("active", tuple(waiting), 3)
    partition.check([BAD, GOOD])


async def test_a_step_that_stops_asks_for_no_other() -> None:
    """Though much more waits: what stands before the failing request is drained, and the log gets no further drain."""
    partition, before, waiting = await parked()
    asked(partition, BAD, *["1"] * DRAIN_MAX)
    await partition.run()
    mend(partition, before)
    item = partition.ledger._items[account_pk(BAD)][parked_sk(PARTITION, 4)]
    item["type"] = {"S": "cnop.account.Gift.v9"}
    partition.ask(DrainRequested(BAD))
    records = len(partition.log)
    await partition.run()
    stopped = partition.results(BAD)[-1].parking
    assert stopped
    assert (stopped.status, stopped.cause, stopped.drained, stopped.goes_on) == ("parked", "undecodable", (waiting[0],), False)
    assert len(partition.log) == records
    parked_now = partition.ledger.account_now(BAD).parked
    assert parked_now
    assert (parked_now.drained, parked_now.cause) == (1, "undecodable")
    partition.check([BAD, GOOD])


async def test_a_drain_from_before_the_parking_leaves_it_alone() -> None:
    """A drain that found nothing to do and comes again, when a later request has parked the account, still finds nothing."""
    partition, before = await broken()
    partition.ask(DrainRequested(BAD))
    asked(partition, BAD, "1")
    await partition.settle([partition.read(offset) for offset in (1, 2)])  # stored, and never told
    assert partition.ledger.parked_now() == [BAD]
    mend(partition, before)
    partition.restart()
    await partition.run()
    assert partition.kinds(BAD) == ["DepositSettled", "AccountParked"]
    partition.check([BAD])


async def test_a_parking_that_was_never_told_is_told_after_its_draining() -> None:
    """Parked and drained, both without being told: when both records come again, the parking is told by its own, the rest by the drain's."""
    partition, before = await broken()
    asked(partition, BAD, "1")
    await partition.settle([partition.read(1)])
    mend(partition, before)
    partition.ask(DrainRequested(BAD))
    await partition.settle([partition.read(1), partition.read(2)])
    assert partition.ledger.account_now(BAD).status == "active"
    partition.restart()
    await partition.run()
    assert partition.kinds(BAD) == ["DepositSettled", "AccountParked", "DepositSettled", "AccountDrained"]
    partition.check([BAD])


async def test_an_account_that_is_still_unreadable_stays_parked() -> None:
    """The draining says why it stopped, touches nothing that waits, and the next one begins anew."""
    partition, before, waiting = await parked()
    partition.ask(DrainRequested(BAD))
    await partition.run()
    assert partition.kinds(BAD)[-1] == "AccountDrained"
    stopped = partition.results(BAD)[-1].parking
    assert stopped
    assert (stopped.status, stopped.cause, stopped.drained) == ("parked", "undecodable", ())
    assert len(partition.ledger.waiting_now(BAD)) == len(waiting)
    mend(partition, before)
    partition.ask(DrainRequested(BAD))
    await partition.run()
    assert partition.ledger.account_now(BAD).status == "active"
    partition.check([BAD, GOOD])


async def test_a_drain_without_anything_to_do_leaves_nothing() -> None:
    """No entry, no version, no result, where the account is not parked."""
    partition = Partition()
    asked(partition, GOOD, "5")
    (drain,) = partition.ask(DrainRequested(GOOD))
    await partition.run()
    assert partition.kinds(GOOD) == ["DepositSettled"]
    assert await partition.ledger.entry(GOOD, drain) is None
    assert partition.ledger.account_now(GOOD).version == 1


async def test_two_drains_at_once_tell_nothing_twice() -> None:
    """However often draining is asked for, each result is told once, and what is too much leaves nothing."""
    partition, before, _ = await parked()
    asked(partition, BAD, *["1"] * (3 * DRAIN_MAX))
    await partition.run()
    mend(partition, before)
    partition.ask(DrainRequested(BAD), DrainRequested(BAD))
    partition.log.append(partition.log[-1])
    await partition.run()
    assert partition.ledger.account_now(BAD).status == "active"
    assert partition.ledger.waiting_now(BAD) == []
    partition.check([BAD, GOOD])


async def test_a_repetition_that_waited_is_drained_without_a_result() -> None:
    """Both records of a request wait; the first is decided and told, the second is not."""
    partition, before, _ = await parked()
    partition.log.append(partition.log[1])
    await partition.run()
    mend(partition, before)
    partition.ask(DrainRequested(BAD))
    await partition.run()
    assert partition.kinds(BAD).count("DepositSettled") == 3
    assert partition.ledger.waiting_now(BAD) == []
    partition.check([BAD, GOOD])


async def test_what_was_left_over_is_never_decided_again_and_goes_with_the_next_drain() -> None:
    """Items that a crash left behind after their results were told are removed by a later drain, also one with nothing else to do."""
    partition, before, _ = await parked()
    mend(partition, before)
    partition.ask(DrainRequested(BAD))
    told_at = len(partition.steps)
    await partition.run()
    again, before, _ = await parked()
    mend(again, before)
    again.ask(DrainRequested(BAD))
    again.crash_at = told_at + partition.steps[told_at:].index("committed") + 1
    await again.run()
    assert len(again.ledger.waiting_now(BAD)) == 2
    again.ask(DrainRequested(BAD))
    await again.run()
    assert again.ledger.waiting_now(BAD) == []
    assert again.kinds(BAD) == partition.kinds(BAD)
    again.check([BAD, GOOD])


# Wherever the process dies


async def story(crash_at: int | None, batch_max: int) -> Partition:
    """An account parks, waits, is mended, drains in two steps, fails, parks and drains again, beside another that has no trouble at all."""
    partition = Partition(batch_max=batch_max)
    partition.crash_at = crash_at
    asked(partition, BAD, "10")
    await partition.run()
    before = partition.break_item(BAD)
    partition.restart()
    asked(partition, BAD, "1")
    asked(partition, GOOD, "5")
    asked(partition, BAD, *["2"] * DRAIN_MAX)
    partition.log.append(partition.log[1])
    await partition.run()
    mend(partition, before)
    partition.ask(DrainRequested(BAD))
    asked(partition, BAD, "3")
    asked(partition, GOOD, "6")
    partition.ask(of(BAD, buy("1", "20")), DrainRequested(BAD))  # type: ignore[arg-type]
    await partition.run()
    before = partition.break_item(BAD)
    partition.restart()
    asked(partition, BAD, "4", "5")
    partition.ask(DrainRequested(BAD))
    await partition.run()
    mend(partition, before)
    partition.ask(DrainRequested(BAD), DrainRequested(BAD))
    asked(partition, BAD, "6")
    await partition.run()
    return partition


@pytest.mark.parametrize("batch_max", [3, 500])
async def test_wherever_the_process_dies_the_same_is_told(batch_max: int) -> None:
    """With a crash at any step at all, each result is told once, in order, with the same bytes as without one."""
    whole = await story(None, batch_max)
    told = {
        name: [(envelope.id, envelope.type, envelope.value, envelope.reply_to) for envelope in whole.told if envelope.subject == name] for name in (BAD, GOOD)
    }
    assert whole.ledger.account_now(BAD).status == "active"
    whole.check([BAD, GOOD])
    for crash_at in range(1, len(whole.steps) + 1):
        crashed = await story(crash_at, batch_max)
        crashed.check([BAD, GOOD])
        for name, expected in told.items():
            here = [(envelope.id, envelope.type, envelope.value, envelope.reply_to) for envelope in crashed.told if envelope.subject == name]
            assert here == expected, f"crash at step {crash_at}, {whole.steps[crash_at - 1]}"
