"""The shell with one thing wrong at a time: a simulation is worth what it sees.

Settlement's mutants are made from its source: one piece of text is replaced by another, and must be found exactly once, so that a mutant
that no longer means anything is told and not passed over.
"""

import ast
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from infra.ledger import Outcome, Refused, Stored, Write
from processors import settlement
from tests.fakes.ledger import MemoryLedger
from tests.fakes.log import Transaction
from tests.simulation.world import Batch, Producer, Variant, World, step, transaction

_SOURCE = Path(settlement.__file__).read_text(encoding="utf-8")

_REFUSE_ALL = (
    "from dataclasses import replace; from schemas.ledger import Lines, Refusal; "
    "work.entries.update((entry.request_id, replace(entry, refusal=Refusal('insufficient-funds', ''), postings=(), "
    "lines=Lines(entry.lines.counters))) for entry in decided.entries)"
)
SETTLEMENT: dict[str, tuple[str, str]] = {
    "a stored result is not sent again": (
        "if (entry.partition, entry.offset) == (read.logged.partition, read.logged.offset):",
        "if (entry.partition, entry.offset) == (read.logged.partition, read.logged.offset) and entry.request_id not in found:",
    ),
    "a repeated request is answered again": ("if (entry.partition, entry.offset) == (read.logged.partition, read.logged.offset):", "if True:"),
    "an unknown outcome is taken for stored": ("case Stored():", "case Stored() | Unknown():"),
    "a conflict is taken for insufficient funds": (
        "RETRIES.labels(cause).inc()",
        _REFUSE_ALL,
    ),
    "a conflict is passed over": ("RETRIES.labels(cause).inc()", "work.pending.clear()"),
    "an account that moved is not loaded again": ("if moved:", "if False:"),
    "an entry in the way is not taken in": ("work.entries.update(entries)", "pass"),
    "an order in the way is not taken in": ("work.orders.update(orders)", "pass"),
    "what was found is told as new": ("work.entries.update(entries)", "work.entries.update((entry.request_id, entry) for entry in decided.entries)"),
    "the same id is folded twice": ("fold.setdefault(logged.request_id, logged)", "fold[str(len(fold))] = logged"),
    "the last of the same id wins": ("fold.setdefault(logged.request_id, logged)", "fold[logged.request_id] = logged"),
    "results are sent backwards": ("for read in batch:\n            entry = works", "for read in reversed(batch):\n            entry = works"),
    "another user's record is taken": ("if request.username != envelope.subject:", "if False:"),
}


class NoVersionCheck(MemoryLedger):
    """Whoever writes last has the account."""

    def refusal(self, write: Write) -> Refused | None:
        refused = super().refusal(write)
        return Refused(False, refused.entries, refused.orders) if refused and (refused.entries or refused.orders) else None


class NoEntryCheck(MemoryLedger):
    """An entry is written over."""

    def refusal(self, write: Write) -> Refused | None:
        refused = super().refusal(write)
        return Refused(refused.moved, {}, refused.orders) if refused and (refused.moved or refused.orders) else None


class NoOrderCheck(MemoryLedger):
    """An order is written over."""

    def refusal(self, write: Write) -> Refused | None:
        refused = super().refusal(write)
        return Refused(refused.moved, refused.entries, {}) if refused and (refused.moved or refused.entries) else None


class WriteBehind(MemoryLedger):
    """What is told as stored is stored some time later: results are published before their change."""

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        await self.step("write")
        told: list[Outcome] = [self.refusal(write) or Stored() for write in writes]
        self.late += [[write] for write, outcome in zip(writes, told, strict=True) if isinstance(outcome, Stored)]
        return told


class OneByOne(MemoryLedger):
    """The parts of a write are stored one after the other, not all or nothing."""

    async def write(self, writes: Sequence[Write]) -> list[Outcome]:
        told: list[Outcome] = []
        for write in writes:
            refused = self.refusal(write)
            told.append(refused or await self._in_parts(write))
        return told

    async def _in_parts(self, write: Write) -> Outcome:
        tell, self.stored = self.stored, lambda _: None
        try:
            for entry in write.entries:
                await self.step("written in part")
                now = self.account_now(entry.username)
                self.apply([Write(now.version, now, (entry,))])
            outcome = self.apply([Write(write.loaded_version, write.account, (), write.orders)])[0]
        finally:
            self.stored = tell
        tell(write)
        return outcome


async def seek_then_fence(world: World, partition: int, _process: int) -> tuple[str, int, int]:
    """Where to begin is asked before the others are fenced."""
    await step("connect")
    position = world.log.committed(partition)
    await step("sought")
    epoch = world.log.init(f"cnop-settlement-{partition}")
    await step("fenced the others")
    return f"cnop-settlement-{partition}", epoch, position


async def id_of_the_process(world: World, partition: int, process: int) -> tuple[str, int, int]:
    """The transactional id belongs to the process, so nobody is ever fenced by a successor."""
    transactional_id = f"cnop-settlement-process-{process}"
    await step("connect")
    epoch = world.log.init(transactional_id)
    await step("nobody was fenced")
    return transactional_id, epoch, world.log.committed(partition)


async def offsets_first(world: World, producer: Producer, batch: Batch) -> None:
    """The offset is committed in a transaction of its own, before the results."""
    await _only(world, producer, Batch(batch.partition, (), (), batch.next_offset))
    await _only(world, producer, Batch(batch.partition, batch.results, batch.letters, -1))


async def results_first(world: World, producer: Producer, batch: Batch) -> None:
    """The results are committed in a transaction of their own, before the offset."""
    await _only(world, producer, Batch(batch.partition, batch.results, batch.letters, -1))
    await _only(world, producer, Batch(batch.partition, (), (), batch.next_offset))


async def without_transaction(world: World, _producer: Producer, batch: Batch) -> None:
    """Each result is visible as soon as it is sent, whoever sent it."""
    for result in batch.results:
        await step("send")
        world.auditor.committed(Transaction(results=[(batch.partition, result)]))
    await step("send offsets")
    world.log.offsets[batch.partition] = batch.next_offset
    world.auditor.committed(Transaction(letters=list(batch.letters), offsets={batch.partition: batch.next_offset}))


async def results_elsewhere(world: World, producer: Producer, batch: Batch) -> None:
    """Results go to the partition that the key would choose in a topic of another size."""
    async with transaction(world, producer):
        for result in batch.results:
            await step("send")
            world.log.send(producer.transactional_id, producer.epoch, 0, result)
        for letter in batch.letters:
            world.log.send_letter(producer.transactional_id, producer.epoch, letter)
        world.log.send_offset(producer.transactional_id, producer.epoch, batch.partition, batch.next_offset)


async def _only(world: World, producer: Producer, batch: Batch) -> None:
    async with transaction(world, producer):
        for result in batch.results:
            await step("send")
            world.log.send(producer.transactional_id, producer.epoch, batch.partition, result)
        for letter in batch.letters:
            world.log.send_letter(producer.transactional_id, producer.epoch, letter)
        if batch.next_offset >= 0:
            world.log.send_offset(producer.transactional_id, producer.epoch, batch.partition, batch.next_offset)


def variants() -> Iterable[Callable[[], Variant]]:
    """Every mutant, made when it is asked for."""
    for name, (old, new) in SETTLEMENT.items():
        yield _named(name, lambda name=name, old=old, new=new: Variant(name, settlement=mutate(name, old, new)))
    for variant in (
        Variant("the version is not checked", ledger=NoVersionCheck),
        Variant("an entry may be written over", ledger=NoEntryCheck),
        Variant("an order may be written over", ledger=NoOrderCheck),
        Variant("published before it is stored", ledger=WriteBehind),
        Variant("stored in parts", ledger=OneByOne),
        Variant("no seek after fencing", opens=seek_then_fence),
        Variant("a transactional id for the process", opens=id_of_the_process),
        Variant("offsets committed before the results", publishes=offsets_first),
        Variant("results committed before the offset", publishes=results_first),
        Variant("no transaction", publishes=without_transaction),
        Variant("results in another partition", publishes=results_elsewhere),
        Variant("a fenced owner goes on", survives_fencing=True),
    ):
        yield _named(variant.name, lambda variant=variant: variant)


def _named(name: str, make: Callable[[], Variant]) -> Callable[[], Variant]:
    make.__name__ = name
    return make


def mutate(name: str, old: str, new: str) -> types.ModuleType:
    """The settlement module with one text replaced."""
    if _SOURCE.count(old) != 1:
        raise LookupError(f"mutant {name!r}: its text is there {_SOURCE.count(old)} times: {old!r}")
    spec = importlib.util.spec_from_loader(f"mutant_{abs(hash(name))}", loader=None)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type] # made the line before
    sys.modules[module.__name__] = module  # dataclasses look their module up
    tree = _Unregistered().visit(ast.parse(_SOURCE.replace(old, new)))
    exec(compile(ast.fix_missing_locations(tree), module.__name__, "exec"), module.__dict__)  # noqa: S102 - our own source
    return module


class _Unregistered(ast.NodeTransformer):
    """Metrics of a mutant are nobody's."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        if isinstance(node.func, ast.Name) and node.func.id in ("Counter", "Histogram", "Gauge"):
            node.keywords.append(ast.keyword("registry", ast.Constant(None)))
        return node
