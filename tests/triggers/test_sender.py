"""How requests from inside are published: each until it is in the log, not again right after, and remembered within a bound."""

import asyncio
from decimal import Decimal

import pytest

from events.bus import OutcomeUnknown, TooManyInFlight, Unavailable
from events.envelope import Envelope
from processors.triggers_sender import LEFT_ALONE_S_MAX, Cause, Lately, Sender
from processors.triggers_turns import Question, Told, Turns
from schemas.market import decode_price
from schemas.requests import OrderTriggered
from tests.fakes.clock import START, FakeClock
from tests.triggers.parts import Log, Timer, price

CAUSE = Cause("trace", "round", "BTC-1")


class Refusing(Log):
    """Says something else of the first publishes than that they are safe."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self._failures = list(failures)

    async def publish(self, topic: str, envelope: Envelope) -> None:
        if self._failures:
            raise self._failures.pop()
        await super().publish(topic, envelope)


def requests(count: int) -> list[OrderTriggered]:
    return [OrderTriggered(f"user_{number:04d}", f"ord_{number:032x}", Decimal(99), 6, START) for number in range(count)]


async def test_what_is_not_acknowledged_is_published_again() -> None:
    """Only that, with the same id; when it returns all are in the log, and only then they count as published."""
    log, lately = Refusing(Unavailable("away"), OutcomeUnknown("no answer"), TooManyInFlight("full")), Lately(10, Timer())
    assert await Sender(log, FakeClock()).send(requests(20), CAUSE, lately) == 20
    assert sorted(log.order_ids) == [request.order_id for request in requests(20)]
    assert await Sender(log, FakeClock()).send(requests(20), CAUSE, lately) == 0


async def test_what_does_not_pass_is_raised() -> None:
    """What was published until then is known, the rest is not."""
    lately = Lately(10, Timer())
    with pytest.raises(ConnectionResetError):
        await Sender(Log(dies_after=5), FakeClock()).send(requests(8), CAUSE, lately)
    assert len(lately) == 5


def test_an_order_is_left_alone_for_ever_longer() -> None:
    """Eight times as long each time, up to a bound; after a long time it is new again."""
    timer = Timer()
    lately = Lately(10, timer)
    waits = []
    for _ in range(4):
        lately.note("ord")
        begun = timer.now
        while not lately.is_over("ord"):
            timer.now += 10
        waits.append(timer.now - begun)
    assert waits == [10, 80, 600, 600]
    timer.now += LEFT_ALONE_S_MAX + 1
    lately.note("other")
    assert len(lately) == 1


def test_memory_is_bounded() -> None:
    """Of more orders the oldest are forgotten."""
    lately = Lately(10, Timer(), remembered_max=3)
    for name in "abcd":
        lately.note(name)
    assert [lately.is_over(name) for name in "abcd"] == [True, False, False, False]


async def test_turns_are_fair_and_in_order() -> None:
    """An asset with many pages gives way after each; questions of one asset come in the order of its prices."""
    turns = Turns()
    asked = {name: _question(*name.split("-")) for name in ("BTC-1", "BTC-2", "ETH-1")}
    await turns.add(asked.values())
    assert await turns.take() is asked["BTC-1"]
    turns.more(asked["BTC-1"])
    assert await turns.take() is asked["ETH-1"]
    turns.done(asked["ETH-1"])
    assert await turns.take() is asked["BTC-1"]
    turns.done(asked["BTC-1"])
    assert await turns.take() is asked["BTC-2"]
    turns.done(asked["BTC-2"])
    assert len(turns) == 0


async def test_who_brings_too_many_questions_waits() -> None:
    """Until fewer wait than the bound."""
    turns = Turns(waiting_max=2)
    adding = asyncio.create_task(turns.add([_question("BTC", number) for number in ("1", "2", "3")]))
    for left in (2, 1):
        question = await turns.take()
        assert not adding.done()
        turns.done(question)
        assert len(turns) == left
    await asyncio.wait_for(adding, 5)


def _question(asset: str, sequence: str) -> Question:
    record = price("99", int(sequence), asset)
    return Question(Told(decode_price(record.envelope.value), record), "falls")
