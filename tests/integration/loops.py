"""A settlement loop of its own for a test: topics, a ledger in a file, processes that can be stopped at a named moment, and what came of it."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import ConsumerRecord

from events import topics
from events.consumer import Bounds, Consumer, Handled, Loop
from events.envelope import Envelope, Inbound, Unreadable
from schemas.instants import EPOCH
from tests.waiting import eventually

WITHIN_S = 60.0
PARTITIONS = 2
QUICK = Bounds(session_ms=6_000, transaction_ms=6_000, revoke_s=3.0)
"""As short as a broker lets a session be."""
SCRIPT = Path(__file__).with_name("loop_process.py")
ROOT = Path(__file__).parents[2]


@dataclass
class Log:
    """One pair of topics of its own, and what a test asks of them."""

    kafka: str
    name: str = field(default_factory=lambda: f"loop-{uuid4().hex[:8]}")
    stored: dict[str, int] = field(default_factory=dict)
    closed: list[int] = field(default_factory=list)

    @property
    def requests(self) -> str:
        return f"{self.name}-requests"

    @property
    def results(self) -> str:
        return f"{self.name}-results"

    def loop(self, handle: Any = None, *, slot: str = "0", batch_records_max: int = 50, bounds: Bounds = QUICK) -> Loop[Inbound]:
        return Loop(
            self.kafka, self.name, slot, self.requests, self.results, batch_records_max, readable, handle or self.settle, self.closed.append, bounds=bounds
        )

    async def create(self) -> "Log":
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        settings = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(topics.REQUEST_BYTES_MAX)}
        await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=settings) for name in (self.requests, self.results)])
        await admin.close()
        return self

    async def settle(self, batch: Sequence[Inbound]) -> Handled:
        for record in batch:
            self.stored.setdefault(record.envelope.id, record.offset)
        return Handled([result(record) for record in batch if self.stored[record.envelope.id] == record.offset])

    async def publish(self, *names: str, partition: int = 0) -> None:
        async with producer(self.kafka) as client:
            sent = [await client.send(self.requests, key=b"alice_1", value=b"{}", partition=partition, headers=request(name).headers()) for name in names]
            await asyncio.gather(*sent)

    async def publish_raw(self, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], *, key: bytes | None = b"alice_1", count: int = 1) -> None:
        """As it is, also without key and value, which the client's own `send` refuses."""
        async with producer(self.kafka) as client:
            for _ in range(count):
                batch = client.create_batch()
                batch.append(timestamp=None, key=key, value=value, headers=list(headers))
                await (await client.send_batch(batch, self.requests, partition=0))

    async def read_results(self, partition: int | None = None) -> list[str]:
        """The requests that have been answered, in the order of the answers."""
        found = await everything(self.kafka, self.results)
        return [dict(record.headers)["ce_causationid"].decode() for record in found if partition in (None, record.partition)]

    async def tells(self, names: Sequence[str]) -> None:
        """These have been answered, each once and in this order. The broker answers a commit before the markers of its transaction can be read."""
        await eventually(lambda: self.has_told(len(names)), WITHIN_S, f"{len(names)} results")
        assert await self.read_results() == list(names)

    async def commits(self, offset: int) -> None:
        """That is the committed offset of the first partition, once the markers of its transaction can be read."""
        await eventually(lambda: self._has_committed(offset), WITHIN_S, f"offset {offset} is committed")

    async def has_told(self, count: int) -> bool:
        """Whether so many results can be read."""
        return len(await self.read_results()) >= count

    async def _has_committed(self, offset: int) -> bool:
        return await self.committed() == offset

    async def letters(self) -> list[ConsumerRecord]:
        return [letter for letter in await everything(self.kafka, topics.DEAD_LETTERS) if dict(letter.headers)["dlq_topic"] == self.requests.encode()]

    async def committed(self, partition: int = 0) -> int | None:
        client = AIOKafkaConsumer(bootstrap_servers=self.kafka, group_id=self.name, enable_auto_commit=False)
        await client.start()
        try:
            offset: int | None = await client.committed(TopicPartition(self.requests, partition))
            return offset
        finally:
            await client.stop()


@dataclass
class LoopProcess:
    """A child process that runs the loop over a ledger in a file. `at` names the moment where it does `then` to itself; see `loop_process.py`."""

    log: Log
    folder: Path
    slot: str = "0"
    at: str = ""
    then: signal.Signals = signal.SIGKILL
    batch: int = 2
    """The batch, counted from 1, in which the moment comes at the earliest: the two partitions take turns, so that a later one may have begun by then."""
    child: "subprocess.Popen[bytes] | None" = None
    written: int = 0
    """Length of its log when it was started last."""

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid

    @property
    def output(self) -> str:
        return (self.folder / f"{self.slot}.log").read_text()

    def start(self) -> "LoopProcess":
        given = {
            "log": {"kafka": self.log.kafka, "name": self.log.name},
            "slot": self.slot,
            "ledger": str(self.folder / "ledger"),
            "at": self.at,
            "then": int(self.then),
            "batch": self.batch,
            "bounds": asdict(QUICK),
        }
        with (self.folder / f"{self.slot}.log").open("ab") as out:
            self.written = out.tell()
            self.child = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, str(SCRIPT), json.dumps(given)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=out
            )
        return self

    async def stopped(self) -> None:
        """Wait until it has stopped itself at its moment."""
        process = psutil.Process(self.pid)
        await eventually(
            lambda: process.status() == psutil.STATUS_STOPPED, WITHIN_S, lambda: f"{self.slot} is stopped ({process.status()}): {self.output[-6000:]}"
        )

    async def ended(self) -> int:
        """Wait for its end; the exit status, negative for a signal's."""
        child = self.child
        assert child is not None
        await eventually(lambda: child.poll() is not None, WITHIN_S, f"{self.slot} has ended")
        return int(child.returncode)

    def is_fenced(self) -> bool:
        """Whether it has ended because another one owns its partition, or because its transaction took too long."""
        return self.child is not None and self.child.poll() == 1 and "events.transaction.Fenced: " in self.output[self.written :]

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class FileLedger:
    """What settlement's ledger promises, for several processes: the first of an id is stored, and found again ever after."""

    def __init__(self, path: str) -> None:
        self._path = path
        with closing(self._connect()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, place TEXT, slot TEXT)")

    def store(self, requests: Iterable[tuple[str, str]], slot: str) -> dict[str, str]:
        """Id and place of each; the places under which they are stored."""
        requests = list(requests)
        with closing(self._connect()) as db, db:
            db.executemany("INSERT OR IGNORE INTO entries VALUES (?, ?, ?)", [(name, place, slot) for name, place in requests])
            return {name: db.execute("SELECT place FROM entries WHERE id = ?", (name,)).fetchone()[0] for name, _ in requests}

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=10)


def request(name: str) -> Envelope:
    return Envelope(name, "urn:test", "test.Asked.v1", "alice_1", EPOCH, b"{}", name, name)


def result(record: Inbound) -> Envelope:
    name = record.envelope.id
    return Envelope(f"result-{name}", "urn:test", "test.Answered.v1", record.envelope.subject, record.at, b"{}", name, name, causation_id=name)


def readable(record: Inbound) -> Inbound:
    if record.envelope.value != b"{}":
        raise Unreadable("not an empty object")
    return record


@asynccontextmanager
async def producer(kafka: str) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True, max_request_size=topics.REQUEST_BYTES_MAX * 4)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def everything(kafka: str, topic: str) -> list[ConsumerRecord]:
    """All that a read_committed reader sees now."""
    client = AIOKafkaConsumer(bootstrap_servers=kafka, isolation_level="read_committed", auto_offset_reset="earliest")
    await client.start()
    try:
        await client._client._wait_on_metadata(topic)
        partitions = [TopicPartition(topic, number) for number in sorted(client.partitions_for_topic(topic))]
        client.assign(partitions)
        ends = await client.end_offsets(partitions)
        records: list[ConsumerRecord] = []
        while [tp for tp in partitions if await client.position(tp) < ends[tp]]:
            for found in (await client.getmany(timeout_ms=200)).values():
                records += found
        return records
    finally:
        await client.stop()


@asynccontextmanager
async def running(loop: Loop[Inbound]) -> AsyncIterator[tuple[Consumer[Inbound], "asyncio.Task[None]"]]:
    """The loop in this process."""
    consumer = Consumer(loop)
    await consumer.start()
    task = asyncio.create_task(consumer.run())
    try:
        yield consumer, task
    finally:
        await consumer.stop(5.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
