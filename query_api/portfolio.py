"""What a caller has, and what it is worth now: cash, holdings, totals, and the same in words."""

from typing import Any, Final

import structlog
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec

from infra.cache import Views
from infra.dynamo import DynamoUnavailable
from infra.http import ProblemError
from infra.market import MarketCache, MarketSnapshot
from query_api.assets import parse_asset_id
from query_api.fresh import Asked, answer, answer_again, fresh
from query_api.given import GivenClock
from query_api.insights import MODEL, in_words
from query_api.time_travel import GivenPast, Moment
from schemas.ledger import Account
from schemas.money import HOME_CURRENCY
from schemas.rows import balance_view
from schemas.statement import BalanceThen, PortfolioThen
from schemas.valuation import asset_balance_of, portfolio_of, summary_of
from schemas.views import AssetBalances, Insight, InsightAnswer, OneAssetBalance, Summary

log = structlog.get_logger()


@get(
    "/balance",
    tags=["balance"],
    summary="Show the cash balance",
    responses={200: ResponseSpec(BalanceThen, description="Cash", generate_examples=False)},
)
async def balance(by: Asked, views: Views, past: GivenPast, moment: Moment) -> Response[bytes]:
    """Cash: available, held for open orders, and both; zeros for a new user. With `as_of`, as it was then, with the orders that were open."""
    shown = await fresh(views, by, lambda: views.account(by.username))
    if moment is not None:
        return await past.balance(by, shown, moment)
    cash, status = shown.value.cash.get(HOME_CURRENCY), shown.value.status
    return await answer_again(by, shown, "balance", (cash, status), lambda: balance_view(cash, shown.version, status))


@get(
    ["/balance/asset/{asset_id:str}", "/assets/{asset_id:str}/balance"],
    tags=["balance"],
    summary="Show one holding",
    responses={200: ResponseSpec(OneAssetBalance, description="The holding", generate_examples=False)},
)
async def asset_balance(asset_id: str, by: Asked, views: Views, market: MarketCache) -> Response[bytes]:
    """One holding, also after the last of it was sold; not found where none was ever held."""
    asset_id = parse_asset_id(asset_id)
    shown = await fresh(views, by, lambda: views.account(by.username))
    position = shown.value.positions.get(asset_id)
    if position is None:
        raise ProblemError("not-found", "You never held any of this asset.")
    now = await market_now(market)
    row = asset_balance_of(asset_id, position, now.prices, now.by_id)
    return await answer(by, shown, OneAssetBalance(**row.model_dump()))


@get(
    "/assets/balances",
    tags=["balance"],
    summary="List holdings",
    responses={200: ResponseSpec(AssetBalances, description="All holdings", generate_examples=False)},
)
async def asset_balances(by: Asked, views: Views, market: MarketCache) -> Response[bytes]:
    """All holdings that there ever were, by asset id."""
    shown = await fresh(views, by, lambda: views.account(by.username))
    now = await market_now(market)
    return await answer_again(by, shown, "holdings", (shown.value, now), lambda: _balances(shown.value, now))


@get(
    "/portfolio",
    tags=["portfolio"],
    summary="Show the portfolio",
    responses={200: ResponseSpec(PortfolioThen, description="Holdings and totals", generate_examples=False)},
)
async def portfolio(by: Asked, views: Views, market: MarketCache, past: GivenPast, moment: Moment) -> Response[bytes]:
    """Holdings above zero with their value, and the totals. Percentages of the priced holdings add up to exactly 100.

    With `as_of`, as they were then, at the prices of then, with the orders that were open.
    """
    shown = await fresh(views, by, lambda: views.account(by.username))
    now = await market_now(market)
    if moment is not None:
        return await past.portfolio(by, shown, moment, now)
    return await answer_again(by, shown, "portfolio", (shown.value, now), lambda: portfolio_of(shown.value, now.prices, now.by_id))


@get(
    "/users/portfolio/summary",
    tags=["portfolio"],
    summary="Show the totals",
    responses={200: ResponseSpec(Summary, description="Totals", generate_examples=False)},
)
async def summary(by: Asked, views: Views, market: MarketCache) -> Response[bytes]:
    """Cash, held cash, the holdings' value, and all of it. Holdings without a price are named and not counted."""
    shown = await fresh(views, by, lambda: views.account(by.username))
    now = await market_now(market)
    return await answer_again(by, shown, "summary", (shown.value, now), lambda: summary_of(shown.value, now.prices))


@get(
    "/insights/portfolio",
    tags=["portfolio"],
    summary="Describe the portfolio",
    responses={200: ResponseSpec(InsightAnswer, description="Words", generate_examples=False)},
)
async def insights(by: Asked, views: Views, market: MarketCache, clock: GivenClock) -> Response[bytes]:
    """The portfolio in a few sentences, made by rules."""
    shown = await fresh(views, by, lambda: views.account(by.username))
    now = await market_now(market)
    text = in_words(portfolio_of(shown.value, now.prices, now.by_id))
    return await answer(by, shown, InsightAnswer(data=Insight(summary=text, generated_at=clock.now(), model=MODEL)))


async def market_now(market: MarketCache) -> MarketSnapshot:
    """Prices and names; nothing of either where they cannot be read, which the answers tell as unpriced assets."""
    try:
        return await market.snapshot()
    except DynamoUnavailable as error:
        log.warning("portfolio without prices", error=str(error))
        return MarketSnapshot()


def _balances(account: Account, now: MarketSnapshot) -> AssetBalances:
    return AssetBalances(data=[asset_balance_of(asset_id, position, now.prices, now.by_id) for asset_id, position in sorted(account.positions.items())])


ROUTES: Final[tuple[Any, ...]] = (balance, asset_balance, asset_balances, portfolio, summary, insights)
