"""One simulated run: clients, Kafka, a store, and settlement processes that are killed, stopped, taken over and cut off.

Time is virtual, and all that happens by chance happens by the seed, so a seed tells the whole run. In a run's first part things fail; then
faults stop, an operator drains what is parked, and everything must come to rest. The auditor looks at every write and every record.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

from events import topics
from infra.dynamo import DynamoUnavailable
from schemas.tables import ACCOUNT_SK, PARKED_PK, account_pk
from tests.fakes.dynamo import Changes, MemoryDynamo
from tests.fakes.kafka_broker import Broker, Log
from tests.simulation.auditor import Auditor, Wrong
from tests.simulation.clients import USERS, Clients, Record
from tests.simulation.faults import Faults
from tests.simulation.image import Image
from tests.simulation.network import Machine
from tests.simulation.process import ENDS, TASKS_MAX, Process
from tests.simulation.virtual import Timeline

PARTITIONS = 2
SLOTS = ("0", "1")
REQUESTS = 32
SPREAD_S = 12.0
"""Time over which the requests come."""
BURST_S = 0.05
REST_S = 400.0
"""Time within which all must be at rest once faults have stopped: over every bound that the code has for itself."""
CHECK_S = 2.0
BEGIN = datetime(2026, 11, 25, 23, 59, 50, tzinfo=UTC)
STEPS_MAX = 400_000


@dataclass
class World:
    """A run. `calm` is the end of it: no more faults."""

    seed: int
    image: Image
    trace: Callable[[str], None] | None = None
    processes: list[Process] = field(default_factory=list)
    calm: bool = False
    steps: int = 0
    started: int = 0
    drains: int = 0
    over: bool = False

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)  # noqa: S311 - a simulation, not a secret
        self.timeline = Timeline()
        self.auditor = Auditor(lambda username: username in self.faults.ever_at_fault)
        self.store = MemoryDynamo(self._stored)
        kafka_refused, kafka_silent = KafkaConnectionError, RequestTimedOutError
        self.kafka = Machine("kafka", self.timeline, self.chance, 40.0, kafka_refused, kafka_silent)
        self.dynamo = Machine("store", self.timeline, self.chance, 5.0, _away, _silent)
        self.marker_s = 0.003
        self.lacks_replicas = 0.0
        self.broker = Broker(
            self.timeline,
            PARTITIONS,
            wall_ms=lambda: int(self.wall().timestamp() * 1000) - self.chance.choice((0, 0, 0, 5)),
            marker_delay=lambda: self.chance.random() * self.marker_s,
            lacks_replicas=lambda: self.chance.random() < self.lacks_replicas,
            decided=self.auditor.decided,
            changed=self._changed,
        )
        if self.seed % 2:  # a group that has been there before; else the client itself refuses to begin anywhere
            self.broker.groups.of(topics.SETTLEMENT).offsets = {TopicPartition(topics.REQUESTS, number): 0 for number in range(PARTITIONS)}
        self.clients = Clients(self.chance, BEGIN)
        self.faults = Faults(self)
        self.wanted: dict[str, Process | None] = dict.fromkeys(SLOTS)
        self._at_rest = False
        self._until = 0.0

    def wall(self) -> datetime:
        """The true time of day."""
        return BEGIN + timedelta(seconds=self.timeline.now)

    def say(self, who: str, what: str, facts: Mapping[str, Any] | None = None) -> None:
        """A line of the trace."""
        if self.trace:
            said = " ".join(f"{name}={value}" for name, value in (facts or {}).items())
            self.trace(f"{self.timeline.now:9.4f}  {who:8} {what} {said}".rstrip())

    def play(self) -> None:
        """Run to the end. Wrong where a guarantee does not hold; what a bug raises where one shows otherwise."""
        self.image.fails = self.faults.fails
        self.image.says = (lambda event, facts: self.say("  log", event, facts)) if self.trace else None
        try:
            self._play()
        finally:
            self.over = True
            self.image.fails, self.image.says = (lambda _: None), None
            for process in self.processes:
                process.take_apart()

    def _play(self) -> None:
        bursts = [self.chance.random() * SPREAD_S for _ in range(self.chance.choice((2, 5, 10)))]
        script = list(self.clients.script(REQUESTS))
        times = sorted(self.chance.choice(bursts) + self.chance.random() * BURST_S for _ in script)
        for at, (user, record) in zip(times, script, strict=True):
            self.timeline.call_later(at, self.ask, user, record)
        for slot in SLOTS:
            self.timeline.call_later(self.chance.random(), self.start, slot)
        self.timeline.call_later(self.faults.plan(), self._calm_down)
        self.timeline.call_later(CHECK_S, self._look)
        while not self._at_rest:
            self.timeline.advance()
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise Wrong("a run ends")
        self.auditor.finish()

    # Clients

    def ask(self, user: str, record: Record) -> None:
        """A record into the requests topic; one that finds no broker is tried again."""
        if not self.broker.is_up:
            self.timeline.call_later(1.0, self.ask, user, record)
            return
        slot = self.broker.append(TopicPartition(topics.REQUESTS, USERS.index(user) % PARTITIONS), *record)
        self.say("client", f"asks at {USERS.index(user) % PARTITIONS}:{slot.offset} for {user}", {"type": dict(record[2]).get("ce_type")})

    def drain(self, user: str) -> None:
        """An operator asks to drain an account."""
        self.drains += 1
        self.ask(user, self.clients.drain(user, self.drains))

    # Processes

    def start(self, slot: str) -> None:
        """A process for a slot, beside whatever is there."""
        self.started += 1
        process = Process(self.started, slot, self.timeline, self.image, self.chance)
        self.processes.append(process)
        self.wanted[slot] = process
        process.start(self.kafka, self.broker, self.dynamo, self.store, self.wall)
        assert process.main is not None
        process.main.add_done_callback(lambda task: self._ended(process, task))
        self.say(process.name, "starts")
        if not self.calm:
            self.faults.set_trap(process)

    def kill(self, process: Process, again_s: float) -> None:
        """As by kill -9; its slot is filled again some time later."""
        if process.loop.alive:
            self.say(process.name, "is killed")
            process.loop.kill()
            self._fill(process, again_s)

    def stop(self, process: Process, for_s: float) -> None:
        """As by SIGSTOP, for a while."""
        if process.loop.alive and not process.loop.is_stopped:
            self.say(process.name, f"is stopped for {for_s:.1f} s")
            process.loop.stop_process()
            self.timeline.call_later(for_s, self._continue, process)

    def _continue(self, process: Process) -> None:
        if process.loop.alive:
            self.say(process.name, "goes on")
            process.loop.continue_process()

    def _ended(self, process: Process, task: Any) -> None:
        if self.over:
            return
        error = None if task.cancelled() else task.exception()
        self.say(process.name, f"ends with {error!r}")
        process.loop.kill()
        if type(error).__name__ == "Stalled":
            raise Wrong("faults that pass do not stall a process") from error
        if isinstance(error, Wrong) or type(error).__name__ not in ENDS:
            raise error or Wrong("a process does not end by itself")
        self._fill(process, self.chance.uniform(0.3, 3.0))

    def _fill(self, process: Process, again_s: float) -> None:
        if self.wanted[process.slot] is process:
            self.wanted[process.slot] = None
            self.timeline.call_later(again_s, self._start_if_wanted, process.slot)

    def _start_if_wanted(self, slot: str) -> None:
        if self.wanted[slot] is None:
            self.start(slot)

    # What the auditor sees

    def _stored(self, changes: Changes) -> None:
        if self.trace:
            self.say("store", "has", {"items": ", ".join(f"{'-' if item is None else ''}{_told(item or before or {})}" for before, item in changes)})
        self.auditor.stored(changes)

    def _changed(self, tp: TopicPartition, log: Log) -> None:
        self.say("kafka", f"{tp.topic.split('.')[-2]}-{tp.partition}", {"end": log.end, "stable": log.stable_end})
        self.auditor.changed(tp, log)

    # The end

    def _calm_down(self) -> None:
        self.say("world", "faults stop")
        self.calm = True
        self.faults.stop()
        for process in self.processes:
            self._continue(process)
        self._until = self.timeline.now + REST_S

    def _look(self) -> None:
        """An operator's look: what is parked is drained now and then; once faults have stopped, whether all is at rest."""
        for process in self.processes:
            if process.loop.alive and len(process.loop.tasks) > TASKS_MAX:
                raise Wrong(f"bounded work: {process.name} has {len(process.loop.tasks)} tasks")
        parked = sorted(self.store.items.get(PARKED_PK, {}))
        self._at_rest = self.calm and not parked and self._lag() == 0 and self.auditor.told == set(self.auditor.entries)
        if self.calm and self.timeline.now > self._until:
            raise Wrong(f"everything comes to rest once faults have stopped: lag {self._lag()}, parked {parked}")
        for user in parked:
            if self.chance.random() < 0.3:
                self.drain(user)
        self.timeline.call_later(CHECK_S, self._look)

    def _lag(self) -> int:
        ends = self.broker.ends(TopicPartition(topics.REQUESTS, number) for number in range(PARTITIONS))
        offsets = self.broker.groups.of(topics.SETTLEMENT).offsets
        return sum(not slot.is_marker for tp, end in ends.items() for slot in self.broker.logs[tp].slots[offsets.get(tp, 0) : end])

    def account_item(self, user: str) -> dict[str, Any] | None:
        """An account as it is stored."""
        return self.store.items.get(account_pk(user), {}).get(ACCOUNT_SK)


def _away(what: str) -> Exception:
    return DynamoUnavailable(f"{what}: ClientConnectorError")


def _silent(what: str) -> Exception:
    return DynamoUnavailable(f"{what}: ReadTimeoutError")


def _told(item: Mapping[str, Any]) -> str:
    return f"{item['pk']['S']}/{item['sk']['S']}" + (f" v{item['version']['N']}" if "version" in item else "")
