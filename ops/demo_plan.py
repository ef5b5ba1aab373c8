"""What the demo's users do, and what must become of each step: drawn from a seed, so that a run can be repeated.

A step that is to be refused is refused for one reason only, whatever the fees and however prices move a little meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final, TypeVar

T = TypeVar("T")

SETTLED: Final = "settled"
DEPOSIT: Final = Decimal(250_000)
REFUSED_PERCENT: Final = 8
SELL_PERCENT: Final = 40
WITHDRAWAL_EACH: Final = 25
"""After so many orders a user takes out some cash; the last time too much."""
ORDER_VALUE_MIN, ORDER_VALUE_MAX = 20, 2_000
UNAFFORDABLE: Final = Decimal(9_000_000)
"""Value of an order that no user can pay, and that is under the largest order's."""
SAFETY: Final = Decimal("0.9")
"""Part of the counted cash that is relied on: fees and moving prices may have taken of it."""
TINY: Final = "0.00000001"
HALVED_FROM: Final = Decimal(100)
_NO_SUCH_ASSET: Final = "NOSUCH0"


@dataclass(frozen=True, slots=True)
class Listed:
    """What the inventory tells of an asset. `price` is of one unit."""

    asset_id: str
    price: Decimal
    is_active: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One request, and its outcome: `settled` or the code of its refusal."""

    path: str
    body: dict[str, Any]
    expected: str = SETTLED

    @property
    def kind(self) -> str:
        """deposit, withdraw, or the order's type."""
        return str(self.body.get("order_type") or self.path.rsplit("/", 1)[-1])


class Chance:
    """Draws from a seed: the same ones on every machine and with every release of Python."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn = 0

    def below(self, bound: int) -> int:
        """A whole number from 0 to below the bound."""
        self._drawn += 1
        return int.from_bytes(sha256(f"{self._seed} {self._drawn}".encode()).digest()) % bound

    def percent(self, share: int) -> bool:
        """True in so many of a hundred cases."""
        return self.below(100) < share

    def one_of(self, things: Sequence[T]) -> T:
        """One of them."""
        return things[self.below(len(things))]


@dataclass(slots=True)
class _Trader:
    """One user as the plan believes it to stand."""

    market: Sequence[Listed]
    inactive: Sequence[Listed]
    chance: Chance
    cash: Decimal = Decimal(0)
    holdings: dict[str, Decimal] = field(default_factory=dict)

    def deposit(self) -> Step:
        amount = DEPOSIT + Decimal(self.chance.below(100_000)) / 100
        self.cash += amount
        return Step("/balance/deposit", {"amount": str(amount)})

    def withdraw(self, *, too_much: bool) -> Step:
        if too_much:
            return Step("/balance/withdraw", {"amount": "999999.99"}, "insufficient-funds")
        amount = Decimal(100 + self.chance.below(9_900)) / 100
        self.cash -= amount
        return Step("/balance/withdraw", {"amount": str(amount)})

    def order(self) -> Step:
        if self.chance.percent(REFUSED_PERCENT):
            return self.refused()
        if self.holdings and self.chance.percent(SELL_PERCENT):
            return self.sell()
        return self.buy()

    def buy(self) -> Step:
        asset = self.chance.one_of(self.market)
        quantity = _quantity(asset, Decimal(ORDER_VALUE_MIN + self.chance.below(ORDER_VALUE_MAX - ORDER_VALUE_MIN)))
        self.cash -= quantity * asset.price
        self.holdings[asset.asset_id] = self.holdings.get(asset.asset_id, Decimal(0)) + quantity
        return _order("market_buy", asset.asset_id, quantity)

    def sell(self) -> Step:
        asset_id = self.chance.one_of(sorted(self.holdings))
        asset = next(listed for listed in self.market if listed.asset_id == asset_id)
        held = self.holdings.pop(asset_id)
        half = _quantity(asset, held * asset.price / 2)
        sold = half if half < held and held * asset.price > HALVED_FROM and self.chance.percent(SELL_PERCENT) else held
        if sold < held:
            self.holdings[asset_id] = held - sold
        self.cash += sold * asset.price * SAFETY
        return _order("market_sell", asset_id, sold)

    def refused(self) -> Step:
        asset = self.chance.one_of(self.market)
        dearest = max(self.market, key=lambda listed: listed.price)
        steps = [
            _order("market_buy", asset.asset_id, _quantity(asset, UNAFFORDABLE), "insufficient-funds"),
            _order("market_sell", asset.asset_id, self.holdings.get(asset.asset_id, Decimal(0)) + _quantity(asset, Decimal(100)), "insufficient-holdings"),
            _order("market_buy", _NO_SUCH_ASSET, Decimal(1), "unknown-asset"),
            Step("/orders", {"asset_id": dearest.asset_id, "order_type": "market_buy", "quantity": TINY}, "below-minimum"),
        ]
        if self.inactive:
            steps.append(_order("market_buy", self.chance.one_of(self.inactive).asset_id, Decimal(1), "asset-inactive"))
        return self.chance.one_of(steps)


def plan(market: Sequence[Listed], *, users: int, orders: int, seed: int) -> list[list[Step]]:
    """The steps of each user, to be taken in their order: `orders` orders in all, and deposits and withdrawals beside them."""
    active, inactive = [listed for listed in market if listed.is_active], [listed for listed in market if not listed.is_active]
    chance = Chance(seed)
    shares = [orders // users + (user < orders % users) for user in range(users)]
    return [_steps(_Trader(active, inactive, chance), share) for share in shares]


def _steps(trader: _Trader, orders: int) -> list[Step]:
    steps = [trader.deposit()]
    for count in range(1, orders + 1):
        if trader.cash * SAFETY < ORDER_VALUE_MAX * 2:
            steps.append(trader.deposit())
        steps.append(trader.order())
        if count % WITHDRAWAL_EACH == 0:
            steps.append(trader.withdraw(too_much=count + WITHDRAWAL_EACH > orders))
    return steps


def _order(order_type: str, asset_id: str, quantity: Decimal, expected: str = SETTLED) -> Step:
    return Step("/orders", {"asset_id": asset_id, "order_type": order_type, "quantity": f"{quantity:f}"}, expected)


def _quantity(asset: Listed, value: Decimal) -> Decimal:
    """About so much value, with few decimals: every asset takes 5 of them where a unit is dear, 2 where it costs a thousandth or more, none below."""
    decimals = 5 if asset.price >= 1000 else 2 if asset.price >= Decimal("0.001") else 0  # noqa: PLR2004 - as told
    step = Decimal((0, (1,), -decimals))
    return max(step, (value / asset.price).quantize(step))
