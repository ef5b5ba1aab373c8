"""The caller's own profile."""

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from litestar import Request, Response, get

from infra.http import API, Caller, ProblemError
from query_api.given import GivenProfiles, ProfileReads
from schemas.identity import Profile

DEPRECATED_AT: Final = datetime(2026, 11, 1, tzinfo=UTC)
SUNSET_AT: Final = datetime(2027, 11, 1, tzinfo=UTC)
_MOVED: Final = {
    "Deprecation": f"@{int(DEPRECATED_AT.timestamp())}",  # RFC 9745
    "Sunset": format_datetime(SUNSET_AT, usegmt=True),  # RFC 8594
    "Link": f'<{API}/auth/profile>; rel="successor-version"',
}


@get("/auth/profile", tags=["auth"], summary="Show your profile")
async def profile(request: Request[Caller, Any, Any], profiles: GivenProfiles) -> Profile:
    """What is known of the caller."""
    return await _profile(profiles, request.user.username)


@get("/auth/me", tags=["auth"], summary="Show your profile (old path)", deprecated=True)
async def me(request: Request[Caller, Any, Any], profiles: GivenProfiles) -> Response[Profile]:
    """The same as /auth/profile, which is to be used instead."""
    return Response(await _profile(profiles, request.user.username), headers=_MOVED)


ROUTES: Final[tuple[Any, ...]] = (profile, me)


async def _profile(profiles: ProfileReads, username: str) -> Profile:
    found = await profiles.profile(username)
    if found is None:
        raise ProblemError("not-found", "You have no profile any more.")
    return found
