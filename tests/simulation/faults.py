"""What fails in a run, and when: drawn from the seed. Some runs have one kind of fault, some many, a few none."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from infra.dynamo import DynamoUnavailable
from schemas.tables import account_pk
from tests.fakes.dynamo import cancelled
from tests.simulation.clients import USERS

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

FAULTS_MAX = 6
BUGGY = 0.4
"""Share of runs in which at least one account's work fails for a while."""
CALM_S_MIN = 14.0
LONGEST_S = 45.0

TRAPS = (
    *("join", "init-producer-id", "fetch-offsets", "fetch", "add-partition", "add-offsets", "batch_get_item", "query"),
    *("produce", "commit-offsets") * 2,
    *("park", "put_waiting") * 3,
    *("transact_write_items", "end-transaction") * 4,
)
"""Requests at which something befalls their process; those twice or more where a crash is most of interest."""

OVERTAKEN = 0.05
"""Share of runs in which a process is stopped while it parks an account, and another settles there what no longer fails."""


class InjectedBug(Exception):
    """A decision raises."""


class Faults:
    """The faults of one run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = world.chance
        self._buggy: dict[str, float] = {}
        self.ever_at_fault: set[str] = set()
        """Accounts whose own work ever failed by a bug or a damaged item."""
        self._last_s = CALM_S_MIN
        self._traps = 0.0
        self._undone: list[Any] = []
        self._is_overtaken = False

    def plan(self) -> float:
        """Lay out the run's faults; when they are over."""
        chance = self._chance
        kinds = [name.removeprefix("_do_") for name in dir(self) if name.startswith("_do_")]
        few = chance.sample(kinds, chance.randint(1, len(kinds)))
        if chance.random() < BUGGY:
            self._world.timeline.call_later(chance.uniform(0.0, 8.0), self._begin, "bug", chance.uniform(1.0, 8.0))
        self._traps = chance.choice([0.0, 0.0, 0.5, 0.9])
        if chance.random() < OVERTAKEN:
            self._is_overtaken, self._traps = True, 1.0
            self.ever_at_fault.update(USERS)
            self._buggy = dict.fromkeys(USERS, 1.0)
        for _ in range(chance.randint(0, FAULTS_MAX)):
            at, length = chance.uniform(1.0, 16.0), chance.choice([0.5, 2.0, 8.0, 15.0, 30.0]) * chance.uniform(0.5, 1.0)
            self._last_s = max(self._last_s, at + length + 1.0)
            self._world.timeline.call_later(at, self._begin, chance.choice(few), length)
        return min(self._last_s, LONGEST_S)

    def stop(self) -> None:
        """No more faults, and what was done is undone."""
        self._buggy.clear()
        self._traps = 0.0
        for process in self._world.processes:
            process.before = process.after = None
        for undo in self._undone:
            undo()
        self._undone.clear()

    def fails(self, logged: Any) -> None:
        """Raise where the run has a bug for this request."""
        share = self._buggy.get(logged.request.username)
        if share is not None and logged.offset % 4 <= share * 4:
            raise InjectedBug(logged.request.username)

    def set_trap(self, process: "Process") -> None:
        """Let something befall a process at one of its requests: before it went out, or after, or its answer is lost."""
        chance = self._chance
        if chance.random() >= self._traps:
            return
        what, nth, fate = chance.choice(TRAPS), chance.choice((1, 1, 2, 2, 3, 4, 6)), chance.choice(("kill", "kill", "stop", "stop", "lose"))
        for_s, comes_before, count = chance.choice((2.0, 12.0, 25.0)), chance.random() < 0.5, 0
        if self._is_overtaken:
            what, nth, fate, for_s, comes_before = "park", 1, "stop", chance.choice((12.0, 25.0)), True

        def spring(process: "Process", sending: str) -> bool:
            nonlocal count
            count += sending == what
            if sending != what or count != nth:
                return False
            process.before = process.after = None
            self._world.say(process.name, f"{fate} at its {nth}. {what}")
            match fate:
                case "kill":
                    self._world.kill(process, chance.choice((0.2, 1.0, 12.0)))
                case "stop":
                    if what in ("park", "put_waiting") and (self._is_overtaken or chance.random() < 0.5):
                        self._buggy.clear()  # whoever takes over meets no fault, and settles what this one is about to park
                    self._take_over(process, for_s)
            return fate == "lose"

        if comes_before or fate == "lose":
            process.before = spring
        else:
            process.after = spring

    def _begin(self, kind: str, length: float) -> None:
        if not self._world.calm:
            self._world.say("world", f"{kind} for {length:.1f} s")
            getattr(self, f"_do_{kind}")(length)

    def _later(self, length: float, undo: Any) -> None:
        def once() -> None:
            if undo in self._undone:
                self._undone.remove(undo)
                undo()

        self._undone.append(undo)
        self._world.timeline.call_later(length, once)

    def _somebody(self) -> "Process | None":
        alive = [process for process in self._world.processes if process.loop.alive]
        return self._chance.choice(alive) if alive else None

    def _take_over(self, process: "Process", for_s: float) -> None:
        """Stopped; perhaps another process is started in its slot meanwhile."""
        self._world.stop(process, for_s)
        if self._chance.random() < 0.6:
            self._world.timeline.call_later(self._chance.uniform(0.0, min(for_s, 2.0)), self._beside, process)

    def _beside(self, process: "Process") -> None:
        if self._world.wanted[process.slot] is process and not self._world.calm:
            self._world.start(process.slot)

    # The kinds of fault

    def _do_kill(self, length: float) -> None:
        if process := self._somebody():
            self._world.kill(process, length)

    def _do_stop(self, length: float) -> None:
        if process := self._somebody():
            self._take_over(process, length)

    def _do_broker_away(self, length: float) -> None:
        world = self._world
        world.broker.go_away()
        world.kafka.go_away()

        def back() -> None:
            world.kafka.come_back()
            world.broker.come_back()

        self._later(length, back)

    def _do_broker_restart(self, _length: float) -> None:
        self._do_broker_away(0.5)

    def _do_lost_kafka_answers(self, length: float) -> None:
        self._world.kafka.loss = self._chance.choice([0.02, 0.1, 0.3])
        self._later(length, lambda: setattr(self._world.kafka, "loss", 0.0))

    def _do_slow_kafka(self, length: float) -> None:
        self._world.kafka.slow_s = self._chance.choice([0.05, 0.5, 3.0])
        self._later(length, lambda: setattr(self._world.kafka, "slow_s", 0.0))

    def _do_slow_markers(self, length: float) -> None:
        self._world.marker_s = self._chance.choice([0.1, 1.0, 4.0])
        self._later(length, lambda: setattr(self._world, "marker_s", 0.003))

    def _do_not_enough_replicas(self, length: float) -> None:
        self._world.lacks_replicas = self._chance.choice([0.2, 0.7])
        self._later(length, lambda: setattr(self._world, "lacks_replicas", 0.0))

    def _do_store_away(self, length: float) -> None:
        self._world.dynamo.go_away()
        self._later(length, self._world.dynamo.come_back)

    def _do_lost_store_answers(self, length: float) -> None:
        self._world.dynamo.loss = self._chance.choice([0.05, 0.2, 0.5])
        self._later(length, lambda: setattr(self._world.dynamo, "loss", 0.0))

    def _do_late_store(self, length: float) -> None:
        self._world.dynamo.late = self._chance.choice([0.05, 0.3])
        self._later(length, lambda: setattr(self._world.dynamo, "late", 0.0))

    def _do_slow_store(self, length: float) -> None:
        self._world.dynamo.slow_s = self._chance.choice([0.1, 1.0, 8.0])
        self._later(length, lambda: setattr(self._world.dynamo, "slow_s", 0.0))

    def _do_conflicts(self, length: float) -> None:
        share = self._chance.choice([0.1, 0.5, 0.9])
        self._world.dynamo.refuses = lambda what: self._conflict(what, share)
        self._later(length, self._no_more_refusals)

    def _do_throttling(self, length: float) -> None:
        share = self._chance.choice([0.1, 0.5, 0.9])
        self._world.dynamo.refuses = lambda what: DynamoUnavailable(f"{what}: ThrottlingException") if self._chance.random() < share else None
        self._later(length, self._no_more_refusals)

    def _conflict(self, what: str, share: float) -> Exception | None:
        """Of a transaction a few actions are named; how many there are the network does not know, so one refusal fits all of a size."""
        if what not in ("transact_write_items", "park", "put_waiting") or self._chance.random() >= share:
            return None
        return Conflict(self._chance)

    def _no_more_refusals(self) -> None:
        self._world.dynamo.refuses = lambda _: None

    def _do_bug(self, length: float) -> None:
        user = self._chance.choice(USERS)
        self.ever_at_fault.add(user)
        self._buggy[user] = self._chance.choice([0.0, 0.5, 1.0])
        self._later(length, lambda: self._buggy.pop(user, None))

    def _do_damage(self, length: float) -> None:
        """An account item that nobody can read, until a hand mends it."""
        user = self._chance.choice(USERS)
        item = self._world.account_item(user)
        if item is None or "cash" not in item or "damaged" in item:
            return
        self.ever_at_fault.add(user)
        cash = item["cash"]
        self._world.store.put({**item, "cash": {"S": "damaged"}, "damaged": {"BOOL": True}})

        def mend() -> None:
            now = self._world.account_item(user)
            if now and "damaged" in now:
                mended = {name: value for name, value in now.items() if name != "damaged"}
                self._world.store.put({**mended, "cash": cash})

        assert item["pk"]["S"] == account_pk(user)
        self._later(length, mend)

    def _do_clock_jump(self, length: float) -> None:
        if process := self._somebody():
            process.clock_off = timedelta(seconds=self._chance.choice([-3600, -61, 61, 3600]))
            self._later(length, lambda: setattr(process, "clock_off", timedelta()))


class Conflict(Exception):
    """Stands for a cancelled transaction with a conflict on one of its actions; the store's client fills in how many there are."""

    def __init__(self, chance: Any) -> None:
        super().__init__("TransactionConflict")
        self._chance = chance

    def reasons(self, actions: int) -> Exception:
        """As DynamoDB tells it."""
        told: list[dict[str, Any]] = [{"Code": "None"} for _ in range(actions)]
        told[self._chance.randrange(actions)] = {"Code": self._chance.choice(["TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"])}
        return cancelled(told)
