"""The requests of a made-up trading day: deposits, withdrawals, market buys and market sales of many accounts in no order.

An account begins with a deposit that pays for all it will do. After it each request is drawn by the weights below; a sale is of something
that the account has bought before. So hardly anything is refused, as on a real day, and the work is that of requests which move money.
The same arguments give the same requests.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from schemas.market import AssetFacts, Quote
from schemas.requests import AccountRequest, Deposit, LimitStamp, OrderPlaced, OrderStamp, OrderType, Withdrawal

WEIGHTS: Final[Mapping[str, int]] = {"deposit": 25, "withdrawal": 15, "market_buy": 35, "market_sell": 25}
"""In a hundred requests of an account that is under way. Where there is nothing to sell, it is a buy."""
FIRST_DEPOSIT: Final = Decimal(1_000_000)
DAY_LIMIT: Final = Decimal(10**15)
ORDER_TOTAL_MAX: Final = Decimal(10_000_000)
CENTS_MAX: Final = 50_000
UNITS_MAX: Final = 500
"""Amounts are up to this many cents, quantities up to this many thousandths of a unit."""
QUOTE_AGE_MAX: Final = timedelta(hours=6)
"""So that a backlog which waits is filled and not refused."""
PRICES: Final[Mapping[str, Decimal]] = {
    name: Decimal(price) for name, price in {"BTC": "97312.5", "ETH": "3124.4", "SOL": "145.02", "BNB": "612.31", "LTC": "84.1", "AAVE": "171.9"}.items()
}
_CASH: Final = ("deposit", "withdrawal")
_FACTS: Final = AssetFacts(quantity_scale=8, minimum_quantity=Decimal("0.00000001"), is_active=True, fee_bps=10)


@dataclass(frozen=True, slots=True)
class Work:
    """Requests to be made at a moment. Those of another series of the same accounts are other requests."""

    requests: Iterable[AccountRequest]
    count: int
    at: datetime
    series: str = ""


@dataclass(frozen=True, slots=True)
class Mix:
    """Which day: `accounts` of them, named for `run` (2 to 12 of a–z, 0–9)."""

    run: str
    accounts: int
    at: datetime
    seed: int = 1

    def usernames(self) -> list[str]:
        """The accounts."""
        return [f"bench_{self.run}_{number}" for number in range(self.accounts)]

    def openings(self) -> Work:
        """One deposit for each account: nothing but accounts."""
        deposits = (Deposit(name, FIRST_DEPOSIT, LimitStamp(DAY_LIMIT)) for name in self.usernames())
        return Work(deposits, self.accounts, self.at, "opening-")

    def work(self, count: int, series: str = "") -> Work:
        """The first `count` requests of the day."""
        return Work(self.requests(count), count, self.at, series)

    def requests(self, count: int) -> Iterator[AccountRequest]:
        """The first `count` requests of the day, in the order in which they are published."""
        chance = random.Random(self.seed)  # noqa: S311 - a repeatable draw
        names = self.usernames()
        owned: dict[str, dict[str, int]] = {}
        for _ in range(count):
            name = names[chance.randrange(self.accounts)]
            if name not in owned:
                owned[name] = {}
                yield Deposit(name, FIRST_DEPOSIT, LimitStamp(DAY_LIMIT))
            else:
                yield self._next(name, owned[name], chance)

    def _next(self, name: str, owned: dict[str, int], chance: random.Random) -> AccountRequest:
        (kind,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if kind in _CASH:
            amount = Decimal(chance.randint(1, CENTS_MAX)) / 100
            return (Deposit if kind == "deposit" else Withdrawal)(name, amount, LimitStamp(DAY_LIMIT))
        if kind == "market_sell" and owned:
            asset = chance.choice(list(owned))
            return self._order(name, asset, "market_sell", _taken(owned, asset, chance))
        asset, units = chance.choice(list(PRICES)), chance.randint(1, UNITS_MAX)
        owned[asset] = owned.get(asset, 0) + units
        return self._order(name, asset, "market_buy", units)

    def _order(self, name: str, asset: str, order_type: OrderType, units: int) -> OrderPlaced:
        quote = Quote(PRICES[asset], 1, self.at, self.at + QUOTE_AGE_MAX)
        return OrderPlaced(name, asset, order_type, Decimal(units) / 1000, OrderStamp(quote, _FACTS, ORDER_TOTAL_MAX))


def _taken(owned: dict[str, int], asset: str, chance: random.Random) -> int:
    """Some of what is owned, taken out."""
    units = chance.randint(1, owned[asset])
    owned[asset] -= units
    if not owned[asset]:
        del owned[asset]
    return units
