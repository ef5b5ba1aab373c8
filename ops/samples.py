"""One event of each type, made as the processes make them: for the generated documents and for their test."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Final

from command_api.outcome import SOURCE as DOOR
from events.envelope import Envelope
from infra.asset_file import load_asset_file
from ops.parked import SOURCE as OPERATOR
from processors.domain.decide import decide_all
from processors.domain.parking import drained, parking_entry
from processors.market import SOURCE as MARKET
from processors.records import SOURCE as SETTLEMENT
from processors.records import Read, result_record
from processors.triggers_sender import SOURCE as TRIGGERS
from schemas.instants import parse_rfc3339
from schemas.ledger import Account, Order, Parked, Parking
from schemas.market import ASSET_CHANGED, ASSET_LISTED, PRICE_CHANGED, Asset, AssetFacts, Figures, PriceChanged, Quote, encode_asset, encode_price
from schemas.requests import (
    INTERNAL,
    AccountRequest,
    Deposit,
    DrainRequested,
    FenceRequested,
    LimitStamp,
    LoggedRequest,
    OrderCancelRequested,
    OrderExpiryReached,
    OrderPlaced,
    OrderRevoked,
    OrderStamp,
    OrderTriggered,
    Withdrawal,
    encode_request,
    expiry_id,
    order_id,
    request_id,
    request_type,
    revocation_id,
    trigger_id,
)
from schemas.results import Result, encode_result, result_id, result_of, result_type

USERNAME: Final = "ada_lovelace"
BEGIN: Final = parse_rfc3339("2026-11-25T08:21:42.123Z")
STEP: Final = timedelta(milliseconds=250)
DAY_LIMIT: Final = LimitStamp(Decimal("10000000.00"))
FEE_BPS: Final = 10


def samples() -> list[Envelope]:
    """Events of one story, in order, each type once: always the same ones."""
    sent = [*_account_events(), *_market_events()]
    by_type = {event.type: event for event in reversed(sent)}
    return [event for event in sent if by_type[event.type] is event]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of the story: its place, its request and the context that is passed on."""

    place: int
    request: AccountRequest

    @property
    def id(self) -> str:
        match self.request:
            case OrderTriggered(order_id=name, sequence=sequence):
                return trigger_id(name, sequence)
            case OrderExpiryReached(order_id=name):
                return expiry_id(name)
            case OrderRevoked(order_id=name, reason=reason):
                return revocation_id(name, reason)
            case _:
                return request_id(USERNAME, f"sample-{self.place}")

    @property
    def trace(self) -> str:
        return f"sample-call-{self.place}"

    @property
    def traceparent(self) -> str:
        digits = hashlib.sha256(self.trace.encode()).hexdigest()
        return f"00-{digits[:32]}-{digits[32:48]}-01"

    @property
    def read(self) -> Read:
        return Read(self.logged, "reply:sample-door", self.traceparent, None)

    @property
    def logged(self) -> LoggedRequest:
        return LoggedRequest(self.request, self.id, BEGIN + STEP * self.place, 2, 1000 + self.place, self.trace, self.trace)


def _account_events() -> Iterator[Envelope]:
    account, orders = Account(USERNAME), dict[str, Order]()
    for place, request in enumerate(_requests()):
        call = _Call(place, request)
        yield _request(call)
        decided = decide_all(account, (call.logged,), orders)
        account, orders = decided.account, orders | {order.order_id: order for order in decided.orders}
        yield _result(call, result_of(decided.entries[0]))
    yield from _parking_events(account)


def _parking_events(account: Account) -> Iterator[Envelope]:
    """A deposit that cannot be decided, and its draining."""
    waiting, drain = (_Call(place, request) for place, request in ((30, Deposit(USERNAME, Decimal("75.00"), DAY_LIMIT)), (31, DrainRequested(USERNAME))))
    entry = parking_entry(USERNAME, account.version, account.at, waiting.logged, "undecodable")
    yield result_record(entry, waiting.read)
    yield _request(drain)
    decided = decide_all(replace(account, version=entry.version), (waiting.logged,), {})
    parked = Parked(waiting.logged.partition, waiting.logged.offset, entry.at, "undecodable")
    _, drained_entry = drained(decided, parked, drain.logged, Parking("active", None, (waiting.id,)), waiting.logged.offset)
    yield result_record(drained_entry, drain.read)


def _requests() -> Iterator[AccountRequest]:
    yield Deposit(USERNAME, Decimal("5000.00"), DAY_LIMIT)
    yield _order("0.05", client_order_id="my-first-order")
    yield Withdrawal(USERNAME, Decimal("250.00"), DAY_LIMIT)
    yield Deposit(USERNAME, Decimal("1000000.00"), LimitStamp(Decimal("100000.00")))
    yield Withdrawal(USERNAME, Decimal("999999.00"), DAY_LIMIT)
    yield _order("2")
    yield _limit("0.01", "filled")
    yield OrderTriggered(USERNAME, order_id(USERNAME, "filled"), Decimal("47990.00"), 18, BEGIN + STEP * 7)
    yield _limit("0.02", "cancelled")
    yield OrderCancelRequested(USERNAME, order_id(USERNAME, "cancelled"))
    yield OrderCancelRequested(USERNAME, order_id(USERNAME, "filled"))
    yield _limit("0.02", "expired")
    yield OrderExpiryReached(USERNAME, order_id(USERNAME, "expired"))
    yield _limit("0.02", "revoked")
    yield OrderRevoked(USERNAME, order_id(USERNAME, "revoked"), "asset-inactive")
    yield FenceRequested(USERNAME)


def _order(quantity: str, client_order_id: str | None = None) -> OrderPlaced:
    bitcoin = _bitcoin()
    quote = Quote(bitcoin.price_usd, 17, BEGIN, BEGIN + timedelta(seconds=30))
    facts = AssetFacts(bitcoin.quantity_scale, bitcoin.minimum_quantity, bitcoin.is_active, FEE_BPS)
    stamp = OrderStamp(quote, facts, Decimal("10000000.00"))
    return OrderPlaced(USERNAME, bitcoin.asset_id, "market_buy", Decimal(quantity), stamp, client_order_id=client_order_id)


def _limit(quantity: str, name: str) -> OrderPlaced:
    """An order to buy when the price falls; the one that expires does so before the next call."""
    ends = BEGIN + STEP * 12 if name == "expired" else None
    order = _order(quantity, client_order_id=name)
    return replace(order, order_type="limit_buy", price=Decimal("48000.00"), time_in_force="gtd" if ends else "gtc", expires_at=ends)


def _request(call: _Call) -> Envelope:
    return Envelope(
        id=call.id,
        source=_source(call.request),
        type=request_type(call.request),
        subject=USERNAME,
        time=call.logged.at,
        value=encode_request(call.request),
        correlation_id=call.trace,
        trace_id=call.trace,
        traceparent=call.traceparent,
        reply_to=None if isinstance(call.request, INTERNAL) else "reply:sample-door",
    )


def _source(request: AccountRequest) -> str:
    if isinstance(request, DrainRequested):
        return OPERATOR
    return TRIGGERS if isinstance(request, INTERNAL) else DOOR


def _result(call: _Call, result: Result) -> Envelope:
    return Envelope(
        id=result_id(call.id),
        source=SETTLEMENT,
        type=result_type(result),
        subject=USERNAME,
        time=result.at,
        value=encode_result(result),
        correlation_id=call.trace,
        trace_id=call.trace,
        causation_id=call.id,
        sequence=result.version,
        traceparent=call.traceparent,
        reply_to=None if isinstance(call.request, INTERNAL) else "reply:sample-door",
    )


def _market_events() -> Iterator[Envelope]:
    bitcoin = _bitcoin()
    price = PriceChanged(bitcoin.asset_id, bitcoin.price_usd, 17, BEGIN, Decimal("12.5"), _figures(bitcoin.price_usd))
    yield _market_event(PRICE_CHANGED, encode_price(price), sequence=price.sequence)
    yield _market_event(ASSET_LISTED, encode_asset(bitcoin))
    yield _market_event(ASSET_CHANGED, encode_asset(replace(bitcoin, market_cap_rank=2)))


def _figures(price: Decimal) -> Figures:
    high, low = price * 2, price / 2
    return Figures(high, low, Decimal("980000.00"), high, BEGIN - timedelta(hours=2), low, BEGIN - timedelta(hours=1), price_24h_ago=price)


def _market_event(kind: str, value: bytes, sequence: int | None = None) -> Envelope:
    event_id = request_id("market", kind)
    return Envelope(event_id, MARKET, kind, _bitcoin().asset_id, BEGIN, value, "sample-round", "sample-round", sequence=sequence)


def _bitcoin() -> Asset:
    return next(asset for asset in load_asset_file(None) if asset.asset_id == "BTC")
