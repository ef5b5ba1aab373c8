"""What was asked: the values of records on the requests topic.

`stamp` holds what the door added (quote, asset facts, limits). It takes part in the decision, which is thereby a pure function of
the record, but not in the comparison of a repeated request with the first one.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError
from uuid_utils import UUID, uuid5

from schemas.instants import Instant, rfc3339
from schemas.market import AssetFacts, Quote
from schemas.money import Amount, short

USERNAME_PATTERN: Final = r"^[a-z0-9_]{6,30}$"
Username = Annotated[str, StringConstraints(pattern=USERNAME_PATTERN)]
AssetId = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9]{1,10}$")]
Currency = Literal["USD"]
PositiveAmount = Annotated[Amount, Field(gt=0)]
OrderType = Literal["market_buy", "market_sell", "limit_buy", "limit_sell", "stop_loss_sell", "take_profit_sell"]
DueSide = Literal["falls", "rises"]
DUE_SIDES: Final[dict[OrderType, DueSide]] = {"limit_buy": "falls", "stop_loss_sell": "falls", "limit_sell": "rises", "take_profit_sell": "rises"}
"""An order with a price is due when the market falls to that price, or when it rises to it; a market order has none."""
ORDER_ID_PATTERN: Final = r"^ord_[0-9a-f]{32}$"
ORDER_ID_ASKED_PATTERN: Final = r"^[A-Za-z0-9_]{10,50}$"
"""What a caller may name as an order's id; one that no order can have is not found, like one that no order has."""
OrderId = Annotated[str, StringConstraints(pattern=ORDER_ID_PATTERN)]
TimeInForce = Literal["gtc", "gtd", "ioc", "fok", "day"]
ClientOrderId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")]

REQUEST_NAMESPACE: Final = UUID("7d0e5b0c-4b5f-5d8e-9d53-0b1f6c1f3a10")
"""Namespace of request ids (RFC 9562, version 5)."""


@dataclass(frozen=True, slots=True)
class LimitStamp:
    """The per-day limit in force when the door took the request, in the request's currency."""

    day_limit: Amount


@dataclass(frozen=True, slots=True)
class OrderStamp:
    """What the door knew when it took the order. `total_max` is in the home currency."""

    quote: Quote
    asset: AssetFacts
    total_max: Amount


@dataclass(frozen=True, slots=True)
class Deposit:
    """Cash comes in from the world."""

    username: Username
    amount: PositiveAmount
    stamp: LimitStamp
    currency: Currency = "USD"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Cash leaves to the world."""

    username: Username
    amount: PositiveAmount
    stamp: LimitStamp
    currency: Currency = "USD"


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    """An order. `quantity` is in units of the asset; `price` is that at which it becomes due (the limit, or the stop), in the home currency."""

    username: Username
    asset_id: AssetId
    order_type: OrderType
    quantity: PositiveAmount
    stamp: OrderStamp
    price: PositiveAmount | None = None
    client_order_id: ClientOrderId | None = None
    time_in_force: TimeInForce = "gtc"
    expires_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class OrderCancelRequested:
    """The owner does not want an open order any more. First in the log wins: an order that is filled before this one's turn stays filled."""

    username: Username
    order_id: OrderId


@dataclass(frozen=True, slots=True)
class OrderTriggered:
    """From inside: a price at which an open order is due.

    It acts only on an order that was placed before that price: `sequence` (of the asset's price) is larger than that of the order's quote, and
    `priced_at`, when it was made, is not before the order was placed. The quote alone does not tell: a door may know of a price a moment late.
    """

    username: Username
    order_id: OrderId
    price: PositiveAmount
    sequence: int
    priced_at: Instant


@dataclass(frozen=True, slots=True)
class OrderExpiryReached:
    """From inside: the end of an open order's time has come. It acts only if its own record was appended at or after that time."""

    username: Username
    order_id: OrderId


@dataclass(frozen=True, slots=True)
class OrderRevoked:
    """From inside: the platform takes an open order back, and why."""

    username: Username
    order_id: OrderId
    reason: Literal["asset-inactive"]


@dataclass(frozen=True, slots=True)
class FenceRequested:
    """Make sure that a command never happens any more, unless it already did: the first in the log wins.

    The record's request id is the id of the command to be fenced.
    """

    username: Username


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Decide what waits in a parked account, in its order, as much of it as one step takes. From operators, and from settlement for the next step."""

    username: Username


AccountRequest = (
    Deposit | Withdrawal | OrderPlaced | OrderCancelRequested | OrderTriggered | OrderExpiryReached | OrderRevoked | FenceRequested | DrainRequested
)
NAMES_ORDER: Final = (OrderCancelRequested, OrderTriggered, OrderExpiryReached, OrderRevoked)
"""Requests about an order that is there already: it has to be known before they are decided."""
INTERNAL: Final = (OrderTriggered, OrderExpiryReached, OrderRevoked)
"""Requests from inside: one that finds nothing to do leaves nothing."""
ASKED_AGAIN: Final = (OrderExpiryReached, OrderRevoked)
"""Those of them that are asked again for as long as their order is open; the price of a trigger may be gone for good."""

REQUEST_TYPES: Final[dict[str, type[AccountRequest]]] = {f"cnop.account.{kind.__name__}.v1": kind for kind in get_args(AccountRequest)}
"""CloudEvents type → class."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request as it stands in the log.

    `at` is the broker's append time; (`partition`, `offset`) is its place in the requests topic, which tells a redelivery of this
    record from a repetition of the request. `trace_id` is the X-Request-ID of the call that asked for it.
    """

    request: AccountRequest
    request_id: str
    at: datetime
    partition: int
    offset: int
    correlation_id: str
    trace_id: str


class UnreadableRequest(ValueError):
    """A record's value is not a request of the type that its header names."""


def request_id(username: str, key: str) -> str:
    """UUIDv5 of username and idempotency key (RFC 9562 section 5.5): the same key of the same user is the same request for ever."""
    return str(uuid5(REQUEST_NAMESPACE, f"{username}\n{key}"))


def order_id(username: str, name: str) -> str:
    """`ord_` + 32 hex digits of UUIDv5 of username and the client's order id, or `request/` + the request id where the client gave none."""
    return "ord_" + uuid5(REQUEST_NAMESPACE, f"{username}\norder\n{name}").hex


def trigger_id(order_id: str, sequence: int) -> str:
    """Id of the trigger of an order by a price: UUIDv5 of both, so that whoever sees that price publishes the same request."""
    return str(uuid5(REQUEST_NAMESPACE, f"{order_id}\ntriggered\n{sequence}"))


def expiry_id(order_id: str) -> str:
    """Id of the request that ends an order's time: there is one for each order."""
    return str(uuid5(REQUEST_NAMESPACE, f"{order_id}\nexpired"))


def revocation_id(order_id: str, reason: str) -> str:
    """Id of the request that takes an order back for a reason."""
    return str(uuid5(REQUEST_NAMESPACE, f"{order_id}\nrevoked\n{reason}"))


def parking_id(username: str, partition: int, offset: int) -> str:
    """Id of the entry that an account's parking leaves: UUIDv5 of the username and the place of the record that caused it."""
    return str(uuid5(REQUEST_NAMESPACE, f"{username}\nparked\n{partition}\n{offset}"))


def next_drain_id(drain_id: str) -> str:
    """Id of the draining step that follows one: the same at every emission."""
    return str(uuid5(UUID(drain_id), "next"))


def request_type(request: AccountRequest) -> str:
    """The CloudEvents type of a request."""
    return f"cnop.account.{type(request).__name__}.v1"


_ADAPTERS: Final[dict[str, TypeAdapter[AccountRequest]]] = {ce_type: TypeAdapter(kind) for ce_type, kind in REQUEST_TYPES.items()}


def encode_request(request: AccountRequest) -> bytes:
    """The JSON value of a request record."""
    return _ADAPTERS[request_type(request)].dump_json(request, exclude_none=True)


def decode_request(ce_type: str, value: bytes | None) -> AccountRequest:
    """Read a request record's value. UnreadableRequest names the field and the rule."""
    adapter = _ADAPTERS.get(ce_type)
    if adapter is None:
        raise UnreadableRequest(f"unknown type {ce_type!r}")
    if value is None:
        raise UnreadableRequest("no value")
    try:
        return adapter.validate_json(value)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableRequest(f"/{'/'.join(str(part) for part in first['loc'])}: {first['msg']}") from None


def canonical(request: AccountRequest) -> dict[str, str]:
    """What the client asked, flat and in one spelling: for the comparison with a repetition and for the journal.

    5000, 5000.0 and "5000.00" are the same amount; the door's stamp does not count.
    """
    said = {"type": type(request).__name__}
    for name in type(request).__dataclass_fields__:
        value = getattr(request, name)
        if value is not None and name != "stamp":
            said[name] = value if type(value) is str else _spelled(value)
    return said


def _spelled(value: Any) -> str:
    match value:
        case Decimal():
            return short(value) if value else "0"
        case datetime():
            return rfc3339(value)
        case _:
            return str(value)
