"""What happened to an account: movements of its cash, and of one asset."""

from collections.abc import Sequence
from typing import Any, Final

from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from infra.cache import Shown, Views
from infra.http import ProblemError
from infra.ledger import LedgerReads
from infra.market import MarketCache
from query_api.assets import parse_asset_id
from query_api.cursors import Cursors, List, Place
from query_api.fresh import Asked, answer, answer_again, fresh
from query_api.given import GivenLedger
from query_api.pages import LIMIT, Cursor, Limit, Page, Source, collect, cut
from schemas.ledger import Entry
from schemas.rows import trade_of, transactions_of
from schemas.views import Trade, TradePage, Transaction, TransactionPage


@get(
    "/balance/transactions",
    tags=["balance"],
    summary="List cash movements",
    responses={200: ResponseSpec(TransactionPage, description="A page", generate_examples=False)},
)
async def transactions(*, by: Asked, views: Views, ledger: GivenLedger, cursors: Cursors, limit: Limit = LIMIT, cursor: Cursor = None) -> Response[bytes]:
    """Movements of cash, newest first; money that leaves is negative. `total_count` counts all of them."""
    of = List(by.username, "transactions", {})
    after = cursors.read(of, cursor)

    def body(page: Page[Transaction], total: int) -> TransactionPage:
        next_cursor = page.rest and cursors.make(of, page.rest)
        return TransactionPage(transactions=page.rows, total_count=total, has_more=page.rest is not None, next_cursor=next_cursor)

    if after is None:
        newest = await fresh(views, by, lambda: views.transactions(by.username, limit + 1))
        recent = newest.value
        if recent.reaches(limit + 1):
            return await answer_again(
                by, newest, f"transactions {limit}", (recent, cursors.hour()), lambda: body(cut(_placed(recent.rows), limit), recent.total)
            )
    # Rows of the ledger are at least as new as the version told.
    shown = await fresh(views, by, lambda: views.account(by.username))
    page = await collect(Source(_entries(ledger, by.username), _version, transactions_of), after, limit, count=limit + 1)
    return await answer(by, shown, body(page, shown.value.counters.transactions))


@get(
    "/assets/{asset_id:str}/transactions",
    tags=["assets"],
    summary="List an asset's movements",
    responses={200: ResponseSpec(TradePage, description="A page", generate_examples=False)},
)
async def trades(
    *, asset_id: str, by: Asked, views: Views, ledger: GivenLedger, market: MarketCache, cursors: Cursors, limit: Limit = LIMIT, cursor: Cursor = None
) -> Response[bytes]:
    """What the caller bought and sold of one asset, newest first; empty for none."""
    asset_id = parse_asset_id(asset_id)
    of = List(by.username, "trades", {"asset_id": asset_id})
    after = cursors.read(of, cursor)
    shown = await fresh(views, by, lambda: _trades(views, ledger, by.username, asset_id, after=after, limit=limit))
    page = shown.value
    if not page.rows and await market.asset(asset_id) is None:
        raise ProblemError("not-found", "There is no such asset.")
    return await answer(by, shown, TradePage(data=page.rows, has_more=page.rest is not None, next_cursor=page.rest and cursors.make(of, page.rest)))


ROUTES: Final[tuple[Any, ...]] = (transactions, trades)


async def _trades(views: Views, ledger: LedgerReads, username: str, asset_id: str, *, after: Place | None, limit: int) -> Shown[Page[Trade]]:
    account = await views.account(username)
    if asset_id not in account.value.positions:
        return account.of(Page([], None))

    async def entries(before: int | None, count: int) -> Sequence[Entry]:
        return await ledger.asset_entries(username, asset_id, before=before, limit=count)

    page = await collect(Source(entries, _version, _trade_rows), after, limit, count=limit + 1)
    return account.of(page)


def _entries(ledger: LedgerReads, username: str) -> Any:
    async def entries(before: int | None, count: int) -> Sequence[Entry]:
        return await ledger.entries(username, before=before, limit=count)

    return entries


def _placed(rows: Sequence[Transaction]) -> list[tuple[Place, Transaction]]:
    """Rows from the beginning of the list with their places."""
    placed: list[tuple[Place, Transaction]] = []
    for row in rows:
        last = placed[-1][0] if placed else None
        placed.append((Place(row.version, last.row + 1 if last and last.version == row.version else 0), row))
    return placed


def _version(entry: Entry) -> int:
    return entry.version


def _trade_rows(entry: Entry) -> list[Trade]:
    trade = trade_of(entry)
    return [trade] if trade else []
