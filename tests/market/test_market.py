"""The market process on a real table: what it lists and publishes, in which order, and what survives its death."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from events.bus import OutcomeUnknown
from events.envelope import read
from events.topics import ASSETS, PRICES
from processors.market import SOURCE, FixedPrices, asset_changed, list_assets, publish_again, publish_prices, run
from processors.prices import Tick
from schemas.market import ASSET_CHANGED, ASSET_LISTED, PRICE_CHANGED, decode_asset, decode_price
from tests.fakes.candles import MemoryCandles
from tests.fakes.clock import START, FakeClock, FakeIds


class Topics:
    """Keeps what was published; the first `failures` publishes come in and are not acknowledged. `enough` is set at `wanted` prices."""

    def __init__(self, failures: int = 0, wanted: int = 0) -> None:
        self.events = []
        self.failures = failures
        self.wanted = wanted
        self.enough = asyncio.Event()

    async def publish(self, topic, envelope):
        self.events.append((topic, envelope))
        if len(self.of(PRICES)) == self.wanted:
            self.enough.set()
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OutcomeUnknown("no acknowledgement")

    def of(self, topic):
        return [envelope for name, envelope in self.events if name == topic]


class RisingPrices:
    """Doubles every price: the second implementation of the seam."""

    def tick(self, asset, latest, at):
        return Tick(latest.price * 2 if latest else asset.price_usd, Decimal(3))


class Broken:
    """A table that takes prices and a topic that does not: death between the two."""

    async def publish(self, topic, envelope):
        raise RuntimeError("killed")


@pytest.fixture
def topics():
    return Topics()


@pytest.fixture
def ours():
    return {"clock": FakeClock(), "ids": FakeIds()}


async def test_the_first_start_lists_everything(store, assets, topics, ours):
    """Each asset is in the table and on the topic, as the same content, keyed by its id."""
    listed = await list_assets(assets, store, topics, **ours)
    assert listed == list(assets)
    assert list((await store.assets()).values()) == sorted(assets, key=lambda asset: asset.asset_id)
    events = topics.of(ASSETS)
    assert [(event.type, event.subject, event.source) for event in events] == [(ASSET_LISTED, asset.asset_id, SOURCE) for asset in assets]
    assert [decode_asset(event.value) for event in events] == list(assets)
    assert read(events[0].key, events[0].value, events[0].headers()) == events[0]


async def test_a_restart_publishes_the_same_events_again(store, assets, topics, ours):
    """Same ids, same values: nobody has to know that there was a restart."""
    await list_assets(assets[:10], store, topics, **ours)
    again = Topics()
    await list_assets(assets[:10], store, again, **ours)
    assert [(event.id, event.value) for event in sorted(again.of(ASSETS), key=lambda event: event.id)] == [
        (event.id, event.value) for event in sorted(topics.of(ASSETS), key=lambda event: event.id)
    ]


async def test_changed_facts_are_told_and_the_operators_word_is_kept(store, assets, topics, ours):
    """A new release's facts come in as AssetChanged; an asset that an operator stopped stays stopped; one that left the file stays listed."""
    await store.list_asset(replace(assets[0], is_active=False, description="Old."))
    await store.list_asset(assets[5])
    listed = await list_assets(assets[:2], store, topics, **ours)
    assert {asset.asset_id: asset for asset in listed} == {"BTC": replace(assets[0], is_active=False), "ETH": assets[1], assets[5].asset_id: assets[5]}
    assert {event.subject: event.type for event in topics.of(ASSETS)} == {"BTC": ASSET_CHANGED, "ETH": ASSET_LISTED, assets[5].asset_id: ASSET_LISTED}


class Operator(Topics):
    """An operator who stops an asset while the market lists it: after it was read, before it is published."""

    def __init__(self, store):
        super().__init__()
        self.store = store

    async def publish(self, topic, envelope):
        if not self.events:
            stopped = await self.store.set_active("BTC", is_active=False)
            await super().publish(topic, asset_changed(stopped, "operator", START))
        await super().publish(topic, envelope)


async def test_the_last_record_of_an_asset_is_what_the_table_has(store, assets, ours):
    """An operator's change that comes while everything is listed is not undone by it."""
    await list_assets(assets[:3], store, Topics(), **ours)
    topics = Operator(store)
    listed = await list_assets(assets[:3], store, topics, **ours)
    last = {event.subject: decode_asset(event.value) for event in topics.of(ASSETS)}
    assert last == await store.assets() == {asset.asset_id: asset for asset in listed}
    assert last["BTC"].is_active is False


async def test_an_operators_change_is_stored_and_repeated_without_harm(store, assets):
    """It changes that and nothing else, for listed assets only; as an event it is a new one each time."""
    await store.list_asset(assets[0])
    for is_active in (False, False, True):
        assert await store.set_active("BTC", is_active=is_active) == replace(assets[0], is_active=is_active)
    assert await store.set_active("NOSUCH", is_active=True) is None
    assert await store.assets() == {"BTC": assets[0]}
    first, second = (asset_changed(assets[0], update, START) for update in ("one", "two"))
    assert (first.type, first.subject, decode_asset(first.value)) == (ASSET_CHANGED, "BTC", assets[0])
    assert first.id != second.id
    assert first == asset_changed(assets[0], "one", START)


async def test_a_round_publishes_a_price_of_every_asset(store, assets, topics, ours):
    """Prices are those of the file, at its decimals, with sequence 1, then 2; the table has the last."""
    first = await publish_prices(assets, store, topics, source=FixedPrices(), **ours)
    second = await publish_prices(assets, store, topics, source=FixedPrices(), **ours)
    events = topics.of(PRICES)
    assert [decode_price(event.value) for event in events] == [priced.price for priced in first + second]
    assert {(event.type, event.sequence) for event in events} == {(PRICE_CHANGED, 1), (PRICE_CHANGED, 2)}
    assert [str(priced.price.price) for priced in second] == [str(asset.price_usd.quantize(Decimal(1).scaleb(-asset.price_scale))) for asset in assets]
    assert len({event.id for event in events}) == 500
    assert events[0].time == START
    assert await store.latest() == {priced.price.asset_id: priced for priced in second}


async def test_a_death_between_table_and_topic_never_reuses_a_sequence(store, assets, topics, ours):
    """The successor goes on after what the table has, so no sequence ever has two prices."""
    with pytest.raises(ExceptionGroup):
        await publish_prices(assets[:5], store, Broken(), source=RisingPrices(), **ours)
    published = await publish_prices(assets[:5], store, topics, source=RisingPrices(), **ours)
    assert [(priced.price.sequence, priced.price.price) for priced in published] == [(2, 2 * asset.price_usd) for asset in assets[:5]]


async def test_a_start_publishes_what_a_death_kept_from_the_topic(store, assets, ours):
    """A price that the table took is on the topic before its successor; one that is there already comes again as it was, to the byte."""
    topics = Topics(wanted=10)
    clock, source = ours["clock"], RisingPrices()
    before = await publish_prices(assets[:5], store, topics, source=source, **ours)
    clock.advance(60)
    with pytest.raises(ExceptionGroup):
        await publish_prices(assets[:2], store, Broken(), source=source, **ours)
    again = Topics(wanted=5)
    await publish_again(assets[:5], store, again, ids=ours["ids"])
    told = {event.subject: event for event in again.of(PRICES)}
    assert {name: event.sequence for name, event in told.items()} == {asset.asset_id: 2 if asset in assets[:2] else 1 for asset in assets[:5]}
    first = {event.subject: event for event in topics.of(PRICES)}
    for priced in before[2:]:
        name = priced.price.asset_id
        assert (told[name].id, told[name].value, told[name].time) == (first[name].id, first[name].value, first[name].time)
    clock.advance(60)
    starting = Topics(wanted=10)
    running = asyncio.create_task(run(assets[:5], store, MemoryCandles(), starting, prices=source, interval_s=60, **ours))
    await asyncio.wait_for(starting.enough.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [event.sequence for event in starting.of(PRICES) if event.subject == "BTC"] == [2, 3]


async def test_two_processes_publish_each_sequence_with_one_price(store, assets, topics, ours):
    """Rounds at the same time: who loses at the table stays silent."""
    clocks = [FakeClock(), FakeClock()]
    clocks[1].advance(1)
    rounds = [publish_prices(assets[:20], store, topics, source=RisingPrices(), clock=clock, ids=FakeIds()) for clock in clocks for _ in range(3)]
    await asyncio.gather(*rounds)
    seen = {}
    for event in topics.of(PRICES):
        price = decode_price(event.value)
        assert seen.setdefault((price.asset_id, price.sequence), price) == price
    latest = await store.prices()
    assert {asset_id: max(sequence for name, sequence in seen if name == asset_id) for asset_id in latest} == {
        name: price.sequence for name, price in latest.items()
    }


async def test_an_unacknowledged_event_is_published_again(store, assets, ours):
    """The same event once more, not the next one."""
    topics = Topics(failures=3)
    await publish_prices(assets[:10], store, topics, source=FixedPrices(), **ours)
    events = topics.of(PRICES)
    assert (len(events), len({event.id for event in events}), {event.sequence for event in events}) == (13, 10, {1})


async def test_the_process_lists_then_publishes_at_its_interval(store, assets, ours):
    """Assets before prices at the start, then a round after each interval until it is stopped."""
    topics = Topics(wanted=9)
    running = asyncio.create_task(run(assets[:3], store, MemoryCandles(), topics, prices=FixedPrices(), interval_s=0.01, **ours))
    await asyncio.wait_for(topics.enough.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [topic for topic, _ in topics.events[:6]] == [ASSETS] * 3 + [PRICES] * 3
    assert [event.sequence for event in topics.of(PRICES)][:9] == [1] * 3 + [2] * 3 + [3] * 3


async def test_a_fault_that_does_not_pass_ends_the_process(store, assets, ours):
    """Nothing is swallowed."""
    with pytest.raises(ExceptionGroup):
        await run(assets[:3], store, MemoryCandles(), Broken(), prices=FixedPrices(), interval_s=60, **ours)
