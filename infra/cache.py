"""What we keep in Redis: the views of accounts, filled by projector and loaders through one guard, and the denylist of tokens.

A view can be lost at any time and is filled again from the ledger. Readers get an answer from the ledger itself while Redis is away.
The denylist cannot be rebuilt: see `infra.denylist`.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Protocol, TypeVar, cast

import structlog
from prometheus_client import Counter

from infra.cache_client import Cache, CacheUnavailable, Call, Script
from infra.cache_guard import (
    CHANGES,
    GAP,
    GUARD,
    HEAD,
    LEASE,
    LOADED,
    OLD,
    ORDERS_HELD_MAX,
    READ_ORDER,
    READ_ORDERS,
    READ_ROWS,
    ROWS_HELD_MAX,
    Layout,
    Page,
    read_account,
    read_order,
    read_page,
    read_row,
)
from infra.cache_shown import Recent, Shown, Snapshot, newest_of, seen_in, shown, source_of
from infra.denylist import Denylist
from infra.generations import Generations
from infra.ledger import LedgerReads
from infra.remembered import Remembered, bytes_in
from schemas.ledger import Account, Entry, Order
from schemas.results import Result
from schemas.rows import transactions_of
from schemas.views import Transaction

__all__ = [
    "ORDERS_HELD_MAX",
    "Arrived",
    "Cache",
    "CacheUnavailable",
    "Denylist",
    "LedgerBehind",
    "Projected",
    "Projection",
    "Recent",
    "Shown",
    "Snapshot",
    "Views",
]

log = structlog.get_logger()
R = TypeVar("R")

_UNREADABLE: Final = (ValueError, KeyError)
REACH_S: Final = 0.25
"""How long a read that presents a token waits for the projector before it loads the account itself."""
REACH_POLL_S: Final = 0.005
FILL_ATTEMPTS_MAX: Final = 3
"""Rounds of loading and putting one view while others change it, for a reader who waits."""
REFILL_ATTEMPTS_MAX: Final = 30
"""The same for an operator's command: there an account that changes all the while has to be made as well."""
LOADS_AT_ONCE: Final = 8
"""Accounts that one projector batch loads at once."""

LOADS: Final = Counter("cnop_view_loads_total", "Account views loaded from the ledger")
GAPS: Final = Counter("cnop_view_gaps_total", "Results that came with others missing before them, so that the view was loaded")


class LedgerBehind(RuntimeError):
    """The ledger does not have a version whose result was published: it was set back, or this is another ledger."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A result to be shown, and then told: `value` (the record's bytes) goes to the channel `reply_to`, if there is one."""

    result: Result
    value: bytes
    reply_to: str | None = None


@dataclass(frozen=True, slots=True)
class Projected:
    """What became of a batch: views moved on, results shown already, accounts loaded because results were missing before these."""

    put: int
    old: int
    loaded: int


class Projection(Protocol):
    """Where the projector puts results."""

    async def put(self, arrived: Sequence[Arrived]) -> Projected:
        """Show results, in order; each is told once it is shown. When this returns, all are shown and told."""
        ...


class Views:
    """The account views.

    The guard orders writers: a version never goes back, and a view is always what the ledger held at its version (orders may be newer
    for a moment, while a load races with settlement). Reads raise only what the ledger raises.
    """

    def __init__(self, cache: Cache, ledger: LedgerReads, generations: Generations, *, ttl_s: int) -> None:
        self._cache = cache
        self._ledger = ledger
        self._generations = generations
        self._layout = Layout(ttl_s)
        self._accounts: Remembered[dict[bytes, bytes], Account | None] = Remembered(lambda fields, _: bytes_in(fields, fields.values()))
        self._pages: Remembered[list[bytes | None], Page[Any] | None] = Remembered(lambda _, page: page.size if page else 0)
        self._flights: dict[str, asyncio.Task[Snapshot]] = {}
        self._loading = asyncio.Semaphore(LOADS_AT_ONCE)

    async def put(self, arrived: Sequence[Arrived], *, again: bool = False) -> Projected:
        """See `Projection`; `again` as of `Layout.result_call`. CacheUnavailable, what the ledger raises, or LedgerBehind: repeat the batch, which is safe."""
        live = (await self._generations.live()).all
        calls = [self._layout.result_call(one.result, one.reply_to, one.value, live, again=again) for one in arrived]
        answers = await self._cache.scripts(GUARD, calls)
        late = [one for one, answer in zip(arrived, answers, strict=True) if answer == GAP]
        await self._close_gaps(late)
        await self._tell([(one.reply_to, one.value) for one in late if one.reply_to])
        old = sum(answer == OLD for answer in answers)
        return Projected(put=len(arrived) - old - len(late), old=old, loaded=len({one.result.username for one in late}))

    async def account(self, username: str) -> Shown[Account]:
        """Balances, positions and counters."""
        try:
            fields = await self._fields(username)
            account = self._accounts.of(username, fields, lambda: read_account(username, fields))
        except CacheUnavailable:
            account = await self._ledger.account(username)
            return shown("account", "bypass", account, account)
        except _UNREADABLE as error:
            await self._drop(username, error)
            account = None
        if account:
            return shown("account", "view", account, account)
        snapshot = await self.load(username)
        return shown("account", "load", snapshot.account, snapshot.account)

    async def order(self, username: str, order_id: str) -> Shown[Order | None]:
        """One order; None where this account has no such order. One that is not among the recent ones is looked up in the ledger."""
        page = await self._page(username, READ_ORDER, order_id, read_order)
        if isinstance(page, Page):
            found, whole = next(iter(page.rows), None), page.held == page.counters.orders
        elif page:
            found = next((order for order in page.orders if order.order_id == order_id), None)
            whole = len(page.orders) == page.account.counters.orders
        if page and (found or whole):
            return shown("order", source_of(page), found, seen_in(page))
        account = await self._ledger.account(username)
        return shown("order", source_of(page), await self._ledger.order(username, order_id), account)

    async def orders(self, username: str, limit: int) -> Shown[Recent[Order]]:
        """The newest orders, up to `limit` (at most `ORDERS_HELD_MAX`)."""
        page = await self._page(username, READ_ORDERS, limit, read_order)
        if isinstance(page, Page):
            rows, total = page.rows, page.counters.orders
        elif page:
            rows, total = page.orders, page.account.counters.orders
        else:
            account = await self._ledger.account(username)
            rows = await self._ledger.orders(username, before=account.version + 1, limit=limit)
            return shown("orders", "bypass", newest_of(rows, limit, account.counters.orders), account)
        return shown("orders", source_of(page), newest_of(rows, limit, total), seen_in(page))

    async def transactions(self, username: str, limit: int) -> Shown[Recent[Transaction]]:
        """The newest cash movements, up to `limit` (at most `ROWS_HELD_MAX`); inside an entry in the order of its legs."""
        page = await self._page(username, READ_ROWS, limit, read_row)
        if isinstance(page, Page):
            rows, total = page.rows, page.counters.transactions
        elif page:
            rows, total = page.rows, page.account.counters.transactions
        else:
            account = await self._ledger.account(username)
            entries = await self._ledger.entries(username, before=account.version + 1, limit=limit)
            rows = [row for entry in entries for row in transactions_of(entry)]
            return shown("transactions", "bypass", newest_of(rows, limit, account.counters.transactions), account)
        return shown("transactions", source_of(page), newest_of(rows, limit, total), seen_in(page))

    async def version(self, username: str) -> int | None:
        """That of the view alone; None where there is none. CacheUnavailable while Redis is away."""
        key, *_ = await self._keys(username)
        text = await self._cache.ask("HGET", key, "version")
        return None if text is None else int(text)

    async def reach(self, username: str, version: int) -> bool:
        """Wait briefly until the view shows a version, else load it; False where even the ledger does not have that version.

        While Redis is away there is nothing to wait for: reads see the ledger then, and tell their version.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REACH_S
        try:
            while (shown := await self.version(username)) is not None and loop.time() < deadline:
                if shown >= version:
                    return True
                await asyncio.sleep(REACH_POLL_S)
        except CacheUnavailable:
            return True
        return (await self.load(username, at_least=version)).account.version >= version

    async def load(self, username: str, at_least: int | None = None) -> Snapshot:
        """Fill the view from the ledger through the guard, once for all who ask at the same time.

        A load that began before the call may lack what was settled just before it: where it shows less than `at_least`, another is made.
        """
        joined = username in self._flights
        snapshot = await asyncio.shield(self._flight(username))
        if joined and at_least is not None and snapshot.account.version < at_least:
            snapshot = await asyncio.shield(self._flight(username))
        return snapshot

    async def make_up(self, username: str, version: int) -> Snapshot:
        """Load a view that is behind a version. Not `kept` where memory is full, so that it goes as soon as it is there, which is not to be behind.

        CacheUnavailable where an older one is still shown, LedgerBehind, or what the ledger raises.
        """
        snapshot = await self.load(username, at_least=version)
        if snapshot.account.version < version:
            raise LedgerBehind(f"{username}: result of version {version}, the ledger has {snapshot.account.version}")
        now = version if snapshot.kept else await self.version(username)
        if now is not None and now < version:
            raise CacheUnavailable(f"view of {username} was loaded and could not be put")
        return replace(snapshot, kept=now is not None)

    async def refill(self, username: str, *, anew: bool = False) -> bool:
        """Load a view into every generation that lives; `anew` also in the place of one of its version. False where it was not put.

        CacheUnavailable, or what the ledger raises.
        """
        return (await self._loaded(username, REFILL_ATTEMPTS_MAX, anew=anew)).kept

    async def _close_gaps(self, late: Sequence[Arrived]) -> None:
        wanted: dict[str, int] = {}
        for one in late:
            wanted[one.result.username] = max(one.result.version, wanted.get(one.result.username, 0))
        # Not to be left running behind a raised error: the batch is repeated then.
        failures = await asyncio.gather(*(self._close_gap(username, version) for username, version in wanted.items()), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure

    async def _close_gap(self, username: str, version: int) -> None:
        async with self._loading:
            snapshot = await self.make_up(username, version)
        GAPS.inc()
        if not snapshot.kept:  # a reader loads it, and who follows the account must hear of it
            await self._tell([(CHANGES + username, LOADED + b"%d" % snapshot.account.version)])

    async def _tell(self, told: Sequence[tuple[str, bytes]]) -> None:
        if told:
            await self._cache.run("tell", partial(self._publish, told))

    async def _publish(self, told: Sequence[tuple[str, bytes]]) -> None:
        async with self._cache.client.pipeline(transaction=False) as pipeline:
            for channel, message in told:
                pipeline.publish(channel, message)
            await pipeline.execute()

    async def _keys(self, username: str) -> tuple[str, str, str, str]:
        return self._layout.keys(username, (await self._generations.live()).serving)

    async def _fields(self, username: str) -> dict[bytes, bytes]:
        key, *_ = await self._keys(username)
        return cast("dict[bytes, bytes]", await self._cache.ask("HGETALL", key))  # the client does not decode

    async def _page(self, username: str, script: Script, argument: str | int, read: Callable[[bytes], R]) -> Page[R] | Snapshot | None:
        """The list from Redis, or the loaded view where Redis has none, or None while Redis is away."""
        try:
            keys = await self._keys(username)
            asked = keys[0], script.name, argument
            known = self._pages.last(asked)
            if known and known[0] == await self._cache.ask("HMGET", keys[0], *HEAD):
                head, made = known
            else:
                head, *told = await self._cache.ask_script(script, Call(keys, (argument,)))
                made = read_page(username, head, told, read)
            page = self._pages.of(asked, head, lambda: made) if head[0] else made
        except CacheUnavailable:
            return None
        except _UNREADABLE as error:
            await self._drop(username, error)
            page = None
        return page or await self.load(username)

    async def _drop(self, username: str, error: Exception) -> None:
        """Away with a view that this release cannot read: the guard would otherwise hold it to be as good as the one to be loaded."""
        log.warning("unreadable view dropped", username=username, error=type(error).__name__)
        with suppress(CacheUnavailable):
            keys = await self._keys(username)
            await self._cache.run("view drop", lambda: self._cache.client.delete(*keys))

    def _flight(self, username: str) -> asyncio.Task[Snapshot]:
        flight = self._flights.get(username)
        if flight is None or flight.done():  # what has ended, and has not been told so yet, is older than this call
            flight = self._flights[username] = asyncio.create_task(self._fill(username), name=f"load {username}")
            flight.add_done_callback(partial(self._landed, username))
        return flight

    def _landed(self, username: str, flight: asyncio.Task[Snapshot]) -> None:
        if self._flights.get(username) is flight:
            del self._flights[username]
        if not flight.cancelled() and (error := flight.exception()):
            log.warning("view not loaded", username=username, error=str(error))  # told to those who wait; they may all have gone

    async def _fill(self, username: str) -> Snapshot:
        LOADS.inc()
        with suppress(CacheUnavailable):
            return await self._loaded(username, FILL_ATTEMPTS_MAX)
        return await self._read(username)

    async def _loaded(self, username: str, attempts: int, *, anew: bool = False) -> Snapshot:
        """Load and put; once more where the account has moved on meanwhile. Not `kept` where that goes on and on."""
        for _ in range(attempts):
            lease: bytes = await self._cache.script(LEASE, self._layout.lease_call(username))
            snapshot = await self._read(username)
            if snapshot.is_whole and await self._put_whole(snapshot, lease, anew=anew) != GAP:
                return replace(snapshot, kept=True)
        return snapshot

    async def _put_whole(self, snapshot: Snapshot, lease: bytes, *, anew: bool) -> bytes:
        live = (await self._generations.live()).all
        answer: bytes = await self._cache.script(GUARD, self._layout.whole_call(snapshot.account, snapshot.orders, snapshot.rows, live, lease, anew=anew))
        return answer

    async def _read(self, username: str) -> Snapshot:
        """From the ledger: the account, and then its lists without what is newer than it, which comes as a result."""
        account = await self._ledger.account(username)
        before, counted = account.version + 1, account.counters
        orders, entries = await asyncio.gather(
            self._ledger.orders(username, before=before, limit=ORDERS_HELD_MAX) if counted.orders else asyncio.sleep(0, list[Order]()),
            self._ledger.entries(username, before=before, limit=ROWS_HELD_MAX) if counted.transactions else asyncio.sleep(0, list[Entry]()),
        )
        return Snapshot(account, orders, [row for entry in entries for row in transactions_of(entry)][:ROWS_HELD_MAX])
