"""Bodies that were answered before: a caller who reads again what has not changed gets the same bytes, and they are not made again.

What the answer is made of is looked at each time. A body is given out only where that is equal to what the body was made of.
"""

from collections.abc import Callable
from typing import Any

from infra.remembered import Remembered
from query_api.tags import Body


class Bodies:
    """The last body of each caller and kind of read."""

    def __init__(self) -> None:
        self._made: Remembered[tuple[Any, ...], Body] = Remembered(lambda _, body: len(body.text))

    def of(self, username: str, what: str, basis: tuple[Any, ...], make: Callable[[], Body]) -> Body:
        """The body of `what` for a caller: the remembered one where it was made of an equal basis, or a new one."""
        return self._made.of((username, what), basis, make)
