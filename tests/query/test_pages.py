"""Pages: put together they are the list, whatever is added while somebody reads it."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from query_api.cursors import Place
from query_api.pages import EXAMINED_MAX, Source, collect

Item = tuple[int, list[str]]


def source(items: list[Item], fetched: list[int] | None = None) -> Source[Item, str]:
    """Over items (version, rows), newest first."""

    async def fetch(before: int | None, count: int) -> Sequence[Item]:
        found = [item for item in items if before is None or item[0] < before][:count]
        if fetched is not None:
            fetched.append(len(found))
        return found

    return Source(fetch, lambda item: item[0], lambda item: item[1])


def items(sizes: list[int], begin: int = 1) -> list[Item]:
    """One item a version, with so many rows each."""
    return [(version, [f"{version}.{row}" for row in range(size)]) for version, size in reversed(list(enumerate(sizes, begin)))]


@given(sizes=st.lists(st.integers(0, 4), max_size=30), limit=st.integers(1, 7), count=st.integers(1, 9), added=st.integers(0, 3))
async def test_pages_make_up_the_list(sizes: list[int], limit: int, count: int, added: int) -> None:
    """No row twice, none missing, in order, at most `limit` at once; rows that were added after the first page are in none."""
    listed = items(sizes)
    seen: list[str] = []
    after: Place | None = None
    while True:
        page = await collect(source(listed), after, limit, count=count)
        assert len(page.rows) <= limit
        seen += page.rows
        if page.rest is None:
            break
        after = page.rest
        listed = items([2] * added, begin=listed[0][0] + 1) + listed
    assert seen == [row for _, rows in items(sizes) for row in rows]


async def test_a_page_that_is_full_to_the_last_row_has_no_rest() -> None:
    """`has_more` is told only where there is more."""
    assert (await collect(source(items([1, 1, 1])), None, 3, count=4)).rest is None
    assert (await collect(source(items([1, 1, 1, 1])), None, 3, count=4)).rest == Place(2)
    assert (await collect(source(items([3, 2])), None, 3, count=4)).rest == Place(1, 0)


async def test_a_search_without_hits_is_bounded() -> None:
    """One request looks at no more than the maximum; the next one goes on behind that."""
    fetched: list[int] = []
    listed = items([0] * (EXAMINED_MAX + 150))
    listed[-1] = (1, ["the oldest"])
    first = await collect(source(listed, fetched), None, 50, count=200)
    assert (first.rows, sum(fetched)) == ([], EXAMINED_MAX)
    second = await collect(source(listed, fetched), first.rest, 50, count=200)
    assert (second.rows, second.rest) == (["the oldest"], None)
