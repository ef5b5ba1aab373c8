"""What holdings are worth: pure functions from an account and prices to the answers that show them.

A price that is missing leaves its asset out of the sums, and is told; nothing here fails for want of one. Values are exact up to the
point where they are shown, and are rounded down there, as everything is that a customer has.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final

from schemas.ledger import Account, CashLine, Position
from schemas.market import Asset, PriceChanged
from schemas.money import HOME_CURRENCY, ZERO, currency_scale, exact, in_currency, round_down, share_down, share_up, trimmed
from schemas.rows import last_change, shown_price
from schemas.views import AssetBalance, Holding, Portfolio, Summary

PERCENT_SCALE: Final = 2
_HUNDRED_PERCENT: Final = 100 * 10**PERCENT_SCALE
AVERAGE_COST_SCALE: Final = 8
"""Decimals of an average cost: more than the currency has, since one unit of a cheap asset costs less than a cent."""

Prices = Mapping[str, PriceChanged]
Assets = Mapping[str, Asset]


@exact
def portfolio_of(account: Account, prices: Prices, assets: Assets) -> Portfolio:
    """Holdings above zero, the most valuable first and those without a price last, with the totals."""
    held = {asset_id: position for asset_id, position in account.positions.items() if position.quantity > ZERO}
    values = {asset_id: position.quantity * prices[asset_id].price for asset_id, position in held.items() if asset_id in prices}
    shares = percentages(values)
    order = sorted(held, key=lambda asset_id: (asset_id not in values, -values.get(asset_id, ZERO), asset_id))
    holdings = [_holding(asset_id, held[asset_id], prices.get(asset_id), assets, shares.get(asset_id)) for asset_id in order]
    return Portfolio(**_totals(account, held, values, prices), assets=holdings)


@exact
def summary_of(account: Account, prices: Prices) -> Summary:
    """The totals alone."""
    held = {asset_id: position for asset_id, position in account.positions.items() if position.quantity > ZERO}
    values = {asset_id: position.quantity * prices[asset_id].price for asset_id, position in held.items() if asset_id in prices}
    return Summary(**_totals(account, held, values, prices))


@exact
def asset_balance_of(asset_id: str, position: Position, prices: Prices, assets: Assets) -> AssetBalance:
    """One holding, also one of nothing any more."""
    price = prices.get(asset_id)
    return AssetBalance(
        asset_id=asset_id,
        asset_name=_name(asset_id, assets),
        quantity=trimmed(position.quantity),
        held_quantity=trimmed(position.held),
        average_cost=average_cost(position),
        realized_pnl=in_cents(position.realised),
        current_price=price.price if price else None,
        total_value=position.quantity * price.price if price else None,
        created_at=position.created_at,
        updated_at=position.updated_at,
    )


@exact
def percentages(values: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """Shares of a sum in per cent with two decimals, which add up to exactly 100 (largest remainder). None at all where the sum is zero."""
    total = sum(values.values(), ZERO)
    if total <= ZERO:
        return {}
    floors = {name: share_down(value, Decimal(_HUNDRED_PERCENT), total, 0) for name, value in values.items()}
    left = _HUNDRED_PERCENT - int(sum(floors.values()))
    by_remainder = sorted(values, key=lambda name: (floors[name] * total - values[name] * _HUNDRED_PERCENT, name))
    for name in by_remainder[:left]:
        floors[name] += 1
    return {name: floor.scaleb(-PERCENT_SCALE) for name, floor in floors.items()}


@exact
def average_cost(position: Position) -> Decimal | None:
    """What one unit cost, rounded up; None where nothing is held."""
    if position.quantity <= ZERO:
        return None
    return shown_price(share_up(position.cost_basis, Decimal(1), position.quantity, AVERAGE_COST_SCALE))


def in_cents(value: Decimal) -> Decimal:
    """A value as it is shown: rounded down to the home currency's smallest unit."""
    return round_down(value, currency_scale(HOME_CURRENCY))


def _holding(asset_id: str, position: Position, price: PriceChanged | None, assets: Assets, share: Decimal | None) -> Holding:
    value = position.quantity * price.price if price else None
    return Holding(
        asset_id=asset_id,
        asset_name=_name(asset_id, assets),
        quantity=trimmed(position.quantity),
        held_quantity=trimmed(position.held),
        current_price=shown_price(price.price) if price else None,
        market_value=in_cents(value) if value is not None else None,
        percentage=share,
        average_cost=average_cost(position),
        unrealized_pnl=in_cents(value - position.cost_basis) if value is not None else None,
        realized_pnl=in_cents(position.realised),
    )


def _totals(account: Account, held: Mapping[str, Position], values: Mapping[str, Decimal], prices: Prices) -> dict[str, object]:
    cash = account.cash.get(HOME_CURRENCY, CashLine())
    worth = in_cents(sum(values.values(), ZERO))
    lines: list[CashLine | Position] = [*account.cash.values(), *account.positions.values()]
    return {
        "cash_balance": in_currency(cash.available, HOME_CURRENCY),
        "held_cash": in_currency(cash.held, HOME_CURRENCY),
        "total_asset_value": worth,
        "total_portfolio_value": in_currency(cash.available + cash.held + worth, HOME_CURRENCY),
        "unrealized_pnl": in_cents(sum((value - held[asset_id].cost_basis for asset_id, value in values.items()), ZERO)),
        "realized_pnl": in_cents(sum((position.realised for position in account.positions.values()), ZERO)),
        "currency": HOME_CURRENCY,
        "unpriced_assets": sorted(held.keys() - values.keys()),
        "prices_as_of": _oldest(prices[asset_id] for asset_id in values),
        "last_updated": last_change(lines),
        "version": account.version,
        "status": account.status,
    }


def _oldest(prices: Iterable[PriceChanged]) -> object:
    return min((price.at for price in prices), default=None)


def _name(asset_id: str, assets: Assets) -> str:
    return assets[asset_id].name if asset_id in assets else asset_id
