"""One call followed through the whole system by its X-Request-ID, and records that nobody can read."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer

from events.envelope import Envelope
from events.topics import DEAD_LETTERS, REQUESTS, RESULTS
from infra.clock import SystemClock
from schemas.market import AssetFacts, Quote
from schemas.requests import Deposit, LimitStamp, OrderPlaced, OrderStamp, encode_request, request_id, request_type
from schemas.results import decode_result, result_id
from tests.system.running import BACK_S, System, answered, refused
from tests.waiting import eventually

LOGGED_S = 5.0
LINE = ["timestamp", "level", "service_name", "request_id", "username", "message"]


async def test_one_request_everywhere(system: System) -> None:
    """Answer, record, result, journal and the log lines of three processes all carry the id that the client sent."""
    user = await system.user()
    trace = f"trace-{uuid4().hex}"
    parent = f"00-{uuid4().hex}-00f067aa0ba902b7-01"
    answer = await user.deposit("5.00", X_Request_ID=trace, Idempotency_Key="followed", traceparent=parent)
    answered(answer, 201)
    assert answer.headers["X-Request-ID"] == trace
    rid = request_id(user.username, "followed")

    [request] = await system.records(REQUESTS, user.username)
    headers = {name: value.decode() for name, value in request.headers}
    assert (headers["x-request-id"], headers["ce_id"], headers["ce_subject"]) == (trace, rid, user.username)
    assert headers["ce_correlationid"] == trace
    assert headers["traceparent"].split("-")[1] == parent.split("-")[1]

    [record] = await system.records(RESULTS, user.username)
    headers = {name: value.decode() for name, value in record.headers}
    assert (headers["x-request-id"], headers["ce_id"], headers["ce_causationid"]) == (trace, result_id(rid), rid)
    assert (headers["ce_correlationid"], headers["ce_sequence"], headers["ce_type"]) == (trace, f"{1:020d}", "cnop.account.DepositSettled.v1")
    assert headers["traceparent"].split("-")[1] == parent.split("-")[1]
    assert record.partition == request.partition

    entry = await system.entry(user.username, "followed")
    assert entry
    assert (entry.trace_id, entry.partition, entry.offset) == (trace, request.partition, request.offset)
    assert decode_result(record.value).at == entry.at

    for name in ("origin", "settlement", "projector"):
        lines = await eventually(lambda name=name: [line for line in system.lines(name) if line["request_id"] == trace], LOGGED_S)
        assert all(list(line)[: len(LINE)] == LINE for line in lines)
        assert {line["service_name"] for line in lines} == {f"cnop-{name}"}
        assert user.username in {line["username"] for line in lines}


async def test_no_secrets_in_logs(system: System) -> None:
    """Neither passwords nor tokens stand in any log."""
    user = await system.user()
    refreshed = answered(await system.http.post("/api/v1/auth/refresh", json={"refresh_token": user.tokens["refresh_token"]}), 200)
    await user.read("/balance")
    text = "".join(file.read_text() for file in system.stack.home.logs.glob("*.log*"))
    for secret in ("Correct-Horse-9", user.tokens["access_token"], user.tokens["refresh_token"], refreshed["refresh_token"]):
        assert secret not in text


def broken(username: str) -> dict[str, tuple[bytes, Envelope]]:
    """Records that are no requests of that user, each with its key."""
    deposit = Deposit(username, Decimal("5.00"), LimitStamp(Decimal(10_000)))
    good = Envelope(str(uuid4()), "urn:test", request_type(deposit), username, SystemClock().now(), encode_request(deposit), "t", "t")
    return {
        "no json": (good.key, replace(good, id=str(uuid4()), value=b"{")),
        "unknown type": (good.key, replace(good, id=str(uuid4()), type="cnop.account.Nothing.v1")),
        "another key": (b"somebody_else", replace(good, id=str(uuid4()))),
        "another subject": (b"somebody_else", replace(good, id=str(uuid4()), subject="somebody_else")),
        "a negative amount": (good.key, replace(good, id=str(uuid4()), value=good.value.replace(b"5.00", b"-5.00"))),
    }


@pytest.mark.parametrize("what", list(broken("somebody")))
async def test_unreadable_records(system: System, what: str) -> None:
    """A record that cannot be read lies in the dead letters as it came, with the reason; the account's next request is settled."""
    user = await system.user("1.00")
    key, envelope = broken(user.username)[what]
    await publish(system, key, envelope)

    async def letter() -> dict[str, bytes] | None:
        found = [dict(record.headers) | {"value": record.value} for record in await system.records(DEAD_LETTERS)]
        return next((headers for headers in found if headers["ce_id"] == envelope.id.encode()), None)

    headers = await eventually(letter, BACK_S)
    assert headers["value"] == envelope.value
    assert headers["x-original-topic"] == REQUESTS.encode()
    assert headers["dlq_reason"]
    answered(await user.deposit("1.00"), 201)
    assert await user.balance() == "2.00"


async def test_an_old_quote(system: System) -> None:
    """An order whose record comes late into the log is refused: its price is no free option."""
    user = await system.user("1000.00")
    now = SystemClock().now()
    quote = Quote(Decimal("1.00"), 1, now - timedelta(seconds=60), now - timedelta(seconds=30))
    stamp = OrderStamp(quote, AssetFacts(8, Decimal("0.000001"), is_active=True, fee_bps=0), Decimal(10_000))
    order = OrderPlaced(user.username, "BTC", "market_buy", Decimal("0.01"), stamp)
    rid = request_id(user.username, "late")
    await publish(system, user.username.encode(), Envelope(rid, "urn:test", request_type(order), user.username, now, encode_request(order), "t", "t"))
    entry = await eventually(lambda: system.entry(user.username, "late"), BACK_S)
    assert entry.refusal.code == "price-expired"
    body = {"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.01"}
    refused(await user.post("/orders", body, Idempotency_Key="late"), 422, "price-expired")


async def publish(system: System, key: bytes, envelope: Envelope) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=system.addresses.kafka, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(REQUESTS, key=key, value=envelope.value, headers=envelope.headers())
    finally:
        await producer.stop()
