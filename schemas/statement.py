"""What an account was at an earlier version, and why a balance is what it is: the answers, and the pure functions that make them from entries.

A statement of one unit (a currency or an asset) goes from an opening over lines to a closing. A line's change is summed from the postings of its entry,
and what there was after it is what the entry says of the unit's line: two records of the same thing, so that a sum can be checked, and can fail.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel

from schemas.instants import Instant
from schemas.ledger import Account, CashLine, Entry, House, Lines, Position, pairs
from schemas.money import CURRENCY_SCALES, ZERO, Amount, exact, in_currency, trimmed
from schemas.requests import INTERNAL
from schemas.results import result_id, result_type
from schemas.rows import TRANSACTION_TYPES
from schemas.views import BalanceView, OfAccount, OrderView, Portfolio, TransactionType

MovementType = TransactionType | Literal["bought", "sold"]
_ASSET_TYPES: Final[dict[tuple[House, bool], MovementType]] = {**TRANSACTION_TYPES, ("market", True): "bought", ("market", False): "sold"}
_INTERNAL_KINDS: Final = frozenset(kind.__name__ for kind in INTERNAL)
TRIGGERS: Final = "process:triggers"
"""The actor of requests from inside. A user cannot be called so: no username has a colon."""


class OpenThen(BaseModel):
    """The orders that were open, newest first, as they stood. There were `open_order_count` of them; not `open_orders_complete`: the oldest are not shown."""

    open_orders: list[OrderView] = []
    open_order_count: int = 0
    open_orders_complete: bool = True


class BalanceThen(OpenThen, BalanceView):
    """Cash. With `as_of` as it was then, with the orders that were open, and only then with these; `status` is always that of now."""


class PortfolioThen(OpenThen, Portfolio):
    """Holdings and totals. With `as_of` as they were then, at the prices of then, with the orders that were open, and only then with these; `status` is
    always that of now.
    """


class Level(BaseModel):
    """What there was of a unit after a version: free, held for open orders, and both."""

    version: int
    available: Amount
    held: Amount
    total: Amount


class Movement(BaseModel):
    """One movement of a line: what it added to the available and to the held part."""

    type: MovementType
    available: Amount
    held: Amount


class StatementLine(BaseModel):
    """What one request changed. `available` and `held` are the sums of its movements, `after` what there was after it.

    `event_id` and `event_type` are those of the result event, (`topic`, `partition`, `offset`) is the place of the request in the log. `request_id` is
    the `X-Request-ID` of the call. `actor` is `user:` or `process:` and a name; a request from inside has no `command_id`. `drained_by`: the id of the
    draining that decided it, where it had waited in a parked account.
    """

    version: int
    at: Instant
    kind: str
    available: Amount
    held: Amount
    after: Level
    movements: list[Movement]
    event_id: str
    event_type: str
    topic: str
    partition: int
    offset: int
    request_id: str
    correlation_id: str
    command_id: str | None
    order_id: str | None
    actor: str
    drained_by: str | None


class Explanation(OfAccount):
    """Lines, newest first, between an opening and a closing.

    `sum_matches`: what each line's postings add to what there was before it is what the ledger says there was after it, and the last is the closing.
    """

    unit: str
    opening: Level
    lines: list[StatementLine]
    closing: Level
    sum_matches: bool
    has_more: bool
    next_cursor: str | None


class Held(NamedTuple):
    """What there is of a unit: free, and held for open orders."""

    available: Decimal = ZERO
    held: Decimal = ZERO


def held_of(lines: Lines | Account, unit: str) -> Held | None:
    """What the lines say that there is of a unit; None where they do not tell of it."""
    line = lines.cash.get(unit) or lines.positions.get(unit)
    return None if line is None else held_in(line)


def held_in(line: CashLine | Position) -> Held:
    """The amounts of a line."""
    return Held(line.available, line.held)


def touches(entry: Entry, unit: str) -> bool:
    """Whether an entry is a line of a unit's statement."""
    return held_of(entry.lines, unit) is not None or any(posting.unit == unit for posting in entry.postings)


@exact
def change_of(entry: Entry, unit: str) -> Held:
    """What an entry's postings add to a unit."""
    of_unit = [posting for posting in entry.postings if posting.unit == unit]
    available, held = (sum((posting.amount for posting in of_unit if posting.account == house), ZERO) for house in ("customer", "held"))
    return Held(available, held)


@exact
def adds_up(unit: str, opening: Held, entries: Sequence[Entry], closing: Held) -> bool:
    """Whether entries, newest first, lead from the opening to the closing, and each from what there was before it to what it says there was after it."""
    running = opening
    for entry in reversed(entries):
        change = change_of(entry, unit)
        running = Held(running.available + change.available, running.held + change.held)
        if running != held_of(entry.lines, unit):
            return False
    return running == closing


@exact
def level(unit: str, version: int, held: Held) -> Level:
    """As it is shown."""
    return Level(version=version, available=shown(unit, held.available), held=shown(unit, held.held), total=shown(unit, held.available + held.held))


def line_of(entry: Entry, unit: str, *, topic: str, command_id: str) -> StatementLine:
    """The line of an entry that touches the unit. `topic` is that of requests, `command_id` the id under which a user would ask for the entry."""
    change, order = change_of(entry, unit), entry.lines.order
    is_internal = entry.kind in _INTERNAL_KINDS
    return StatementLine(
        version=entry.version,
        at=entry.at,
        kind=entry.kind,
        available=shown(unit, change.available),
        held=shown(unit, change.held),
        after=level(unit, entry.version, held_of(entry.lines, unit) or Held()),
        movements=list(movements(entry, unit)),
        event_id=result_id(entry.request_id),
        event_type=result_type(entry),
        topic=topic,
        partition=entry.partition,
        offset=entry.offset,
        request_id=entry.trace_id,
        correlation_id=entry.correlation_id,
        command_id=None if is_internal else command_id,
        order_id=order.order_id if order else None,
        actor=TRIGGERS if is_internal else f"user:{entry.username}",
        drained_by=entry.drained_by,
    )


def movements(entry: Entry, unit: str) -> Iterator[Movement]:
    """The movements of a unit, one for each pair of legs, in their order."""
    types = TRANSACTION_TYPES if unit in CURRENCY_SCALES else _ASSET_TYPES
    for leg, other in pairs(entry.postings):
        if leg.unit == unit:
            held = other.amount if other.account == "held" else ZERO
            yield Movement(type=types[other.account, leg.amount > ZERO], available=shown(unit, leg.amount), held=shown(unit, held))


def shown(unit: str, amount: Decimal) -> Decimal:
    """An amount in its one spelling: with a currency's decimals, or of an asset without zeros at the end."""
    return Decimal(in_currency(amount, unit)) if unit in CURRENCY_SCALES else trimmed(amount)
