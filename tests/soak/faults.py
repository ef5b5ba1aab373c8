"""The faults, what each is measured by, and in which order they come.

Two lanes run side by side: what holds up settling, and what holds up those who ask and read.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from tests.soak.proxy import Request, kafka_requests, requests_with
from tests.soak.running import BACK_S, PARTITIONS, SECOND, NotBack, System, until
from tests.soak.watch import GROUP, transaction_states

PAUSED_S: Final = 20.0
"""Twice the session timeout: by then another slot has taken over."""
OPEN_LOOKS: Final = 3
OPEN_LOOK_S: Final = 0.05
"""A transaction that is open in so many looks, this far apart, is that of the process that stands still."""
PAUSE_TRIES_MAX: Final = 200
TRANSACTIONAL_IDS: Final = [f"{GROUP}-{number}" for number in range(PARTITIONS)]
WRITES_OF_KAFKA: Final = kafka_requests(0, 24, 25, 26, 28)
"""Produce, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, TxnOffsetCommit."""

Measure = Literal["settled", "answered", "ready"]


@dataclass(frozen=True, slots=True)
class Fault:
    """`act` disturbs, and returns when the disturbance is over and the process is ready again. The recovery is the longest silence of all results of a
    partition (`settled`) or all answers to callers (`answered`) around it, or the time until `act` returned (`ready`).
    """

    name: str
    measure: Measure
    act: Callable[[System], Awaitable[None]]

    async def happen(self, system: System) -> float:
        """Let it happen and wait until the system has recovered; the recovery in seconds. NotBack where it does not."""
        started = time.monotonic()
        await self.act(system)
        match self.measure:
            case "settled":
                await system.settling()
                return system.watch.silence_s(started)
            case "answered":
                await system.answering()
                return system.callers.answers.longest_s(started)
            case "ready":
                return time.monotonic() - started


# What happens to processes and machines


def killed(name: str, measure: Measure) -> Fault:
    """By SIGKILL."""
    return Fault(f"{name} killed", measure, lambda system: system.kill(name))


async def paused_before(system: System) -> None:
    """Settlement stands still for 20 s while none of its transactions is open; another slot takes over; then it goes on."""
    await system.second_slot()
    await _stopped_where(system, is_open=False)


async def paused_inside(system: System) -> None:
    """The same in the middle of a transaction."""
    await system.second_slot()
    await _stopped_where(system, is_open=True)


async def _stopped_where(system: System, *, is_open: bool) -> None:
    """Stop the process again and again until the broker says that it stands where it should; keep it there, then let it go on."""
    for _ in range(PAUSE_TRIES_MAX):
        if is_open:
            await until(lambda: _any_open(system), BACK_S, "no transaction is ever open")
        pid = await system.send("settlement", signal.SIGSTOP)
        if await _stays_open(system) is is_open:
            break
        await system.send("settlement", signal.SIGCONT)
        await asyncio.sleep(system.chance.random() * OPEN_LOOK_S)
    else:
        raise NotBack(f"settlement could not be stopped {'inside' if is_open else 'outside'} a transaction in {PAUSE_TRIES_MAX} tries")
    await asyncio.sleep(PAUSED_S)
    await system.settling()  # another slot has all partitions: it must not need the one that stands still
    os.kill(pid, signal.SIGCONT)
    await system.ready("settlement")


async def _any_open(system: System) -> bool:
    return bool(await _open(system))


async def _open(system: System) -> set[str]:
    try:
        states = await transaction_states(system.addresses.kafka, TRANSACTIONAL_IDS)
    except (OSError, TimeoutError, EOFError):  # the broker may be the other lane's victim
        return set()
    return {name for name, state in states.items() if state == "Ongoing"}


async def _stays_open(system: System) -> bool:
    same = await _open(system)
    for _ in range(OPEN_LOOKS):
        await asyncio.sleep(OPEN_LOOK_S)
        same &= await _open(system)
    return bool(same)


# What happens on the network


def connections_cut(machine: str, measure: Measure) -> Fault:
    """All open connections are reset."""

    async def act(system: System) -> None:
        system.proxies[machine].cut()

    return Fault(f"{machine}: connections cut", measure, act)


def refused(machine: str, measure: Measure, seconds: float) -> Fault:
    """Nobody gets a connection."""

    async def act(system: System) -> None:
        await system.proxies[machine].refuse()
        await asyncio.sleep(seconds)
        await system.proxies[machine].accept()

    return Fault(f"{machine}: refused for {seconds:g} s", measure, act)


def slow(machine: str, measure: Measure, seconds: float, delay_s: float) -> Fault:
    """Each piece of data comes late."""

    async def act(system: System) -> None:
        with system.proxies[machine].slow(delay_s):
            await asyncio.sleep(seconds)

    return Fault(f"{machine}: {delay_s * 1000:g} ms late for {seconds:g} s", measure, act)


def stalled(machine: str, measure: Measure, seconds: float) -> Fault:
    """Connections stay, nothing comes through."""

    async def act(system: System) -> None:
        with system.proxies[machine].stalled():
            await asyncio.sleep(seconds)

    return Fault(f"{machine}: silent for {seconds:g} s", measure, act)


def answers_lost(machine: str, measure: Measure, seconds: float, of: Request) -> Fault:
    """Every second of these requests is carried out, and its connection reset in the middle of the answer."""

    async def act(system: System) -> None:
        with system.proxies[machine].losing_answers(lambda data: of(data) and system.chance.random() < 0.5):
            await asyncio.sleep(seconds)

    return Fault(f"{machine}: answers lost for {seconds:g} s", measure, act)


# The plan

Items = list[list[Fault]]
"""Faults that must come one after the other stand in one list."""

KILL_SETTLEMENT: Final = killed("settlement", "settled")
SECOND_JOINS: Final = Fault("second settlement slot joins", "settled", System.second_slot)
SECOND_LEAVES: Final = Fault("second settlement slot leaves", "settled", System.no_second_slot)
TWO_SLOTS: Final = [
    SECOND_JOINS,
    Fault("settlement paused 20 s inside a transaction", "settled", paused_inside),
    Fault("settlement killed, two slots", "settled", KILL_SETTLEMENT.act),
    Fault("settlement paused 20 s before a transaction", "settled", paused_before),
    Fault(f"{SECOND} killed, two slots", "settled", lambda system: system.kill(SECOND)),
    SECOND_LEAVES,
]
FULL_MINUTES: Final = 15.0
"""A run of this length has all the faults below; a shorter one has its share of them, a longer one more."""


def settling_faults(share: float) -> Items:
    """What holds up settling."""
    many = {
        50: [KILL_SETTLEMENT],
        3: [
            killed("kafka", "settled"),
            killed("dynamodb", "settled"),
            connections_cut("kafka", "settled"),
            connections_cut("dynamodb", "settled"),
            answers_lost("dynamodb", "settled", 3, requests_with(b"TransactWriteItems")),
            answers_lost("kafka", "settled", 3, WRITES_OF_KAFKA),
        ],
        2: [
            refused("kafka", "settled", 4),
            refused("dynamodb", "settled", 4),
            slow("kafka", "settled", 5, 0.05),
            slow("dynamodb", "settled", 5, 0.05),
            stalled("kafka", "settled", 5),
            stalled("kafka", "settled", 15),
            stalled("dynamodb", "settled", 8),
        ],
    }
    singles = [[fault] for count, faults in many.items() for fault in faults for _ in range(times(count, share))]
    return singles + [TWO_SLOTS for _ in range(times(3, share))]


def serving_faults(share: float) -> Items:
    """What holds up those who ask and read."""
    many = {
        10: [killed("origin", "answered"), killed("projector", "ready"), killed("market", "ready")],
        3: [
            killed("valkey", "answered"),
            Fault("valkey emptied", "answered", System.empty_the_cache),
            connections_cut("valkey", "answered"),
            answers_lost("valkey", "answered", 3, lambda _: True),
        ],
        2: [refused("valkey", "answered", 4), slow("valkey", "answered", 5, 0.05), stalled("valkey", "answered", 6)],
    }
    return [[fault] for count, faults in many.items() for fault in faults for _ in range(times(count, share))]


def times(count: int, share: float) -> int:
    """How often in a run of that share of a full one: at least once."""
    return max(1, round(count * share))


def shuffled(items: Items, chance: Random) -> list[Fault]:
    """In an order of chance, what belongs together together."""
    order = list(items)
    chance.shuffle(order)
    return [fault for item in order for fault in item]
