"""The ways between processes and machines: every request takes its time, may be lost on the way there or back, or meet nobody.

What is on its way goes on when the process that sent it is stopped or dead. A machine that goes away breaks every connection to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fakes.kafka_broker import Broker, Reply
from tests.simulation.virtual import Timeline

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.process import Process

FAST_S = (0.0003, 0.004)


@dataclass
class Machine:
    """One machine as seen over the network. `refused` and `silent` make the errors that its client raises for a broken way and for no answer."""

    name: str
    timeline: Timeline
    chance: Random
    timeout_s: float
    refused: Callable[[str], Exception]
    silent: Callable[[str], Exception]
    is_up: bool = True
    loss: float = 0.0
    """Share of requests, and of answers, that are lost."""
    late: float = 0.0
    """Share of requests that arrive when nobody waits for their answer any more."""
    slow_s: float = 0.0
    refuses: Callable[[str], Exception | None] = field(default=lambda _: None)
    """What the machine says instead of doing what was asked."""
    pending: "dict[asyncio.Future[Any], str]" = field(default_factory=dict)

    def go_away(self) -> None:
        """Every connection breaks at once."""
        self.is_up = False
        pending, self.pending = self.pending, {}
        for future, what in pending.items():
            _fail(future, self.refused(what))

    def come_back(self) -> None:
        self.is_up = True

    def transit_s(self) -> float:
        return self.chance.uniform(*FAST_S) + (self.chance.random() * self.slow_s if self.slow_s else 0.0)


class Wire:
    """One process's way to one machine."""

    def __init__(self, machine: Machine, process: "Process", broker: Broker | None = None) -> None:
        self.machine = machine
        self.broker: Any = broker
        self._process = process

    async def connect(self) -> None:
        """Raises what the machine's client raises where nobody listens."""
        try:
            await self.send("connect", lambda reply: reply(None))
        except Exception as error:
            raise self.machine.refused("connect") from error

    def send(self, what: str, ask: Callable[[Reply], None]) -> "asyncio.Future[Any]":
        """The answer, some time later."""
        machine, timeline = self.machine, self.machine.timeline
        future = self._process.loop.create_future()
        loses = self._process.hears and self._process.sends(what)
        if not self._process.hears:
            return future
        machine.pending[future] = what
        future.add_done_callback(lambda future: machine.pending.pop(future, None))
        lost_there, lost_back = machine.chance.random() < machine.loss, loses or machine.chance.random() < machine.loss
        late_s = machine.timeout_s + machine.chance.random() * 5 if machine.late and machine.chance.random() < machine.late else 0.0
        if lost_there or lost_back or late_s or machine.slow_s:
            timeline.call_later(machine.timeout_s, _fail, future, machine.silent(what))
        if not lost_there:
            timeline.call_later(late_s or machine.transit_s(), self._arrive, future, what, ask, lost_back or bool(late_s))
        self._process.sent(what)
        return future

    def _arrive(self, future: "asyncio.Future[Any]", what: str, ask: Callable[[Reply], None], is_lost: bool) -> None:
        machine = self.machine
        if not machine.is_up:
            _fail(future, machine.refused(what))
            return

        def reply(result: Any) -> None:
            if not is_lost and future in machine.pending:
                machine.timeline.call_later(machine.transit_s(), _answer, future, result)

        if said := machine.refuses(what):
            reply(said)
            return
        try:
            ask(reply)
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - the machine's answer
            reply(error)


def _answer(future: "asyncio.Future[Any]", result: Any) -> None:
    if future.done():
        return
    if isinstance(result, BaseException):
        _fail(future, result)
    else:
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.add_done_callback(lambda future: future.exception())
