"""What was made of something that has not changed since: parsed views, and rendered bodies.

Nothing here is trusted for its age. A value is given out only for a basis that is equal to the one that it was made of, and whoever asks has just read
that basis, or a stamp that is another one after every change of what the value was made of.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar

B = TypeVar("B")
V = TypeVar("V")

WEIGHT_MAX: Final = 8 * 2**20
"""Bytes of what is remembered. Parsed it takes several times as much memory."""
KEY_WEIGHT: Final = 512
"""What a key takes by itself, in bytes: about."""


class Remembered(Generic[B, V]):
    """The last value made for each key, with its basis; of all keys the ones used last, up to `weight_max` bytes by `weigh`.

    The basis must have in it everything that the value depends on, but the key.
    """

    def __init__(self, weigh: Callable[[B, V], int], weight_max: int = WEIGHT_MAX) -> None:
        self._weigh = weigh
        self._weight_max = weight_max
        self._weight = 0
        self._made: OrderedDict[Hashable, tuple[B, V, int]] = OrderedDict()

    def last(self, key: Hashable) -> tuple[B, V] | None:
        """The basis and the value that are remembered, for whoever can ask whether the basis is still the same one."""
        known = self._made.get(key)
        return known and known[:2]

    def of(self, key: Hashable, basis: B, make: Callable[[], V]) -> V:
        """The value of a basis: the remembered one, or made now. What `make` raises is raised, and nothing is remembered then."""
        known = self._made.get(key)
        if known is not None and known[0] == basis:
            self._made[key] = basis, *known[1:]  # what is the same thing next time is seen to be equal without a look inside
            self._made.move_to_end(key)
            return known[1]
        value = make()
        self._keep(key, basis, value)
        return value

    def _keep(self, key: Hashable, basis: B, value: V) -> None:
        weight = KEY_WEIGHT + self._weigh(basis, value)
        self._weight += weight - (self._made[key][2] if key in self._made else 0)
        self._made[key] = (basis, value, weight)
        self._made.move_to_end(key)
        while self._weight > self._weight_max:
            self._weight -= self._made.popitem(last=False)[1][2]


def bytes_in(*groups: Iterable[bytes | None]) -> int:
    """How many bytes some answers of Redis have."""
    return sum(len(part) for group in groups for part in group if part)
