"""Orders: how one is placed, filled, cancelled and expired.

An order fills whole or waits. One with a price that the market has reached fills at the market's price, which is never worse than its own; else it
stays open, and what it may cost is held. A fill releases the whole hold first and then pays, so that what it did not need is free again.
Rounding is against the customer: cost, fee and hold up, proceeds down. A position keeps its cost basis, so that no average is ever rounded; a sale
takes its share of it rounded up, and the last sale takes all that is left.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from processors.domain.steps import Step, bounded, pair, refuse
from schemas.ledger import Account, CashLine, CloseReason, Counters, Order, OrderStatus, Position, Posting
from schemas.money import HOME_CURRENCY, ZERO, currency_scale, plain, round_down, round_up, share_up, significant_scale
from schemas.requests import DUE_SIDES, DueSide, OrderPlaced, OrderTriggered

OPEN_ORDERS_MAX: Final = 1_000
"""Open orders of one account."""
_AT_ONCE: Final = ("ioc", "fok")
"""Fill now or not at all. They are the same here, since an order fills whole."""
_SCALE: Final = currency_scale(HOME_CURRENCY)
_BPS: Final = Decimal("0.0001")
_DAY: Final = timedelta(days=1)
_CLOSED_BY_FILL: Final[dict[str, CloseReason]] = {"below-minimum": "below-minimum", "above-maximum": "above-maximum"}


class WrongHold(RuntimeError):
    """What an order held does not suffice for its fill: a bug, never a user's mistake."""


def place(account: Account, request: OrderPlaced, order_id: str, at: datetime) -> Step:
    """Fill the order at its quote, or leave it open with its hold, or refuse it."""
    quote = request.stamp.quote
    good = at <= quote.valid_until
    at_once = request.order_type not in DUE_SIDES or request.time_in_force in _AT_ONCE
    if refused := _check(account, request, at):
        return refused
    if at_once and not good:
        return refuse(account, "price-expired", "the quote was too old when the order was decided: place it again")
    order = _placed(account, request, order_id, at)
    if good and is_due(order, quote.price):
        return fill(account, order, quote.price, at, total_max=request.stamp.total_max)
    if refused := _check_worth(account, order, request.stamp.total_max):
        return refused
    if at_once:
        return _closed(account, replace(order, status="cancelled", reason="unmarketable"))
    return _opened(account, order, at)


def trigger(account: Account, order: Order, request: OrderTriggered, at: datetime) -> Step | None:
    """Fill an open order that is due at the price; None where it is not open, not due, or placed when that price was known already.

    One whose time has ended meanwhile expires instead; one whose fill would come to nothing, or to more than an account can hold, is cancelled.
    """
    is_older = request.sequence <= order.quote_sequence or request.priced_at < order.created_at
    if order.status != "open" or is_older or not is_due(order, request.price):
        return None
    if is_over(order, at):
        return close(account, order, "expired", at)
    filled = fill(account, order, request.price, at)
    if filled.refusal is None:
        return filled
    reason = _CLOSED_BY_FILL.get(filled.refusal.code)
    if reason is None:
        raise WrongHold(f"{order.order_id}: {filled.refusal.code}")
    return close(account, order, "cancelled", at, reason)


def close(account: Account, order: Order, status: OrderStatus, at: datetime, reason: CloseReason | None = None) -> Step:
    """Cancel or expire an open order: what it held is free again."""
    done = replace(order, status=status, reason=reason, held=ZERO, updated_at=at, updated_version=account.version + 1)
    if order.is_buy:
        line = _cash(account)
        return _closed(account, done, order.held, HOME_CURRENCY, cash={HOME_CURRENCY: replace(_free(line, order.held), updated_at=at)})
    position = account.positions[order.asset_id]
    return _closed(account, done, order.held, order.asset_id, positions={order.asset_id: replace(_freed(position, order.held), updated_at=at)})


def fill(account: Account, order: Order, price: Decimal, at: datetime, *, total_max: Decimal | None = None) -> Step:
    """Fill an order, new or open, at the market's price; a refusal where that cannot be. `total_max` bounds what a new one may be worth."""
    step = _buy(account, order, price, at, total_max) if order.is_buy else _sell(account, order, price, at, total_max)
    return bounded(account, step)


def is_due(order: Order, price: Decimal) -> bool:
    """Whether an order fills at a price of the market. One without a price of its own always does."""
    if order.price is None:
        return True
    return has_reached(DUE_SIDES[order.order_type], order.price, price)


def has_reached(side: DueSide, own: Decimal, price: Decimal) -> bool:
    """Whether the market has fallen, or risen, to an order's own price."""
    return price <= own if side == "falls" else price >= own


def is_over(order: Order, at: datetime) -> bool:
    """Whether an order's time has ended."""
    return order.expires_at is not None and at >= order.expires_at


def _buy(account: Account, order: Order, price: Decimal, at: datetime, total_max: Decimal | None) -> Step:
    value = order.quantity * price
    cost, fee = round_up(value, _SCALE), _fee(value, order)
    if refused := _check_total(account, round_down(value, _SCALE), cost, total_max):
        return refused
    line = _free(_cash(account), order.held)
    if cost + fee > line.available:
        return refuse(account, "insufficient-funds", f"the order costs {_money(cost + fee)}, {_money(line.available)} are available", "/quantity")
    position = account.positions.get(order.asset_id) or Position(created_at=at)
    return Step(
        _counted(account, order),
        cash={HOME_CURRENCY: replace(line, available=line.available - cost - fee, updated_at=at)},
        positions={
            order.asset_id: replace(
                position,
                available=position.available + order.quantity,
                cost_basis=position.cost_basis + cost + fee,
                updated_at=at,
            )
        },
        order=_filled(account, order, price, at, total=cost, fee=fee),
        postings=(*_release(order.held, HOME_CURRENCY), *_trade(order, -cost, order.quantity), *pair(HOME_CURRENCY, -fee, "fees")),
    )


def _sell(account: Account, order: Order, price: Decimal, at: datetime, total_max: Decimal | None) -> Step:
    value = order.quantity * price
    proceeds, fee = round_down(value, _SCALE), _fee(value, order)
    if refused := _check_total(account, proceeds - fee, round_up(value, _SCALE), total_max):
        return refused
    position = _freed(account.positions.get(order.asset_id) or Position(), order.held)
    if order.quantity > position.available:
        return refuse(account, "insufficient-holdings", f"{position.available:f} {order.asset_id} are available", "/quantity")
    cost = _cost_of_sale(position, order.quantity)
    line = _cash(account)
    return Step(
        _counted(account, order),
        cash={HOME_CURRENCY: replace(line, available=line.available + proceeds - fee, updated_at=at)},
        positions={
            order.asset_id: replace(
                position,
                available=position.available - order.quantity,
                cost_basis=position.cost_basis - cost,
                realised=position.realised + proceeds - fee - cost,
                updated_at=at,
            )
        },
        order=_filled(account, order, price, at, total=proceeds, fee=fee),
        postings=(*_release(order.held, order.asset_id), *_trade(order, proceeds, -order.quantity), *pair(HOME_CURRENCY, -fee, "fees")),
    )


def _check_worth(account: Account, order: Order, total_max: Decimal) -> Step | None:
    """The bounds on what an order is worth at its own price."""
    value = order.quantity * (order.price or ZERO)
    least = round_down(value, _SCALE) - (ZERO if order.is_buy else _fee(value, order))
    return _check_total(account, least, round_up(value, _SCALE), total_max)


def _opened(account: Account, order: Order, at: datetime) -> Step:
    """The order waits, and holds what its fill may take; refused where that is not there."""
    if account.counters.open_orders >= OPEN_ORDERS_MAX:
        return refuse(account, "too-many-open-orders", f"an account may have {OPEN_ORDERS_MAX} open orders: cancel one first")
    if order.is_buy:
        value = order.quantity * (order.price or ZERO)
        return _holding_cash(account, order, round_up(value, _SCALE) + _fee(value, order), at)
    return _holding_asset(account, order, at)


def _holding_cash(account: Account, order: Order, held: Decimal, at: datetime) -> Step:
    line = _cash(account)
    if held > line.available:
        return refuse(account, "insufficient-funds", f"the order may cost {_money(held)}, {_money(line.available)} are available", "/quantity")
    return Step(
        replace(account.counters, open_orders=account.counters.open_orders + 1),
        cash={HOME_CURRENCY: replace(_free(line, -held), updated_at=at)},
        order=replace(order, held=held),
        postings=pair(HOME_CURRENCY, -held, "held"),
    )


def _holding_asset(account: Account, order: Order, at: datetime) -> Step:
    position = account.positions.get(order.asset_id) or Position()
    if order.quantity > position.available:
        return refuse(account, "insufficient-holdings", f"{position.available:f} {order.asset_id} are available", "/quantity")
    return Step(
        replace(account.counters, open_orders=account.counters.open_orders + 1),
        positions={order.asset_id: replace(_freed(position, -order.quantity), updated_at=at)},
        order=replace(order, held=order.quantity),
        postings=pair(order.asset_id, -order.quantity, "held"),
    )


def _closed(
    account: Account,
    order: Order,
    released: Decimal = ZERO,
    unit: str = HOME_CURRENCY,
    *,
    cash: dict[str, CashLine] | None = None,
    positions: dict[str, Position] | None = None,
) -> Step:
    counters = replace(account.counters, open_orders=account.counters.open_orders - 1) if released else account.counters
    return Step(counters, cash=cash, positions=positions, order=order, postings=_release(released, unit))


def _check(account: Account, request: OrderPlaced, at: datetime) -> Step | None:
    facts = request.stamp.asset
    if not facts.is_active:
        return refuse(account, "asset-inactive", f"{request.asset_id} is not traded", "/asset_id")
    if request.expires_at is not None and at >= request.expires_at:
        return refuse(account, "validation-failed", "expires_at was not in the future when the order was decided", "/expires_at")
    if (request.price is None) == (request.order_type in DUE_SIDES):
        rule = "takes no price" if request.price else "needs a price"
        return refuse(account, "validation-failed", f"an order of type {request.order_type} {rule}", "/price")
    if significant_scale(request.quantity) > facts.quantity_scale:
        return refuse(account, "validation-failed", f"{request.asset_id} has {facts.quantity_scale} decimals", "/quantity")
    if request.quantity < facts.minimum_quantity:
        return refuse(account, "below-minimum", f"the least quantity of {request.asset_id} is {facts.minimum_quantity:f}", "/quantity")
    return None


def _check_total(account: Account, least: Decimal, most: Decimal, total_max: Decimal | None) -> Step | None:
    if least <= ZERO:
        return refuse(account, "below-minimum", f"the order is worth less than the smallest amount of {HOME_CURRENCY}", "/quantity")
    if total_max is not None and most > total_max:
        return refuse(account, "above-maximum", f"an order may be worth {_money(total_max)}", "/quantity")
    return None


def _fee(value: Decimal, order: Order) -> Decimal:
    return round_up(value * order.fee_bps * _BPS, _SCALE)


def _cost_of_sale(position: Position, quantity: Decimal) -> Decimal:
    if quantity == position.quantity:
        return position.cost_basis
    return min(position.cost_basis, share_up(position.cost_basis, quantity, position.quantity, _SCALE))


def _cash(account: Account) -> CashLine:
    return account.cash.get(HOME_CURRENCY) or CashLine()


def _free(line: CashLine, released: Decimal) -> CashLine:
    """The line with so much less held; of less than nothing: with more held."""
    return replace(line, available=line.available + released, held=line.held - released) if released else line


def _freed(position: Position, released: Decimal) -> Position:
    """The same of a position."""
    return replace(position, available=position.available + released, held=position.held - released) if released else position


def _release(held: Decimal, unit: str) -> tuple[Posting, ...]:
    return pair(unit, held, "held")


def _trade(order: Order, cash: Decimal, quantity: Decimal) -> tuple[Posting, ...]:
    return (*pair(HOME_CURRENCY, cash, "market"), *pair(order.asset_id, quantity, "market"))


def _counted(account: Account, order: Order) -> Counters:
    """The counters after an order's fill: one that was open is not any more."""
    return replace(account.counters, open_orders=account.counters.open_orders - 1) if order.held else account.counters


def _placed(account: Account, request: OrderPlaced, order_id: str, at: datetime) -> Order:
    """The order as it is before anything has become of it."""
    quote = request.stamp.quote
    return Order(
        order_id=order_id,
        asset_id=request.asset_id,
        order_type=request.order_type,
        quantity=request.quantity,
        status="open",
        created_version=account.version + 1,
        created_at=at,
        updated_at=at,
        quote_price=quote.price,
        quote_sequence=quote.sequence,
        fee_bps=request.stamp.asset.fee_bps,
        price=request.price,
        total_amount=_worth(request),
        client_order_id=request.client_order_id,
        time_in_force=request.time_in_force,
        expires_at=_end_of_day(at) if request.time_in_force == "day" and request.price is not None else request.expires_at,
        updated_version=account.version + 1,
    )


def _worth(request: OrderPlaced) -> Decimal:
    """What an order is worth at its own price."""
    value = request.quantity * (request.price or ZERO)
    return round_up(value, _SCALE) if request.order_type.endswith("buy") else round_down(value, _SCALE)


def _filled(account: Account, order: Order, price: Decimal, at: datetime, *, total: Decimal, fee: Decimal) -> Order:
    return replace(
        order,
        status="completed",
        updated_at=at,
        updated_version=account.version + 1,
        filled_quantity=order.quantity,
        average_price=price,
        total_amount=total,
        fee=fee,
        held=ZERO,
    )


def _end_of_day(at: datetime) -> datetime:
    """The next 00:00 UTC after a time."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY


def _money(amount: Decimal) -> str:
    return f"{plain(round_down(amount, _SCALE))} {HOME_CURRENCY}"
