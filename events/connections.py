"""Makes the Kafka client tell of a connection that was reset while it lay idle, as it tells of one that breaks at work. Importing this is enough.

uvloop raises RuntimeError where one writes to a transport that is closed; the client reckons with OSError only, and the task that sends or fetches for
the whole process ends of it. The client has no place to put a connection of one's own, so its method is wrapped.
"""

from collections.abc import Callable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


def _telling(send: Callable[..., Any]) -> Callable[..., Any]:
    def told(self: Any, *given: Any, **named: Any) -> Any:
        try:
            return send(self, *given, **named)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"connection at {self.host}:{self.port} is closed: {error}") from error

    return told


AIOKafkaConnection.send = _telling(AIOKafkaConnection.send)
