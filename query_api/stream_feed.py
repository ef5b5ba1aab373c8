"""One account that is listened to: what it tells each of its listeners, so that each gets every version, or a snapshot that covers it."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from prometheus_client import Counter

from infra.cache import ORDERS_HELD_MAX, Views
from infra.dynamo import DynamoUnavailable
from infra.ledger_bound import TooManyReads
from query_api import stream_events
from query_api.stream_events import EVENTS
from query_api.stream_listener import Listener
from query_api.stream_prices import WatchedPrices
from schemas.ledger import Account, AccountStatus, Order
from schemas.results import Result
from schemas.stream import stream_account, stream_change

log = structlog.get_logger()

READS_MAX: Final = 3
"""Reads of account and orders that move on between the two, before the view is loaded from the ledger as one."""

SNAPSHOTS: Final = Counter("cnop_stream_snapshots_total", "Snapshots sent to listeners, by what made them necessary", ["cause"])


class Feed:
    """Follows one account (`infra.changes.Follower`) for its listeners.

    A listener whose version is the one before a change gets the change; one that lacks others gets a snapshot, which is asked for by putting the feed
    into `late`: whoever takes it from there calls `catch_up`. A queue entry is asked for once, however often it is needed meanwhile.
    """

    def __init__(self, username: str, views: Views, prices: WatchedPrices, late: "asyncio.Queue[Feed]") -> None:
        self.listeners: set[Listener] = set()
        self._username = username
        self._views = views
        self._prices = prices
        self._late = late
        self._cause: str | None = None
        self._heard = 0
        self._wrong: set[Listener] = set()
        """They were told something that a view had that has been made anew since."""
        self._status: AccountStatus = "active"

    def changed(self, result: Result) -> None:
        """Tell it to those who have all before it."""
        self._heard = max(self._heard, result.version)
        if result.parking:
            self._status = result.parking.status
        event, told, is_behind = b"", 0, False
        for listener in self.listeners:
            if listener.version is None or listener.version >= result.version:
                continue
            if listener.version == result.version - 1:
                event = event or stream_events.change(stream_change(result, self._status))
                listener.version = result.version
                listener.push(event)
                told += 1
            else:
                is_behind = True
        EVENTS.labels("change").inc(told)
        if is_behind:
            self.look("gap")

    def moved(self, version: int) -> None:
        """What lies before it was not told to anybody."""
        self._heard = max(self._heard, version)
        if any(listener.version is not None and listener.version < version for listener in self.listeners):
            self.look("loaded")

    def renewed(self, version: int) -> None:
        """An operator had the view made anew: everybody gets it, whatever version he has."""
        self._heard = max(self._heard, version)
        self._wrong |= self.listeners
        self.look("anew")

    def lost(self) -> None:
        """Anything may have happened."""
        self.look("lost")

    def seen(self, version: int | None) -> None:
        """The view shows this version; None: it is gone, and what was told of it meanwhile may be, too."""
        if version is None or self._behind(max(version, self._heard)):
            self.look("behind")

    def look(self, cause: str) -> None:
        """Have the view looked at, and those told who are behind it."""
        if self._cause is None and self.listeners:
            self._late.put_nowait(self)
        self._cause = self._cause or cause

    async def begin(self, listener: Listener, last_id: int | None) -> None:
        """Tell a new listener the account as it is, unless it knows this version already. Raises what the ledger raises."""
        account, orders = await self._read(max(self._heard, last_id or 0))
        self._status = account.status
        if last_id == account.version:
            listener.version = last_id
            self._tell_prices(listener)
        else:
            self._tell_snapshot(listener, account.version, stream_events.account_json(stream_account(account, orders)), "opened")
        self._prices.watch(listener)
        if self._heard > account.version:
            self.look("gap")
        if listener in self._wrong:
            self.look("anew")

    async def catch_up(self) -> None:
        """Look at the view; a snapshot for each listener that is behind it. Where that cannot be read, the next heartbeat tries again."""
        cause, self._cause = self._cause or "", None
        try:
            shown = await self._views.account(self._username)
            if self._wrong or self._behind(max(shown.version, self._heard)):
                account, orders = await self._read(self._heard)
                self._tell(account, orders, cause)
        except (DynamoUnavailable, TooManyReads) as error:
            log.warning("listeners cannot catch up now", username=self._username, error=str(error))

    def _tell(self, account: Account, orders: Sequence[Order], cause: str) -> None:
        self._status = account.status
        wrong = {listener for listener in self._wrong & self.listeners if listener.version is not None}  # others are told when they begin
        self._wrong -= wrong
        if behind := wrong.union(self._behind(account.version)):
            told = stream_events.account_json(stream_account(account, orders))
            for listener in behind:
                self._tell_snapshot(listener, account.version, told, cause)

    def _behind(self, version: int) -> list[Listener]:
        return [listener for listener in self.listeners if listener.version is not None and listener.version < version]

    def _tell_snapshot(self, listener: Listener, version: int, account: bytes, cause: str) -> None:
        listener.version = version
        listener.push(stream_events.snapshot(account, version, self._prices.latest(listener)))
        EVENTS.labels("snapshot").inc()
        SNAPSHOTS.labels(cause).inc()

    def _tell_prices(self, listener: Listener) -> None:
        for told in self._prices.latest(listener):
            listener.push(stream_events.price(told))
            EVENTS.labels("price").inc()

    async def _read(self, at_least: int) -> tuple[Account, Sequence[Order]]:
        """Account and newest orders at one version, that one at least if the ledger has it."""
        for _ in range(READS_MAX):
            shown = await self._views.account(self._username)
            if shown.version < at_least:
                await self._views.reach(self._username, at_least)
                at_least = 0  # more than the ledger has is not to be had
                continue
            if not shown.value.counters.open_orders:
                return shown.value, ()
            orders = await self._views.orders(self._username, ORDERS_HELD_MAX)
            if orders.version == shown.version:
                return shown.value, orders.value.rows
        loaded = await self._views.load(self._username, at_least=at_least)
        return loaded.account, loaded.orders
