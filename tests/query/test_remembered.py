"""What is remembered of earlier reads saves work, and never shows anything else than what was read now."""

from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from infra.remembered import KEY_WEIGHT, Remembered
from query_api.cursors import LIFETIME
from query_api.tags import body_of, tagged
from tests.fakes.histories import History
from tests.query import door as doors
from tests.query.door import ReadDoor

PATHS = ("/portfolio", "/balance", "/assets/balances", "/users/portfolio/summary", "/orders", "/balance/transactions")
EACH = pytest.mark.parametrize("path", PATHS)


def small(weight_max: int = 10 * KEY_WEIGHT) -> Remembered[str, int]:
    return Remembered(lambda _, __: 0, weight_max)


def test_it_is_made_once_for_one_basis() -> None:
    """An equal basis gives the value that was made before; another one, also one that was there earlier, has it made anew."""
    made, remembered = count(1), small()
    assert [remembered.of("key", basis, lambda: next(made)) for basis in ("a", "a", "b", "b", "a")] == [1, 1, 2, 2, 3]


def test_a_key_has_nothing_of_another_one() -> None:
    """Equal bases of two keys have values of their own."""
    remembered = small()
    assert remembered.of("one", "basis", lambda: 1) == 1
    assert remembered.of("other", "basis", lambda: 2) == 2


def test_what_could_not_be_made_is_not_remembered() -> None:
    """The error is the caller's, what was there before stays, and the next one tries again."""
    remembered = small()
    remembered.of("key", "a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        remembered.of("key", "b", lambda: 1 // 0)
    assert remembered.of("key", "a", lambda: 2) == 1
    assert remembered.of("key", "b", lambda: 3) == 3


def test_it_is_bounded() -> None:
    """What was not asked for the longest time goes first, and a heavy value is as much as many light ones."""
    made, remembered = count(1), Remembered[str, int](lambda _, value: value, 3 * KEY_WEIGHT)
    for key in ("a", "b", "c", "a", "d"):
        remembered.of(key, "", lambda: next(made) * 0)
    assert [remembered.of(key, "", lambda: -1) for key in ("a", "c", "d")] == [0, 0, 0]
    assert remembered.of("b", "", lambda: 1) == 1
    assert remembered.of("heavy", "", lambda: 10 * KEY_WEIGHT) == 10 * KEY_WEIGHT
    assert remembered.of("d", "", lambda: 7) == 7


async def got(door: ReadDoor, history: History, path: str) -> tuple[dict[str, Any], str]:
    answer = await door.get(path, history)
    assert answer.status_code == 200
    return answer.json(), answer.headers["etag"]


@EACH
async def test_it_is_the_same_while_nothing_changes(door: ReadDoor, path: str) -> None:
    """Two reads of what has not changed have one ETag, and the second is answered 304 where it is presented."""
    history = await door.shown("deposit", "buy", "open")
    body, etag = await got(door, history, path)
    assert (body, etag) == await got(door, history, path)
    known = await door.client.get(path, headers=door.headers(history) | {"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)


@EACH
async def test_a_change_is_seen_by_the_next_read(door: ReadDoor, path: str) -> None:
    """The version that is shown is that of the view, however often the one before was read."""
    history = await door.shown("deposit", "buy", "open")
    for version in range(4, 8):
        history.grow(["deposit"])
        await door.project(history, version)
        for _ in range(2):
            body, _etag = await got(door, history, path)
            assert body["as_of"]["version"] == version


@EACH
async def test_nobody_sees_what_another_one_has(door: ReadDoor, path: str) -> None:
    """Of two users with equal histories each gets his own rows, in turns."""
    one, other = await door.shown("deposit", "buy", "open"), await door.shown("deposit", "buy", "open", "deposit")
    bodies = [await got(door, history, path) for history in (one, other, one, other)]
    assert bodies[:2] == bodies[2:]
    assert [body["as_of"]["version"] for body, _ in bodies[:2]] == [3, 4]


async def test_a_new_price_is_seen_by_the_next_read(door: ReadDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holdings' value is that of the prices that are read now, though the account has not changed."""
    history = await door.shown("deposit", "buy")
    before, _ = await got(door, history, "/portfolio")
    (asset_id,) = (row["asset_id"] for row in before["assets"])
    monkeypatch.setitem(doors.PRICES, asset_id, Decimal(7))
    await door.cache.client.flushdb()
    after, _ = await got(door, history, "/portfolio")
    assert before["assets"][0]["current_price"] != after["assets"][0]["current_price"] == "7.00"


async def test_a_cursor_that_is_given_out_again_is_good_for_long(door: ReadDoor) -> None:
    """A page that is answered again after a day has a cursor that was made meanwhile."""
    history = await door.shown("deposit", *["buy"] * 5)
    for path in ("/orders", "/balance/transactions"):
        for _ in range(3):
            cursor = (await door.get(path, history, limit=2)).json()["next_cursor"]
            door.clock.advance(LIFETIME.total_seconds() * 0.9)
            assert (await door.client.get(path, params={"limit": 2, "cursor": cursor}, headers=door.headers(history))).status_code == 200


def test_a_known_body_is_not_sent() -> None:
    """304 for the tag, in a list, as a weak one, and for `*`; the body for any other."""
    body = body_of(b"{}")
    for known in (body.etag, f'"x", {body.etag}', f"W/{body.etag}", "*"):
        assert (tagged(body, known).status_code, tagged(body, known).content) == (304, b"")
    assert (tagged(body, '"x"').status_code, tagged(body, '"x"').content) == (200, b"{}")


@pytest.mark.parametrize(("known", "status", "names"), [("", 200, ["lag", "etag", "content-type", "content-length"]), ("*", 304, ["lag", "etag"])])
async def test_an_answer_of_bytes_is_sent_as_it_is(known: str, status: int, names: list[str]) -> None:
    """In two messages, the first with its length and type where there may be a body."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await tagged(body_of(b"{}"), known, [(b"lag", b"0")]).to_asgi_response(None, None)({}, None, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert (sent[0]["status"], sent[1]["body"]) == (status, b"{}" if status == 200 else b"")
    assert [name.decode() for name, _ in sent[0]["headers"]] == names
