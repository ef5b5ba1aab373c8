"""The rules once more, written in another way: whole cents and exact fractions instead of decimals, one mutable book instead of frozen lines.

What two different ways of writing a rule agree on is more likely to be the rule.
"""

from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from math import ceil, floor

from schemas.requests import Deposit, FenceRequested, LoggedRequest, OrderPlaced, Withdrawal


@dataclass
class Holding:
    """Quantity in units, what it cost and what was earned in cents."""

    quantity: Fraction = Fraction(0)
    cost: int = 0
    realised: int = 0


@dataclass
class Book:
    """One account. `outcomes` has a refusal's code or None for each request so far."""

    cents: int = 0
    holdings: dict[str, Holding] = field(default_factory=dict)
    day: object = None
    moved: dict[str, Fraction] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    clock: datetime | None = None
    outcomes: list[str | None] = field(default_factory=list)

    def take(self, logged: LoggedRequest) -> str | None:
        """Settle one request; the code where it is refused."""
        self.clock = logged.at if self.clock is None else max(self.clock, logged.at)
        if self.clock.date() != self.day:
            self.day, self.moved = self.clock.date(), {"in": Fraction(0), "out": Fraction(0)}
        request = logged.request
        if isinstance(request, Deposit | Withdrawal):
            code = self._move("in" if isinstance(request, Deposit) else "out", Fraction(request.amount), Fraction(request.stamp.day_limit))
        elif isinstance(request, FenceRequested):
            code = None
        else:
            code = self._trade(request, request.client_order_id or f"request/{logged.request_id}")
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
        self.moved[way] += amount
        self.cents += int(cents) if way == "in" else -int(cents)
        return None

    def _trade(self, request: OrderPlaced, name: str) -> str | None:
        facts, quote = request.stamp.asset, request.stamp.quote
        quantity = Fraction(request.quantity)
        value = quantity * Fraction(quote.price) * 100
        fee = ceil(value * facts.fee_bps / 10_000)
        buying = request.order_type == "market_buy"
        held = self.holdings.get(request.asset_id, Holding())
        rules = (
            (request.order_type.startswith("limit"), "order-type-unsupported"),
            (not facts.is_active, "asset-inactive"),
            (self.clock is not None and self.clock > quote.valid_until, "price-expired"),
            ((quantity * 10**facts.quantity_scale).denominator != 1, "validation-failed"),
            (quantity < Fraction(facts.minimum_quantity), "below-minimum"),
            (floor(value) - (0 if buying else fee) <= 0, "below-minimum"),
            (ceil(value) > Fraction(request.stamp.total_max) * 100, "above-maximum"),
            (buying and ceil(value) + fee > self.cents, "insufficient-funds"),
            (not buying and quantity > held.quantity, "insufficient-holdings"),
            (buying and held.quantity + quantity >= 10**20, "above-maximum"),
            (name in self.names, "duplicate-client-order-id"),
        )
        code = next((code for broken, code in rules if broken), None)
        if code:
            return code
        self.names.add(name)
        self.holdings[request.asset_id] = held
        if buying:
            self.cents -= ceil(value) + fee
            held.quantity += quantity
            held.cost += ceil(value) + fee
        else:
            cost = ceil(held.cost * quantity / held.quantity)
            self.cents += floor(value) - fee
            held.quantity -= quantity
            held.cost -= cost
            held.realised += floor(value) - fee - cost
        return None
