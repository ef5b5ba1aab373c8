"""The generated documents are current, complete and true of what the encoders write."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from events import asyncapi
from events.descriptions import FIELDS, HEADERS, RESULTS_OF, SOURCES, TOPICS
from events.envelope import Envelope, data_schema
from events.payloads import event_types
from events.topics import DEAD_LETTERS, declared
from ops.contracts import ASYNCAPI, EVENTS, GENERATED, OPENAPI, PAGE, PARTITIONS, check, page, write
from ops.samples import samples
from schemas.problems import PROBLEM_JSON, PROBLEMS
from schemas.requests import REQUEST_TYPES
from schemas.results import RESULT_TYPES

STALE = "the code has changed what these documents say: run `python -m ops.contracts` and look at what it changed"
SAMPLES = samples()


def generated(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GENERATED / name).read_text())
    return found


def schema_of(ce_type: str) -> dict[str, Any]:
    return generated(f"{EVENTS}/{ce_type}.json")


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def references(document: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Place and target of every `$ref`."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "$ref" and isinstance(value, str):
                yield at, value
            yield from references(value, f"{at}/{key}")
    if isinstance(document, list):
        for place, value in enumerate(document):
            yield from references(value, f"{at}/{place}")


def target(document: Any, reference: str) -> Any:
    assert reference.startswith("#/"), reference
    for step in reference.removeprefix("#/").split("/"):
        document = document[step.replace("~1", "/").replace("~0", "~")]
    return document


def test_documents_are_current() -> None:
    """What is committed is what the code would write."""
    assert check(GENERATED) == [], STALE


def test_page_on_topics_is_current() -> None:
    """The generated parts of docs/topics.md are what the code would write."""
    text = PAGE.read_text()
    assert page(text) == text, STALE


def test_differences_are_told(tmp_path: Path) -> None:
    """A missing, a changed and a left-over document are each named, and writing mends all of them."""
    write(tmp_path)
    (tmp_path / ASYNCAPI).unlink()
    (tmp_path / OPENAPI).write_text("{}\n")
    (tmp_path / EVENTS / "cnop.account.Gone.v1.json").write_text("{}\n")
    told = check(tmp_path)
    assert told == [f"{ASYNCAPI} is missing", f"{EVENTS}/cnop.account.Gone.v1.json is of nothing that exists", f"{OPENAPI} differs"]
    write(tmp_path)
    assert check(tmp_path) == []


def test_every_type_has_a_schema() -> None:
    """Each request and result type has a schema under the name that its records carry."""
    names = {path.name.removesuffix(".json") for path in (GENERATED / EVENTS).iterdir()}
    assert {*REQUEST_TYPES, *RESULT_TYPES} <= names
    assert names == {kind.name for kind in event_types()}
    for name in names:
        schema = schema_of(name)
        Draft202012Validator.check_schema(schema)
        assert schema["$id"] == data_schema(name)


def test_every_type_has_a_sample() -> None:
    """No type is left without an example that went through its encoder."""
    assert sorted(sample.type for sample in SAMPLES) == sorted(kind.name for kind in event_types())


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.type)
def test_encoded_events_are_valid(sample: Envelope) -> None:
    """What the encoders write, value and headers, is what the documents say."""
    validator(schema_of(sample.type)).validate(json.loads(sample.value))
    headers = {name: value.decode() for name, value in sample.headers()}
    described = generated(ASYNCAPI)["components"]["messages"][sample.type]["headers"]
    validator(described).validate(headers)
    assert headers.keys() <= described["properties"].keys()


@pytest.mark.parametrize("sample", [one for one in SAMPLES if one.type in RESULT_TYPES], ids=lambda sample: sample.type)
def test_results_are_of_one_type_only(sample: Envelope) -> None:
    """A result's schema tells it from the results of every other type; by the type of an order's result its status is known."""
    value = json.loads(sample.value)
    fitting = [name for name in RESULT_TYPES if validator(schema_of(name)).is_valid(value)]
    assert fitting == [sample.type]


@pytest.mark.parametrize(
    ("ce_type", "path", "wrong"),
    [
        ("cnop.account.Deposit.v1", "amount", "much"),
        ("cnop.account.Deposit.v1", "username", "Ada"),
        ("cnop.account.Deposit.v1", "stamp", None),
        ("cnop.account.OrderPlaced.v1", "order_type", "stop_buy"),
        ("cnop.account.DepositSettled.v1", "version", "1"),
        ("cnop.account.DepositSettled.v1", "kind", "Withdrawal"),
        ("cnop.account.DepositRejected.v1", "postings", [{"account": "customer", "unit": "USD", "amount": "1.00"}]),
        ("cnop.account.OrderFilled.v1", "lines", {"counters": {}}),
        ("cnop.market.PriceChanged.v1", "price", 50000.0),
        ("cnop.market.AssetListed.v1", "is_active", "yes"),
    ],
)
def test_wrong_events_are_not_valid(ce_type: str, path: str, wrong: object) -> None:
    """A value that breaks a rule of its type does not pass for one."""
    sample = next(one for one in SAMPLES if one.type == ce_type)
    value = {**json.loads(sample.value), path: wrong}
    with pytest.raises(jsonschema.ValidationError):
        validator(schema_of(ce_type)).validate(value)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.type)
def test_fields_may_be_added(sample: Envelope) -> None:
    """A reader with today's schema takes an event of tomorrow, which says more."""
    validator(schema_of(sample.type)).validate({**json.loads(sample.value), "said_since_tomorrow": True})


def test_every_reference_resolves() -> None:
    """No document points at what is not there, or out of itself."""
    for path in GENERATED.rglob("*.json"):
        document = json.loads(path.read_text())
        for _, reference in references(document):
            assert isinstance(target(document, reference), dict), (path, reference)


def test_every_topic_is_a_channel() -> None:
    """Each declared topic is a channel with its own settings, and nothing else is."""
    channels = {channel["address"]: channel for channel in generated(ASYNCAPI)["channels"].values()}
    assert channels.keys() == {topic.name for topic in declared(PARTITIONS)}
    for topic in declared(PARTITIONS):
        kafka = channels[topic.name]["bindings"]["kafka"]
        assert kafka["topic"] == topic.name
        assert kafka["partitions"] == topic.partitions
        stated = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in kafka["topicConfiguration"].items()}
        assert stated == dict(topic.settings)


def test_every_channel_has_senders_and_its_types() -> None:
    """Somebody sends to every topic, somebody receives from all but the dead letters, and the messages are those of the topic's types."""
    document = generated(ASYNCAPI)
    for name, channel in document["channels"].items():
        actions = {operation["action"] for operation in document["operations"].values() if operation["channel"]["$ref"] == f"#/channels/{name}"}
        assert actions == ({"send"} if channel["address"] == DEAD_LETTERS else {"send", "receive"})
        types = {kind.name for kind in event_types() if kind.topic == channel["address"]} or {asyncapi.DEAD_LETTER}
        assert channel["messages"].keys() == types
    assert document["operations"].keys() == {flow.name for flow in asyncapi.FLOWS}
    for operation in document["operations"].values():
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")


def test_document_is_made_without_warnings() -> None:
    """FastStream warns where two names of its document collide: then something would be missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        document = asyncapi.document(7)
    assert document["asyncapi"] == asyncapi.VERSION
    assert {channel["bindings"]["kafka"]["partitions"] for channel in document["channels"].values()} == {1, 7}


def test_everything_is_described() -> None:
    """Every type, topic, header and field has its sentence, and no sentence is about what is gone."""
    assert RESULTS_OF.keys() == set(RESULT_TYPES)
    assert TOPICS.keys() == {topic.name for topic in declared(1)}
    assert SOURCES.keys() == TOPICS.keys() - {DEAD_LETTERS}
    fields, sentences, headers = set(), set(), set()
    for kind in event_types():
        for part in (kind.schema, *kind.schema.get("$defs", {}).values()):
            assert part["description"]
            fields |= {(part["title"], name) for name in part["properties"]}
            sentences |= {member["description"] for member in part["properties"].values()}
        headers |= generated(ASYNCAPI)["components"]["messages"][kind.name]["headers"]["properties"].keys()
    assert sentences == set(FIELDS.values())
    assert headers == set(HEADERS)
    assert len(fields) >= len(FIELDS)


def test_openapi_tells_every_error() -> None:
    """Each status of the catalogue is a problem+json answer that lists its codes; every operation refers to some, and none to anything else."""
    document = generated(OPENAPI)
    for kind in PROBLEMS.values():
        response = document["components"]["responses"][f"Problem{kind.status}"]
        assert f"`{kind.code}`" in response["description"]
        assert response["content"].keys() == {PROBLEM_JSON}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            errors = {status: answer for status, answer in operation["responses"].items() if int(status) >= 400}
            assert errors.keys() >= {"500", "503"}, (method, path)
            for status, answer in errors.items():
                assert answer == {"$ref": f"#/components/responses/Problem{status}"}, (method, path, status)


def test_openapi_tells_who_may_call() -> None:
    """Every operation needs a bearer token and can answer 401, but for those that need none."""
    document = generated(OPENAPI)
    ((name, scheme),) = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    public = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation.get("security") == [{name: []}]:
                assert "401" in operation["responses"], (method, path)
            else:
                public.add(f"{method} {path.removeprefix('/api/v1')}")
    assert {"post /auth/register", "post /auth/login", "post /auth/refresh"} <= public
    assert all(one.startswith(("post /auth/", "get /inventory/assets", "get /assets")) for one in public)


def test_openapi_tells_the_headers() -> None:
    """Every call may carry an X-Request-ID and gets it back; what changes money takes an Idempotency-Key and tells its command."""
    document = generated(OPENAPI)
    for item in document["paths"].values():
        for operation in item.values():
            assert "X-Request-ID" in {parameter["name"] for parameter in operation["parameters"]}
            for answer in operation["responses"].values():
                response = target(document, answer["$ref"]) if "$ref" in answer else answer
                assert "X-Request-ID" in response["headers"]
    for path in ("/api/v1/orders", "/api/v1/balance/deposit", "/api/v1/balance/withdraw"):
        operation = document["paths"][path]["post"]
        assert {"Idempotency-Key", "Prefer"} <= {parameter["name"] for parameter in operation["parameters"]}
        assert {"Idempotency-Key", "Command-Id", "Consistency-Token"} <= operation["responses"]["201"]["headers"].keys()
        assert {"Location", "Retry-After", "Command-Id"} <= operation["responses"]["202"]["headers"].keys()
        assert {"400", "401", "409", "422", "503"} <= operation["responses"].keys()
