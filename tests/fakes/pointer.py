"""The pointer to the generations as it is kept beside the ledger, in memory."""

from infra.generations import Live


class MemoryPointer:
    """See `infra.generations.Pointer`."""

    def __init__(self) -> None:
        self._live: Live | None = None

    async def get(self) -> Live | None:
        return self._live

    async def put(self, live: Live) -> None:
        self._live = live
