"""What holdings are worth: exact, complete, and never an error for want of a price."""

import math
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from query_api.insights import in_words
from schemas.instants import EPOCH
from schemas.ledger import Account, CashLine, Position
from schemas.market import PriceChanged
from schemas.valuation import asset_balance_of, average_cost, percentages, portfolio_of, summary_of

NAMES = st.sampled_from(["BTC", "ETH", "SOL", "ADA", "XRP", "DOGE", "DOT", "SHIB", "ABC", "XYZ"])
VALUES = st.decimals(min_value="0.00000001", max_value="1000000000", places=8)
CENTS = st.decimals(min_value=0, max_value="1000000000", places=2)
POSITIONS = st.builds(
    lambda available, held, basis, realised: Position(available, held, basis, realised, updated_at=EPOCH, created_at=EPOCH),
    st.decimals(min_value=0, max_value=10**6, places=8),
    st.decimals(min_value=0, max_value=10**6, places=8),
    CENTS,
    st.decimals(min_value=-(10**6), max_value=10**6, places=2),
)
ACCOUNTS = st.builds(
    lambda cash, held, positions: Account("reader", 7, EPOCH, cash={"USD": CashLine(cash, held)}, positions=positions),
    CENTS,
    CENTS,
    st.dictionaries(NAMES, POSITIONS),
)
PRICES = st.dictionaries(NAMES, VALUES).map(lambda prices: {name: PriceChanged(name, price, 1, EPOCH) for name, price in prices.items()})


@given(values=st.dictionaries(NAMES, VALUES, min_size=1))
def test_percentages_add_up_to_exactly_100(values: dict[str, Decimal]) -> None:
    """With two decimals each, and none further from its true share than one of the last digit."""
    shares = percentages(values)
    assert sum(shares.values()) == 100
    whole = sum(Fraction(value) for value in values.values())
    for name, share in shares.items():
        assert share.as_tuple().exponent == -2
        assert abs(Fraction(share) - Fraction(values[name]) * 100 / whole) < Fraction(1, 100)


def test_percentages_of_nothing() -> None:
    """There are none, rather than a division by zero."""
    assert percentages({}) == {}
    assert percentages({"BTC": Decimal(0)}) == {}


@given(account=ACCOUNTS, prices=PRICES)
def test_totals_and_holdings(account: Account, prices: dict[str, PriceChanged]) -> None:
    """Totals are cash + held + the exact sum of quantity × price, rounded down once; what has no price is named."""
    portfolio = portfolio_of(account, prices, {})
    held = {name for name, position in account.positions.items() if position.quantity > 0}
    assert {holding.asset_id for holding in portfolio.assets} == held
    assert set(portfolio.unpriced_assets) == held - prices.keys()
    worth = sum(Fraction(account.positions[name].quantity) * Fraction(prices[name].price) for name in held & prices.keys())
    assert portfolio.total_asset_value == Decimal(int(worth * 100)) / 100
    cash = account.cash["USD"]
    assert portfolio.total_portfolio_value == cash.available + cash.held + portfolio.total_asset_value
    gained = worth - sum(Fraction(account.positions[name].cost_basis) for name in held & prices.keys())
    assert portfolio.unrealized_pnl == Decimal(math.floor(gained * 100)) / 100
    assert portfolio.realized_pnl == sum(position.realised for position in account.positions.values())
    priced = [holding for holding in portfolio.assets if holding.asset_id in prices]
    assert all((holding.percentage is None) == (holding not in priced) for holding in portfolio.assets)
    assert sum(holding.percentage or 0 for holding in priced) == (100 if priced else 0)
    assert summary_of(account, prices).model_dump() == portfolio.model_dump(exclude={"assets"})
    assert portfolio.model_dump_json()
    assert in_words(portfolio)


@given(account=ACCOUNTS, prices=PRICES)
def test_spelling_does_not_change_what_is_shown(account: Account, prices: dict[str, PriceChanged]) -> None:
    """1.50 from a result and 1.5 from the store are shown alike."""
    respelled = {
        name: Position(
            position.available.normalize(),
            position.held.normalize(),
            position.cost_basis.normalize(),
            position.realised.normalize(),
            updated_at=EPOCH,
            created_at=EPOCH,
        )
        for name, position in account.positions.items()
    }
    other = Account("reader", 7, EPOCH, cash=account.cash, positions=respelled)
    assert portfolio_of(other, prices, {}).model_dump_json() == portfolio_of(account, prices, {}).model_dump_json()


def test_one_holding_after_the_last_of_it_was_sold() -> None:
    """It is still shown, with nothing and without an average cost."""
    shown = asset_balance_of("BTC", Position(), {}, {})
    assert (shown.quantity, shown.average_cost, shown.current_price, shown.total_value, shown.asset_name) == (0, None, None, None, "BTC")


def test_profit_of_what_was_sold_and_of_what_is_held() -> None:
    """Of a holding and of all of them, what was sold to the last unit included; what has no price is not guessed."""
    half = Position(available=Decimal(1), cost_basis=Decimal(40), realised=Decimal("12.34"))
    account = Account(
        "reader", positions={"BTC": half, "ETH": Position(realised=Decimal("-2.34")), "LTC": Position(available=Decimal(5), cost_basis=Decimal(9))}
    )
    shown = portfolio_of(account, {"BTC": PriceChanged("BTC", Decimal("50.005"), 1, EPOCH)}, {})
    assert (str(shown.unrealized_pnl), str(shown.realized_pnl), shown.unpriced_assets) == ("10.00", "10.00", ["LTC"])
    assert {line.asset_id: (line.unrealized_pnl, line.realized_pnl) for line in shown.assets} == {"BTC": (Decimal("10.00"), Decimal("12.34")), "LTC": (None, 0)}
    assert asset_balance_of("ETH", account.positions["ETH"], {}, {}).realized_pnl == Decimal("-2.34")


def test_average_cost_is_rounded_up() -> None:
    """A third of a hundred is not less than it cost, and whole prices have the currency's decimals."""
    assert str(average_cost(Position(available=Decimal(3), cost_basis=Decimal(100)))) == "33.33333334"
    assert str(average_cost(Position(available=Decimal(2), cost_basis=Decimal(100)))) == "50.00"


def test_an_empty_portfolio_in_words() -> None:
    """There is something to say about nothing, too."""
    assert "empty" in in_words(portfolio_of(Account("reader"), {}, {}))
