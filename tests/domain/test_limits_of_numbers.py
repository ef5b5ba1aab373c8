"""Numbers at the edge of what the wires and the store can hold."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from infra.dynamo import from_item, to_item
from infra.ledger_items import read_account
from processors.domain.decide import decide
from schemas.ledger import Account, CashLine, Position
from schemas.market import AssetFacts
from schemas.requests import UnreadableRequest, canonical, decode_request, encode_request, request_type
from schemas.results import decode_result, encode_result, result_of
from schemas.rows import trade_of
from tests.domain.given import USER, account, buy, deposit, logged, settle

LONGEST = Decimal("12345678901234567890.123456789012345678")
"""A value of 38 digits, the most that an amount may have."""


def test_canonical_keeps_every_digit() -> None:
    """Two amounts that differ in the last of 38 digits are different payloads, at a door as in settlement."""
    assert canonical(replace(deposit("1"), amount=LONGEST))["amount"] == f"{LONGEST:f}"


def test_one_decision_is_as_exact_as_many() -> None:
    """`decide` itself loses no digit, whatever context its caller has."""
    request = buy(str(LONGEST), "0.000000000000000001", scale=18)
    alone, _ = decide(account("1000"), logged(request), {})
    together, _ = settle(account("1000"), request)
    assert alone == together
    assert alone.positions["BTC"].available == LONGEST


@pytest.mark.parametrize(
    "before",
    [
        Account(USER, cash={"USD": CashLine(Decimal("99999999999999999999.99"))}),
        Account(USER, cash={"USD": CashLine(Decimal(1000))}, positions={"BTC": Position(Decimal("99999999999999999999.5"), cost_basis=Decimal(1))}),
    ],
    ids=["cash", "holding"],
)
def test_a_line_beyond_the_largest_amount(before: Account) -> None:
    """What would make a line larger than an amount can be is refused: the account and its results stay readable."""
    request = deposit("5", day_limit="100") if not before.positions else buy("1", "1", scale=18)
    after, entry = settle(before, request)
    assert decode_result(encode_result(result_of(entry)))
    assert read_account(to_item(after))


@pytest.mark.parametrize("when", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_at_the_edge_of_the_calendar(when: str) -> None:
    """A request with such an `expires_at` is unreadable or is settled; it never makes the decision raise."""
    document = json.loads(encode_request(buy("1", "1")))
    with suppress(UnreadableRequest):
        settle(account("10"), decode_request("cnop.account.OrderPlaced.v1", json.dumps(document | {"expires_at": when}).encode()))


def test_times_of_other_offsets_become_utc() -> None:
    """An `expires_at` with an offset is the same instant in UTC on every wire."""
    request = replace(buy("1"), expires_at=datetime(2026, 11, 25, 13, tzinfo=timezone(timedelta(hours=1))))
    assert canonical(request)["expires_at"] == "2026-11-25T12:00:00.000Z"
    again = decode_request(request_type(request), encode_request(request))
    assert again.expires_at == datetime(2026, 11, 25, 12, tzinfo=UTC)


def test_the_item_codec_keeps_every_digit() -> None:
    """A Decimal of 38 digits goes into an item and comes back as it was."""
    line = CashLine(LONGEST, Decimal("0.000000000000000001"))
    back = from_item(to_item(line))
    assert (back["available"], back["held"]) == (line.available, line.held)


def test_a_row_of_history_keeps_every_digit() -> None:
    """The movement of an asset is told with all of its digits."""
    _, entry = settle(account("1000"), buy(str(LONGEST), "0.000000000000000001", scale=18))
    trade = trade_of(entry)
    assert trade is not None
    assert trade.quantity == LONGEST


def test_stamps_of_the_door_do_not_change_the_payload() -> None:
    """Quote and facts may differ between a request and its repetition; the payload is the same."""
    one = buy("1")
    other = replace(one, stamp=replace(one.stamp, asset=AssetFacts(2, Decimal(5), False, 9)))
    assert canonical(one) == canonical(other)
