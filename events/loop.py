"""What the settlement loop is given: the handler, its bounds, and what a batch leaves behind."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from events.envelope import Envelope, Inbound
from events.stalls import BUSY_STALL_S, IDLE_STALL_S, WATCH_INTERVAL_S

T = TypeVar("T")

SESSION_MS: Final = 10_000
TRANSACTION_MS: Final = 10_000
REVOKE_S: Final = 6.0
"""Well under the session's length: the group waits as long for a member that gives partitions back."""
OPEN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Handled:
    """What a batch leaves behind: all of it is published in the one Kafka transaction that moves the batch's offset.

    `results` go to the results topic, `requests` (follow-up records) to the requests topic, each to the batch's own partition and in the order
    given. `after` is called once that transaction has committed, and before the next batch is handed over. Its failure is logged and does not
    stop the partition, and a crash may come before it: it must be idempotent, and later work must make up for a call that never came.
    """

    results: Sequence[Envelope] = ()
    requests: Sequence[Envelope] = ()
    after: Callable[[], Awaitable[None]] | None = None


def _nothing(_partition: int) -> None:
    """A handler that keeps nothing between batches."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How long the loop waits for what. Tests have them shorter; the relations between them are what counts."""

    session_ms: int = SESSION_MS
    transaction_ms: int = TRANSACTION_MS
    open_s: float = OPEN_S
    revoke_s: float = REVOKE_S
    watch_interval_s: float = WATCH_INTERVAL_S
    idle_stall_s: float = IDLE_STALL_S
    busy_stall_s: float = BUSY_STALL_S


@dataclass(frozen=True, slots=True)
class Loop(Generic[T]):
    """What the loop is given.

    `decode` turns a record into a request or raises `Unreadable`. `handle` stores a batch of one partition, in log order, and returns what
    it leaves behind; it retries passing faults itself, within bounds under `BUSY_STALL_S`, and raises where the process should end.
    `closed` is told the number of a partition that this process no longer serves: whatever the handler knows of its accounts is out of date.
    """

    bootstrap: str
    group: str
    slot: str
    topic: str
    results_topic: str
    batch_records_max: int
    decode: Callable[[Inbound], T]
    handle: Callable[[Sequence[T]], Awaitable[Handled]]
    closed: Callable[[int], None] = _nothing
    bounds: Bounds = Bounds()

    @property
    def member(self) -> str:
        """This process's name in the group."""
        return f"{self.group}-{self.slot}"
