"""Commands: the ids under which a caller follows a request, and the views of what became of it.

An id is the request's id with a short MAC over it and its owner. So a valid id of which the ledger has no entry is pending, an id that
nobody was given is unknown, and neither needs a store.
"""

import hmac
import re
from typing import Final
from uuid import UUID

from schemas.ledger import Entry, Refusal
from schemas.money import ZERO, in_currency
from schemas.requests import FenceRequested, OrderCancelRequested
from schemas.results import Result
from schemas.rows import order_view, transaction_id
from schemas.views import CommandView, MoneyMoved, OrderAnswer

KEY_PURPOSE: Final = "command"
"""Name under which the key of command ids is derived from the system's secret (`infra.secrets.derive`)."""
COMMAND_ID_PATTERN: Final = r"^cmd_[0-9a-f]{32}_[0-9a-f]{16}$"
FENCED: Final = FenceRequested.__name__
"""The kind of an entry that a fence left: it stands in the place of the request that will never happen."""
CANCEL: Final = OrderCancelRequested.__name__
FENCED_REFUSAL: Final = Refusal("fenced", "The command was fenced before it was decided, and will never happen.")
_MAC_DIGITS: Final = 16


def command_id(key: bytes, username: str, request_id: str) -> str:
    """`cmd_`, 32 hex digits of the request id, `_`, 16 hex digits of HMAC-SHA256 over username and request id."""
    return f"cmd_{UUID(request_id).hex}_{_mac(key, username, request_id)}"


def read_command_id(key: bytes, username: str, text: str) -> str | None:
    """The request id in a command id; None for one that this user was never given."""
    if not re.fullmatch(COMMAND_ID_PATTERN, text):
        return None
    request_id = str(UUID(text[4:36]))
    return request_id if hmac.compare_digest(text[-_MAC_DIGITS:], _mac(key, username, request_id)) else None


def _mac(key: bytes, username: str, request_id: str) -> str:
    return hmac.digest(key, f"{username}\n{request_id}".encode(), "sha256").hex()[:_MAC_DIGITS]


def refusal_of(outcome: Entry | Result) -> Refusal | None:
    """Why the request that was asked for under this id did not happen; None where it did.

    A fence's entry refuses the request that it stands for. One that came to cancel an order and found its time ended refuses too, although it closed it.
    """
    if outcome.kind == FENCED:
        return FENCED_REFUSAL
    order = outcome.lines.order
    if outcome.kind == CANCEL and order and order.status != "cancelled":
        return Refusal("order-not-open", f"the order is {order.status}", order=order)
    return outcome.refusal


def answer_of(outcome: Entry | Result) -> MoneyMoved | OrderAnswer | None:
    """What a settled request's call answers, the same at every repetition; None for one that did not happen."""
    if refusal_of(outcome):
        return None
    if outcome.lines.order:
        return OrderAnswer(data=order_view(outcome.lines.order))
    return _money_moved(outcome)


def command_view(outcome: Entry | Result | None, command_id: str, *, waits: bool = False) -> CommandView:
    """What became of a command; where there is no outcome it is pending, or parked where it is known to wait in a parked account."""
    if outcome is None:
        return CommandView(command_id=command_id, state="parked" if waits else "pending")
    refusal = None if outcome.kind == FENCED else refusal_of(outcome)
    answer = answer_of(outcome)
    return CommandView(
        command_id=command_id,
        state="fenced" if outcome.kind == FENCED else "refused" if refusal else "settled",
        request_type=None if outcome.kind == FENCED else outcome.kind,
        version=outcome.version,
        decided_at=outcome.at,
        outcome=answer.model_dump(mode="json") if answer else None,
        code=refusal.code if refusal else None,
        detail=refusal.detail if refusal else None,
    )


def _money_moved(outcome: Entry | Result) -> MoneyMoved:
    currency = outcome.payload["currency"]
    amount = sum((posting.amount for posting in outcome.postings if posting.account == "customer" and posting.unit == currency), ZERO)
    return MoneyMoved.model_validate(
        {
            "message": f"Successfully {'withdrew' if amount < ZERO else 'deposited'} {in_currency(abs(amount), currency)} {currency}",
            "transaction_id": transaction_id(outcome.request_id),
            "timestamp": outcome.at,
            "new_balance": in_currency(outcome.lines.cash[currency].available, currency),
            "currency": currency,
        }
    )
