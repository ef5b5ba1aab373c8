"""The rules once more, written in another way: whole cents and exact fractions instead of decimals, one mutable book instead of frozen lines.

What two different ways of writing a rule agree on is more likely to be the rule.
"""

from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from fractions import Fraction
from math import ceil, floor

from schemas.requests import (
    Deposit,
    FenceRequested,
    LoggedRequest,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderTriggered,
    Withdrawal,
    order_id,
)

FALLS = ("limit_buy", "stop_loss_sell")
RISES = ("limit_sell", "take_profit_sell")
OPEN_MAX = 1_000
TOO_LARGE = 10**20


@dataclass
class Holding:
    """Quantity in units, free and held; what it cost and what was earned in cents."""

    quantity: Fraction = Fraction(0)
    held: Fraction = Fraction(0)
    cost: int = 0
    realised: int = 0


@dataclass
class Waiting:
    """An order. `hold` is in cents for a buy, in units for a sale."""

    asset: str
    kind: str
    quantity: Fraction
    price: Fraction | None
    sequence: int
    placed: datetime
    bps: int
    ends: datetime | None
    status: str = "open"
    hold: Fraction = Fraction(0)
    paid: int = 0
    fee: int = 0
    reason: str | None = None

    @property
    def buys(self) -> bool:
        return self.kind.endswith("buy")

    def due(self, price: Fraction) -> bool:
        return self.price is None or (price <= self.price if self.kind in FALLS else price >= self.price)

    def over(self, now: datetime) -> bool:
        return self.ends is not None and now >= self.ends

    def at(self, price: Fraction) -> tuple[Fraction, int]:
        """Its value in cents at a price, and the fee on it."""
        value = self.quantity * price * 100
        return value, ceil(value * self.bps / 10_000)


@dataclass
class Book:
    """One account. `outcomes` has a refusal's code or None for each request so far; `passed` tells that the last one was from inside and found nothing."""

    cents: int = 0
    held_cents: int = 0
    holdings: dict[str, Holding] = field(default_factory=dict)
    orders: dict[str, Waiting] = field(default_factory=dict)
    day: object = None
    moved: dict[str, Fraction] = field(default_factory=dict)
    clock: datetime | None = None
    outcomes: list[str | None] = field(default_factory=list)
    passed: bool = False

    def take(self, logged: LoggedRequest) -> str | None:
        """Settle one request; the code where it is refused."""
        request, before = logged.request, (self.clock, self.day, self.moved)
        self.clock = logged.at if self.clock is None else max(self.clock, logged.at)
        if self.clock.date() != self.day:
            self.day, self.moved = self.clock.date(), {"in": Fraction(0), "out": Fraction(0)}
        self.passed, code = False, None
        match request:
            case Deposit():
                code = self._move("in", Fraction(request.amount), Fraction(request.stamp.day_limit))
            case Withdrawal():
                code = self._move("out", Fraction(request.amount), Fraction(request.stamp.day_limit))
            case OrderPlaced():
                code = self._place(request, order_id(request.username, request.client_order_id or f"request/{logged.request_id}"))
            case OrderCancelRequested():
                code = self._cancel(self.orders.get(request.order_id))
            case OrderTriggered() | OrderExpiryReached() | OrderRevoked():
                self.passed = not self._inside(request, self.orders.get(request.order_id), logged.at)
            case FenceRequested():
                pass
            case _:
                raise TypeError(type(request).__name__)
        if self.passed:
            self.clock, self.day, self.moved = before
        self.outcomes.append(code)
        return code

    def _move(self, way: str, amount: Fraction, limit: Fraction) -> str | None:
        cents = amount * 100
        if cents.denominator != 1:
            return "validation-failed"
        if self.moved[way] + amount > limit:
            return "limit-exceeded"
        if way == "out" and cents > self.cents:
            return "insufficient-funds"
        if way == "in" and self.cents + self.held_cents + cents >= TOO_LARGE * 100:
            return "above-maximum"
        self.moved = {**self.moved, way: self.moved[way] + amount}
        self.cents += int(cents) if way == "in" else -int(cents)
        return None

    def _place(self, request: OrderPlaced, name: str) -> str | None:
        facts, quote = request.stamp.asset, request.stamp.quote
        assert self.clock is not None
        quantity, price = Fraction(request.quantity), Fraction(quote.price)
        limit = None if request.price is None else Fraction(request.price)
        waits = request.order_type in FALLS + RISES
        late = self.clock > quote.valid_until
        now_or_never = not waits or request.time_in_force in ("ioc", "fok")
        ends = request.expires_at
        if request.time_in_force == "day" and limit is not None:
            ends = datetime.combine(self.clock.date() + timedelta(days=1), time(), self.clock.tzinfo)
        rules = (
            (not facts.is_active, "asset-inactive"),
            (request.expires_at is not None and self.clock >= request.expires_at, "validation-failed"),
            (waits != (limit is not None), "validation-failed"),
            ((quantity * 10**facts.quantity_scale).denominator != 1, "validation-failed"),
            (quantity < Fraction(facts.minimum_quantity), "below-minimum"),
            (now_or_never and late, "price-expired"),
        )
        if code := _first(rules):
            return code
        order = Waiting(request.asset_id, request.order_type, quantity, limit, quote.sequence, self.clock, facts.fee_bps, ends)
        due = not late and order.due(price)
        most = Fraction(request.stamp.total_max) * 100
        if not due and now_or_never:
            order.status, order.reason = "cancelled", "unmarketable"
        code = self._fill(order, price, most, dry=True) if due else self._hold(order, most, dry=True)
        if code or name in self.orders:
            return code or "duplicate-client-order-id"
        self.orders[name] = order
        if due:
            self._fill(order, price, most)
        elif order.status == "open":
            self._hold(order, most)
        return None

    def _hold(self, order: Waiting, most: Fraction, *, dry: bool = False) -> str | None:
        """Let it wait. One that may not wait is held to what it is worth alone."""
        assert order.price is not None
        value, fee = order.at(order.price)
        holding = self.holdings.get(order.asset, Holding())
        rules = (
            (floor(value) - (0 if order.buys else fee) <= 0, "below-minimum"),
            (ceil(value) > most, "above-maximum"),
            (order.status == "open" and sum(other.status == "open" for other in self.orders.values()) >= OPEN_MAX, "too-many-open-orders"),
            (order.status == "open" and order.buys and ceil(value) + fee > self.cents, "insufficient-funds"),
            (order.status == "open" and not order.buys and order.quantity > holding.quantity, "insufficient-holdings"),
        )
        code = _first(rules)
        if code or dry:
            return code
        order.hold = Fraction(ceil(value) + fee) if order.buys else order.quantity
        self._release(order, -1)
        return None

    def _release(self, order: Waiting, sign: int = 1) -> None:
        """What it holds is free again; with a sign of -1, free no more."""
        if order.buys:
            self.cents += sign * int(order.hold)
            self.held_cents -= sign * int(order.hold)
        elif order.hold:
            self.holdings[order.asset].quantity += sign * order.hold
            self.holdings[order.asset].held -= sign * order.hold

    def _fill(self, order: Waiting, price: Fraction, most: Fraction | None, *, dry: bool = False) -> str | None:
        value, fee = order.at(price)
        had = self.holdings.get(order.asset, Holding())
        cents = self.cents + (int(order.hold) if order.buys else 0)
        units = had.quantity + (0 if order.buys else order.hold)
        whole = had.quantity + had.held
        cost = 0 if order.buys or not whole else ceil(had.cost * order.quantity / whole)
        profit = floor(value) - fee - cost
        rules = (
            (floor(value) - (0 if order.buys else fee) <= 0, "below-minimum"),
            (most is not None and ceil(value) > most, "above-maximum"),
            (order.buys and ceil(value) + fee > cents, "insufficient-funds"),
            (not order.buys and order.quantity > units, "insufficient-holdings"),
            (order.buys and (whole + order.quantity >= TOO_LARGE or had.cost + ceil(value) + fee >= TOO_LARGE * 100), "above-maximum"),
            (not order.buys and self.cents + self.held_cents + floor(value) - fee >= TOO_LARGE * 100, "above-maximum"),
            (not order.buys and abs(had.realised + profit) >= TOO_LARGE * 100, "above-maximum"),
        )
        code = _first(rules)
        if code or dry:
            return code
        had = self.holdings.setdefault(order.asset, had)
        self._release(order)
        order.hold, order.status, order.fee = Fraction(0), "completed", fee
        if order.buys:
            order.paid = ceil(value)
            self.cents -= ceil(value) + fee
            had.quantity += order.quantity
            had.cost += ceil(value) + fee
        else:
            order.paid = floor(value)
            self.cents += floor(value) - fee
            had.quantity -= order.quantity
            had.cost -= cost
            had.realised += profit
        return None

    def _close(self, order: Waiting, status: str, reason: str | None = None) -> None:
        self._release(order)
        order.hold, order.status, order.reason = Fraction(0), status, reason

    def _cancel(self, order: Waiting | None) -> str | None:
        assert self.clock is not None
        if order is None:
            return "not-found"
        if order.status != "open":
            return "order-not-open"
        if order.over(self.clock):
            self._close(order, "expired")
        else:
            self._close(order, "cancelled", "requested")
        return None

    def _inside(self, request: OrderTriggered | OrderExpiryReached | OrderRevoked, order: Waiting | None, appended: datetime) -> bool:
        """Whether it found something to do."""
        if order is None or order.status != "open":
            return False
        assert self.clock is not None
        acts = isinstance(request, OrderRevoked) or (
            isinstance(request, OrderTriggered)
            and request.sequence > order.sequence
            and request.priced_at >= order.placed
            and order.due(Fraction(request.price))
        )
        if order.over(self.clock if acts else appended):
            self._close(order, "expired")
        elif isinstance(request, OrderRevoked):
            self._close(order, "cancelled", request.reason)
        elif isinstance(request, OrderTriggered) and acts:
            code = self._fill(order, Fraction(request.price), None)
            if code:
                self._close(order, "cancelled", code)
        else:
            return False
        return True


def _first(rules: tuple[tuple[bool, str], ...]) -> str | None:
    return next((code for broken, code in rules if broken), None)
