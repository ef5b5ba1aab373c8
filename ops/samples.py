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
from processors.domain.decide import decide_all
from processors.domain.parking import drained, parking_entry
from processors.market import SOURCE as MARKET
from processors.records import SOURCE as SETTLEMENT
from processors.records import Read, result_record
from schemas.instants import parse_rfc3339
from schemas.ledger import Account, Order, OrderStatus, Parked, Parking
from schemas.market import ASSET_CHANGED, ASSET_LISTED, PRICE_CHANGED, Asset, AssetFacts, PriceChanged, Quote, encode_asset, encode_price
from schemas.money import ZERO
from schemas.requests import (
    AccountRequest,
    Deposit,
    DrainRequested,
    FenceRequested,
    LimitStamp,
    LoggedRequest,
    OrderPlaced,
    OrderStamp,
    Withdrawal,
    encode_request,
    request_id,
    request_type,
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
        result = result_of(decided.entries[0])
        yield _result(call, result)
        if result.lines.order and isinstance(request, OrderPlaced):
            yield from (_result(call, of_limit) for of_limit in _limit_results(result, result.lines.order))
    yield from _parking_events(account)


def _parking_events(account: Account) -> Iterator[Envelope]:
    """A deposit that cannot be decided, and its draining."""
    waiting, drain = (_Call(place, request) for place, request in ((20, Deposit(USERNAME, Decimal("75.00"), DAY_LIMIT)), (21, DrainRequested(USERNAME))))
    entry = parking_entry(USERNAME, account.version, account.at, waiting.logged, "undecodable")
    yield result_record(entry, waiting.read)
    yield _request(drain)
    decided = decide_all(replace(account, version=entry.version), (waiting.logged,), {})
    parked = Parked(waiting.logged.partition, waiting.logged.offset, entry.at, "undecodable")
    done = drained(decided, parked, drain.logged, Parking("active", None, (waiting.id,)), waiting.logged.offset)
    yield result_record(done.entry, drain.read)


def _requests() -> Iterator[AccountRequest]:
    yield Deposit(USERNAME, Decimal("5000.00"), DAY_LIMIT)
    yield _order("0.05", client_order_id="my-first-order")
    yield Withdrawal(USERNAME, Decimal("250.00"), DAY_LIMIT)
    yield Deposit(USERNAME, Decimal("1000000.00"), LimitStamp(Decimal("100000.00")))
    yield Withdrawal(USERNAME, Decimal("999999.00"), DAY_LIMIT)
    yield _order("2")
    yield FenceRequested(USERNAME)


def _order(quantity: str, client_order_id: str | None = None) -> OrderPlaced:
    bitcoin = _bitcoin()
    quote = Quote(bitcoin.price_usd, 17, BEGIN, BEGIN + timedelta(seconds=30))
    facts = AssetFacts(bitcoin.quantity_scale, bitcoin.minimum_quantity, bitcoin.is_active, FEE_BPS)
    stamp = OrderStamp(quote, facts, Decimal("10000000.00"))
    return OrderPlaced(USERNAME, bitcoin.asset_id, "market_buy", Decimal(quantity), stamp, client_order_id=client_order_id)


def _limit_results(result: Result, filled: Order) -> Iterator[Result]:
    """Limit orders are not decided yet: what their results will look like, in place of the filled order's."""
    price = Decimal("48000.00")
    order = replace(filled, order_type="limit_buy", price=price, filled_quantity=ZERO, average_price=None, total_amount=ZERO, fee=ZERO)
    payload = {**result.payload, "order_type": "limit_buy", "price": "48000"}
    endings: tuple[tuple[OrderStatus, Decimal], ...] = (("open", price * order.quantity), ("cancelled", ZERO), ("expired", ZERO))
    for status, held in endings:
        cash = {
            currency: replace(line, available=line.available + filled.total_amount + filled.fee - held, held=held)
            for currency, line in result.lines.cash.items()
        }
        counters = replace(result.lines.counters, transactions=1)
        lines = replace(result.lines, counters=counters, cash=cash, positions={}, order=replace(order, status=status))
        yield replace(result, payload=payload, lines=lines, postings=())


def _request(call: _Call) -> Envelope:
    return Envelope(
        id=call.id,
        source=DOOR,
        type=request_type(call.request),
        subject=USERNAME,
        time=call.logged.at,
        value=encode_request(call.request),
        correlation_id=call.trace,
        trace_id=call.trace,
        traceparent=call.traceparent,
        reply_to="reply:sample-door",
    )


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
        reply_to="reply:sample-door",
    )


def _market_events() -> Iterator[Envelope]:
    bitcoin = _bitcoin()
    price = PriceChanged(bitcoin.asset_id, bitcoin.price_usd, 17, BEGIN)
    yield _market_event(PRICE_CHANGED, encode_price(price), sequence=price.sequence)
    yield _market_event(ASSET_LISTED, encode_asset(bitcoin))
    yield _market_event(ASSET_CHANGED, encode_asset(replace(bitcoin, market_cap_rank=2)))


def _market_event(kind: str, value: bytes, sequence: int | None = None) -> Envelope:
    event_id = request_id("market", kind)
    return Envelope(event_id, MARKET, kind, _bitcoin().asset_id, BEGIN, value, "sample-round", "sample-round", sequence=sequence)


def _bitcoin() -> Asset:
    return next(asset for asset in load_asset_file(None) if asset.asset_id == "BTC")
