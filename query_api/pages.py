"""Pages of lists that are sorted newest first. A row added meanwhile neither repeats nor hides another: a page begins behind a place, not at a number."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Generic, TypeVar

from litestar.params import Parameter

from query_api.cursors import ROW_LAST, Place

LIMIT: Final = 50
LIMIT_MAX: Final = 100
EXAMINED_MAX: Final = 1_000
"""Entries or orders that one request looks at; where a filter leaves few of them the page is short, and its cursor goes on from there."""

Limit = Annotated[int, Parameter(ge=1, le=LIMIT_MAX, description="Rows of the page")]
Cursor = Annotated[str | None, Parameter(description="`next_cursor` of the page before")]

I = TypeVar("I")  # noqa: E741 - an item of the store
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Rows, and the place behind which there may be more; None: there is nothing more."""

    rows: list[R]
    rest: Place | None


@dataclass(frozen=True, slots=True)
class Source(Generic[I, R]):
    """Where rows come from. `fetch(before, count)` gives items newest first, of versions below `before`; `rows` those of an item that are wanted."""

    fetch: Callable[[int | None, int], Awaitable[Sequence[I]]]
    version: Callable[[I], int]
    rows: Callable[[I], Iterable[R]]


def cut(placed: Sequence[tuple[Place, R]], limit: int) -> Page[R]:
    """The first rows of those that are there, where there are no others behind them."""
    rest = placed[limit - 1][0] if len(placed) > limit else None
    return Page([row for _, row in placed[:limit]], rest)


async def collect(source: Source[I, R], after: Place | None, limit: int, *, count: int) -> Page[R]:
    """The next rows after a place, fetching `count` items at a time, at most `EXAMINED_MAX` in all."""
    before = after.version + 1 if after else None
    placed: list[tuple[Place, R]] = []
    examined = 0
    while True:
        items = await source.fetch(before, count)
        for item in items:
            version = source.version(item)
            places = ((Place(version, row), value) for row, value in enumerate(source.rows(item)))
            placed += [(place, value) for place, value in places if after is None or after.is_before(place)]
        if len(placed) > limit or len(items) < count:
            return cut(placed, limit)
        before = source.version(items[-1])
        examined += len(items)
        if examined >= EXAMINED_MAX:
            return Page([row for _, row in placed], Place(before, ROW_LAST))
