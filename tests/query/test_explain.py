"""Why a balance is what it is: pages against the plain list of postings, sums that can fail, and what each line tells."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from events.topics import REQUESTS
from infra.cache import Shown
from query_api.explain import Statement, statement_of
from query_api.pages import EXAMINED_MAX
from schemas.instants import rfc3339
from schemas.ledger import Account, Entry, Posting
from schemas.requests import ORDER_ID_PATTERN, OrderCancelRequested, OrderTriggered
from schemas.results import result_id, result_type
from schemas.statement import Held, adds_up, change_of, held_of, line_of, movements, touches
from tests.domain.given import NOON, USER, buy, deposit
from tests.fakes.histories import BEGIN, History
from tests.query.door import ReadDoor
from tests.query.test_time_travel import folded, sale, settled, with_sales
from tests.query.test_worth import Told, histories

MS, HOUR = timedelta(milliseconds=1), timedelta(hours=1)
UNITS = ("USD", "BTC", "ETH", "SOL")


def pages(told: Told, unit: str, version: int, limit: int) -> list[Statement]:
    """All pages from a version on."""
    shown = Shown(told.account, told.account.version, told.account.at)

    async def walk() -> list[Statement]:
        found = [await statement_of(told.ledger, shown, unit, version, limit)]
        while rest := found[-1].page.rest:
            found.append(await statement_of(told.ledger, shown, unit, rest.version - 1, limit))
        return found

    return asyncio.run(walk())


@settings(max_examples=60, deadline=None)
@given(histories(), st.data())
def test_pages_are_the_plain_list(history: tuple[Told, datetime], data: st.DataObject) -> None:
    """All pages together are every entry that touched the unit; each adds up, and opens where the next one closes; the last opens with nothing."""
    told, _ = history
    entries = told.ledger.entries_now(USER)
    limit, version = data.draw(st.integers(1, 7)), data.draw(st.integers(0, told.account.version))
    for unit in UNITS:
        found = pages(told, unit, version, limit)
        rows = [entry for statement in found for entry in statement.page.rows]
        assert rows == [entry for entry in reversed(entries[:version]) if any(posting.unit == unit for posting in entry.postings)]
        assert found[0].closing == (held_of(folded(entries, version), unit) or Held())
        assert found[-1].opening == Held()
        for statement in found:
            assert adds_up(unit, statement.opening, statement.page.rows, statement.closing)
            assert statement.opening == (held_of(folded(entries, statement.opened), unit) or Held())
        assert [statement.opening for statement in found[:-1]] == [statement.closing for statement in found[1:]]


@settings(max_examples=60, deadline=None)
@given(histories())
def test_movements_are_the_postings(history: tuple[Told, datetime]) -> None:
    """Each pair of legs of the unit is a movement, and the movements of a line are its change."""
    told, _ = history
    for entry in told.ledger.entries_now(USER):
        for unit in UNITS:
            found, change = list(movements(entry, unit)), change_of(entry, unit)
            assert len(found) == sum(posting.unit == unit for posting in entry.postings) / 2
            assert sum((one.available for one in found), Decimal(0)) == change.available
            assert sum((one.held for one in found), Decimal(0)) == change.held
            if touches(entry, unit):
                line = line_of(entry, unit, topic=REQUESTS, command_id="cmd")
                assert (line.available, line.held, line.after.total) == (*change, line.after.available + line.after.held)


def test_sums_that_do_not_match() -> None:
    """A wrong opening, a wrong closing, an entry that is missing, and postings that are not what the line says, each fail the check."""
    told = with_sales(2, MS)
    entries = told.ledger.entries_now(USER)[::-1]
    closing = held_of(told.account, "BTC")
    lines = [entry for entry in entries if touches(entry, "BTC")]
    assert closing
    assert adds_up("BTC", Held(), lines, closing)
    assert not adds_up("BTC", Held(Decimal(1)), lines, closing)
    assert not adds_up("BTC", Held(), lines, Held(closing.available, Decimal("0.1")))
    assert not adds_up("BTC", Held(), lines[:-1], closing)
    assert not adds_up("BTC", Held(), [lines[0], *lines[2:]], closing)
    wrong = replace(lines[1], postings=tuple(replace(posting, amount=posting.amount * 2) for posting in lines[1].postings))
    assert not adds_up("BTC", Held(), [lines[0], wrong, *lines[2:]], closing)


def test_a_page_cut_short() -> None:
    """Where too many entries left cash alone the page is short, even empty, has its own right opening, and the next one goes on."""
    told = with_sales(EXAMINED_MAX // 2 + 30, HOUR)
    found = pages(told, "USD", told.account.version, 50)
    assert len(found) == 2
    assert [len(statement.page.rows) for statement in found] == [1, 2]
    assert all(adds_up("USD", statement.opening, statement.page.rows, statement.closing) for statement in found)


def test_who_did_it() -> None:
    """The user, or the process from which the request came: that one is nobody's command."""
    told = Told()
    told.ask(deposit("5000.00"), NOON)
    told.ask(buy("1", "1000"), NOON)
    sale(told, NOON)
    sale(told, NOON)
    told.ask(OrderTriggered(USER, told.open_order(0) or "", Decimal(10**7), 10**6, NOON), NOON)
    told.ask(OrderCancelRequested(USER, told.open_order(0) or ""), NOON)
    entries = told.ledger.entries_now(USER)
    lines = [line_of(entry, "BTC", topic=REQUESTS, command_id="cmd") for entry in entries[1:]]
    assert [line.kind for line in lines] == ["OrderPlaced", "OrderPlaced", "OrderPlaced", "OrderTriggered", "OrderCancelRequested"]
    assert [line.actor for line in lines] == [f"user:{USER}"] * 3 + ["process:triggers"] + [f"user:{USER}"]
    assert [line.command_id for line in lines] == ["cmd"] * 3 + [None, "cmd"]
    assert [[one.type for one in line.movements] for line in lines] == [
        ["bought"],
        ["order_hold"],
        ["order_hold"],
        ["order_release", "sold"],
        ["order_release"],
    ]
    waited = replace(entries[0], drained_by="draining")
    assert line_of(waited, "USD", topic=REQUESTS, command_id="cmd").drained_by == "draining"


async def test_the_answer(door: ReadDoor) -> None:
    """Opening, closing, and of every line: what moved, the result's event, the request's place in the log, and who asked."""
    history = settled(door, HOUR, "deposit", "buy", "open", "refuse", "close")
    await door.project(history, *range(1, 6))
    body = (await door.get("/balance/usd/explain", history)).json()
    assert (body["unit"], body["sum_matches"], body["has_more"], body["next_cursor"]) == ("USD", True, False, None)
    assert body["as_of"] == {"version": 5, "at": rfc3339(BEGIN + 5 * HOUR)}
    assert body["opening"] == {"version": 0, "available": "0.00", "held": "0.00", "total": "0.00"}
    assert body["closing"] == {"version": 5, "available": "-11.35", "held": "0.00", "total": "-11.35"}
    assert [(line["version"], line["available"], line["held"]) for line in body["lines"]] == [
        (5, "12.34", "-12.34"),
        (3, "-12.34", "12.34"),
        (2, "-12.35", "0.00"),
        (1, "1.00", "0.00"),
    ]
    assert [[one["type"] for one in line["movements"]] for line in body["lines"]] == [["order_release"], ["order_hold"], ["order_payment", "fee"], ["deposit"]]
    for line in body["lines"]:
        entry = history.entries[line["version"] - 1]
        assert (line["event_id"], line["event_type"], line["kind"]) == (result_id(entry.request_id), result_type(entry), entry.kind)
        assert (line["topic"], line["partition"], line["offset"]) == (REQUESTS, entry.partition, entry.offset)
        assert (line["request_id"], line["correlation_id"], line["at"]) == (entry.trace_id, entry.correlation_id, rfc3339(entry.at))
        assert (line["actor"], line["command_id"]) == (f"user:{history.username}", door.command_id(history, entry.request_id))
        assert line["order_id"] == (entry.lines.order.order_id if entry.lines.order else None)
    assert (await door.get(f"/commands/{body['lines'][0]['command_id']}", history)).status_code == 200
    asset = (await door.get("/balance/sol/explain", history)).json()
    assert (asset["unit"], asset["closing"]["total"], asset["lines"][0]["movements"]) == ("SOL", "1", [{"type": "bought", "available": "1", "held": "0"}])


async def test_pages_over_http(door: ReadDoor) -> None:
    """Cursors lead to the beginning, each page opens where the next closes; they belong to the unit and the version asked for."""
    history = await door.shown(*["deposit", "buy", "refuse", "open"] * 8)
    query: dict[str, Any] = {"limit": 5, "as_of": "30"}
    answers, cursor = [], None
    while True:
        answers.append((await door.get("/balance/USD/explain", history, **query, **({"cursor": cursor} if cursor else {}))).json())
        cursor = answers[-1]["next_cursor"]
        if not cursor:
            break
        history.grow(["deposit"])  # what happens meanwhile is on no page
    lines = [line for answer in answers for line in answer["lines"]]
    assert [line["version"] for line in lines] == [version for version in range(30, 0, -1) if version % 4 != 3]
    assert all(answer["sum_matches"] for answer in answers)
    assert [answer["opening"]["available"] for answer in answers[:-1]] == [answer["closing"]["available"] for answer in answers[1:]]
    assert answers[0]["closing"]["available"] == f"{history.accounts[30].cash['USD'].available:.2f}"
    for path, more in (("/balance/BTC/explain", {"as_of": "30"}), ("/balance/USD/explain", {"as_of": "29"}), ("/balance/USD/explain", {})):
        answer = await door.get(path, history, cursor=answers[0]["next_cursor"], **more)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-cursor")
    other = await door.shown("deposit")
    assert (await door.get("/balance/USD/explain", other, cursor=answers[0]["next_cursor"], as_of="30")).status_code == 400


async def test_what_there_is_not(door: ReadDoor) -> None:
    """An unknown unit is 404, one that was never held is explained by nothing, what can be no unit is 422; other routes keep their paths."""
    history = await door.shown("deposit")
    for unit, status in (("XYZ", 404), ("EUR", 404), ("DOGE", 200), ("B-C", 422), ("ELEVENCHARS", 422)):
        assert (await door.get(f"/balance/{unit}/explain", history)).status_code == status, unit
    empty = (await door.get("/balance/doge/explain", history)).json()
    assert (empty["lines"], empty["opening"]["total"], empty["closing"]["total"], empty["sum_matches"]) == ([], "0", "0", True)
    nobody = (await door.get("/balance/usd/explain", door.user())).json()
    assert (nobody["lines"], nobody["closing"], nobody["as_of"]["at"]) == ([], nobody["opening"], None)
    assert (await door.get("/balance/transactions", history)).status_code == 200
    assert (await door.get("/balance/asset/BTC", history)).status_code == 404


async def test_books_that_do_not_add_up(door: ReadDoor) -> None:
    """The answer says so, and so does a figure."""
    history = door.user("deposit", "deposit", "deposit")
    spoilt = replace(history.entries[1], postings=(Posting("customer", "USD", Decimal(7)), Posting("world", "USD", Decimal(-7))))
    history.entries[1] = spoilt
    before = REGISTRY.get_sample_value("cnop_explain_mismatches_total") or 0
    body = (await door.get("/balance/usd/explain", history)).json()
    assert (body["sum_matches"], body["closing"]["total"], body["lines"][1]["available"]) == (False, "6.00", "7.00")
    assert (REGISTRY.get_sample_value("cnop_explain_mismatches_total") or 0) == before + 1
    assert (await door.get("/balance/usd/explain", history, limit=1)).json()["sum_matches"]


@pytest.mark.parametrize("unit", ["USD", "BTC"])
async def test_the_account_is_part_of_the_check(door: ReadDoor, unit: str) -> None:
    """An account that is not what its entries led to does not match either."""
    history = door.user("deposit", "buy", "buy", "buy")
    last = history.accounts[-1]
    cash, positions = last.cash["USD"], last.positions["BTC"]
    wrong: Account = replace(
        last,
        cash={"USD": replace(cash, available=cash.available + 1)},
        positions={**last.positions, "BTC": replace(positions, held=Decimal(1))},
    )
    history.accounts[-1] = wrong
    assert not (await door.get(f"/balance/{unit}/explain", history)).json()["sum_matches"]


def test_an_order_id_is_told() -> None:
    """Lines of orders name their order."""
    told = with_sales(1, MS)
    entries: Sequence[Entry] = told.ledger.entries_now(USER)
    named = [line_of(entry, "BTC", topic=REQUESTS, command_id="cmd").order_id for entry in entries if touches(entry, "BTC")]
    assert len(named) == 3
    assert all(order_id and re.fullmatch(ORDER_ID_PATTERN, order_id) for order_id in named[1:])


def test_histories_by_hand_add_up() -> None:
    """What other tests show by HTTP is sound to begin with."""
    history = History(USER).grow(["deposit", "buy", "open", "fill", "open", "close", "sell"] * 3)
    for unit in UNITS:
        entries = [entry for entry in reversed(history.entries) if touches(entry, unit)]
        assert adds_up(unit, Held(), entries, held_of(history.accounts[-1], unit) or Held())
