"""Cursors at the door: one goes on with the list that it was made for, and anything else that may be sent in its place is refused."""

import inspect
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from query_api.cursors import CURSOR_CHARS_MAX, LIFETIME, Cursors, List, Place
from query_api.main import ROUTES
from schemas.market import PriceChanged
from tests.fakes.clock import START
from tests.fakes.histories import History
from tests.query.door import ReadDoor

STEPS = ("deposit", "buy", "buy", "buy", "sell", "sell", "sell", "open", "open", "withdraw")
REFUSED = (400, "invalid-cursor", ["#/query/cursor"])


@dataclass(frozen=True)
class Listed:
    """A route with a cursor, a list of it with more than one page, and others that its cursor must not open."""

    route: str
    path: str
    query: dict[str, str]
    others: tuple[tuple[str, dict[str, str]], ...] = ()
    own: bool = True
    """It is the caller's; otherwise everybody's."""


LISTS = (
    Listed("/balance/transactions", "/balance/transactions", {}),
    Listed(
        "/orders",
        "/orders",
        {"status": "completed"},
        (("/orders", {}), ("/orders", {"status": "open"}), ("/orders", {"status": "completed", "asset_id": "BTC"})),
    ),
    Listed("/assets/{asset_id:str}/transactions", "/assets/BTC/transactions", {}, (("/assets/ETH/transactions", {}),)),
    Listed(
        "/balance/{unit:str}/explain",
        "/balance/USD/explain",
        {},
        (("/balance/BTC/explain", {}), ("/balance/USD/explain", {"as_of": "5"})),
    ),
    Listed(
        "/assets/{asset_id:str}/prices",
        "/inventory/assets/BTC/prices",
        {"interval": "1m"},
        (("/inventory/assets/ETH/prices", {"interval": "1m"}), ("/inventory/assets/BTC/prices", {}), ("/inventory/assets/BTC/prices", {"interval": "1h"})),
        own=False,
    ),
)
EACH = pytest.mark.parametrize("listed", LISTS, ids=[one.path.strip("/").replace("/", "-") for one in LISTS])


@pytest.fixture
async def history(door: ReadDoor) -> History:
    for number in range(30):
        door.candles.put(PriceChanged("BTC", Decimal(number + 1), number + 1, START - timedelta(minutes=29 - number), Decimal(1)))
    return await door.shown(*STEPS, *STEPS)


async def page(door: ReadDoor, history: History, listed: Listed, cursor: str | None = None) -> Any:
    query = listed.query if cursor is None else listed.query | {"cursor": cursor}
    answer = await door.get(listed.path, history, limit=1, **query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["next_cursor"]
    return body


async def told(door: ReadDoor, history: History, path: str, query: dict[str, str]) -> tuple[int, str, list[str]]:
    answer = await door.get(path, history, limit=1, **query)
    body = answer.json()
    return answer.status_code, body.get("code"), [error["pointer"] for error in body.get("errors", ())]


def test_every_route_with_a_cursor_is_here() -> None:
    """A new list has to show the same."""
    assert {path for handler in ROUTES if "cursor" in inspect.signature(handler.fn).parameters for path in handler.paths} == {
        *(one.route for one in LISTS),
        "/inventory/assets/{asset_id:str}/prices",
    }


@EACH
async def test_a_good_cursor_goes_on(door: ReadDoor, history: History, listed: Listed) -> None:
    """The next page has other rows, and may be asked for twice."""
    first = await page(door, history, listed)
    second = await page(door, history, listed, first["next_cursor"])
    assert second["has_more"]
    assert second != first
    again = await page(door, history, listed, first["next_cursor"])
    assert again == second


@EACH
async def test_each_bit_counts(door: ReadDoor, history: History, listed: Listed) -> None:
    """Whichever bit of expiry, place or signature is another one: 400."""
    raw = urlsafe_b64decode((await page(door, history, listed))["next_cursor"])
    for number in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[number // 8] ^= 1 << number % 8
        text = urlsafe_b64encode(changed).decode()
        assert await told(door, history, listed.path, listed.query | {"cursor": text}) == REFUSED, number


@EACH
async def test_the_text_has_one_form(door: ReadDoor, history: History, listed: Listed) -> None:
    """Padding, the other alphabet, another case, white space, other lengths, other signs: 400, never an error of ours."""
    text = (await page(door, history, listed))["next_cursor"]
    for changed in spelled_otherwise(text):
        assert await told(door, history, listed.path, listed.query | {"cursor": changed}) == REFUSED, changed


def spelled_otherwise(text: str) -> Iterator[str]:
    yield from ("", " ", "=", "null", "0", "\x00", "é", "🙂", "%", text * 3, "A" * (CURSOR_CHARS_MAX + 1), "A" * 2_000, "A" * len(text))
    yield from (
        f"{text}=",
        f"{text}==",
        f"{text}====",
        f" {text}",
        f"{text} ",
        f"{text}\n",
        f"\ufeff{text}",
        f"{text}A",
        f"{text}AAAA",
        text.lower(),
        text.upper(),
    )
    yield from (text[:length] for length in range(1, len(text)))
    for at, sign in enumerate(text):
        yield from (text[:at] + other + text[at + 1 :] for other in {sign.swapcase(), "+/="[at % 3], "é٣ "[at % 3]} - {sign})
        yield text[:at] + text[at + 1 :]


@EACH
async def test_it_belongs_to_one_list(door: ReadDoor, history: History, listed: Listed) -> None:
    """With another filter, for another route, or asked by another user of the same history: 400."""
    cursor = (await page(door, history, listed))["next_cursor"]
    elsewhere = [*listed.others, *((one.path, one.query) for one in LISTS if one is not listed)]
    for path, query in elsewhere:
        assert await told(door, history, path, query | {"cursor": cursor}) == REFUSED, path
    if listed.own:
        another = await door.shown(*STEPS, *STEPS)
        assert await told(door, another, listed.path, listed.query | {"cursor": cursor}) == REFUSED


@EACH
async def test_it_expires(door: ReadDoor, history: History, listed: Listed) -> None:
    """At the end of its time: 400, with what to do."""
    cursor = (await page(door, history, listed))["next_cursor"]
    door.clock.advance(LIFETIME.total_seconds() + 1)
    answer = await door.get(listed.path, history, limit=1, **listed.query, cursor=cursor)
    assert (answer.status_code, answer.json()["code"]) == REFUSED[:2]
    assert "begin the list again" in answer.json()["detail"]


@EACH
async def test_another_installation_does_not_take_it(door: ReadDoor, history: History, listed: Listed) -> None:
    """Made with another key, for the very same list and place: 400."""
    own = Cursors(b"another key of 32 bytes or more..", door.clock)
    for route in ("transactions", "orders", "trades", "explain", "prices"):
        forged = own.make(List(history.username if listed.own else "", route, listed.query), Place(5))
        assert await told(door, history, listed.path, listed.query | {"cursor": forged}) == REFUSED


@EACH
async def test_a_cursor_that_comes_twice(door: ReadDoor, history: History, listed: Listed) -> None:
    """Two cursors in one request never mix: it is one of them, or refused."""
    cursor = (await page(door, history, listed))["next_cursor"]
    answer = await door.client.get(
        listed.path, params=[*listed.query.items(), ("limit", "1"), ("cursor", cursor), ("cursor", "x")], headers=door.headers(history)
    )
    assert answer.status_code in {200, 400}
