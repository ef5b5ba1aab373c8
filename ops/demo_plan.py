"""What the demo's users do, and what must become of each step: drawn from a seed, so that a run can be repeated.

Every outcome is the one named here whatever the fees, and however the prices move meanwhile, as long as none rises by more than a third or falls by
more than half during a run. An order that is to wait names a tenth or ten times the price, one that is to be filled at once twice or a tenth of it;
cash is counted carefully; and a step that is to be refused is refused for one reason only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final, TypeVar

from schemas.ledger import OrderStatus
from schemas.requests import OrderType, order_id

T = TypeVar("T")

SETTLED: Final = "settled"
COMPLETED: Final[OrderStatus] = "completed"
OPEN: Final[OrderStatus] = "open"
CANCELLED: Final[OrderStatus] = "cancelled"
DEPOSIT: Final = Decimal(250_000)
REFUSED_PERCENT: Final = 8
PRICED_PERCENT: Final = 30
"""Orders with a price of their own."""
SELL_PERCENT: Final = 40
CANCEL_PERCENT: Final = 10
"""After so many of a hundred orders one that waits is cancelled."""
WITHDRAWAL_EACH: Final = 25
"""After so many orders a user takes out some cash; the last time too much."""
ORDER_VALUE_MIN, ORDER_VALUE_MAX = 20, 2_000
CASH_MIN: Final = 2 * ORDER_VALUE_MAX
"""With less than this a user deposits before the next order."""
UNAFFORDABLE: Final = Decimal(3_000_000)
"""Value of an order that no user can pay, and that is under the largest order's."""
DEAREST: Final = Decimal("1.5")
"""What is bought is counted with so many times its value, and what is sold with the part below: for fees, and for prices that move."""
CHEAPEST: Final = Decimal("0.4")
FAR_BELOW, ABOVE, FAR_ABOVE = Decimal("0.1"), Decimal(2), Decimal(10)
"""Prices of orders, as parts of the market's."""
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
    """One request, and its outcome: `settled`, the status of its order, or the code of its refusal.

    `cancels` is the client_order_id of an order of the same user that is to be cancelled; the path is then its own.
    """

    path: str
    body: dict[str, Any]
    expected: str = SETTLED
    cancels: str = ""

    @property
    def kind(self) -> str:
        """deposit, withdraw, cancel, or the order's type."""
        return "cancel" if self.cancels else str(self.body.get("order_type") or self.path.rsplit("/", 1)[-1])

    @property
    def moves(self) -> bool:
        """Whether its entry moves anything: an order that is filled at once or not at all, and is not, leaves one that does not."""
        return bool(self.cancels) or self.expected != CANCELLED

    def path_of(self, username: str) -> str:
        """Where that user posts it to."""
        return f"/orders/{order_id(username, self.cancels)}/cancel" if self.cancels else self.path


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


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An open order as the plan believes it to stand: what it holds of cash, or of the asset."""

    client_order_id: str
    asset_id: str
    cash: Decimal = Decimal(0)
    quantity: Decimal = Decimal(0)


@dataclass(slots=True)
class _Trader:
    """One user as the plan believes it to stand. `closed` are orders that are not open any more."""

    market: Sequence[Listed]
    inactive: Sequence[Listed]
    chance: Chance
    cash: Decimal = Decimal(0)
    holdings: dict[str, Decimal] = field(default_factory=dict)
    waiting: list[_Waiting] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

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
        sells, priced = self.chance.percent(SELL_PERCENT), self.chance.percent(PRICED_PERCENT)
        if self.holdings and sells:
            return self.priced_sale() if priced else self.sell("market_sell")
        return self.priced_buy() if priced else self.buy("market_buy")

    def buy(self, order_type: OrderType, part: Decimal | None = None) -> Step:
        """Filled at once; `part` of the market's price is the order's own."""
        asset, quantity = self._wanted()
        self.cash -= quantity * asset.price * DEAREST
        self.holdings[asset.asset_id] = self.holdings.get(asset.asset_id, Decimal(0)) + quantity
        return _order(order_type, asset, quantity, COMPLETED, part)

    def sell(self, order_type: OrderType, part: Decimal | None = None) -> Step:
        """Filled at once."""
        asset, sold = self._given()
        self.cash += sold * asset.price * CHEAPEST
        return _order(order_type, asset, sold, COMPLETED, part)

    def priced_buy(self) -> Step:
        match self.chance.below(3):
            case 0:
                return self.buy("limit_buy", ABOVE)
            case 1:
                asset, quantity = self._wanted()
                return _order("limit_buy", asset, quantity, CANCELLED, FAR_BELOW, time_in_force=self.chance.one_of(("ioc", "fok")))
            case _:
                asset, quantity = self._wanted()
                cash = quantity * asset.price * FAR_BELOW
                self.cash -= cash * DEAREST
                name = self._waits(asset, cash=cash)
                return _order("limit_buy", asset, quantity, OPEN, FAR_BELOW, client_order_id=name)

    def priced_sale(self) -> Step:
        match self.chance.below(4):
            case 0:
                return self.sell("limit_sell", FAR_BELOW)
            case 1:
                return self._sale_that_waits("stop_loss_sell", FAR_BELOW)
            case 2:
                return self._sale_that_waits("take_profit_sell", FAR_ABOVE)
            case _:
                return self._sale_that_waits("limit_sell", FAR_ABOVE)

    def cancel(self) -> Step:
        """Cancel an order that waits, or one that was cancelled before."""
        if self.closed and self.chance.percent(REFUSED_PERCENT):
            return Step("", {}, "order-not-open", self.chance.one_of(self.closed))
        order = self.waiting.pop(self.chance.below(len(self.waiting)))
        self.closed.append(order.client_order_id)
        self.cash += order.cash
        if order.quantity:
            self.holdings[order.asset_id] = self.holdings.get(order.asset_id, Decimal(0)) + order.quantity
        return Step("", {}, CANCELLED, order.client_order_id)

    def refused(self) -> Step:
        asset = self.chance.one_of(self.market)
        dearest = max(self.market, key=lambda listed: listed.price)
        too_many = self.holdings.get(asset.asset_id, Decimal(0)) + _quantity(asset, Decimal(100))
        steps = [
            _order("market_buy", asset, _quantity(asset, UNAFFORDABLE), "insufficient-funds"),
            _order("limit_buy", asset, _quantity(asset, UNAFFORDABLE), "insufficient-funds", ABOVE),
            _order("market_sell", asset, too_many, "insufficient-holdings"),
            _order("take_profit_sell", asset, too_many, "insufficient-holdings", FAR_ABOVE),
            _order("limit_buy", asset, _quantity(asset, Decimal(100)), "price-required"),
            _order("market_buy", Listed(_NO_SUCH_ASSET, Decimal(1), is_active=False), Decimal(1), "unknown-asset"),
            Step("/orders", {"asset_id": dearest.asset_id, "order_type": "market_buy", "quantity": TINY}, "below-minimum"),
        ]
        if self.inactive:
            steps.append(_order("market_buy", self.chance.one_of(self.inactive), Decimal(1), "asset-inactive"))
        return self.chance.one_of(steps)

    def _wanted(self) -> tuple[Listed, Decimal]:
        """An asset, and how much of it is to be bought."""
        asset = self.chance.one_of(self.market)
        return asset, _quantity(asset, Decimal(ORDER_VALUE_MIN + self.chance.below(ORDER_VALUE_MAX - ORDER_VALUE_MIN)))

    def _given(self) -> tuple[Listed, Decimal]:
        """An asset that is there, and how much of it goes: half or all."""
        asset_id = self.chance.one_of(sorted(self.holdings))
        asset = next(listed for listed in self.market if listed.asset_id == asset_id)
        owned = self.holdings.pop(asset_id)
        half = _quantity(asset, owned * asset.price / 2)
        given = half if half < owned and owned * asset.price > HALVED_FROM and self.chance.percent(SELL_PERCENT) else owned
        if given < owned:
            self.holdings[asset_id] = owned - given
        return asset, given

    def _sale_that_waits(self, order_type: OrderType, part: Decimal) -> Step:
        asset, quantity = self._given()
        return _order(order_type, asset, quantity, OPEN, part, client_order_id=self._waits(asset, quantity=quantity))

    def _waits(self, asset: Listed, *, cash: Decimal = Decimal(0), quantity: Decimal = Decimal(0)) -> str:
        """Remember an order that waits, under the name that it is told."""
        name = f"waits-{len(self.waiting) + len(self.closed)}"
        self.waiting.append(_Waiting(name, asset.asset_id, cash, quantity))
        return name


def plan(market: Sequence[Listed], *, users: int, orders: int, seed: int) -> list[list[Step]]:
    """The steps of each user, to be taken in their order: `orders` orders in all, and deposits, withdrawals and cancels beside them."""
    active, inactive = [listed for listed in market if listed.is_active], [listed for listed in market if not listed.is_active]
    chance = Chance(seed)
    shares = [orders // users + (user < orders % users) for user in range(users)]
    return [_steps(_Trader(active, inactive, chance), share) for share in shares]


def _steps(trader: _Trader, orders: int) -> list[Step]:
    steps = [trader.deposit()]
    for count in range(1, orders + 1):
        if trader.cash < CASH_MIN:
            steps.append(trader.deposit())
        steps.append(trader.order())
        if trader.waiting and trader.chance.percent(CANCEL_PERCENT):
            steps.append(trader.cancel())
        if count % WITHDRAWAL_EACH == 0:
            steps.append(trader.withdraw(too_much=count + WITHDRAWAL_EACH > orders))
    return steps


def _order(order_type: OrderType, asset: Listed, quantity: Decimal, expected: str, part: Decimal | None = None, **more: str) -> Step:
    """An order; `part` of the market's price is its own, where it has one."""
    price = {} if part is None else {"price": f"{(asset.price * part).normalize():f}"}
    return Step("/orders", {"asset_id": asset.asset_id, "order_type": order_type, "quantity": f"{quantity:f}", **price, **more}, expected)


def _quantity(asset: Listed, value: Decimal) -> Decimal:
    """About so much value, with few decimals: every asset takes 5 of them where a unit is dear, 2 where it costs a thousandth or more, none below."""
    decimals = 5 if asset.price >= 1000 else 2 if asset.price >= Decimal("0.001") else 0  # noqa: PLR2004 - as told
    step = Decimal((0, (1,), -decimals))
    return max(step, (value / asset.price).quantize(step))
