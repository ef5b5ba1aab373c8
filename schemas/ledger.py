"""The ledger: an account's state, and the journal entry that each decided request leaves for ever.

Plain frozen dataclasses, since settlement makes several of them for every request; pydantic reads and writes them on the wires.
Cash is in units of its currency, positions in units of the asset, cost basis in the home currency.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from schemas.instants import EPOCH, Instant
from schemas.money import EXACT, HOME_CURRENCY, ZERO, Figure
from schemas.requests import OrderType, TimeInForce

AccountStatus = Literal["active", "parked"]
ParkCause = Literal["undecodable", "decision", "store-refused"]
"""Why an account's work failed: its item cannot be read, deciding its request raised, or the store does not take what was decided."""
OrderStatus = Literal["open", "completed", "cancelled", "expired"]
CloseReason = Literal["requested", "unmarketable", "asset-inactive", "below-minimum", "above-maximum"]
"""Why an order was cancelled: its owner asked for it, it was to be filled at once or not at all and could not be, its asset is not traded any more, or
its fill came to nothing, or to more than an account can hold."""
House = Literal["customer", "held", "world", "market", "fees"]
"""`customer` is what its owner can dispose of, `held` what open orders hold."""


@dataclass(frozen=True, slots=True)
class CashLine:
    """Cash of one currency: free, and held for open orders."""

    available: Figure = ZERO
    held: Figure = ZERO
    updated_at: Instant = EPOCH


@dataclass(frozen=True, slots=True)
class Position:
    """Holding of one asset: free, held for open orders, and what the whole of it cost (fees included)."""

    available: Figure = ZERO
    held: Figure = ZERO
    cost_basis: Figure = ZERO
    realised: Figure = ZERO
    created_at: Instant = EPOCH
    updated_at: Instant = EPOCH

    @property
    def quantity(self) -> Figure:
        """All that is owned, free or held."""
        return EXACT.add(self.available, self.held)


@dataclass(frozen=True, slots=True)
class Counters:
    """Running figures of an account: the cash moved on `day` (UTC, of `at`) for the limits, and the row counts of its lists."""

    day: str = ""
    deposited: Figure = ZERO
    withdrawn: Figure = ZERO
    transactions: int = 0
    orders: int = 0
    open_orders: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """An order as it stands after its last change, at the account version `updated_version`.

    `created_version` is the account version at placing: lists are sorted by it. `price` is the limit, or the stop. `held` is what is held for it
    while it is open: home currency for a buy, units of the asset for a sale. `total_amount` is what was paid or received, without the fee; before and
    without a fill it is what the order is worth at its own price.
    """

    order_id: str
    asset_id: str
    order_type: OrderType
    quantity: Figure
    status: OrderStatus
    created_version: int
    created_at: Instant
    updated_at: Instant
    quote_price: Figure
    quote_sequence: int
    fee_bps: int
    price: Figure | None = None
    filled_quantity: Figure = ZERO
    average_price: Figure | None = None
    total_amount: Figure = ZERO
    fee: Figure = ZERO
    client_order_id: str | None = None
    time_in_force: TimeInForce = "gtc"
    expires_at: Instant | None = None
    held: Figure = ZERO
    updated_version: int = 0
    reason: CloseReason | None = None

    @property
    def is_buy(self) -> bool:
        """Whether it takes cash and gives the asset."""
        return self.order_type.endswith("buy")

    @property
    def held_unit(self) -> str:
        """The unit in which it holds: the home currency, or its asset."""
        return HOME_CURRENCY if self.is_buy else self.asset_id


@dataclass(frozen=True, slots=True)
class Posting:
    """One leg. Legs of an entry come in pairs that sum to zero, the customer's first; what the customer has grows with a positive leg."""

    account: House
    unit: str
    amount: Figure


def pairs(postings: Sequence[Posting]) -> Iterator[tuple[Posting, Posting]]:
    """The customer's legs, each with its counterpart, in their order."""
    return zip(postings[::2], postings[1::2], strict=True)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was refused: a code of `schemas.problems`, and a sentence for the user. `order`: the order as it stands, where it stood in the way."""

    code: str
    detail: str
    pointer: str | None = None
    order: Order | None = None


_NO_CASH: Final[Mapping[str, CashLine]] = MappingProxyType({})
_NO_POSITIONS: Final[Mapping[str, Position]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines that an entry touched, with their values after it."""

    counters: Counters
    cash: Mapping[str, CashLine] = field(default_factory=dict)
    positions: Mapping[str, Position] = field(default_factory=dict)
    order: Order | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """Since when, why and from which record on an account's requests wait.

    (`partition`, `offset`) is the place of the first request that waited, `at` its time. `drained` is the offset of the last waiting request
    that was decided since: what waits lies behind it.
    """

    partition: int
    offset: int
    at: Instant
    cause: ParkCause
    drained: int | None = None

    @property
    def before(self) -> int:
        """The offset behind which requests wait."""
        return self.offset - 1 if self.drained is None else self.drained


@dataclass(frozen=True, slots=True)
class Parking:
    """What the entry of a parking, or of one step of draining, tells.

    `status` is the account's after it, `drained` the ids of the requests whose results this step tells, in their order. `cause`: why the account
    was parked, or why the draining stopped before its next request. `goes_on`: a further step was asked for with this one.
    """

    status: AccountStatus
    cause: ParkCause | None = None
    drained: tuple[str, ...] = ()
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits in a parked account: all of its record that its decision and its result will need.

    `value` is the record's value as it came; the ids, `reply_to` and the trace context are those of its headers.
    """

    partition: int
    offset: int
    at: Instant
    request_id: str
    type: str
    value: str
    correlation_id: str
    trace_id: str
    reply_to: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """An account's whole state but for its orders. One that does not exist is an empty account of version 0.

    `at` is the time of its last decision: later decisions are never earlier than it. `parked` is there while it is parked.
    """

    username: str
    version: int = 0
    at: Instant = EPOCH
    status: AccountStatus = "active"
    cash: Mapping[str, CashLine] = field(default_factory=lambda: _NO_CASH)
    positions: Mapping[str, Position] = field(default_factory=lambda: _NO_POSITIONS)
    counters: Counters = Counters()
    parked: Parked | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What one decided request left: its dedupe marker, its outcome and a line of the account's history in one.

    `version` is the account's version after it. `kind` is the request's class name, `payload` what the client asked in canonical
    form. (`partition`, `offset`) is the place of the request in its topic. `value` is what its result record carries, once that was made:
    see `schemas.results.result_value`. `parking` is set in the entry of a parking or a draining; `drained_by`, in the entry of a request that
    waited, is the id of the draining that decided it, whose record tells its result.
    """

    request_id: str
    username: str
    version: int
    at: Instant
    kind: str
    payload: Mapping[str, str]
    partition: int
    offset: int
    correlation_id: str
    trace_id: str
    lines: Lines
    postings: tuple[Posting, ...] = ()
    refusal: Refusal | None = None
    value: bytes | None = field(default=None, init=False, compare=False, repr=False)
    parking: Parking | None = None
    drained_by: str | None = None
