"""The pointer to the generations as it is kept beside the ledger, in memory."""

from infra.generations import Pointed


class MemoryPointer:
    """See `infra.generations.Pointer`."""

    def __init__(self) -> None:
        self.kept = Pointed()

    async def get(self) -> Pointed:
        return self.kept

    async def put(self, pointed: Pointed) -> None:
        if pointed.number > self.kept.number:
            self.kept = pointed
