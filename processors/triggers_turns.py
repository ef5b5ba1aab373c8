"""The questions that wait to be asked: which orders are due at a price.

Assets take turns, a page each, so that an asset with very many due orders does not keep the others waiting. Questions about one asset are asked one
after another in the order of its prices: each price that was published finds its orders, also one that came and went at once.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from events.envelope import Inbound
from infra.open_orders import After, OpenOrder
from processors.domain.orders import has_reached
from schemas.market import PriceChanged
from schemas.requests import DueSide

WAITING_MAX: Final = 2_000
"""Questions that wait; whoever brings more waits until fewer do."""

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(frozen=True, slots=True)
class Told:
    """A price, and the record that told it."""

    price: PriceChanged
    record: Inbound


@dataclass(slots=True)
class Question:
    """Which orders of a side are due at a price. `again`: it was asked before. `after`: behind what was answered already.

    `published` counts what was published for it.
    """

    told: Told
    side: DueSide
    again: bool = False
    after: After | None = None
    published: int = 0

    @property
    def asset_id(self) -> str:
        """Of the price."""
        return self.told.price.asset_id

    def meets(self, order: OpenOrder) -> bool:
        """Whether an order is on that side of that asset and due."""
        return order.asset_id == self.asset_id and order.side == self.side and is_due(order, self.told.price)


class Turns:
    """Questions by asset. Who takes one gets the next of the asset that has waited longest; meanwhile no other of that asset is given out."""

    def __init__(self, waiting_max: int = WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._by_asset: dict[str, deque[Question]] = {}
        self._turn: asyncio.Queue[str] = asyncio.Queue()
        self._room = asyncio.Event()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    async def add(self, questions: Iterable[Question]) -> None:
        """Let them wait, behind those of the same asset. Returns when there is room for more."""
        for question in questions:
            self._waiting += 1
            if question.asset_id in self._by_asset:
                self._by_asset[question.asset_id].append(question)
            else:
                self._by_asset[question.asset_id] = deque([question])
                self._turn.put_nowait(question.asset_id)
        while self._waiting >= self._waiting_max:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> Question:
        """The next one; to be given to `more` or `done` afterwards."""
        return self._by_asset[await self._turn.get()][0]

    def more(self, question: Question) -> None:
        """It has a further page: its asset is behind all others now."""
        self._turn.put_nowait(question.asset_id)

    def done(self, question: Question) -> None:
        """It is answered."""
        self._waiting -= 1
        questions = self._by_asset[question.asset_id]
        questions.popleft()
        if questions:
            self._turn.put_nowait(question.asset_id)
        else:
            del self._by_asset[question.asset_id]
        if self._waiting < self._waiting_max:
            self._room.set()


class Unfinished:
    """The records whose questions are not all answered: their offsets must not be committed, since a restart has to find them again."""

    def __init__(self) -> None:
        self._open: dict[Place, dict[int, int]] = {}

    def begin(self, question: Question) -> None:
        """One question more of its record."""
        record = question.told.record
        offsets = self._open.setdefault((record.topic, record.partition), {})
        offsets[record.offset] = offsets.get(record.offset, 0) + 1

    def end(self, question: Question) -> None:
        """One less."""
        record = question.told.record
        offsets = self._open[record.topic, record.partition]
        offsets[record.offset] -= 1
        if not offsets[record.offset]:
            del offsets[record.offset]

    def first(self) -> dict[Place, int]:
        """The first such offset of each partition that has one."""
        return {place: min(offsets) for place, offsets in self._open.items() if offsets}


def is_due(order: OpenOrder, price: PriceChanged) -> bool:
    """Whether a price reaches an order that was placed before it; the rule is settlement's, which has the last word."""
    return has_reached(order.side, order.price, price.price) and order.quote_sequence < price.sequence and order.placed_at <= price.at


def sides_towards(price: PriceChanged, before: PriceChanged | None) -> tuple[DueSide, ...]:
    """The sides on which a price may have reached orders: the one towards which it moved, none where it did not; both where that is not known."""
    if before is None or before.sequence > price.sequence:
        return ("falls", "rises")
    if price.price == before.price:
        return ()
    return ("falls",) if price.price < before.price else ("rises",)
