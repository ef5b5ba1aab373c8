"""Noticing what is alive and does not move.

A consumer can go on beating its heart and fetch nothing: its client may have lost its way in a rebalance, or a handler may wait for ever.
Nothing raises then, and lag grows. So the ends of the log are asked for over a connection of their own, and compared with what moves.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

WATCH_INTERVAL_S: Final = 2.0
ENDS_S: Final = 5.0
IDLE_STALL_S: Final = 30.0
"""How long a partition with records to read may give none."""
BUSY_STALL_S: Final = 180.0
"""How long one batch may be in hand. Over the bounds that a handler and a transaction have for themselves: they say better what was wrong."""
NOT_READY_S: Final = 10.0
"""A partition that did not move for so long makes the process not ready."""


class Stuck(RuntimeError):
    """A partition has work and does not move: the process ends, and a new one begins where it stood. The text says which, where and how long."""


def when_reading_ends(client: AIOKafkaConsumer, fail: Callable[[BaseException], None]) -> None:
    """Call `fail` where the client's task that fetches records ends, for whatever reason, before the client is stopped.

    It may end when a connection is reset. The client then logs it and gives no record any more, without an error to anybody.
    """
    fetcher = client._fetcher  # noqa: SLF001 - the client tells of it in no other way

    def ended(task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if not fetcher._closed:  # noqa: SLF001
            fail(error or Stuck("the Kafka client reads no more"))

    fetcher.error_future.add_done_callback(ended)


class Stillness:
    """How long something was seen not to move.

    Counted in looks and not by a clock: a process that was stopped for a minute has not looked, and need not end for that.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._seen: dict[Hashable, tuple[Hashable, int]] = {}

    def look(self, name: Hashable, place: Hashable) -> float:
        """Take note of where it is; the seconds for which it has been there."""
        before, looks = self._seen.get(name, (place, -1))
        looks = looks + 1 if before == place else 0
        self._seen[name] = (place, looks)
        return looks * self._interval_s

    def forget(self, name: Hashable) -> None:
        """It moved, or has nothing to do."""
        self._seen.pop(name, None)

    def keep_only(self, names: Iterable[Hashable]) -> None:
        """Forget all others."""
        wanted = set(names)
        self._seen = {name: seen for name, seen in self._seen.items() if name in wanted}

    @property
    def longest_s(self) -> float:
        """The longest of all that are being watched; 0 where none is."""
        return max((looks for _, looks in self._seen.values()), default=0) * self._interval_s

    def check(self) -> None:
        """Stuck where something has not moved for `NOT_READY_S`: well before that ends the process."""
        if self.longest_s >= NOT_READY_S:
            raise Stuck(f"a partition has not moved for {self.longest_s:g} s")


class Ends:
    """The ends of partitions as a committed reader sees them, asked for over a connection of its own."""

    def __init__(self, bootstrap: str, client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._client: AIOKafkaConsumer | None = None

    async def of(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        """By partition; empty where no broker answers in time: then nothing can be said about who is still."""
        try:
            async with asyncio.timeout(ENDS_S):
                client = await self._connected()
                return dict(await client.end_offsets(list(partitions)))
        except (KafkaError, TimeoutError):
            await self.close()
            return {}

    async def close(self) -> None:
        """Disconnect, within a bound."""
        client, self._client = self._client, None
        if client is not None:
            with suppress(KafkaError, TimeoutError):
                await asyncio.wait_for(client.stop(), ENDS_S)

    async def _connected(self) -> AIOKafkaConsumer:
        if self._client is None:
            client = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, client_id=self._client_id, isolation_level="read_committed", enable_auto_commit=False)
            try:
                await client.start()
            except BaseException:
                await client.stop()
                raise
            self._client = client
        return self._client
