"""Two faults of the Kafka client, mended where they are: it has no place to put parts of one's own. Importing this is enough.

It tells of a connection that was reset while it lay idle as of one that breaks at work. uvloop raises RuntimeError where one writes to a transport that
is closed; the client reckons with OSError only, and the task that sends or fetches for the whole process ended of it.

A reader that is stopped while a fetch waits for its next try took the end of that wait for its own, and left its connections open.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import KafkaConnectionError


def _telling(send: Callable[..., Any]) -> Callable[..., Any]:
    def told(self: Any, *given: Any, **named: Any) -> Any:
        try:
            return send(self, *given, **named)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"connection at {self.host}:{self.port} is closed: {error}") from error

    return told


def _to_the_end(close: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def closed(self: Any) -> None:
        self._closed = True
        fetching = [self._fetch_task, *self._pending_tasks]
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        self._pending_tasks.clear()
        await close(self)

    return closed


AIOKafkaConnection.send = _telling(AIOKafkaConnection.send)
Fetcher.close = _to_the_end(Fetcher.close)
