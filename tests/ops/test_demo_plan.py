"""The demo's plan: every step has the outcome it names when the real rules decide it, over the real assets."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from command_api.orders import check_asset
from infra.asset_file import load_asset_file
from infra.http import ProblemError
from ops.books import audit
from ops.demo_plan import SETTLED, Listed, plan
from processors.domain.decide import decide
from schemas.bodies import MoveMoney, PlaceOrder
from schemas.ledger import Account
from schemas.market import AssetFacts, Quote
from schemas.requests import Deposit, LimitStamp, LoggedRequest, OrderPlaced, OrderStamp, Withdrawal
from tests.fakes.clock import START

ASSETS = {asset.asset_id: asset for asset in load_asset_file(None)}
MARKET = [Listed(asset.asset_id, asset.price_usd, asset.is_active) for asset in ASSETS.values()]
LIMIT = LimitStamp(Decimal(10_000_000))


def _request(step, username: str, fee_bps: int, drift: Decimal):
    """As a door would make it; ProblemError where the door refuses."""
    if step.path != "/orders":
        kind = Deposit if step.kind == "deposit" else Withdrawal
        return kind(username, MoveMoney.model_validate(step.body).amount, LIMIT)
    body = PlaceOrder.model_validate(step.body)
    asset = ASSETS.get(body.asset_id)
    price = asset.price_usd * drift if asset else Decimal(1)
    facts = AssetFacts(asset.quantity_scale, asset.minimum_quantity, asset.is_active, fee_bps) if asset else AssetFacts(8, Decimal(1), True, 0)
    stamp = OrderStamp(Quote(price, 1, START, START + timedelta(seconds=30)), facts, Decimal(10_000_000))
    order = OrderPlaced(username, body.asset_id, body.order_type, body.quantity, stamp)
    check_asset(order, asset)
    return order


class Entries:
    """What was decided, as the ledger would tell it."""

    def __init__(self):
        self.accounts = {}
        self.kept = {}

    def settle(self, username, number, request):
        logged = LoggedRequest(request, f"{username}-{number}", START, 0, number, "c", "t")
        account, entry = decide(self.accounts.get(username, Account(username)), logged, {})
        self.accounts[username] = account
        if entry.lines.cash or entry.lines.positions:
            self.kept.setdefault(username, []).insert(0, entry)
        return entry.refusal.code if entry.refusal else SETTLED

    async def account(self, username):
        return self.accounts.get(username, Account(username))

    async def entries(self, username, *, before, limit):
        return [entry for entry in self.kept.get(username, []) if before is None or entry.version < before][:limit]


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
@pytest.mark.parametrize(("fee_bps", "drift"), [(0, Decimal(1)), (1_000, Decimal(1)), (50, Decimal("1.05")), (50, Decimal("0.95"))])
def test_every_step_ends_as_planned(seed, fee_bps, drift):
    """With and without fees, and where prices have moved meanwhile."""
    ledger = Entries()
    for number, steps in enumerate(plan(MARKET, users=5, orders=1_000, seed=seed)):
        wrong = [
            (step, found)
            for step, (expected, found) in zip(steps, _play(steps, f"user_{number}", ledger, fee_bps=fee_bps, drift=drift), strict=True)
            if expected != found
        ]
        assert wrong == []


def test_the_plan_has_everything():
    """So many orders, each kind, each refusal; the same seed plans the same."""
    steps = [step for lane in plan(MARKET, users=20, orders=2_000, seed=1) for step in lane]
    kinds = Counter(step.kind for step in steps)
    assert kinds["market_buy"] + kinds["market_sell"] == 2_000
    assert min(kinds["market_sell"], kinds["deposit"], kinds["withdraw"]) >= 20
    refused = Counter(step.expected for step in steps if step.expected != SETTLED)
    assert set(refused) == {"insufficient-funds", "insufficient-holdings", "unknown-asset", "below-minimum", "asset-inactive"}
    assert 100 < refused.total() < 300
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
        moved[f"user_{number}"] = sum(found == SETTLED for _, found in _play(steps, f"user_{number}", ledger, fee_bps=25))
    shown = {
        name: {unit: line.available for unit, line in account.cash.items()} | {asset: line.quantity for asset, line in account.positions.items()}
        for name, account in ledger.accounts.items()
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
    assert set(books.legs["USD"]) == {"customer", "world", "market", "fees"}
    assert sum(books.legs["USD"].values()) == 0
    assert books.legs["USD"]["customer"] == sum(owned["USD"] for owned in shown.values())


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
    faults = await _faults(played, lambda ledger, shown, moved: shown["user_0"].update(USD=Decimal(1)))
    assert len(faults) == 1
    assert faults[0].startswith("user_0: the API has 1 USD, the entries give")


async def test_an_asset_that_only_the_api_shows_is_found(played):
    """And one that only the entries have is as well."""
    faults = await _faults(played, lambda ledger, shown, moved: shown["user_0"].update(GHOST=Decimal(2)))
    assert faults == ["user_0: the API has 2 GHOST, the entries give 0"]
