"""The raw limit writes what settlement would write."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from bench.backlog import envelopes, partition_of
from bench.mix import Mix
from bench.raw import Batch, Preparing, Task, replay
from processors.settlement import BATCH_RECORDS_MAX

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
PARTITIONS = 4


class Store:
    """Takes transactions, and refuses what a store would refuse."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}

    def __getattr__(self, _name: str) -> Any:
        return self._call

    async def _call(self, _operation: str, **arguments: Any) -> None:
        for action in arguments["TransactItems"]:
            put = action["Put"]
            key = (put["Item"]["pk"]["S"], put["Item"]["sk"]["S"])
            loaded = put.get("ExpressionAttributeValues", {}).get(":loaded", {}).get("N")
            assert (self.items[key]["version"]["N"] == loaded) if loaded else key not in self.items
            self.items[key] = put["Item"]


async def test_every_request_is_written_once_and_in_order() -> None:
    """All entries of all requests reach the store, and no condition of theirs fails: the transactions are settlement's own."""
    task = Task(Mix("abc", 40, AT), 3_000, PARTITIONS, range(PARTITIONS))
    store = Store()
    preparing = Preparing(task)
    for piece in (2_000, 1_000):
        await replay(store, await preparing.next(piece))  # type: ignore[arg-type]
    entries = [sk for _, sk in store.items if sk.startswith("ENTRY#")]
    assert sorted(entries) == sorted(f"ENTRY#{event.id}" for event in envelopes(task.mix.requests(3_000), AT))


async def test_a_slot_writes_its_own_partitions() -> None:
    """Two writers share the work as two settlement processes do."""
    mix = Mix("abc", 40, AT)
    stores = Store(), Store()
    for slot, store in enumerate(stores):
        await replay(store, await Preparing(Task(mix, 1_000, PARTITIONS, range(slot, PARTITIONS, 2))).next(1_000))  # type: ignore[arg-type]
    accounts = [{pk.removeprefix("ACCT#") for pk, _ in store.items} for store in stores]
    assert accounts[0] | accounts[1] == set(mix.usernames())
    assert {partition_of(name, PARTITIONS) % 2 for name in accounts[0]} == {0}
    assert {partition_of(name, PARTITIONS) % 2 for name in accounts[1]} == {1}


async def test_batches_are_settlements() -> None:
    """No batch is larger than what settlement takes from a partition, and all but the last of a partition are as large."""
    prepared = await Preparing(Task(Mix("abc", 40, AT), 5_000, PARTITIONS, range(PARTITIONS))).next(5_000)
    for batches in prepared.lanes.values():
        sizes = [_entries(batch) for batch in batches]
        assert set(sizes[:-1]) <= {BATCH_RECORDS_MAX}
        assert sizes[-1] <= BATCH_RECORDS_MAX
    assert prepared.requests == 5_000


def _entries(batch: Batch) -> int:
    kinds = Counter(action["Put"]["Item"]["sk"]["S"].split("#")[0] for calls in batch for _, _, arguments in calls for action in arguments["TransactItems"])
    return kinds["ENTRY"]
