"""How long nothing came: recovery is measured as the longest silence around a fault, from the last event before it to the first one after."""

import time
from bisect import bisect_left
from itertools import pairwise
from typing import Final

KEPT_MAX: Final = 200_000


class Gaps:
    """The moments of one stream of events: results of one partition, answers to callers."""

    def __init__(self) -> None:
        self._moments: list[float] = []
        self.count = 0

    def note(self, events: int = 1) -> None:
        """Something came, now."""
        self._moments.append(time.monotonic())
        self.count += events
        if len(self._moments) > KEPT_MAX:
            del self._moments[: KEPT_MAX // 2]

    def came_since(self, moment: float) -> bool:
        """Whether anything came at or after that moment."""
        return bool(self._moments) and self._moments[-1] >= moment

    def longest_s(self, since: float) -> float:
        """The longest silence that ended after `since` or lasts, in seconds."""
        first = max(0, bisect_left(self._moments, since) - 1)
        moments = [*self._moments[first:], time.monotonic()]
        return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)
