"""The demo's plan: every step has the outcome it names when the real rules decide it, over the real assets."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import get_args

import pytest

from command_api.orders import check_asset, check_terms
from infra.asset_file import load_asset_file
from infra.http import ProblemError
from ops.books import audit
from ops.demo_plan import SETTLED, Listed, plan
from processors.domain.decide import decide
from schemas.bodies import MoveMoney, PlaceOrder
from schemas.ledger import Account
from schemas.market import AssetFacts, Quote
from schemas.requests import Deposit, LimitStamp, LoggedRequest, OrderCancelRequested, OrderPlaced, OrderStamp, OrderType, Withdrawal, order_id
from tests.fakes.clock import START

ASSETS = {asset.asset_id: asset for asset in load_asset_file(None)}
MARKET = [Listed(asset.asset_id, asset.price_usd, asset.is_active) for asset in ASSETS.values()]
REFUSALS = {
    "insufficient-funds",
    "insufficient-holdings",
    "unknown-asset",
    "below-minimum",
    "asset-inactive",
    "price-required",
    "order-not-open",
}
LIMIT = LimitStamp(Decimal(10_000_000))


def _request(step, username: str, fee_bps: int, drift: Decimal):
    """As a door would make it; ProblemError where the door refuses."""
    if step.cancels:
        return OrderCancelRequested(username, order_id(username, step.cancels))
    if step.path != "/orders":
        kind = Deposit if step.kind == "deposit" else Withdrawal
        return kind(username, MoveMoney.model_validate(step.body).amount, LIMIT)
    body = PlaceOrder.model_validate(step.body)
    asset = ASSETS.get(body.asset_id)
    price = asset.price_usd * drift if asset else Decimal(1)
    facts = AssetFacts(asset.quantity_scale, asset.minimum_quantity, asset.is_active, fee_bps) if asset else AssetFacts(8, Decimal(1), True, 0)
    stamp = OrderStamp(Quote(price, 1, START, START + timedelta(seconds=30)), facts, Decimal(10_000_000))
    check_terms(body)
    order = OrderPlaced(username, body.asset_id, body.order_type, body.quantity, stamp, body.price, body.client_order_id, body.time_in_force)
    check_asset(order, asset)
    return order


class Entries:
    """What was decided, as the ledger would tell it."""

    def __init__(self):
        self.accounts = {}
        self.kept = {}
        self.placed = {}

    def settle(self, username, number, request):
        logged = LoggedRequest(request, f"{username}-{number}", START, 0, number, "c", "t")
        orders = self.placed.setdefault(username, {})
        account, entry = decide(self.accounts.get(username, Account(username)), logged, orders)
        self.accounts[username] = account
        if entry.lines.cash or entry.lines.positions:
            self.kept.setdefault(username, []).insert(0, entry)
        if entry.refusal:
            return entry.refusal.code
        if order := entry.lines.order:
            orders[order.order_id] = order
        return order.status if order else SETTLED

    async def account(self, username):
        return self.accounts.get(username, Account(username))

    async def entries(self, username, *, before, limit):
        return [entry for entry in self.kept.get(username, []) if before is None or entry.version < before][:limit]

    async def orders(self, username, *, before, limit):
        newest = sorted(self.placed.get(username, {}).values(), key=lambda order: -order.created_version)
        return [order for order in newest if before is None or order.created_version < before][:limit]


def _play(steps, username, ledger, *, fee_bps=0, drift=Decimal(1)) -> list[tuple[str, str]]:
    """(expected, found) of each step."""
    played = []
    for number, step in enumerate(steps):
        try:
            found = ledger.settle(username, number, _request(step, username, fee_bps, drift))
        except ProblemError as error:
            found = error.code
        played.append((step.expected, found))
    return played


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("fee_bps", "drift"), [(0, Decimal(1)), (1_000, Decimal(1)), (1_000, Decimal("1.33")), (50, Decimal("1.33")), (1_000, Decimal("0.5"))])
def test_every_step_ends_as_planned(seed, fee_bps, drift):
    """With and without fees, and where prices have moved meanwhile, as far as the plan says that they may."""
    ledger = Entries()
    for number, steps in enumerate(plan(MARKET, users=5, orders=1_000, seed=seed)):
        wrong = [
            (step, found)
            for step, (expected, found) in zip(steps, _play(steps, f"user_{number}", ledger, fee_bps=fee_bps, drift=drift), strict=True)
            if expected != found
        ]
        assert wrong == []


def test_the_plan_has_everything():
    """So many orders, each kind and end, each refusal; the same seed plans the same."""
    steps = [step for lane in plan(MARKET, users=20, orders=2_000, seed=1) for step in lane]
    kinds = Counter(step.kind for step in steps)
    assert sum(kinds[kind] for kind in get_args(OrderType)) == 2_000
    assert min(kinds[kind] for kind in (*get_args(OrderType), "deposit", "withdraw", "cancel")) >= 20
    ends = Counter(step.expected for step in steps)
    assert set(ends) == {SETTLED, "completed", "open", "cancelled", *REFUSALS}
    assert min(ends.values()) >= 3
    assert 100 < sum(ends[code] for code in REFUSALS) < 300
    assert len({step.body.get("asset_id") for step in steps}) > 200
    assert steps == [step for lane in plan(MARKET, users=20, orders=2_000, seed=1) for step in lane]
    assert steps != [step for lane in plan(MARKET, users=20, orders=2_000, seed=2) for step in lane]


@pytest.mark.parametrize(("users", "orders"), [(1, 0), (3, 2), (7, 50), (1, 2_000)])
def test_any_size(users, orders):
    """Also the smallest, and the most that one user may get."""
    lanes = plan(MARKET, users=users, orders=orders, seed=1)
    assert len(lanes) == users
    assert sum(step.path == "/orders" for lane in lanes for step in lane) == orders
    ledger = Entries()
    assert all(expected == found for number, lane in enumerate(lanes) for expected, found in _play(lane, f"user_{number}", ledger))


@pytest.fixture
def played():
    """Two users' plans, settled; what each owns, and how many requests moved something."""
    ledger = Entries()
    moved = {}
    for number, steps in enumerate(plan(MARKET, users=2, orders=300, seed=1)):
        found = _play(steps, f"user_{number}", ledger, fee_bps=25)
        moved[f"user_{number}"] = sum(step.moves and end not in REFUSALS for step, (_, end) in zip(steps, found, strict=True))
    lines = {name: {**account.cash, **account.positions} for name, account in ledger.accounts.items()}
    shown = {
        name: {("customer", unit): line.available for unit, line in owned.items()} | {("held", unit): line.held for unit, line in owned.items()}
        for name, owned in lines.items()
    }
    return ledger, shown, moved


async def test_books_that_add_up(played):
    """Nothing is found; every page of entries is read; what customers have came from the house accounts."""
    ledger, shown, moved = played
    steps = []
    books = await audit(ledger, shown, moved, lambda: steps.append(1))
    assert books.faults == []
    assert books.balanced
    assert books.entries == sum(moved.values()) > 200
    assert len(steps) == 2
    assert set(books.legs["USD"]) == {"customer", "held", "world", "market", "fees"}
    assert sum(books.legs["USD"].values()) == 0
    for account in ("customer", "held"):
        assert books.legs["USD"][account] == sum(owned[account, "USD"] for owned in shown.values()) > 0


async def _faults(played, change):
    ledger, shown, moved = played
    change(ledger, shown, moved)
    books = await audit(ledger, shown, moved, lambda: None)
    assert not books.balanced
    return books.faults


async def test_a_lost_entry_is_found(played):
    """The fold, the count and the account tell of it."""
    faults = await _faults(played, lambda ledger, shown, moved: ledger.kept["user_0"].pop(3))
    assert any("requests were settled, the ledger has" in fault for fault in faults)
    assert any("user_0: the account item has" in fault for fault in faults)


async def test_an_entry_that_was_made_twice_is_found(played):
    """Its version repeats, and the fold is off."""
    faults = await _faults(played, lambda ledger, shown, moved: ledger.kept["user_0"].append(ledger.kept["user_0"][-1]))
    assert any("user_0: versions of entries repeat" in fault for fault in faults)


async def test_a_one_legged_entry_is_found(played):
    """Named by user, version and unit, and the unit as a whole."""

    def change(ledger, shown, moved):
        entry = ledger.kept["user_1"][0]
        ledger.kept["user_1"][0] = replace(entry, postings=entry.postings[:1])

    faults = await _faults(played, change)
    assert any(fault.startswith("user_1 version") for fault in faults)
    assert any("all legs sum to" in fault for fault in faults)


async def test_another_view_is_found(played):
    """What the API showed is part of the proof."""
    faults = await _faults(played, lambda ledger, shown, moved: shown["user_0"].update({("customer", "USD"): Decimal(1)}))
    assert len(faults) == 1
    assert faults[0].startswith("user_0: the API has 1 USD, the entries give")


async def test_an_asset_that_only_the_api_shows_is_found(played):
    """And one that only the entries have is as well."""
    faults = await _faults(played, lambda ledger, shown, moved: shown["user_0"].update({("customer", "GHOST"): Decimal(2)}))
    assert faults == ["user_0: the API has 2 GHOST, the entries give 0"]


async def test_a_hold_without_an_order_is_found(played):
    """What is held is what the open orders hold, to the cent."""

    def change(ledger, shown, moved):
        order = next(order for order in ledger.placed["user_0"].values() if order.status == "open" and order.order_type == "limit_buy")
        ledger.placed["user_0"][order.order_id] = replace(order, status="cancelled", held=Decimal(0))

    faults = await _faults(played, change)
    assert len(faults) == 1
    assert faults[0].startswith("user_0: the open orders hold")
    assert " USD held, the entries give" in faults[0]
