"""Kafka's side, in memory: logs, the transaction coordinator, and how they answer a client.

Every method is one request as it arrives, and happens as a whole; what it raises is the broker's error code. Time passes only through `clock`
(a loop, or the simulation's timeline): markers are written some time after the decision, a transaction lives no longer than its timeout, and
nothing happens while the broker is away. What `tests/contract/test_kafka_fake.py` asks of this it asks of Kafka too.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import ConcurrentTransactions, InvalidProducerEpoch, InvalidTxnState, KafkaError, NotEnoughReplicasError, OffsetOutOfRangeError

from tests.fakes.kafka_groups import Groups

Reply = Callable[[Any], None]
Headers = tuple[tuple[str, bytes | None], ...]


class Clock(Protocol):
    """What a broker needs of time."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Any: ...


@dataclass(slots=True)
class Part:
    """A transaction's part in one partition: open until its marker is written."""

    transactional_id: str
    first: int
    committed: bool | None = None


@dataclass(slots=True)
class Slot:
    """A record, or a transaction's marker, which takes an offset too and is never handed out."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    part: Part | None = None
    is_marker: bool = False


@dataclass(slots=True)
class Log:
    """One partition."""

    slots: list[Slot] = field(default_factory=list)
    open: list[Part] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    sequences: set[tuple[str, int, int]] = field(default_factory=set)

    @property
    def end(self) -> int:
        return len(self.slots)

    @property
    def stable_end(self) -> int:
        """Where the first open transaction begins."""
        return min((part.first for part in self.open), default=len(self.slots))

    def read(self, offset: int, limit: int) -> tuple[list[Slot], int]:
        """What a committed reader gets from an offset on, and where it is then."""
        found: list[Slot] = []
        end = self.stable_end
        while offset < end and len(found) < limit:
            slot = self.slots[offset]
            if not slot.is_marker and (slot.part is None or slot.part.committed):
                found.append(slot)
            offset += 1
        return found, offset

    def changed(self) -> None:
        waiting, self.waiting = self.waiting, []
        for wake in waiting:
            wake()


@dataclass(slots=True)
class Transaction:
    """A transactional id at the coordinator. `offsets` are by group; pending until the group's marker is written."""

    transactional_id: str
    epoch: int = 0
    timeout_s: float = 60.0
    state: str = "empty"
    number: int = 0
    parts: dict[TopicPartition, Part] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    offsets: dict[str, dict[TopicPartition, int]] = field(default_factory=lambda: defaultdict(dict))
    markers_left: int = 0
    last_commit: bool | None = None


class Broker:
    """One node. `partitions` is the count of every topic.

    `marker_delay()` and `chance()` say how long a marker takes and how often an append is refused for want of replicas; `decided` is told of each
    transaction that was committed, as a whole; `changed` of each partition in which a committed reader may see more; `moved` of committed offsets.
    """

    def __init__(
        self,
        clock: Clock,
        partitions: int,
        *,
        wall_ms: Callable[[], int],
        marker_delay: Callable[[], float] = lambda: 0.0,
        lacks_replicas: Callable[[], bool] = lambda: False,
        decided: Callable[[Transaction, "Broker"], None] = lambda _transaction, _broker: None,
        changed: Callable[[TopicPartition, Log], None] = lambda _tp, _log: None,
        moved: Callable[[str, TopicPartition, int], None] = lambda _group, _tp, _offset: None,
    ) -> None:
        self.clock = clock
        self.partitions = partitions
        self.is_up = True
        self.logs: dict[TopicPartition, Log] = defaultdict(Log)
        self.groups = Groups(self)
        self.transactions: dict[str, Transaction] = {}
        self._wall_ms = wall_ms
        self._marker_delay = marker_delay
        self._lacks_replicas = lacks_replicas
        self._decided = decided
        self._changed = changed
        self._moved = moved
        self._held: list[Callable[[], None]] = []

    # Up and away

    def go_away(self) -> None:
        """As by kill -9: every connection breaks, everything acknowledged stays."""
        self.is_up = False

    def come_back(self) -> None:
        """Up again; sessions begin anew, what was due happens now."""
        self.is_up = True
        self.groups.restarted()
        held, self._held = self._held, []
        for happen in held:
            self.clock.call_later(0.05, self.when_up, happen)

    def when_up(self, happen: Callable[[], None]) -> None:
        """Now, or when the broker is back."""
        if self.is_up:
            happen()
        else:
            self._held.append(happen)

    # Without transactions

    def append(self, tp: TopicPartition, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> Slot:
        """An ordinary producer's record."""
        log = self.logs[tp]
        slot = Slot(log.end, self._wall_ms(), key, value, tuple(headers))
        log.slots.append(slot)
        self._tell(tp, log)
        return slot

    def fetch(self, reply: Reply, tp: TopicPartition, offset: int, limit: int, wait_s: float) -> None:
        """A committed reader's fetch: records, the offset after them, the end. Waits where there is nothing. OffsetOutOfRangeError."""
        log = self.logs[tp]
        if not 0 <= offset <= log.end:
            raise OffsetOutOfRangeError
        answered = False

        def answer(*, at_last: bool = False) -> None:
            nonlocal answered
            if answered:
                return
            found, after = log.read(offset, limit)
            if after > offset or at_last:
                answered = True
                reply((found, after, log.end))
            else:
                log.waiting.append(answer)

        answer()
        if not answered:
            self.clock.call_later(wait_s, lambda: answer(at_last=True))

    def ends(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Where a committed reader's log ends."""
        return {tp: self.logs[tp].stable_end for tp in tps}

    # Transactions

    def init(self, transactional_id: str, timeout_s: float) -> int:
        """A new epoch. ConcurrentTransactions until what an earlier one left is ended."""
        transaction = self.transactions.get(transactional_id)
        if transaction is None:
            transaction = self.transactions[transactional_id] = Transaction(transactional_id)
        elif transaction.state == "ongoing":
            self._fence(transaction)
            raise ConcurrentTransactions
        elif transaction.state != "empty":
            raise ConcurrentTransactions
        else:
            transaction.epoch += 1
        transaction.last_commit = None
        transaction.timeout_s = timeout_s
        return transaction.epoch

    def add_partition(self, transactional_id: str, epoch: int, tp: TopicPartition) -> None:
        """Begin, where it has not begun, and take a partition in. InvalidProducerEpoch, ConcurrentTransactions."""
        transaction = self._begun(transactional_id, epoch)
        if tp not in transaction.parts:
            log = self.logs[tp]
            transaction.parts[tp] = Part(transactional_id, log.end)

    def add_offsets(self, transactional_id: str, epoch: int, group: str) -> None:
        """Begin, where it has not begun, and take a group in."""
        self._begun(transactional_id, epoch).groups.add(group)

    def commit_offsets(self, transactional_id: str, epoch: int, group: str, offsets: dict[TopicPartition, int]) -> None:
        """Offsets that count once the transaction is committed. Nobody asks whether the sender is a member of the group."""
        transaction = self._of_epoch(transactional_id, epoch)
        if transaction.state != "ongoing" or group not in transaction.groups:
            raise InvalidTxnState
        transaction.offsets[group].update(offsets)

    def produce(self, transactional_id: str, epoch: int, number: int, tp: TopicPartition, records: Sequence[tuple[Any, Any, Headers]]) -> int:
        """Append a batch to a partition of the transaction; `number` is its sequence: the same once more changes nothing. The first offset."""
        transaction = self._of_epoch(transactional_id, epoch)
        log = self.logs[tp]
        if (transactional_id, epoch, number) in log.sequences:
            return log.end
        if transaction.state != "ongoing" or tp not in transaction.parts:
            raise InvalidTxnState
        if self._lacks_replicas():
            raise NotEnoughReplicasError
        part = transaction.parts[tp]
        if part not in log.open:
            part.first = log.end
            log.open.append(part)
        log.sequences.add((transactional_id, epoch, number))
        for key, value, headers in records:
            log.slots.append(Slot(log.end, self._wall_ms(), key, value, headers, part))
        return part.first

    def end(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        """Decide. Readers see it when the markers are written. The same decision once more is taken for the first."""
        transaction = self._of_epoch(transactional_id, epoch)
        match transaction.state:
            case "ongoing":
                self._decide(transaction, commit=commit)
            case "empty":
                if transaction.last_commit is not commit:
                    raise InvalidTxnState
            case _:
                raise ConcurrentTransactions

    def _of_epoch(self, transactional_id: str, epoch: int) -> Transaction:
        transaction = self.transactions.get(transactional_id)
        if transaction is None or transaction.epoch != epoch:
            raise InvalidProducerEpoch
        return transaction

    def _begun(self, transactional_id: str, epoch: int) -> Transaction:
        transaction = self._of_epoch(transactional_id, epoch)
        if transaction.state == "empty":
            transaction.state = "ongoing"
            transaction.number += 1
            self.clock.call_later(transaction.timeout_s, self.when_up, lambda number=transaction.number: self._expire(transaction, number))
        elif transaction.state != "ongoing":
            raise ConcurrentTransactions
        return transaction

    def _expire(self, transaction: Transaction, number: int) -> None:
        if transaction.state == "ongoing" and transaction.number == number:
            self._fence(transaction)

    def _fence(self, transaction: Transaction) -> None:
        transaction.epoch += 1
        self._decide(transaction, commit=False)

    def _decide(self, transaction: Transaction, *, commit: bool) -> None:
        transaction.state = "ending"
        transaction.last_commit = commit
        transaction.markers_left = len(transaction.parts) + len(transaction.groups)
        if commit:
            self._decided(transaction, self)
        for tp in transaction.parts:
            self.clock.call_later(self._marker_delay(), self.when_up, lambda tp=tp: self._mark(transaction, tp, commit=commit))
        for group in transaction.groups:
            self.clock.call_later(self._marker_delay(), self.when_up, lambda group=group: self._mark_group(transaction, group, commit=commit))
        self._maybe_complete(transaction)

    def _mark(self, transaction: Transaction, tp: TopicPartition, *, commit: bool) -> None:
        log, part = self.logs[tp], transaction.parts[tp]
        part.committed = commit
        log.slots.append(Slot(log.end, self._wall_ms(), None, None, (), part, is_marker=True))
        if part in log.open:
            log.open.remove(part)
        transaction.markers_left -= 1
        self._maybe_complete(transaction)
        self._tell(tp, log)

    def _mark_group(self, transaction: Transaction, group: str, *, commit: bool) -> None:
        offsets = transaction.offsets.get(group, {})
        transaction.markers_left -= 1
        if commit:
            self.groups.of(group).offsets.update(offsets)
            for tp, offset in offsets.items():
                self._moved(group, tp, offset)
        self._maybe_complete(transaction)

    def _maybe_complete(self, transaction: Transaction) -> None:
        if transaction.markers_left == 0:
            transaction.state = "empty"
            transaction.parts, transaction.groups, transaction.offsets = {}, set(), defaultdict(dict)

    def _tell(self, tp: TopicPartition, log: Log) -> None:
        log.changed()
        self._changed(tp, log)


__all__ = ["Broker", "Clock", "KafkaError", "Log", "Part", "Reply", "Slot", "Transaction"]
