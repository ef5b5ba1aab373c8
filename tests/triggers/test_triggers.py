"""The triggers process on a real index: what it publishes for prices, ends and deactivations, and what it does not overlook."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from infra.asset_file import load_asset_file
from infra.dynamo import CALL_S
from infra.open_orders import OpenOrders
from processors.triggers import ASKING_MAX, REASK_S, REPUBLISH_S
from processors.triggers_sender import SOURCE
from schemas.requests import OrderExpiryReached, OrderRevoked, OrderTriggered, expiry_id, revocation_id, trigger_id
from tests.fakes.clock import START
from tests.triggers.parts import Ledger, Log, Process, price, running
from tests.waiting import eventually

WITHIN_S = 20.0
SWEEPS = 3
MANY = 4
"""Open orders of which a process that reads so few at a time takes more for many."""


@pytest.fixture(params=[1_000, MANY], ids=["few open orders", "many open orders"])
async def either(request: pytest.FixtureRequest, orders: OpenOrders, ledger: Ledger) -> AsyncIterator[Process]:
    """A process that reads all open orders at once, and one that asks for each price."""
    process = Process(orders, page_orders=request.param)
    async with running(process):
        yield process


async def test_a_fall_triggers_what_it_reaches(either: Process, ledger: Ledger) -> None:
    """Buys and stops at the price or above it, and nothing else, with the price and its sequence; the event goes back to that of the price."""
    await either.see(price("101", 5))
    reached = [*await ledger.open_all(["99", "99.01", "100"], sequence=5), await ledger.open("99", kind="stop_loss_sell", sequence=5)]
    await ledger.open_all(["98.99", "98", "1"], sequence=5)
    await ledger.open_all(["98", "120"], kind="limit_sell", sequence=5)
    await ledger.open_all(["99", "120"], asset="ETH")
    await either.see(price("99", 6))
    await either.answered()
    assert sorted(either.log.order_ids) == sorted(reached)
    assert {(type(request), request.price, request.sequence) for request in either.log.requests} == {(OrderTriggered, Decimal(99), 6)}
    for envelope, request in zip(either.log.envelopes, either.log.requests, strict=True):
        assert (envelope.id, envelope.subject, envelope.source) == (trigger_id(request.order_id, 6), request.username, SOURCE)
        assert (envelope.causation_id, envelope.correlation_id, envelope.trace_id) == ("BTC-6", "round", "trace")


async def test_a_rise_triggers_what_it_reaches(either: Process, ledger: Ledger) -> None:
    """Sales at the price or below it, and no buy."""
    await either.see(price("99", 5))
    reached = [*await ledger.open_all(["101", "100.99"], kind="limit_sell", sequence=5), await ledger.open("100", kind="take_profit_sell", sequence=5)]
    await ledger.open_all(["101.01", "102", "103"], kind="limit_sell", sequence=5)
    await ledger.open_all(["98", "120"], sequence=5)
    await either.see(price("101", 6))
    await either.answered()
    assert sorted(either.log.order_ids) == sorted(reached)


async def test_an_order_that_is_newer_than_the_price(either: Process, ledger: Ledger) -> None:
    """▲ It was placed when that price was known: it is not triggered by it, and neither by an older one."""
    await ledger.open_all(["120"] * 6, sequence=6)
    await either.see(price("101", 5), price("99", 6))
    await either.answered()
    assert either.log.envelopes == []
    await either.see(price("98", 7))
    await either.answered()
    assert {request.sequence for request in either.log.requests} == {7}
    assert len(either.log.envelopes) == 6


async def test_a_dip_within_one_batch(either: Process, ledger: Ledger) -> None:
    """▲ A price that came and went fills what it reached, at that price; each order the first price that reached it."""
    await either.see(price("110", 1))
    first, second, third = await ledger.open_all(["104", "98", "91"])
    await ledger.open_all(["89", "88", "87"])
    await either.see(price("105", 2), price("100", 3), price("95", 4), price("90", 5), price("109", 6))
    await either.answered()
    told = {request.order_id: (str(request.price), request.sequence) for request in either.log.requests}
    assert told == {first: ("100", 3), second: ("95", 4), third: ("90", 5)}


async def test_an_order_that_the_index_had_not_yet(either: Process, ledger: Ledger) -> None:
    """▲ What was asked is asked again: an order of before the dip that comes into the index after it is filled, though the price is up again."""
    await either.see(price("110", 1))
    await either.see(price("90", 2), price("109", 3))
    await either.answered()
    await ledger.open_all(["80"] * 5)
    late = await ledger.open("100")
    await either.pass_time(REASK_S)
    await either.answered()
    assert [(request.order_id, request.sequence) for request in either.log.requests] == [(late, 2)]
    assert either.triggers.unfinished() == {}


async def test_an_order_that_came_after_the_dip(either: Process, ledger: Ledger) -> None:
    """▲ Placed after a price was made, with a quote from before it, since its door knew of that price a moment late: the price is not for this order."""
    await either.see(price("110", 1))
    await either.see(price("90", 2))
    await ledger.open("100", created_at=START + timedelta(milliseconds=1))
    met = await ledger.open("100", created_at=START)
    await either.pass_time(REASK_S)
    await either.answered()
    assert either.log.order_ids == [met]


async def test_after_a_start_both_sides_are_asked(either: Process, ledger: Ledger) -> None:
    """The price before is not known then: it may have moved to either side while the process was away."""
    reached = [*await ledger.open_all(["101", "102"]), *await ledger.open_all(["99", "100"], kind="limit_sell")]
    await ledger.open_all(["99", "98"])
    await either.see(price("100", 5))
    await either.answered()
    assert sorted(either.log.order_ids) == sorted(reached)


async def test_a_price_that_comes_twice(either: Process, ledger: Ledger) -> None:
    """▲ Seen again or late it publishes nothing new, or the same request once more."""
    await ledger.open_all(["100"] * 6)
    await either.see(price("110", 5), price("99", 6))
    await either.answered()
    await either.see(price("99", 6))
    await either.see(price("110", 5))
    await either.answered()
    assert len(either.log.envelopes) == 6
    either.timer.now += REPUBLISH_S
    await either.see(price("98.5", 4))
    await either.answered()
    assert len({envelope.id for envelope in either.log.envelopes if envelope.causation_id == "BTC-6"}) == 6


async def test_the_same_order_is_left_alone_for_a_while(process: Process, ledger: Ledger) -> None:
    """▲ One that stays in the index is published for again after a minute, and then much later: settlement may be behind."""
    await ledger.open("100")
    prices = iter(range(2, 100))
    published = []
    for _ in range(10):
        number = next(prices)
        await process.see(price(f"{99 - number}", number))
        published.append(len(process.log.envelopes))
        process.timer.now += REPUBLISH_S / 2
    assert published == [1, 1, 2, 2, 2, 2, 2, 2, 2, 2]


async def test_a_flat_price_asks_nothing(process: Process, ledger: Ledger) -> None:
    """▲ A price that does not move costs no read; an order that it reaches is found by the rotation."""
    await process.see(price("100", 5))
    await process.pass_time(REASK_S)
    late = await ledger.open("105", sequence=5)
    before = _reads()
    for sequence in range(6, 16):
        await process.see(price("100", sequence))
        await process.pass_time(REASK_S)
    assert _reads() == before
    assert process.log.envelopes == []
    assert process.triggers.unfinished() == {}
    await process.triggers.rotate()
    assert [(request.order_id, request.sequence) for request in process.log.requests] == [(late, 15)]


async def test_the_rotation_finds_what_is_due_and_nothing_else(orders: OpenOrders, ledger: Ledger) -> None:
    """On every asset and both sides, however many pages there are; an order that is as new as the price is left."""
    process = Process(orders, page_orders=3)
    async with running(process):
        await process.see(price("100", 5), price("10", 7, asset="ETH"))
        await process.pass_time(REASK_S)
        await process.answered()
    due = [*await ledger.open_all(["100", "101"], sequence=4), *await ledger.open_all(["9", "10"], asset="ETH", kind="limit_sell", sequence=6)]
    await ledger.open_all(["99", "98"], sequence=4)
    await ledger.open_all(["100", "101"], sequence=5)
    await ledger.open_all(["1000"], asset="ADA")
    await process.triggers.rotate()
    assert sorted(process.log.order_ids) == sorted(due)


async def test_two_processes_publish_the_same_requests(orders: OpenOrders, ledger: Ledger) -> None:
    """▲ Same ids, same values: settlement takes the first."""
    await ledger.open_all(["100"] * 5, expires_at=START)
    await ledger.open_all(["100"] * 5, asset="OFF")
    assets = {"OFF": replace(load_asset_file(None)[0], asset_id="OFF", is_active=False)}
    one, other = (Process(orders, page_orders=pages) for pages in (1_000, MANY))
    for process in (one, other):
        process.assets.update(assets)
        async with running(process):
            await process.see(price("101", 5), price("99", 6))
            await process.answered()
            await process.triggers.expire()
            await process.triggers.revoke()
    assert len(one.log.envelopes) == 15
    assert {(envelope.id, envelope.value) for envelope in one.log.envelopes} == {(envelope.id, envelope.value) for envelope in other.log.envelopes}


async def test_a_crash_in_the_middle(orders: OpenOrders, ledger: Ledger) -> None:
    """▲ The price stays uncommitted until all of its orders were published for, and the next process publishes for all of them, with the same ids."""
    await ledger.open_all(["100"] * 20)
    dying = Process(orders, log=Log(dies_after=7), page_orders=MANY)
    with pytest.raises(BaseExceptionGroup):
        await _see_all(dying)
    assert dying.triggers.unfinished() == {(price("99", 6).topic, 0): 5}
    successor = Process(orders)
    await successor.see(price("101", 5), price("99", 6))
    assert len(dying.log.envelopes) == 7
    assert len(successor.log.envelopes) == 20
    assert {envelope.id for envelope in dying.log.envelopes} < {envelope.id for envelope in successor.log.envelopes}


async def test_offsets_wait_until_everything_was_asked_twice(process: Process, ledger: Ledger) -> None:
    """▲ A crash before a question is asked again must not lose it."""
    await process.see(price("101", 5, offset=70))
    await process.see(price("101", 6, offset=71), price("99", 7, offset=72))
    (place,) = process.triggers.unfinished()
    assert process.triggers.unfinished() == {place: 70}
    await process.pass_time(REASK_S - 0.1)
    assert process.triggers.unfinished() == {place: 70}
    await process.pass_time(0.1)
    assert process.triggers.unfinished() == {}


async def test_assets_with_very_many_due_orders(orders: OpenOrders, ledger: Ledger) -> None:
    """▲ More of them than are asked about at one time do not keep the others waiting: an order of another asset is published for among the first pages."""
    floods = [f"FLOOD{number}" for number in range(ASKING_MAX + 1)]
    process = Process(orders, page_orders=50)
    await process.see(*(price("101", 5, asset=asset) for asset in (*floods, "ETH")))
    await process.pass_time(REASK_S)
    flood = [order_id for asset in floods for order_id in await ledger.open_all(["100"] * 400, asset=asset, sequence=5)]
    other = await ledger.open("100", asset="ETH", sequence=5)
    async with running(process):
        await process.see(*(price("99", 6, asset=asset) for asset in (*floods, "ETH")))
        await process.answered()
    told = process.log.order_ids
    assert sorted(told) == sorted([*flood, other])
    assert told.index(other) < len(flood) / 2


async def test_an_order_whose_time_has_ended(process: Process, ledger: Ledger) -> None:
    """It is asked for at once and again each second, since a broker's clock may be behind; one whose time has not ended is left."""
    ended = await ledger.open("1", expires_at=START + timedelta(seconds=5))
    await ledger.open("1", expires_at=START + timedelta(seconds=9))
    await process.triggers.expire()
    assert process.log.envelopes == []
    process.clock.advance(5)
    await process.triggers.expire()
    await process.triggers.expire()
    process.timer.now += 1
    await process.triggers.expire()
    assert process.log.requests == [OrderExpiryReached(process.log.requests[0].username, ended)] * 2
    assert {envelope.id for envelope in process.log.envelopes} == {expiry_id(ended)}


async def test_orders_of_an_asset_that_is_not_traded(process: Process, ledger: Ledger) -> None:
    """▲ Both sides are taken back, also those that come into the index later; no price triggers them; those of other assets stay."""
    mine = [await ledger.open("100", asset="OFF"), await ledger.open("100", asset="OFF", kind="limit_sell")]
    await ledger.open("100")
    process.assets["OFF"] = replace(load_asset_file(None)[0], asset_id="OFF", is_active=False)
    await process.triggers.revoke()
    assert {(type(request), request.reason) for request in process.log.requests} == {(OrderRevoked, "asset-inactive")}
    assert {envelope.id for envelope in process.log.envelopes} == {revocation_id(order_id, "asset-inactive") for order_id in mine}
    await process.see(price("100", 5, asset="OFF"))
    assert len(process.log.envelopes) == 2
    lagging = await ledger.open("100", asset="OFF")
    await process.triggers.revoke()
    late = await ledger.open("100", asset="OFF")
    await process.triggers.revoke()
    await process.triggers.rotate()
    assert process.log.order_ids == [*process.log.order_ids[:2], lagging, late]
    process.assets["OFF"] = replace(process.assets["OFF"], is_active=True)
    await process.triggers.revoke()
    await process.see(price("99", 6, asset="OFF"))
    assert {type(request) for request in process.log.requests[4:]} == {OrderTriggered}


async def test_a_price_that_cannot_be_read(process: Process, ledger: Ledger) -> None:
    """It is told as unreadable, and the others of the batch are taken."""
    reached = await ledger.open("100")
    broken, good = price("99", 5), price("99", 5)
    broken = replace(broken, envelope=replace(broken.envelope, value=b'{"price": "much"}'))
    worthless = price("0", 6)
    refused = await process.triggers.handle([broken, worthless, good])
    assert [record for record, _ in refused] == [broken, worthless]
    assert process.log.order_ids == [reached]


async def test_sweeps_are_the_owners(orders: OpenOrders, ledger: Ledger) -> None:
    """A spare slot sweeps nothing; it begins when the prices are its own."""
    ended = await ledger.open("1", expires_at=START)
    process, owned, asked = Process(orders), asyncio.Event(), []

    def owns() -> bool:
        asked.append(owned.is_set())
        return owned.is_set()

    async with running(process, owns):
        await process.see(price("100", 5))
        await eventually(lambda: len(asked) > SWEEPS, WITHIN_S)
        assert process.log.envelopes == []
        owned.set()
        await eventually(lambda: process.log.order_ids == [ended], WITHIN_S)


async def _see_all(process: Process) -> None:
    async with running(process):
        await process.see(price("101", 5), price("99", 6))
        await process.answered()


def _reads() -> float:
    """Calls of the store so far."""
    return sum(sample.value for metric in CALL_S.collect() for sample in metric.samples if sample.name.endswith("_count"))
