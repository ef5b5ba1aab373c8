"""The upkeep of the views beside the projector's work: after a start of the projector, and whenever another Redis answers than before.

Redis loses its last writes where its host crashes, or where a replica takes over that was behind: then it has older views, and no further result may come for a
long time. So the versions of the newest results, which Kafka keeps, are held against the views, and those that are behind are loaded again.

After the start the accounts that were active last get a view too, if they have none. That saves first readers time and is no part of any guarantee, so it
gives way: it loads at a bounded rate, and ends where the store or the broker does not answer as it should.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog
from prometheus_client import Counter

from events.reader import reading
from events.topics import RESULTS, BrokerError
from infra.cache_client import CacheUnavailable
from infra.dynamo import DynamoUnavailable
from infra.ledger_bound import TooManyReads

log = structlog.get_logger()

LOOK_S: Final = 0.25
"""Between two looks at which Redis answers."""
RETRY_S: Final = 5.0
"""Between two tries to mend, while that is not possible."""
ACCOUNTS_PER_S: Final = 200
"""How many accounts without a view are given one in a second: of the ledger's reads a small part, so that settlement and readers do not feel it."""
AT_ONCE: Final = 4
LOOKS_AT_ONCE: Final = 256
RESULTS_PER_ACCOUNT: Final = 5
"""How many of the newest results are read for each account that is wanted: an active account has several among them."""
RESULTS_MIN: Final = 20_000
"""How many are read at least, of all partitions together. More than come in the second or two that Redis may be behind its own disk or a replica."""
TOLD_EVERY: Final = 1_000
"""Accounts between two lines of the log."""

WARMED: Final = Counter("cnop_warmed_accounts_total", "Accounts that were made sure to have a view after a start, without anybody asking")
MENDED: Final = Counter("cnop_mended_views_total", "Views that were behind the results shown before, because Redis had lost its last writes")

_GIVEN_UP: Final = (DynamoUnavailable, TooManyReads)
_NOT_NOW: Final = (BrokerError, CacheUnavailable, DynamoUnavailable, TooManyReads)

Wait = Callable[[float], Awaitable[object]]
Newest = Mapping[str, int]
"""Accounts and the versions of their newest results that were shown, the newest account first."""


class KeptViews(Protocol):
    """What `infra.cache.Views` does: see there."""

    async def version(self, username: str) -> int | None:
        """What the view shows."""
        ...

    async def make_up(self, username: str, version: int) -> object:
        """Load a view that is behind a version."""
        ...

    async def reach(self, username: str, version: int) -> bool:
        """Make sure that there is a view of at least this version."""
        ...


class Upkeep:
    """`servers` names the Redis servers that take writes; `newest` reads the newest results that were shown, so many."""

    def __init__(
        self,
        views: KeptViews,
        servers: Callable[[], Awaitable[frozenset[str]]],
        newest: Callable[[int], Awaitable[Newest]],
        *,
        accounts_max: int,
        wait: Wait = asyncio.sleep,
    ) -> None:
        self._views = views
        self._servers = servers
        self._newest = newest
        self._accounts_max = accounts_max
        self._wait = wait
        self._mended_for: frozenset[str] = frozenset()
        self._in_doubt = True
        self._is_warm = not accounts_max

    def in_doubt(self) -> bool:
        """Whether views may be older than what was shown once."""
        return self._in_doubt

    async def run(self) -> None:
        """Look, mend and warm until cancelled."""
        async with asyncio.TaskGroup() as beside:
            while True:
                with suppress(CacheUnavailable):
                    servers = await self._servers()
                    if not servers <= self._mended_for:
                        await self._make_up(servers, beside)
                await self._wait(LOOK_S)

    async def _make_up(self, servers: frozenset[str], beside: asyncio.TaskGroup) -> None:
        self._in_doubt = True
        try:
            newest = await self._newest(max(RESULTS_MIN, self._accounts_max * RESULTS_PER_ACCOUNT))
            missing = await mend(self._views, newest)
        except _NOT_NOW as error:
            log.warning("views cannot be held against the newest results now", error=str(error))
            await self._wait(RETRY_S)
            return
        self._mended_for = servers
        self._in_doubt = False
        if not self._is_warm:
            self._is_warm = True
            beside.create_task(warm(self._views, missing[: self._accounts_max], self._wait), name="warming")


async def mend(views: KeptViews, newest: Newest) -> list[str]:
    """Load each view that is behind its newest result. The accounts that have no view. Raises what was in the way: it is to be done again then."""
    missing: list[str] = []
    behind: list[str] = []
    usernames = list(newest)
    for start in range(0, len(usernames), LOOKS_AT_ONCE):
        some = usernames[start : start + LOOKS_AT_ONCE]
        shown = await asyncio.gather(*map(views.version, some))
        missing += [username for username, version in zip(some, shown, strict=True) if version is None]
        behind += [username for username, version in zip(some, shown, strict=True) if version is not None and version < newest[username]]
    for start in range(0, len(behind), AT_ONCE):
        some = behind[start : start + AT_ONCE]
        outcomes = await asyncio.gather(*(views.make_up(username, newest[username]) for username in some), return_exceptions=True)
        for username, outcome in zip(some, outcomes, strict=True):
            match outcome:
                case Exception() if isinstance(outcome, _NOT_NOW):
                    raise outcome
                case BaseException():  # its reader will meet it; it must not end the projector
                    log.error("view is not mended", username=username, error=repr(outcome))
                case _:
                    MENDED.inc()
    log.info("views were held against the newest results", accounts=len(usernames), mended=len(behind), missing=len(missing))
    return missing


async def warm(views: KeptViews, usernames: Sequence[str], wait: Wait) -> int:
    """Give each account a view, in this order, `ACCOUNTS_PER_S` at most; how many were looked at. Ends early where the store wants rest."""
    for start in range(0, len(usernames), AT_ONCE):
        some = usernames[start : start + AT_ONCE]
        # A reader may have had the view loaded meanwhile: that costs a look then, and not the ledger.
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


async def newest_shown(bootstrap: str, shown: Callable[[], Mapping[int, int]], results: int) -> Newest:
    """`Newest`, of so many results before the places, by partition, up to which all is shown. BrokerError where they cannot be read."""
    async with reading(bootstrap, client_id="cnop-upkeep", topic=RESULTS) as reader:
        while not (until := shown()):  # noqa: ASYNC110 - told by another library
            await asyncio.sleep(LOOK_S)
        ends = await reader.ends()
        back = results // len(until)
        places = ends | {partition: max(0, place - back) for partition, place in until.items()}
        latest: dict[str, tuple[float, int]] = {}
        async for records, _ in reader.batches(places, until):
            for record in records:
                if record.offset < until.get(record.partition, 0):
                    latest[record.envelope.subject] = record.at.timestamp(), record.envelope.sequence or 0
    return {username: latest[username][1] for username in sorted(latest, key=lambda name: latest[name][0], reverse=True)}
