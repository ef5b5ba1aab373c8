"""Identifiers, keys and codes: one spelling each, and what they are made from."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.domain import decide, orders
from schemas.commands import command_id, read_command_id
from schemas.problems import PROBLEMS
from schemas.requests import REQUEST_TYPES, UnreadableRequest, decode_request, order_id, request_id
from schemas.results import RESULT_TYPES, UnreadableResult, decode_result, result_id
from schemas.tables import TABLES, account_pk, asset_version, entry_sk, order_sk

REST_ORDER_ID = r"^[A-Za-z0-9_]{10,50}$"


def test_request_ids() -> None:
    """The same user and key give the same id for ever; another user or key another; the id is a UUID of version 5."""
    assert request_id("alice_1", "key") == "ded4819b-ba14-5596-addd-15119a168cda"
    assert len({request_id("alice_1", "key"), request_id("alice_1", "key2"), request_id("alice_2", "key")}) == 3
    assert UUID(request_id("alice_1", "key")).version == 5


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_order_ids_fit_the_api(user: str, name: str, other_user: str, other_name: str) -> None:
    """An order id has the form that the API takes, and tells users and names apart."""
    assert re.fullmatch(REST_ORDER_ID, order_id(user, name))
    if "\n" not in user + other_user and (user, name) != (other_user, other_name):
        assert order_id(user, name) != order_id(other_user, other_name)


def test_an_order_id_is_not_a_request_id() -> None:
    """The two families of names never meet, and results have ids of their own."""
    request = request_id("alice_1", "key")
    assert order_id("alice_1", "key") == "ord_8ff34adbc37e574cbf65542dbf5218a0"
    assert result_id(request) == "43c57fcf-d40f-5606-b157-9c08fdab4b01"
    assert order_id("alice_1", "key")[4:] != UUID(request).hex
    assert result_id(request) not in (request, result_id(request_id("alice_1", "key2")))
    assert result_id(request) == result_id(request)


def test_command_ids_are_their_owners() -> None:
    """A command id is read back by its owner only, with this system's key only, and only unchanged."""
    request = request_id("alice_1", "key")
    text = command_id(b"secret", "alice_1", request)
    assert read_command_id(b"secret", "alice_1", text) == request
    assert read_command_id(b"secret", "alice_2", text) is None
    assert read_command_id(b"other", "alice_1", text) is None
    for damaged in ("", text[:-1], text + "0", text.upper(), text.replace("cmd", "ord"), text[:5] + ("0" if text[5] != "0" else "1") + text[6:], text + "\n"):
        assert read_command_id(b"secret", "alice_1", damaged) is None


def test_keys_of_the_ledger() -> None:
    """One account is one partition; versions sort as text within an asset, whose name ends at the sign."""
    assert (account_pk("alice_1"), entry_sk("id"), order_sk("ord_1")) == ("ACCT#alice_1", "ENTRY#id", "ORDER#ord_1")
    assert asset_version("BTC", 9) < asset_version("BTC", 10) < asset_version("BTC", 10**18) < asset_version("BTC2", 1)
    assert len({table.name for table in TABLES}) == len(TABLES)


def test_the_catalogue_of_problems() -> None:
    """Codes are words with hyphens under their own key, statuses are errors, and only what is a fault of ours or of the moment is retryable."""
    for code, problem in PROBLEMS.items():
        assert code == problem.code
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert 400 <= problem.status < 600
        assert problem.uri == f"urn:cnop:problem:{code}"
        assert problem.title
        assert problem.retryable == (problem.status >= 500 or problem.status == 429)


def test_every_refusal_is_in_the_catalogue() -> None:
    """Each code that a rule refuses with is told by the API with a status in the 400s."""
    sources = [open(module.__file__, encoding="utf-8").read() for module in (decide, orders)]  # noqa: PTH123, SIM115 - two files of ours
    codes = {code for source in sources for code in re.findall(r'refuse\(account, "([a-z-]+)"', source)}
    assert len(codes) >= 8
    assert all(400 <= PROBLEMS[code].status < 500 for code in codes)


def test_event_types() -> None:
    """Every type says its family and version, and no request is taken for a result."""
    types = [*REQUEST_TYPES, *RESULT_TYPES]
    assert len(set(types)) == len(types)
    assert all(re.fullmatch(r"cnop\.account\.[A-Z][A-Za-z]+\.v1", kind) for kind in types)


DEPOSIT = b'{"username":"alice_1","amount":"5","stamp":{"day_limit":"10"},"currency":"USD"}'

UNREADABLE = [
    ("an unknown type", "cnop.account.Gift.v1", DEPOSIT),
    ("no type", "", DEPOSIT),
    ("no value", "cnop.account.Deposit.v1", None),
    ("nothing", "cnop.account.Deposit.v1", b""),
    ("no JSON", "cnop.account.Deposit.v1", b"{"),
    ("no object", "cnop.account.Deposit.v1", b"[]"),
    ("not UTF-8", "cnop.account.Deposit.v1", b'"\xff"'),
    ("no stamp", "cnop.account.Deposit.v1", b'{"username":"alice_1","amount":"5"}'),
    ("an amount of nothing", "cnop.account.Deposit.v1", DEPOSIT.replace(b'"5"', b'"0"')),
    ("less than nothing", "cnop.account.Deposit.v1", DEPOSIT.replace(b'"5"', b'"-5"')),
    ("a float", "cnop.account.Deposit.v1", DEPOSIT.replace(b'"5"', b"5.5")),
    ("not a number", "cnop.account.Deposit.v1", DEPOSIT.replace(b'"5"', b"NaN")),
    ("an unknown currency", "cnop.account.Deposit.v1", DEPOSIT.replace(b"USD", b"XXX")),
    ("a name that is none", "cnop.account.Deposit.v1", DEPOSIT.replace(b"alice_1", b"Alice!1")),
    ("a name with a line end", "cnop.account.Deposit.v1", DEPOSIT.replace(b"alice_1", b"alice_1\\n")),
    ("a deep nest", "cnop.account.Deposit.v1", b"[" * 100_000),
    ("another type's value", "cnop.account.OrderPlaced.v1", DEPOSIT),
]


@pytest.mark.parametrize(("ce_type", "value"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE])
def test_an_unreadable_request_is_told(ce_type: str, value: bytes | None) -> None:
    """What is no request raises UnreadableRequest and nothing else, with the field's place and never its content."""
    with pytest.raises(UnreadableRequest) as raised:
        decode_request(ce_type, value)
    assert "alice" not in str(raised.value)


@pytest.mark.parametrize("value", [None, b"", b"{}", b"null", b'{"username":"alice_1"}'])
def test_an_unreadable_result_is_told(value: bytes | None) -> None:
    """What is no result raises UnreadableResult and nothing else."""
    with pytest.raises(UnreadableResult):
        decode_result(value)
