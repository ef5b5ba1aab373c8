"""What handlers are given by the composition root, as the types of their arguments. Litestar checks none of them: it did not make them."""

from typing import Annotated, Protocol

from litestar.params import Dependency

from infra.candles import CandleReads
from infra.clock import Clock
from infra.parked import ParkedReads
from schemas.identity import Profile


class ProfileReads(Protocol):
    """Where profiles are read: `infra.identity.IdentityStore`, or a test's dict."""

    async def profile(self, username: str) -> Profile | None:
        """What a user sees of themself; None for a user that there is not."""
        ...


GivenLedger = Annotated[ParkedReads, Dependency(skip_validation=True)]
GivenClock = Annotated[Clock, Dependency(skip_validation=True)]
GivenCandles = Annotated[CandleReads, Dependency(skip_validation=True)]
GivenProfiles = Annotated[ProfileReads, Dependency(skip_validation=True)]
