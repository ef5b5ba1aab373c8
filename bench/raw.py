"""The raw limit: the same transactions as settlement's, ready in memory, written by the same client. No Kafka, no decision while the clock runs.

A writer is a process of its own, as a settlement process is one. It takes the partitions of one slot, prepares them piece by piece (decided,
folded and packed by settlement's own code; what the ledger would send is caught on its way to the store), and then writes a piece: one lane for
each partition, a lane's batches one after the other, the transactions of a batch at once within the ledger's own bound.
"""

import asyncio
import gc
import multiprocessing
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, Final, cast

import uvloop

from bench.backlog import envelopes, partition_of
from bench.mix import Mix
from infra.dynamo import Dynamo
from infra.ledger import TRANSACTIONS_AT_ONCE, Ledger, Stored, Write
from processors.domain.decide import decide_all
from processors.settlement import BATCH_RECORDS_MAX
from processors.work import next_fold
from schemas.ledger import Account
from schemas.requests import LoggedRequest

REGION: Final = "us-east-1"
READY_S: Final = 120.0
Sent = tuple[str, tuple[Any, ...], dict[str, Any]]
Batch = list[list[Sent]]
"""Rounds of a batch, one after the other; the calls of a round at once."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What writing a piece took: requests, seconds on the wall, CPU seconds of the writing processes."""

    requests: int
    seconds: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Task:
    """What a writer is there for: its lanes of the partitions of the first `requests` of a day."""

    mix: Mix
    requests: int
    partitions: int
    lanes: Sequence[int]


@dataclass(slots=True)
class Prepared:
    """Batches by lane, and how many requests are in them."""

    requests: int = 0
    lanes: dict[int, list[Batch]] = field(default_factory=dict)


class Caught:
    """Stands where the store's client stands, and keeps what it is asked to do."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        """Any call: kept, and answered as if it had gone well."""

        async def call(*arguments: Any, **named: Any) -> dict[str, Any]:
            self.sent.append((name, arguments, named))
            return {}

        return call


class Preparing:
    """Turns the requests of some partitions into calls to the store."""

    def __init__(self, task: Task) -> None:
        self._events = _logged(task)
        self._left = task.requests
        self._lanes = task.lanes
        self._waiting: dict[int, list[LoggedRequest]] = {lane: [] for lane in task.lanes}
        self._accounts: dict[str, Account] = {}
        self._caught = Caught()
        self._ledger = Ledger(cast("Dynamo", self._caught))

    async def next(self, requests: int) -> Prepared:
        """The next piece: as many requests of the whole log as are asked for, those of other slots left out. The last piece empties the lanes."""
        prepared = Prepared(lanes={lane: [] for lane in self._lanes})
        for lane, logged in islice(self._events, requests):
            self._left -= 1
            if lane in self._waiting:
                self._waiting[lane].append(logged)
                if len(self._waiting[lane]) == BATCH_RECORDS_MAX:
                    await self._batch(lane, prepared)
        if not self._left:
            for lane in self._lanes:
                await self._batch(lane, prepared)
        return prepared

    async def _batch(self, lane: int, prepared: Prepared) -> None:
        """Fold what waits in a lane by account, in rounds of as many of each as go into one write."""
        waiting, self._waiting[lane] = self._waiting[lane], []
        if not waiting:
            return
        folds: dict[str, list[LoggedRequest]] = {}
        for logged in waiting:
            folds.setdefault(logged.request.username, []).append(logged)
        rounds: Batch = []
        while folds:
            firsts = {username: next_fold(fold) for username, fold in folds.items()}
            rounds.append(await self._round(firsts))
            folds = {username: rest for username, fold in folds.items() if (rest := fold[len(firsts[username]) :])}
        prepared.lanes[lane].append(rounds)
        prepared.requests += len(waiting)

    async def _round(self, folds: dict[str, tuple[LoggedRequest, ...]]) -> list[Sent]:
        writes = []
        for username, fold in folds.items():
            before = self._accounts.get(username, Account(username))
            decided = decide_all(before, fold, {})
            self._accounts[username] = decided.account
            writes.append(Write(before.version, decided.account, decided.entries, decided.orders))
        self._caught.sent = []
        outcomes = await self._ledger.write(writes)
        if not all(isinstance(outcome, Stored) for outcome in outcomes):
            raise RuntimeError("the ledger did not take the answer of a store that always says yes")
        return self._caught.sent


def _logged(task: Task) -> Iterator[tuple[int, LoggedRequest]]:
    """The requests as they will stand in the log, with their partition."""
    mix, offsets = task.mix, [0] * task.partitions
    for request, event in zip(mix.requests(task.requests), envelopes(mix.requests(task.requests), mix.at), strict=True):
        lane = partition_of(request.username, task.partitions)
        yield lane, LoggedRequest(request, event.id, mix.at, lane, offsets[lane], event.correlation_id, event.trace_id)
        offsets[lane] += 1


async def replay(dynamo: Dynamo, prepared: Prepared) -> None:
    """Write a piece. Raises what the client raises: a refusal would mean that something else was measured."""
    slots = asyncio.Semaphore(TRANSACTIONS_AT_ONCE)

    async def send(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        async with slots:
            await getattr(dynamo, name)(*arguments, **named)

    async def lane(batches: list[Batch]) -> None:
        for rounds in batches:
            for calls in rounds:
                await asyncio.gather(*(send(*call) for call in calls))

    await asyncio.gather(*(lane(batches) for batches in prepared.lanes.values()))


class RawLimit:
    """Writers, one for each slot. `prepare` and `write` take turns; `close` ends them."""

    def __init__(self, store: str, mix: Mix, requests: int, partitions: int, slots: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for slot in range(slots):
            ours, theirs = spawn.Pipe()
            lanes = list(range(slot, partitions, slots))
            process = spawn.Process(target=_writer, args=(theirs, store, Task(mix, requests, partitions, lanes)), daemon=True)
            with _interrupts_ignored():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def prepare(self, requests: int) -> int:
        """Prepare the next piece of so many requests of the log; returns how many are ready (a lane's unfinished batch waits for the next piece)."""
        return sum(self._ask(requests))

    def write(self) -> Piece:
        """Write what was prepared, all writers at once."""
        started = time.monotonic()
        told = self._ask(0)
        return Piece(sum(piece.requests for piece in told), time.monotonic() - started, sum(piece.cpu_s for piece in told))

    def close(self) -> None:
        """End the writers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(READY_S)

    def _ask(self, requests: int) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(requests)
        return [pipe.recv() for pipe in self._pipes]


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What starts in here never sees a Ctrl-C, which is this process's to handle: it ends with its pipe."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _writer(pipe: Connection, store: str, task: Task) -> None:
    """A writer's life: a number says how many to prepare, 0 says write; it ends with its pipe."""

    async def main() -> None:
        preparing = Preparing(task)
        prepared = Prepared()
        async with Dynamo(store, REGION) as dynamo:
            await dynamo.ping()
            while True:
                try:
                    asked = await asyncio.to_thread(pipe.recv)
                except EOFError:
                    return
                if asked:
                    prepared = await preparing.next(asked)
                    gc.collect()
                    gc.freeze()  # what is ready in memory is not to be looked through while the clock runs
                    pipe.send(prepared.requests)
                else:
                    pipe.send(await _written(dynamo, prepared))

    with suppress(BrokenPipeError):
        uvloop.run(main())


async def _written(dynamo: Dynamo, prepared: Prepared) -> Piece:
    started, cpu = time.monotonic(), time.process_time()
    await replay(dynamo, prepared)
    piece = Piece(prepared.requests, time.monotonic() - started, time.process_time() - cpu)
    prepared.lanes.clear()
    gc.unfreeze()
    return piece
