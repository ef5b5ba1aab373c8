"""A backlog that a test sets."""

import asyncio


class FakeBacklog:
    """As `events.lag.Lag`. `retry_after` is what callers of all accounts are told; None: more is taken."""

    def __init__(self) -> None:
        self.retry_after: int | None = None

    async def watch(self) -> None:
        """Nothing to look at; runs until cancelled."""
        await asyncio.Event().wait()

    def retry_after_s(self, _key: str) -> int | None:
        """See `Lag`."""
        return self.retry_after
