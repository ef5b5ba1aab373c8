"""Events of earlier schemas: what was written once is read for ever.

The files under `samples/` are records as they were published at the date of their folder. They are never changed: a schema that cannot read
them any more is wrong, not they. A change of a schema adds a folder with the records of the day before it.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from events.envelope import Inbound, read
from schemas.instants import EPOCH
from schemas.market import ASSET_CHANGED, ASSET_LISTED, PRICE_CHANGED, asset_adapter, price_adapter
from schemas.requests import REQUEST_TYPES, decode_request, encode_request
from schemas.results import RESULT_TYPES, decode_result, encode_result

SAMPLES = sorted(Path(__file__).with_name("samples").glob("*/*.json"))


def record(path: Path) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Key, value and headers."""
    sample = json.loads(path.read_text(encoding="utf-8"))
    headers = [(name, value.encode()) for name, value in sample["headers"].items()]
    return sample["headers"]["ce_subject"].encode(), json.dumps(sample["value"]).encode(), headers


def decoded(ce_type: str, value: bytes) -> Any:
    """The payload as its readers take it, written again."""
    if ce_type in REQUEST_TYPES:
        return json.loads(encode_request(decode_request(ce_type, value)))
    if ce_type in RESULT_TYPES:
        return json.loads(encode_result(decode_result(value)))
    adapter = {PRICE_CHANGED: price_adapter, ASSET_LISTED: asset_adapter, ASSET_CHANGED: asset_adapter}[ce_type]()
    return adapter.dump_python(adapter.validate_json(value), mode="json")


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_event_of_an_earlier_schema(path: Path) -> None:
    """Envelope and payload are read, and no field of it is lost or changed; fields that came later have a value."""
    key, value, headers = record(path)
    envelope = read(key, value, headers)
    Inbound("topic", 0, 0, EPOCH, envelope)
    again = decoded(envelope.type, envelope.value)
    assert contained(json.loads(value), again) == []


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_event_of_a_later_schema(path: Path) -> None:
    """A field, or a header, that this version does not know is passed over."""
    key, value, headers = record(path)
    envelope = read(key, json.dumps(json.loads(value) | {"a_field_of_tomorrow": {"x": 1}}).encode(), [*headers, ("ce_tomorrow", b"1")])
    assert contained(json.loads(value), decoded(envelope.type, envelope.value)) == []


def test_every_type_has_a_sample() -> None:
    """A type that is new brings its record along."""
    types = {json.loads(path.read_text(encoding="utf-8"))["headers"]["ce_type"] for path in SAMPLES}
    assert types >= {*REQUEST_TYPES, *RESULT_TYPES, PRICE_CHANGED}


def contained(old: Any, new: Any, where: str = "") -> list[str]:
    """Pointers to what `old` has and `new` has not, or has otherwise. Empty values may be left out."""
    if isinstance(old, dict):
        if not isinstance(new, dict):
            return [where]
        return [pointer for name, value in old.items() if value not in (None, [], {}) for pointer in contained(value, new.get(name), f"{where}/{name}")]
    if isinstance(old, list):
        if not isinstance(new, list) or len(old) != len(new):
            return [where]
        return [pointer for index, pair in enumerate(zip(old, new, strict=True)) for pointer in contained(*pair, f"{where}/{index}")]
    return [] if old == new else [where]
