"""Who calls: bearer tokens, checked before anything of the request is read."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send
from prometheus_client import Counter
from redis.exceptions import RedisError

from infra import telemetry
from infra.http_problems import ProblemError
from infra.tokens import InvalidToken, TokenVerifier

PUBLIC: Final = "public"
"""Handler option: `@get(…, opt={PUBLIC: True})` needs no token and ignores one."""
REVOCATION_WAIT_S: Final = 1.0

DENYLIST_AWAY: Final = Counter("cnop_denylist_unavailable_total", "Calls whose token could not be looked up in the denylist, by what was done", ["decision"])


@dataclass(frozen=True, slots=True)
class Caller:
    """The user behind a request, and the token that says so: what a logout has to revoke."""

    username: str
    token_id: str
    family: str
    expires_at: datetime


class Revocations(Protocol):
    """Tells which tokens are refused although they are signed and in time."""

    async def is_revoked(self, token_id: str, family: str) -> bool:
        """Whether the token or its whole refresh family was revoked. RedisError, OSError or TimeoutError where nobody knows."""
        ...


@dataclass(frozen=True, slots=True)
class Auth:
    """How a door knows its callers. `fail_closed`: without the denylist nobody gets in (503); otherwise a signed token in time is enough."""

    verifier: TokenVerifier
    revocations: Revocations
    fail_closed: bool


class Authenticate(ASGIMiddleware):
    """Puts the `Caller` into `request.user`; 401 where a route that is not public gets no valid token. Runs after routing, before the body is read."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, auth: Auth | None) -> None:
        self._auth = auth

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Authenticate, then go on."""
        scope["auth"] = None
        scope["user"] = None if is_public(scope) else await self._caller(scope)
        await next_app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        if self._auth is None:
            raise ProblemError("unauthorized", "This process knows no tokens.")
        try:
            claims = self._auth.verifier.verify(_bearer(scope))
        except InvalidToken as error:
            raise _refused(f"The access token is not valid: {error}.") from None
        if await self._is_revoked(self._auth, claims.token_id, claims.family):
            raise _refused("The access token was revoked.")
        telemetry.known(claims.username)
        return Caller(claims.username, claims.token_id, claims.family, claims.expires_at)

    async def _is_revoked(self, auth: Auth, token_id: str, family: str) -> bool:
        try:
            async with asyncio.timeout(REVOCATION_WAIT_S):
                return await auth.revocations.is_revoked(token_id, family)
        except (RedisError, OSError, TimeoutError):
            DENYLIST_AWAY.labels("refused" if auth.fail_closed else "allowed").inc()
            if auth.fail_closed:
                raise ProblemError("unavailable", "It cannot be told now whether the access token was revoked; nothing was sent.") from None
            return False


def is_public(scope: Scope) -> bool:
    """Whether the route that was found needs no token. The answer to OPTIONS tells nothing but methods."""
    return bool(scope["route_handler"].opt.get(PUBLIC)) or scope.get("method") == "OPTIONS"


def _bearer(scope: Scope) -> str:
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise ProblemError("unauthorized", "The Authorization header is missing.")
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise ProblemError("unauthorized", "One Authorization header of the form `Bearer <token>` is needed.")
    return token.strip()


def _refused(detail: str) -> ProblemError:
    return ProblemError("unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="cnop", error="invalid_token"'})
