"""A process that runs the settlement loop over a ledger in a file, and sends itself a signal at a moment that is named to it.

opening       it is about to open a partition: nothing is fenced yet
opened        its producer has fenced the others, the committed offset is not read yet
stored        a batch is stored, nothing of it is told
told          results and offset are in the transaction, which is not committed yet
committed     the transaction is committed, nobody here knows
revoked       its partitions are taken away
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from events.consumer import Bounds, Consumer, Handled
from events.envelope import Inbound
from tests.integration.loops import FileLedger, Log, result


class Moment:
    """Sends the signal once, in the batch that was named or in the first one after it."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._batches = 0

    def batch(self) -> None:
        self._batches += 1

    def come(self, name: str) -> None:
        if name == self._given["at"] and (name in ("opening", "opened", "revoked") or self._batches >= self._given["batch"]):
            self._given["at"] = ""
            os.kill(os.getpid(), self._given["then"])


def watch_clients(moment: Moment) -> None:
    """Put the moments into the client library, whose calls mark them."""
    start, committed, commit = AIOKafkaProducer.start, AIOKafkaConsumer.committed, AIOKafkaProducer.commit_transaction

    async def start_after_moment(self: AIOKafkaProducer) -> None:
        moment.come("opening")
        await start(self)

    async def committed_after_moment(self: AIOKafkaConsumer, partition: Any) -> Any:
        moment.come("opened")
        return await committed(self, partition)

    async def commit_between_moments(self: AIOKafkaProducer) -> None:
        moment.come("told")
        await commit(self)
        moment.come("committed")

    AIOKafkaProducer.start, AIOKafkaConsumer.committed = start_after_moment, committed_after_moment
    AIOKafkaProducer.commit_transaction = commit_between_moments


class Watched(Consumer[Inbound]):
    """The consumer, with the moment of a rebalance."""

    def __init__(self, loop: Any, moment: Moment) -> None:
        super().__init__(loop)
        self._moment = moment

    async def close_lanes(self, within_s: float) -> None:
        if self.assigned:
            self._moment.come("revoked")
        await super().close_lanes(within_s)


async def main(given: dict[str, Any]) -> None:
    moment, ledger, log = Moment(given), FileLedger(given["ledger"]), Log(**given["log"])
    watch_clients(moment)

    async def settle(batch: Sequence[Inbound]) -> Handled:
        moment.batch()
        places = ledger.store([(record.envelope.id, f"{record.partition}/{record.offset}") for record in batch], given["slot"])
        moment.come("stored")
        return Handled([result(record) for record in batch if places[record.envelope.id] == f"{record.partition}/{record.offset}"])

    loop = log.loop(settle, slot=given["slot"], batch_records_max=5, bounds=Bounds(**given["bounds"]))
    consumer = Watched(loop, moment)
    await consumer.start()
    await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
