"""Views that are missing are loaded before anybody asks for them: after a start of the projector, those of the accounts that were active last.

Which these are is told by the newest results, which survive a loss of Redis. Whoever has a view costs one look. It saves first readers time and is no
part of any guarantee, so it gives way: it loads at a bounded rate, and ends where the store or the broker does not answer as it should.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog
from prometheus_client import Counter

from events.reader import reading
from events.topics import RESULTS, BrokerError
from infra.dynamo import DynamoUnavailable
from infra.ledger_bound import TooManyReads

log = structlog.get_logger()

ACCOUNTS_PER_S: Final = 200
"""How many accounts are looked at in a second: of the ledger's reads a small part, so that settlement and readers do not feel it."""
AT_ONCE: Final = 4
RESULTS_PER_ACCOUNT: Final = 5
"""How many of the newest results are read for each account that is wanted: an active account has several among them."""
TOLD_EVERY: Final = 1_000
"""Accounts between two lines of the log."""
ASSIGNED_POLL_S: Final = 0.2

WARMED: Final = Counter("cnop_warmed_accounts_total", "Accounts that were made sure to have a view after a start, without anybody asking")

_GIVEN_UP: Final = (DynamoUnavailable, TooManyReads)


class WarmViews(Protocol):
    """What `infra.cache.Views` does: see there."""

    async def reach(self, username: str, version: int) -> bool:
        """Make sure that there is a view of at least this version."""
        ...


async def warm_and_wait(views: WarmViews, assigned: Callable[[], Iterable[tuple[str, int]]], bootstrap: str, *, accounts_max: int) -> None:
    """Warm the accounts of the partitions that this process gets first, then wait until cancelled: a task that ends would be taken for a failure."""
    if accounts_max:
        while not (mine := {partition for topic, partition in assigned() if topic == RESULTS}):  # noqa: ASYNC110 - told by another library
            await asyncio.sleep(ASSIGNED_POLL_S)
        try:
            usernames = await recent(bootstrap, mine, accounts_max)
        except BrokerError as error:
            log.warning("views are not warmed: the newest results cannot be read", error=repr(error))
        else:
            await warm(views, usernames, asyncio.sleep)
    await asyncio.Event().wait()


async def recent(bootstrap: str, partitions: Iterable[int], accounts_max: int) -> list[str]:
    """The accounts with the newest results in some partitions, the newest first. BrokerError where they cannot be read."""
    async with reading(bootstrap, client_id="cnop-warming", topic=RESULTS) as reader:
        ends = await reader.ends()
        wanted = set(partitions) & ends.keys()
        back = accounts_max * RESULTS_PER_ACCOUNT // max(1, len(wanted))
        places = ends | {partition: max(0, ends[partition] - back) for partition in wanted}
        latest: dict[str, float] = {}
        async for records, _ in reader.batches(places, ends):  # what comes meanwhile is the projector's
            latest |= {record.envelope.subject: record.at.timestamp() for record in records if record.partition in wanted}
    return sorted(latest, key=latest.__getitem__, reverse=True)[:accounts_max]


async def warm(views: WarmViews, usernames: Sequence[str], wait: Callable[[float], Awaitable[object]]) -> int:
    """Have a view of each account, in this order, `ACCOUNTS_PER_S` at most; how many were looked at. Ends early where the store wants rest."""
    for start in range(0, len(usernames), AT_ONCE):
        some = usernames[start : start + AT_ONCE]
        outcomes = await asyncio.gather(*(views.reach(username, 0) for username in some), wait(len(some) / ACCOUNTS_PER_S), return_exceptions=True)
        failures = [(username, outcome) for username, outcome in zip(some, outcomes, strict=False) if isinstance(outcome, BaseException)]
        if any(isinstance(error, _GIVEN_UP) for _, error in failures):
            log.warning("warming of views is given up", accounts=start, wanted=len(usernames), error=str(failures[0][1]))
            return start
        for username, error in failures:  # its reader will meet it; it must not end the projector
            log.warning("view is not warmed", username=username, error=repr(error))
        WARMED.inc(len(some) - len(failures))
        if (start + len(some)) % TOLD_EVERY == 0:
            log.info("views are warmed", accounts=start + len(some), wanted=len(usernames))
    log.info("views are warm", accounts=len(usernames))
    return len(usernames)
