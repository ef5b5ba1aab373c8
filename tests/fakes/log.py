"""What settlement needs of Kafka, in memory: request partitions, results, committed offsets, and transactions with fencing by epoch.

Each method is one answer of the broker, so it happens as a whole. A transaction is open between `begin` and `commit`; whoever is gone by then
leaves it hanging until the next `init` of its id, or until the broker's time for it is up.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from events.envelope import Envelope


class Fenced(Exception):
    """A newer producer has the transactional id."""


@dataclass(frozen=True)
class Record:
    """A record of the requests topic; `at` is the broker's append time."""

    partition: int
    offset: int
    at: datetime
    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


@dataclass
class Transaction:
    """What is in an open transaction: results and dead letters by partition, and offsets."""

    results: list[tuple[int, Envelope]] = field(default_factory=list)
    letters: list[Record] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)


class Log:
    """Topics and transactions. `committed_now(results, letters, offsets)` is told of each commit at the moment at which it happens."""

    def __init__(self, partitions: int, committed_now: Callable[[Transaction], None]) -> None:
        self.requests: list[list[Record]] = [[] for _ in range(partitions)]
        self.offsets = dict.fromkeys(range(partitions), 0)
        self._committed_now = committed_now
        self._epochs: dict[str, int] = defaultdict(int)
        self._open: dict[str, Transaction] = {}

    def append(self, partition: int, at: datetime, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> Record:
        """Append a request."""
        record = Record(partition, len(self.requests[partition]), at, key, value, tuple(headers))
        self.requests[partition].append(record)
        return record

    def fetch(self, partition: int, offset: int, records_max: int) -> list[Record]:
        """Records from an offset on."""
        return self.requests[partition][offset : offset + records_max]

    def committed(self, partition: int) -> int:
        """The committed offset."""
        return self.offsets[partition]

    def init(self, transactional_id: str) -> int:
        """A new epoch: fences every earlier producer of that id and ends its hanging transaction."""
        self._open.pop(transactional_id, None)
        self._epochs[transactional_id] += 1
        return self._epochs[transactional_id]

    def begin(self, transactional_id: str, epoch: int) -> None:
        """Open a transaction. Fenced."""
        self._check(transactional_id, epoch)
        self._open[transactional_id] = Transaction()

    def send(self, transactional_id: str, epoch: int, partition: int, result: Envelope) -> None:
        """Put a result into the open transaction. Fenced."""
        self._check(transactional_id, epoch)
        self._open[transactional_id].results.append((partition, result))

    def send_letter(self, transactional_id: str, epoch: int, letter: Record) -> None:
        """Put a dead letter into the open transaction. Fenced."""
        self._check(transactional_id, epoch)
        self._open[transactional_id].letters.append(letter)

    def send_offset(self, transactional_id: str, epoch: int, partition: int, offset: int) -> None:
        """Put an offset into the open transaction. Fenced."""
        self._check(transactional_id, epoch)
        self._open[transactional_id].offsets[partition] = offset

    def commit(self, transactional_id: str, epoch: int) -> None:
        """Everything in the transaction becomes visible at once. Fenced."""
        self._check(transactional_id, epoch)
        transaction = self._open.pop(transactional_id)
        self.offsets |= transaction.offsets
        self._committed_now(transaction)

    def expire(self) -> None:
        """The broker's time for all open transactions is up: they end, and their producers are fenced."""
        for transactional_id in list(self._open):
            self.init(transactional_id)

    def _check(self, transactional_id: str, epoch: int) -> None:
        if self._epochs[transactional_id] != epoch:
            raise Fenced(transactional_id)
