"""A step: what one decision does to an account, before it is numbered and journaled."""

from collections.abc import Mapping

from schemas.ledger import Account, CashLine, Counters, Lines, Order, Position, Posting, Refusal


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


def refuse(account: Account, code: str, detail: str, pointer: str | None = None) -> Step:
    """The step of a refusal: nothing moves, and the same request is refused the same way for ever."""
    return Step(account.counters, refusal=Refusal(code, detail, pointer))
