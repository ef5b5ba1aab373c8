"""Building a generation of the account views while the other one serves, and switching between the two.

The projector and all doors put every change into both from the moment the new one is announced. The building only fills in the accounts that did not
change since. So it may be interrupted at any point and go on later, and when it is done there is nothing to catch up with.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from infra.build_state import Build, BuildState
from infra.cache import Views
from infra.generations import SETTLED_S, Generations, Live
from infra.ledger_accounts import Page, Place
from infra.view_check import Compared, ViewCheck
from schemas.ledger import Account

AT_ONCE: Final = 16
"""Accounts that are loaded side by side."""
DIFFER_TOLD_MAX: Final = 1_000
"""Differing accounts that are named; all are counted."""

LEDGER: Final = "ledger"
RESULTS: Final = "results"


class NotNow(RuntimeError):
    """The generations are not in a state for this. The text says what to do first."""


Pages = Callable[[Place | None], AsyncIterator[Page]]
"""What there is from a place on."""


class Watcher(Protocol):
    """Where the progress is told."""

    def phase(self, text: str, *, items: int | None = None) -> None:
        """What is done now; of so many items, where that is known."""
        ...

    def step(self, build: Build, items: int) -> None:
        """So many items more."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What an operator's command works with.

    `accounts` are the ledger's; `replay` shows results again, its pages have no accounts. `pause` sleeps for seconds, `timer` tells
    monotonic ones.
    """

    generations: Generations
    views: Views
    check: ViewCheck
    state: BuildState
    account: Callable[[str], Awaitable[Account]]
    accounts: Pages
    replay: Pages
    items_about: Callable[[], Awaitable[int]]
    watcher: Watcher
    timer: Callable[[], float]
    pause: Callable[[float], Awaitable[None]]


async def rebuild(parts: Parts, *, source: str, per_s: float, anew: bool) -> Build:
    """Build the standby generation, or go on with it, and compare it with the one that serves; it can be switched to then.

    Not more than `per_s` accounts a second. `anew`: what was done before does not count. NotNow, Busy, Conflict, CacheUnavailable, DynamoUnavailable:
    all that was done stays, and the same call goes on.
    """
    async with parts.state.alone():
        live, build = await _begin(parts, source, anew=anew)
        work = _Work(parts, live, per_s)
        parts.watcher.phase(f"every process learns of generation {live.standby}")
        await parts.pause(SETTLED_S)
        if not build.is_read:
            await work.read(build)
        await work.compare(build)
        await parts.generations.change(live, Live(live.serving, live.standby, "built"))
        return build


async def switch(parts: Parts, *, back: bool) -> Live:
    """Have the standby generation read from now on, and keep the other one. `back`: to the one that was read before. NotNow, Busy, Conflict."""
    async with parts.state.alone():
        live = await parts.generations.read()
        if live.standby is None or live.state in {"building", "dropping"}:
            raise NotNow("There is no other generation that is complete. `cnop projections rebuild` builds one.")
        if back != (live.state == "kept"):
            raise NotNow(f"Generation {live.standby} was read before: `cnop projections rollback`." if live.state == "kept" else "Nothing was switched yet.")
        await parts.generations.change(live, Live(live.standby, live.serving, "kept"))
        # Until every process has learned of it the other one is still read by some: nobody may give it up before that.
        parts.watcher.phase(f"every process learns that generation {live.standby} is read")
        await parts.pause(SETTLED_S)
        return await parts.generations.read()


async def drop(parts: Parts) -> tuple[int, int]:
    """Give the standby generation up, also in the middle of its building. Its number, and how many keys were taken away. NotNow, Busy, Conflict.

    Interrupted, it is simply done again; so does the next `rebuild`.
    """
    async with parts.state.alone():
        live = await parts.generations.read()
        if live.standby is None:
            raise NotNow("There is one generation, and it is read.")
        return live.standby, await _give_up(parts, live)


async def _begin(parts: Parts, source: str, *, anew: bool) -> tuple[Live, Build]:
    live, build = await parts.generations.read(), await parts.state.read()
    if live.standby is not None and live.state in {"built", "kept"}:
        todo = "`cnop projections switch` reads it" if live.state == "built" else "it is kept for `cnop projections rollback`"
        raise NotNow(f"Generation {live.standby} is there already: {todo}, `cnop projections drop` gives it up.")
    if live.standby is not None:
        if live.state == "building" and build and build.generation == live.standby and build.source == source and not anew:
            return live, build
        await _give_up(parts, live)  # nothing of what was made before is to be in the new one
        live = await parts.generations.read()
    generation = max(live.serving, build.generation if build else 0) + 1
    build = Build(generation=generation, source=source)
    await parts.state.write(build)  # first: whoever has lost the right to work takes nothing away
    await parts.check.take_away(generation)
    await parts.generations.change(live, Live(live.serving, generation, "building"))
    return await parts.generations.read(), build


async def _give_up(parts: Parts, live: Live) -> int:
    standby, dropping = live.standby or 0, Live(live.serving, live.standby, "dropping")
    if live != dropping:
        await parts.generations.change(live, dropping)
    parts.watcher.phase(f"every process learns that generation {standby} is given up")
    await parts.pause(SETTLED_S)
    keys = await parts.check.take_away(standby)
    await parts.generations.change(dropping, Live(live.serving))
    return keys


class _Work:
    def __init__(self, parts: Parts, live: Live, per_s: float) -> None:
        self._parts = parts
        self._live = live
        self._pace = _Pace(per_s, parts)

    async def read(self, build: Build) -> None:
        """Go through the source once, from where it was left."""
        parts = self._parts
        if build.source == RESULTS:
            parts.watcher.phase("shows all results again")
            await self._go_through(build, parts.replay, self._count)
        else:
            parts.watcher.phase("loads accounts", items=await parts.items_about())
            await self._go_through(build, parts.accounts, self._load)
        build.is_read, build.items, build.failed = True, 0, []
        await parts.state.write(build)

    async def compare(self, build: Build) -> None:
        """Hold every account's views against each other, and fill in those that are missing."""
        self._parts.watcher.phase("compares with what is read now", items=await self._parts.items_about())
        await self._go_through(build, self._parts.accounts, self._compare)

    async def _go_through(self, build: Build, source: Pages, take: Callable[[Build, Page], Awaitable[None]]) -> None:
        async for page in source(build.place):
            await take(build, page)
            build.place, build.items = page.place, build.items + page.items
            build.failed += [name for name in page.unreadable if name not in build.failed]
            await self._parts.state.write(build)
            await self._unchanged()
            self._parts.watcher.step(build, page.items)

    async def _unchanged(self) -> None:
        if await self._parts.generations.live() != self._live:
            raise NotNow("The generations were changed by somebody else, or Redis has lost them: nothing was switched. Begin again.")

    async def _count(self, build: Build, page: Page) -> None:
        build.shown += page.items

    async def _load(self, build: Build, page: Page) -> None:
        missing = [account for account, compared in await self._compared(page) if _is_missing(compared)]
        await self._fill(build, missing)
        build.accounts += len(page.accounts)

    async def _compare(self, build: Build, page: Page) -> None:
        compared = await self._compared(page)
        missing = [account for account, one in compared if _is_missing(one)]
        await self._fill(build, missing)
        build.filled += len(missing)
        for account, one in compared:
            if one.one is not None and one.other is not None and one.differs and len(build.differ) < DIFFER_TOLD_MAX:
                build.differ[account.username] = list(one.differs)
        build.checked += len(page.accounts)

    async def _compared(self, page: Page) -> list[tuple[Account, Compared]]:
        standby = self._live.standby or 0
        compared = await self._parts.check.compare([account.username for account in page.accounts], self._live.serving, standby)
        return list(zip(page.accounts, compared, strict=True))

    async def _fill(self, build: Build, accounts: Sequence[Account]) -> None:
        for start in range(0, len(accounts), AT_ONCE):
            some = accounts[start : start + AT_ONCE]
            # None is to be left running behind a raised error: the page is done again then.
            filled = await asyncio.gather(*(self._parts.views.refill(account.username) for account in some), return_exceptions=True)
            for account, one in zip(some, filled, strict=True):
                if isinstance(one, BaseException):
                    raise one
                if not one:
                    build.failed.append(account.username)
            await self._pace.after(len(some))


def _is_missing(compared: Compared) -> bool:
    return compared.other is None or (compared.one is not None and compared.other < compared.one)


class _Pace:
    """Keeps to so many a second, on the whole."""

    def __init__(self, per_s: float, parts: Parts) -> None:
        self._per_s = per_s
        self._parts = parts
        self._next_at = parts.timer()

    async def after(self, count: int) -> None:
        """Wait as long as so many may take."""
        now = self._parts.timer()
        self._next_at = max(self._next_at, now - 1) + count / self._per_s
        if self._next_at > now:
            await self._parts.pause(self._next_at - now)
