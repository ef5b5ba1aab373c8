"""A portfolio in words, by rules alone: what it is worth, how it is spread, and what stands out."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from schemas.money import ZERO, exact, in_currency, share_down
from schemas.views import Holding, Portfolio

MODEL: Final = "rules-1"
CONCENTRATED_PERCENT: Final = Decimal(50)
IDLE_CASH_PERCENT: Final = Decimal(80)
_HUNDRED: Final = Decimal(100)


@exact
def in_words(portfolio: Portfolio) -> str:
    """A few sentences, the same for the same portfolio."""
    if not portfolio.assets and portfolio.total_portfolio_value == ZERO:
        return "Your portfolio is empty. Deposit cash to place your first order."
    return " ".join(_sentences(portfolio))


def _sentences(portfolio: Portfolio) -> Iterator[str]:
    yield f"Your portfolio is worth {_money(portfolio.total_portfolio_value, portfolio)}: {_parts(portfolio)}."
    priced = [holding for holding in portfolio.assets if holding.market_value is not None]
    yield from _spread(priced)
    yield from _cash(portfolio)
    yield from _results(priced, portfolio)
    if portfolio.unpriced_assets:
        yield f"Not counted, since there is no price now: {', '.join(portfolio.unpriced_assets)}."


def _parts(portfolio: Portfolio) -> str:
    cash = f"{_money(portfolio.cash_balance + portfolio.held_cash, portfolio)} in cash"
    count = len(portfolio.assets) - len(portfolio.unpriced_assets)
    return f"{cash} and {_money(portfolio.total_asset_value, portfolio)} in {count} {'asset' if count == 1 else 'assets'}" if count else f"all of it {cash}"


def _spread(priced: list[Holding]) -> Iterator[str]:
    if not priced or priced[0].percentage is None:
        return
    largest = priced[0]
    yield f"The largest holding is {largest.asset_name} with {largest.percentage}% of your assets."
    if priced[0].percentage > CONCENTRATED_PERCENT and len(priced) > 1:
        yield "More than half of the value hangs on this one price."


def _cash(portfolio: Portfolio) -> Iterator[str]:
    total, cash = portfolio.total_portfolio_value, portfolio.cash_balance + portfolio.held_cash
    if portfolio.total_asset_value > ZERO and total > ZERO and share_down(cash, _HUNDRED, total, 0) >= IDLE_CASH_PERCENT:
        yield "Most of it is cash, which moves with no price."


def _results(priced: list[Holding], portfolio: Portfolio) -> Iterator[str]:
    results = [(holding.unrealized_pnl, holding.asset_name) for holding in priced if holding.unrealized_pnl is not None]
    if not results:
        return
    total = sum((result for result, _ in results), ZERO)
    yield f"Against what it cost you are {_money(abs(total), portfolio)} {'ahead' if total >= ZERO else 'behind'}."
    (worst, loser), (best, winner) = min(results), max(results)
    if best > ZERO:
        yield f"The best result is {winner} with {_money(best, portfolio)} gained."
    if worst < ZERO:
        yield f"The weakest is {loser} with {_money(-worst, portfolio)} lost."


def _money(value: Decimal, portfolio: Portfolio) -> str:
    return f"{in_currency(value, portfolio.currency)} {portfolio.currency}"
