"""Lists over HTTP: bounds of their size, and cursors through many rows while more come."""

import asyncio
from typing import Any

import pytest

from tests.system.running import System, User, answered, refused

ROWS = 250
CALLERS = 16
LISTS = {"/orders": "data", "/balance/transactions": "transactions", "/assets/ETH/transactions": "data"}
_made: dict[int, User] = {}


async def trader(system: System) -> User:
    """A user with 250 orders, made once: nobody changes it but by adding at the newest end."""
    if id(system) not in _made:
        user = await system.user("100000.00")
        slots = asyncio.Semaphore(CALLERS)

        async def buy() -> None:
            async with slots:
                answered(await user.order("ETH", "0.001"), 201)

        await asyncio.gather(*(buy() for _ in range(ROWS)))
        _made[id(system)] = user
    return _made[id(system)]


def identity(row: dict[str, Any]) -> str:
    return str(row.get("transaction_id") or row["order_id"])


async def pages(user: User, path: str, limit: int, between: Any = None, **params: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        body = await user.read(path, limit=limit, **params, **cursor)
        assert len(body[LISTS[path]]) <= limit
        assert body["has_more"] == (body["next_cursor"] is not None)
        rows += body[LISTS[path]]
        if not body["has_more"]:
            return rows
        cursor = {"cursor": body["next_cursor"]}
        if between:
            await between()


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("limit", [37, 100])
async def test_every_row_once(system: System, path: str, limit: int) -> None:
    """Newest first, none twice, none missing, although rows are added while the pages are read; the added ones are on a later reading."""
    user = await trader(system)
    before = await pages(user, path, 100)
    assert len(before) >= ROWS
    assert len({identity(row) for row in before}) == len(before)
    versions = [row["version"] for row in before] if "version" in before[0] else []
    assert versions == sorted(versions, reverse=True)
    added = 0

    async def add() -> None:
        nonlocal added
        added += 1
        answered(await user.order("ETH", "0.001"), 201)

    assert await pages(user, path, limit, between=add) == before
    after = await pages(user, path, limit)
    assert after[-len(before) :] == before
    assert len(after) == len(before) + added * (2 if path == "/balance/transactions" else 1)


async def test_total_count(system: System) -> None:
    """The count of movements is of all of them, whatever the page."""
    user = await trader(system)
    rows = await pages(user, "/balance/transactions", 100)
    for limit in (1, 50):
        assert (await user.read("/balance/transactions", limit=limit))["total_count"] == len(rows)


async def test_a_filtered_list(system: System) -> None:
    """A filter finds the one old order among hundreds."""
    user = await system.user("1000.00")
    wanted = answered(await user.order("BTC", "0.001"), 201)["data"]
    await asyncio.gather(*(user.order("ETH", "0.001") for _ in range(30)))
    assert await pages(user, "/orders", 5, asset_id="BTC") == [wanted]


async def test_the_default_is_fifty(system: System) -> None:
    """Without a limit a page has 50 rows."""
    user = await trader(system)
    for path, name in LISTS.items():
        assert len((await user.read(path))[name]) == 50


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize("limit", ["0", "101", "-1", "many", "1.5", ""])
async def test_bounds_of_a_page(system: System, path: str, limit: str) -> None:
    """1 to 100 rows, else 422."""
    user = await trader(system)
    refused(await user.get(path, limit=limit), 422, "validation-failed", "#/query/limit")


@pytest.mark.parametrize("path", LISTS)
async def test_cursors_are_bound(system: System, path: str) -> None:
    """A cursor serves its owner, list and filters only; a damaged or made-up one is 400."""
    user, other = await trader(system), await system.user()
    cursor = (await user.read(path, limit=3))["next_cursor"]
    elsewhere = next(name for name in LISTS if name != path)
    damaged = ("A" if cursor[0] != "A" else "B") + cursor[1:]
    tries = [(user, path, text) for text in (damaged, cursor[:-2], f"{cursor}x", "", "0", "x" * 500, "ü")]
    tries += [(user, elsewhere, cursor)]
    if not path.startswith("/assets"):  # of an asset that somebody never held there is nothing to read
        tries += [(other, path, cursor)]
    for caller, where, text in tries:
        refused(await caller.get(where, cursor=text, limit=3), 400, "invalid-cursor", "#/query/cursor")
    if path == "/orders":
        refused(await user.get(path, cursor=cursor, asset_id="ETH"), 400, "invalid-cursor", "#/query/cursor")
