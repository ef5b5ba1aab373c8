"""One settlement process of a run: the linked program, composed as `processors.main` does it, on a loop of its own that can be stopped and killed."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any

from aiokafka.errors import KafkaConnectionError

from events import topics
from infra.dynamo import DynamoUnavailable
from schemas.tables import ACCOUNT_SK
from tests.fakes.dynamo import MemoryDynamo
from tests.fakes.kafka_broker import Broker
from tests.simulation.auditor import must
from tests.simulation.faults import Conflict
from tests.simulation.image import Image
from tests.simulation.network import Machine, Wire
from tests.simulation.virtual import ProcessLoop, Timeline

BATCHES = (1, 2, 6, 6)
START_ATTEMPTS_MAX = 60
STOP_S = 6.0
TASKS_MAX = 60

ENDS = {"Fenced", "TransactionFailed", "Stuck", "KafkaError", "KafkaConnectionError", "IllegalStateError", "DynamoUnavailable", "TimeoutError"}
"""What a process may end with while things fail. Anything else is a bug."""


class StoreClient:
    """A process's client of the store: `Dynamo.call` over the network. It holds the process to what a transaction may be, and to reading again."""

    def __init__(self, store: MemoryDynamo, wire: Wire) -> None:
        self._store = store
        self._wire = wire
        self._unsure: set[str] = set()
        """Accounts of calls without an answer, until they are read again."""

    async def call(self, operation: str, **arguments: Any) -> Any:
        """See `Dynamo.call`."""
        accounts = self._hold(operation, arguments)
        try:
            return await self._wire.send(_what(operation, arguments), lambda reply: reply(self._store.happen(operation, arguments)))
        except Conflict as conflict:
            raise conflict.reasons(len(arguments["TransactItems"])) from None
        except DynamoUnavailable:
            self._unsure |= accounts
            raise

    def _hold(self, operation: str, arguments: Mapping[str, Any]) -> set[str]:
        """The accounts that a call writes."""
        if operation == "batch_get_item":
            asked = [key for part in arguments["RequestItems"].values() for key in part["Keys"]]
            self._unsure -= {key["pk"]["S"] for key in asked if key["sk"]["S"] == ACCOUNT_SK}
            must(not {key["pk"]["S"] for key in asked} & self._unsure, "after a call without an answer an account is read before its orders")
        if operation != "transact_write_items":
            return set()
        actions = [next(iter(action.values())) for action in arguments["TransactItems"]]
        keys = [((action.get("Item") or action["Key"])["pk"]["S"], (action.get("Item") or action["Key"])["sk"]["S"]) for action in actions]
        must(len(set(keys)) == len(keys), "no item twice in a transaction")
        accounts = {pk for pk, sk in keys if sk == ACCOUNT_SK}
        must(not accounts & self._unsure, "after a call without an answer its accounts are read before they are written")
        return accounts


def _what(operation: str, arguments: Mapping[str, Any]) -> str:
    """A call's name for traps and the trace: a transaction that parks an account, or puts requests to wait, is told apart."""
    if operation != "transact_write_items":
        return operation
    kinds = {kind for action in arguments["TransactItems"] for kind in action}
    return "park" if "Update" in kinds else "put_waiting" if "ConditionCheck" in kinds else operation


class Process:
    """Runs until it ends or is killed. `trap` is what befalls it at a certain request."""

    def __init__(self, number: int, slot: str, timeline: Timeline, image: Image, chance: Random) -> None:
        self.name = f"{slot}/{number}"
        self.slot = slot
        self.loop = ProcessLoop(timeline, self.name)
        self.clock_off = timedelta()
        self.before: Callable[[Process, str], bool] | None = None
        self.after: Callable[[Process, str], bool] | None = None
        self.main: asyncio.Task[None] | None = None
        self.is_over = False
        self.consumer: Any = None
        self._image = image
        self._chance = chance

    def start(self, kafka: Machine, broker: Broker, dynamo: Machine, store: MemoryDynamo, wall: Callable[[], datetime]) -> None:
        """Begin. `main` ends with what the process ends with."""

        async def main() -> None:
            ledger = self._image.parked.ParkingLedger(StoreClient(store, Wire(dynamo, self)))
            settle = self._image.settlement.Settlement(ledger, self._pause, lambda: wall() + self.clock_off, log_lines_max=0)
            loop = self._image.consumer.Loop(
                bootstrap=Wire(kafka, self, broker),
                group=topics.SETTLEMENT,
                slot=self.slot,
                topic=topics.REQUESTS,
                results_topic=topics.RESULTS,
                batch_records_max=self._chance.choice(BATCHES),
                decode=self._image.settlement.decode,
                handle=settle,
                closed=settle.closed,
            )
            await self._serve(self._image.consumer.Consumer(loop))

        self.main = self.loop.create_task(main(), name="main")

    async def _serve(self, consumer: Any) -> None:
        self.consumer = consumer
        for attempt in range(START_ATTEMPTS_MAX):
            try:
                await consumer.start()
                break
            except KafkaConnectionError:
                if attempt == START_ATTEMPTS_MAX - 1:
                    raise
                await asyncio.sleep(1.0)
        try:
            await consumer.run()
        finally:
            await consumer.stop(STOP_S)

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(self._chance.uniform(0, min(2.0, 0.01 * 2 ** min(attempt, 16))))

    def take_apart(self) -> None:
        """The run is over: nothing goes out any more, and every task ends."""
        self.is_over = True
        self.before = self.after = None
        self.loop.unwind()

    @property
    def hears(self) -> bool:
        """Whether it is there at all."""
        return self.loop.alive and not self.is_over

    def sends(self, what: str) -> bool:
        """A request is about to go out; whether its answer gets lost."""
        return bool(self.before and self.before(self, what))

    def sent(self, what: str) -> None:
        """It went out."""
        if self.after:
            self.after(self, what)
