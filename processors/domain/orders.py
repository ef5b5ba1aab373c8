"""Orders: what a market buy and a market sale do at the quote that the door stamped.

An order fills whole or is refused. Rounding is against the customer: cost and fee up, proceeds down. A position keeps its cost basis, so
that no average is ever rounded; a sale takes its share of it rounded up, and the last sale takes all that is left.
"""

from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from processors.domain.steps import Step, refuse
from schemas.ledger import Account, CashLine, Order, Position, Posting
from schemas.money import HOME_CURRENCY, ZERO, currency_scale, plain, round_down, round_up, share_up, significant_scale
from schemas.requests import OrderPlaced

_SCALE: Final = currency_scale(HOME_CURRENCY)
_BPS: Final = Decimal("0.0001")


def buy(account: Account, request: OrderPlaced, order_id: str, at: datetime) -> Step:
    """Fill a market buy at its quote, or refuse it."""
    if refused := _check(account, request, at):
        return refused
    price = request.stamp.quote.price
    value = request.quantity * price
    cost = round_up(value, _SCALE)
    fee = _fee(value, request)
    if refused := _check_total(account, request, round_down(value, _SCALE), cost):
        return refused
    line = account.cash.get(HOME_CURRENCY, CashLine())
    if cost + fee > line.available:
        return refuse(account, "insufficient-funds", f"the order costs {_cash(cost + fee)}, {_cash(line.available)} are available", "/quantity")
    position = account.positions.get(request.asset_id) or Position(created_at=at)
    return Step(
        account.counters,
        cash={HOME_CURRENCY: replace(line, available=line.available - cost - fee, updated_at=at)},
        positions={
            request.asset_id: replace(
                position,
                available=position.available + request.quantity,
                cost_basis=position.cost_basis + cost + fee,
                updated_at=at,
            )
        },
        order=_filled(account, request, order_id, at, total=cost, fee=fee),
        postings=(*_legs(request, -cost, request.quantity), *_fee_legs(fee)),
    )


def sell(account: Account, request: OrderPlaced, order_id: str, at: datetime) -> Step:
    """Fill a market sale at its quote, or refuse it."""
    if refused := _check(account, request, at):
        return refused
    value = request.quantity * request.stamp.quote.price
    proceeds = round_down(value, _SCALE)
    fee = _fee(value, request)
    if refused := _check_total(account, request, proceeds - fee, round_up(value, _SCALE)):
        return refused
    position = account.positions.get(request.asset_id) or Position()
    if request.quantity > position.available:
        return refuse(account, "insufficient-holdings", f"{position.available:f} {request.asset_id} are available", "/quantity")
    cost = _cost_of_sale(position, request.quantity)
    line = account.cash.get(HOME_CURRENCY, CashLine())
    return Step(
        account.counters,
        cash={HOME_CURRENCY: replace(line, available=line.available + proceeds - fee, updated_at=at)},
        positions={
            request.asset_id: replace(
                position,
                available=position.available - request.quantity,
                cost_basis=position.cost_basis - cost,
                realised=position.realised + proceeds - fee - cost,
                updated_at=at,
            )
        },
        order=_filled(account, request, order_id, at, total=proceeds, fee=fee),
        postings=(*_legs(request, proceeds, -request.quantity), *_fee_legs(fee)),
    )


def _check(account: Account, request: OrderPlaced, at: datetime) -> Step | None:
    facts, quote = request.stamp.asset, request.stamp.quote
    if not facts.is_active:
        return refuse(account, "asset-inactive", f"{request.asset_id} is not traded", "/asset_id")
    if at > quote.valid_until:
        return refuse(account, "price-expired", "the quote was too old when the order was decided: place it again")
    if request.expires_at is not None and at >= request.expires_at:
        return refuse(account, "validation-failed", "expires_at was not in the future when the order was decided", "/expires_at")
    if significant_scale(request.quantity) > facts.quantity_scale:
        return refuse(account, "validation-failed", f"{request.asset_id} has {facts.quantity_scale} decimals", "/quantity")
    if request.quantity < facts.minimum_quantity:
        return refuse(account, "below-minimum", f"the least quantity of {request.asset_id} is {facts.minimum_quantity:f}", "/quantity")
    return None


def _check_total(account: Account, request: OrderPlaced, least: Decimal, most: Decimal) -> Step | None:
    if least <= ZERO:
        return refuse(account, "below-minimum", f"the order is worth less than the smallest amount of {HOME_CURRENCY}", "/quantity")
    if most > request.stamp.total_max:
        return refuse(account, "above-maximum", f"an order may be worth {_cash(request.stamp.total_max)}", "/quantity")
    return None


def _fee(value: Decimal, request: OrderPlaced) -> Decimal:
    return round_up(value * request.stamp.asset.fee_bps * _BPS, _SCALE)


def _cost_of_sale(position: Position, quantity: Decimal) -> Decimal:
    if quantity == position.quantity:
        return position.cost_basis
    return min(position.cost_basis, share_up(position.cost_basis, quantity, position.quantity, _SCALE))


def _legs(request: OrderPlaced, cash: Decimal, quantity: Decimal) -> tuple[Posting, ...]:
    return (
        Posting("customer", HOME_CURRENCY, cash),
        Posting("market", HOME_CURRENCY, -cash),
        Posting("customer", request.asset_id, quantity),
        Posting("market", request.asset_id, -quantity),
    )


def _fee_legs(fee: Decimal) -> tuple[Posting, ...]:
    return (Posting("customer", HOME_CURRENCY, -fee), Posting("fees", HOME_CURRENCY, fee)) if fee else ()


def _filled(account: Account, request: OrderPlaced, order_id: str, at: datetime, *, total: Decimal, fee: Decimal) -> Order:
    quote = request.stamp.quote
    return Order(
        order_id=order_id,
        asset_id=request.asset_id,
        order_type=request.order_type,
        quantity=request.quantity,
        status="completed",
        created_version=account.version + 1,
        created_at=at,
        updated_at=at,
        quote_price=quote.price,
        quote_sequence=quote.sequence,
        fee_bps=request.stamp.asset.fee_bps,
        filled_quantity=request.quantity,
        average_price=quote.price,
        total_amount=total,
        fee=fee,
        client_order_id=request.client_order_id,
        time_in_force=request.time_in_force,
        expires_at=request.expires_at,
    )


def _cash(amount: Decimal) -> str:
    return f"{plain(round_down(amount, _SCALE))} {HOME_CURRENCY}"
