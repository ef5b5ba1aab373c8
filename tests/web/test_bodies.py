"""Bodies are one exact JSON object, or refused."""

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.http import ProblemError
from infra.http_request import BODY_BYTES_MAX, parse_object
from tests.web.toy import Door

LEAVES = st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(alphabet=st.characters(codec="utf-8"))
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet=st.characters(codec="utf-8")), inner, max_size=3), max_leaves=10
)


def written(value: Any) -> str:
    match value:
        case Decimal():
            text = str(value)
            return text if {".", "E"} & set(text) else text + ".0"
        case dict():
            return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(written, value)) + "]"
        case _:
            return json.dumps(value)


@given(st.dictionaries(st.text(alphabet=st.characters(codec="utf-8")), VALUES, max_size=4))
def test_exact(value: dict[str, Any]) -> None:
    """What is read is what was written: no number loses a digit, no text a sign."""
    assert parse_object(written(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b'{"a":NaN}', "NaN is not a JSON number"),
        (b'{"a":-Infinity}', "-Infinity is not a JSON number"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":{"b":1,"b":1}}', "twice"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"{}"', "must be a JSON object"),
        (b"{}{}", "Extra data"),
        (b'{"a":1}\x00', "Extra data"),
        (b"{'a':1}", "not JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b'{"a":"\\ud800"}', "not UTF-8"),
        (b'{"\\udfff":1}', "not UTF-8"),
        (b'{"a":1e99999999999999999999}', "out of range"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON as it is accepted"),
        (b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "nested too deeply"),
    ],
)
def test_refused(body: bytes, words: str) -> None:
    """What is not one JSON object is told as such, in words that name the fault."""
    with pytest.raises(ProblemError) as refused:
        parse_object(body)
    assert refused.value.code == "malformed-body"
    assert words in refused.value.detail


@pytest.mark.parametrize(("sent", "read"), [("0.123456789012345678", "0.123456789012345678"), ("5000", "5000"), ('"5000.00"', "5000.00"), ("1e3", "1000")])
async def test_amounts_reach_handlers_exactly(client: httpx.AsyncClient, door: Door, sent: str, read: str) -> None:
    """A number or a string in the body is the same decimal in the handler and in the answer."""
    answer = await client.post("/api/v1/pay", content=f'{{"amount":{sent}}}', headers={**door.bearer(), "Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["amount"] == read


async def test_largest_body(client: httpx.AsyncClient, door: Door) -> None:
    """64 KiB are taken; one byte more is refused, with Content-Length as well as without."""
    frame = b'{"amount":1,"note":""}'
    full = b'{"amount":1,"note":"' + b"x" * (BODY_BYTES_MAX - len(frame)) + b'"}'
    headers = {**door.bearer(), "Content-Type": "application/json"}

    async def chunked(body: bytes) -> Any:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    assert (await client.post("/api/v1/pay", content=full, headers=headers)).status_code == 201
    assert (await client.post("/api/v1/pay", content=chunked(full), headers=headers)).status_code == 201
    assert (await client.post("/api/v1/pay", content=full + b" ", headers=headers)).status_code == 413
    assert (await client.post("/api/v1/pay", content=chunked(full + b" "), headers=headers)).status_code == 413


async def test_optional_body(client: httpx.AsyncClient, door: Door) -> None:
    """A handler whose body is optional gets none where none was sent; a charset may be named."""
    assert (await client.post("/api/v1/maybe", headers=door.bearer())).json() == {"given": False}
    headers = {**door.bearer(), "Content-Type": "application/json; charset=UTF-8"}
    assert (await client.post("/api/v1/maybe", content=b'{"amount":1}', headers=headers)).json() == {"given": True}
