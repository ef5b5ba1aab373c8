"""The operator's command on parked accounts: what it publishes, and how it follows a draining."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from infra.clock import SystemClock
from ops.parked import Drained, follow, request_of, row
from processors.domain.parking import draining_entry
from schemas.ledger import Account, Entry, Parked, Parking
from schemas.requests import DrainRequested, LoggedRequest, decode_request, next_drain_id
from tests.domain.given import NOON, USER

DRAIN = "0d0d0d0d-0000-5000-8000-000000000000"
FACTS = Parked(3, 10, NOON, "decision")


@dataclass
class Ledger:
    """A ledger in which each look finds one more step of a draining."""

    steps: Sequence[Parking]
    active_at: int = 99
    entries: dict[str, Entry] = field(default_factory=dict)
    looks: int = 0

    async def load(self, usernames: list[str]) -> dict[str, Account]:
        account = Account(USER, 2, NOON)
        return {USER: account if len(self.entries) >= self.active_at else replace(account, status="parked", parked=FACTS)}

    async def entry(self, username: str, request_id: str) -> Entry | None:
        self.looks += 1
        if request_id not in self.entries and self.looks % 2 == 0 and len(self.entries) < len(self.steps):
            logged = LoggedRequest(DrainRequested(USER), request_id, NOON, 3, 20 + self.looks, "c", "t")
            self.entries[request_id] = draining_entry(username, 2, NOON, logged, self.steps[len(self.entries)])
        return self.entries.get(request_id)

    async def waiting_count(self, username: str, parked: Parked) -> int:
        return 7


async def followed(ledger: Ledger) -> tuple[Drained, int]:
    seen: list[None] = []
    told = await follow(ledger, USER, DRAIN, lambda: seen.append(None), patience_s=0.3, poll_s=0.001)  # type: ignore[arg-type]
    return told, len(seen)


async def test_a_draining_is_followed_from_step_to_step() -> None:
    """Each step's id follows from the last one's; what was decided is counted; the end is the step after which none comes."""
    ledger = Ledger([Parking("parked", None, ("a", "b"), goes_on=True), Parking("active", None, ("c",))])
    assert await followed(ledger) == (Drained(3, "done"), 3)
    assert list(ledger.entries) == [DRAIN, next_drain_id(DRAIN)]


async def test_a_draining_that_stops_says_why() -> None:
    """The cause is told, with how much was decided before it."""
    ledger = Ledger([Parking("parked", None, ("a",), goes_on=True), Parking("parked", "decision", ("b",))])
    assert await followed(ledger) == (Drained(2, "stopped", "decision"), 2)


@pytest.mark.parametrize(("active_at", "end"), [(0, "done"), (99, "no-answer")], ids=["another drained it", "nobody answers"])
async def test_without_a_step_the_account_tells(active_at: int, end: str) -> None:
    """An account that is active was drained by another request; one that stays parked without a step is given up after a while."""
    assert await followed(Ledger([], active_at)) == (Drained(0, end), 0)


def test_the_request_is_of_the_accounts_own_log() -> None:
    """Key, subject and payload name the account."""
    envelope = request_of(USER, DRAIN, SystemClock())
    assert (envelope.subject, envelope.id) == (USER, DRAIN)
    assert decode_request(envelope.type, envelope.value) == DrainRequested(USER)


async def test_a_row_tells_where_what_waits_begins() -> None:
    """Behind what was drained already."""
    told = await row(Ledger([]), USER, replace(FACTS, drained=14), Account(USER))  # type: ignore[arg-type]
    assert (told.partition, told.offset, told.waiting, told.cause, told.is_readable) == (3, 15, 7, "decision", True)
