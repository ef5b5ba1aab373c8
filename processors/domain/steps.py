"""A step: what one decision does to an account, before it is numbered and journaled."""

from collections.abc import Mapping
from decimal import Decimal

from schemas.ledger import Account, CashLine, Counters, House, Lines, Order, Position, Posting, Refusal
from schemas.money import INTEGER_DIGITS_MAX


class Step:
    """The touched lines with their values after, the legs, or the refusal."""

    __slots__ = ("lines", "postings", "refusal")

    def __init__(
        self,
        counters: Counters,
        *,
        cash: Mapping[str, CashLine] | None = None,
        positions: Mapping[str, Position] | None = None,
        order: Order | None = None,
        postings: tuple[Posting, ...] = (),
        refusal: Refusal | None = None,
    ) -> None:
        self.lines = Lines(counters, cash or {}, positions or {}, order)
        self.postings = postings
        self.refusal = refusal


def refuse(account: Account, code: str, detail: str, pointer: str | None = None, order: Order | None = None) -> Step:
    """The step of a refusal: nothing moves, and the same request is refused the same way for ever. `order` is what stood in the way."""
    return Step(account.counters, refusal=Refusal(code, detail, pointer, order))


def pair(unit: str, amount: Decimal, other: House) -> tuple[Posting, ...]:
    """The customer's leg and its counterpart; none of nothing."""
    return (Posting("customer", unit, amount), Posting(other, unit, -amount)) if amount else ()


def bounded(account: Account, step: Step) -> Step:
    """The step, or a refusal where it would grow a line beyond what can be written and read again.

    What is available and what is held count together, so that a hold which is released always has room.
    """
    figures = [line.available + line.held for line in step.lines.cash.values()]
    for position in step.lines.positions.values():
        figures += (position.available + position.held, position.cost_basis, position.realised)
    if all(figure.adjusted() < INTEGER_DIGITS_MAX for figure in (*figures, step.lines.counters.deposited, step.lines.counters.withdrawn)):
        return step
    return refuse(account, "above-maximum", f"an account cannot hold figures of more than {INTEGER_DIGITS_MAX} digits")
