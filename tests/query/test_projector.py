"""The projector: shows and tells everything readable, sorts out the rest, and does not give up at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import stamina
import structlog

from events.envelope import Envelope, Inbound
from events.topics import ASSETS, PRICES, RESULTS
from infra.cache import Arrived, CacheUnavailable, Projected
from processors.projector import ATTEMPTS_MAX, LOGGED_IDS_MAX, Projector
from schemas.market import Asset, PriceChanged, encode_price
from schemas.results import encode_result, result_type
from tests.fakes.clock import FakeClock
from tests.fakes.histories import History

AT = datetime(2026, 11, 25, tzinfo=UTC)


class Shown:
    """Keeps what is put; fails so many times before."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.arrived: list[Arrived] = []
        self.assets: list[Asset] = []
        self.prices: list[PriceChanged] = []

    async def put(self, arrived: Sequence[Arrived]) -> Projected:
        self._fail()
        self.arrived += arrived
        return Projected(put=len(arrived), old=0, loaded=0)

    async def put_assets(self, assets: Iterable[Asset]) -> None:
        self.assets += assets

    async def put_prices(self, prices: Iterable[PriceChanged]) -> None:
        self._fail()
        self.prices += prices

    def _fail(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise CacheUnavailable("away")


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Tries again without waiting."""
    with stamina.set_testing(True, attempts=ATTEMPTS_MAX, cap=True):
        yield


def projector(shown: Shown, log_lines_max: int = 8) -> Projector:
    return Projector(shown, shown, FakeClock(), log_lines_max=log_lines_max)


def records(history: History, reply_to: str | None = None) -> list[Inbound]:
    envelopes = (
        Envelope(
            id=f"r-{result.version}",
            source="urn:cnop:settlement",
            type=result_type(result),
            subject=result.username,
            time=result.at,
            value=encode_result(result),
            correlation_id=f"trace-{result.version}",
            trace_id=f"trace-{result.version}",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            reply_to=reply_to,
        )
        for result in history.results
    )
    return [Inbound(RESULTS, 0, offset, AT, envelope) for offset, envelope in enumerate(envelopes)]


def price_record(topic: str = PRICES, subject: str = "BTC") -> Inbound:
    price = PriceChanged("BTC", 1, 1, AT)  # type: ignore[arg-type]
    return Inbound(topic, 0, 0, AT, Envelope("p", "urn:cnop:market", "cnop.market.PriceChanged.v1", subject, AT, encode_price(price), "c", "t"))


HISTORY = History("reader").grow(["deposit", "buy", "refuse"])


async def test_everything_readable_is_shown_and_told() -> None:
    """Results go to the views in order with the channel to tell, prices to the market; nothing is refused."""
    shown = Shown()
    assert await projector(shown).handle([*records(HISTORY, "reply:door-1"), price_record()]) == []
    assert [(one.result, one.reply_to) for one in shown.arrived] == [(result, "reply:door-1") for result in HISTORY.results]
    assert [one.value for one in shown.arrived] == [encode_result(result) for result in HISTORY.results]
    assert [price.asset_id for price in shown.prices] == ["BTC"]


@pytest.mark.parametrize("channel", ["market:prices", "reply:", "reply:" + "a" * 65, "reply:a b", "xreply:a", "reply:a\nb", "reply:a\n"])
async def test_only_doors_are_told(channel: str) -> None:
    """A header can name no other channel than a door's; the result is shown all the same."""
    shown = Shown()
    await projector(shown).handle(records(HISTORY, channel))
    assert [one.reply_to for one in shown.arrived] == [None, None, None]


async def test_what_cannot_be_read_is_sorted_out() -> None:
    """Damaged values and keys that disagree with the payload are returned with a reason, and hold nothing up."""
    good, damaged, foreign = records(HISTORY)
    damaged = replace(damaged, envelope=replace(damaged.envelope, value=b'{"username": 5}'))
    foreign = replace(foreign, envelope=replace(foreign.envelope, subject="mallory"))
    shown = Shown()
    refused = await projector(shown).handle([good, damaged, foreign, price_record(subject="ETH"), price_record(topic=ASSETS)])
    assert [record.envelope.subject for record, _ in refused] == ["reader", "mallory", "ETH", "BTC"]
    assert all(reason for _, reason in refused)
    assert [one.result.version for one in shown.arrived] == [1]
    assert not shown.assets
    assert not shown.prices


async def test_a_batch_is_tried_again_while_redis_is_away() -> None:
    """A fault that passes costs time, not the batch."""
    shown = Shown(failures=5)
    await projector(shown).handle(records(HISTORY))
    assert len(shown.arrived) == 3


async def test_a_fault_that_stays_ends_the_process() -> None:
    """Past the bound the error is raised: the offsets stay, and nothing was dropped."""
    with pytest.raises(CacheUnavailable):
        await projector(Shown(failures=10_000)).handle(records(HISTORY))


async def test_a_small_batch_has_a_line_for_each_result() -> None:
    """With the request id of the HTTP call that began it."""
    with structlog.testing.capture_logs() as lines:
        await projector(Shown()).handle(records(HISTORY))
    assert [(line["request_id"], line["username"], line["version"], line["type"]) for line in lines] == [
        ("trace-1", "reader", 1, "cnop.account.DepositSettled.v1"),
        ("trace-2", "reader", 2, "cnop.account.OrderFilled.v1"),
        ("trace-3", "reader", 3, "cnop.account.WithdrawalRejected.v1"),
    ]


async def test_a_large_batch_has_one_line() -> None:
    """With a bounded list of request ids."""
    history = History("reader").grow(["deposit"] * (LOGGED_IDS_MAX + 10))
    with structlog.testing.capture_logs() as lines:
        await projector(Shown()).handle(records(history))
    assert [(line["results"], len(line["request_ids"])) for line in lines] == [(LOGGED_IDS_MAX + 10, LOGGED_IDS_MAX)]
