"""Why a balance is what it is: every request that changed it, where it stands in the log and in the results, and a sum that is checked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import structlog
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from prometheus_client import Counter

from events.topics import REQUESTS
from infra.cache import Shown, Views
from infra.http import ProblemError
from infra.ledger import LedgerReads
from infra.market import MarketCache
from query_api.assets import ASSET_ID
from query_api.cursors import ROW_LAST, Cursors, List, Place
from query_api.fresh import Asked, answer, fresh
from query_api.given import GivenLedger
from query_api.pages import LIMIT, Cursor, Limit, Page, Source, collect
from query_api.status import CommandKey
from query_api.time_travel import GivenPast, Moment, as_of_version, line_at
from schemas.commands import command_id
from schemas.ledger import Account, Entry
from schemas.money import CURRENCY_SCALES
from schemas.statement import Explanation, Held, adds_up, held_in, held_of, level, line_of, touches

log = structlog.get_logger()

MISMATCHES: Final = Counter("cnop_explain_mismatches_total", "Explanations of a balance whose sum was not what the ledger says")

Unit = Annotated[str, Parameter(description="A currency, or an asset's id, in any case")]


@dataclass(frozen=True, slots=True)
class Statement:
    """Entries of a unit up to a version, newest first, and what there was of it before and after them."""

    unit: str
    version: int
    page: Page[Entry]
    opening: Held
    closing: Held

    @property
    def opened(self) -> int:
        """The version of the opening."""
        if self.page.rows:
            return self.page.rows[-1].version - 1
        return self.page.rest.version - 1 if self.page.rest else self.version


@get(
    "/balance/{unit:str}/explain",
    tags=["balance"],
    summary="Explain a balance",
    responses={200: ResponseSpec(Explanation, description="A page of it", generate_examples=False)},
)
async def explain(
    *,
    unit: Unit,
    by: Asked,
    views: Views,
    ledger: GivenLedger,
    market: MarketCache,
    past: GivenPast,
    moment: Moment,
    cursors: Cursors,
    command_key: CommandKey,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> Response[bytes]:
    """Opening, lines and closing of a currency or an asset, newest first; each page has its own opening, which is the closing of the next one.

    The sum of each page is checked against what the ledger says of the balance after every line, and on the first page against the account.
    """
    unit = _unit(unit)
    of = List(by.username, "explain", {"unit": unit, "as_of": moment})
    after = cursors.read(of, cursor)
    shown = await fresh(views, by, lambda: views.account(by.username))
    version = after.version - 1 if after else shown.version
    if moment is not None and after is None:
        shown, version, _ = await past.find(shown, moment)
    if unit not in CURRENCY_SCALES and unit not in shown.value.positions and await market.asset(unit) is None:
        raise ProblemError("not-found", "There is no such currency or asset.")
    statement = await statement_of(ledger, shown, unit, version, limit)
    return await answer(by, shown, _explanation(by.username, statement, cursors, of, command_key), await as_of_version(ledger, shown, version))


ROUTES: Final[tuple[Any, ...]] = (explain,)


def _unit(text: str) -> str:
    if not ASSET_ID.fullmatch(text):
        raise ProblemError("validation-failed", "It must be a currency or an asset's id, which has 1 to 10 letters and digits.", pointer="#/path/unit")
    return text.upper()


async def statement_of(ledger: LedgerReads, shown: Shown[Account], unit: str, version: int, limit: int) -> Statement:
    """The newest entries up to a version. That of the account itself is closed by what the account says, any other by its newest entry."""
    username = shown.value.username

    async def entries(before: int | None, count: int) -> Sequence[Entry]:
        if unit in CURRENCY_SCALES:
            return await ledger.entries(username, before=before, limit=count)
        return await ledger.asset_entries(username, unit, before=before, limit=count)

    source = Source(entries, lambda entry: entry.version, lambda entry: [entry] if touches(entry, unit) else [])
    page = await collect(source, Place(version + 1, ROW_LAST), limit, count=limit + 1)
    statement = Statement(unit, version, page, Held(), Held())
    line = await line_at(ledger, username, unit, statement.opened) if page.rest else None
    opening = held_in(line) if line else Held()
    told = shown.value if version == shown.version else page.rows[0].lines if page.rows else None
    return replace(statement, opening=opening, closing=(held_of(told, unit) or Held()) if told else opening)


def _explanation(username: str, statement: Statement, cursors: Cursors, of: List, command_key: CommandKey) -> Explanation:
    unit, page = statement.unit, statement.page
    return Explanation(
        unit=unit,
        opening=level(unit, statement.opened, statement.opening),
        lines=[line_of(entry, unit, topic=REQUESTS, command_id=command_id(command_key.key, username, entry.request_id)) for entry in page.rows],
        closing=level(unit, statement.version, statement.closing),
        sum_matches=_matches(username, statement),
        has_more=page.rest is not None,
        next_cursor=page.rest and cursors.make(of, page.rest),
    )


def _matches(username: str, statement: Statement) -> bool:
    matches = adds_up(statement.unit, statement.opening, statement.page.rows, statement.closing)
    if not matches:
        MISMATCHES.inc()
        log.error("a balance does not add up", username=username, unit=statement.unit, version=statement.version, opened=statement.opened)
    return matches
