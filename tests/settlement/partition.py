"""One partition of the log and its owner, over the ledger in memory: what is delivered, stored, told and committed, with a crash wherever it is asked for."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from events.envelope import Envelope, Inbound
from infra.dynamo import Attribute
from infra.ledger_items import account_item
from processors.settlement import Read, Settlement, decode
from schemas.requests import AccountRequest, DrainRequested, encode_request, request_id, request_type
from schemas.results import Result, decode_result
from tests.domain.given import NOON
from tests.fakes.ledger import MemoryLedger

PARTITION = 3
SPACE = UUID(int=7)
BROKEN: dict[str, Attribute] = {"at": {"S": "yesterday"}}
"""What makes an account item unreadable."""


class Crash(BaseException):
    """The process is gone."""


class Partition:
    """The log of a partition, its committed offset, what was told, and a process that serves it.

    `crash_at` is the number of the step (each wait for the store, and the ends of the Kafka transaction) at which the process dies, once.
    """

    def __init__(self, *, batch_max: int = 500) -> None:
        self.ledger = MemoryLedger(step=self.step)
        self.log: list[Envelope] = []
        self.committed = 0
        self.told: list[Envelope] = []
        self.pauses = 0
        self.steps: list[str] = []
        self.crash_at: int | None = None
        self.batch_max = batch_max
        self.now = NOON
        self.restart()

    def restart(self) -> None:
        """A new process: it knows nothing."""
        self.settle = Settlement(self.ledger, self._pause, lambda: self.now, log_lines_max=0)

    def ask(self, *requests: AccountRequest, key: str | None = None, reply_to: str | None = None) -> list[str]:
        """Append requests, each with a key of its own; their ids."""
        ids = []
        for request in requests:
            named = key or str(len(self.log))
            rid = str(uuid5(SPACE, f"drain {named}")) if isinstance(request, DrainRequested) else request_id(request.username, named)
            value = encode_request(request)
            self.log.append(Envelope(rid, "test", request_type(request), request.username, NOON, value, f"c{named}", f"t{named}", reply_to=reply_to))
            ids.append(rid)
        return ids

    async def step(self, name: str) -> None:
        """A place at which the process may die."""
        self.steps.append(name)
        if self.crash_at is not None and len(self.steps) == self.crash_at:
            self.crash_at = None
            raise Crash(name)

    async def batch(self) -> None:
        """Settle the next batch, tell, commit, tidy up."""
        records = range(self.committed, min(len(self.log), self.committed + self.batch_max))
        handled = await self.settle([self.read(offset) for offset in records])
        await self.step("handled")
        self.told += handled.results
        self.log += handled.requests
        self.committed = records.stop
        await self.step("committed")
        if handled.after:
            await handled.after()

    async def run(self) -> None:
        """Settle to the end of the log; a process that dies is started again."""
        while self.committed < len(self.log):
            try:
                await self.batch()
            except Crash:
                self.restart()

    async def run_until_crash(self) -> None:
        """Settle to the end of the log or until the process dies."""
        with suppress(Crash):
            while self.committed < len(self.log):
                await self.batch()

    def read(self, offset: int) -> Read:
        """A record as the loop hands it over."""
        return decode(Inbound("requests", PARTITION, offset, self.at(offset), self.log[offset]))

    def at(self, offset: int) -> datetime:
        """The append time of a record."""
        return NOON + timedelta(milliseconds=offset)

    def results(self, username: str) -> list[Result]:
        """What was told of an account, in the order in which it was told."""
        return [decode_result(envelope.value) for envelope in self.told if envelope.subject == username]

    def kinds(self, username: str) -> list[str]:
        """The types of what was told of an account, without what all have in common."""
        return [envelope.type.split(".")[-2] for envelope in self.told if envelope.subject == username]

    def break_item(self, username: str, **attributes: Any) -> dict[str, Any]:
        """Damage an account's item behind everybody's back: unreadable, or with the given values; how it was before."""
        damage = {"lines": account_item(replace(self.ledger.account_now(username), **attributes))["lines"]} if attributes else BROKEN
        return self.ledger.damage(username, damage)

    def check(self, usernames: Sequence[str]) -> None:
        """What must hold at the end whatever happened: each version told once and in order, and the list of parked accounts true."""
        for username in usernames:
            account = self.ledger.account_now(username)
            assert [result.version for result in self.results(username)] == list(range(1, account.version + 1)), username
            assert len({envelope.id for envelope in self.told}) == len(self.told)
            assert (username in self.ledger.parked_now()) == (account.status == "parked")

    async def _pause(self, _attempt: int) -> None:
        self.pauses += 1
        await self.step("pause")
