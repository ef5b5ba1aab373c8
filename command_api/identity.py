"""Registering, logging in and out, and a user's own profile."""

from datetime import date, timedelta
from typing import Any, Final

import structlog
from litestar import Request, post, put

from command_api.passwords import Passwords
from infra.cache import CacheUnavailable, Denylist
from infra.clock import Clock, Ids
from infra.http import PUBLIC, REFUSES, Caller, JsonRequest, Policy, ProblemError, RateLimiter, by_address
from infra.identity import EmailTaken, IdentityStore, InvalidRefreshToken, NoSuchUser, RefreshFamilies, RefreshToken, User, UsernameTaken
from infra.tokens import LIFETIME_S, TokenSigner
from schemas.identity import Login, Logout, Message, Profile, ProfileUpdate, ProfileUpdated, Refresh, Registration, Tokens, age_error

log = structlog.get_logger()

WINDOW_S: Final = 60
NOT_KEPT: Final = {"Cache-Control": "no-store"}
"""Answers with tokens are for their reader only (RFC 6749 section 5.1)."""
_ALWAYS_THERE: Final = ("first_name", "last_name", "email")


class LoginLimit:
    """Bounds the guesses at one user's password from one address."""

    def __init__(self, limiter: RateLimiter, *, attempts_per_minute: int, trusted_proxies: int) -> None:
        self._limiter = limiter
        self._policy = Policy("login", attempts_per_minute, WINDOW_S)
        self._address = by_address(trusted_proxies)

    async def count(self, request: Request[Any, Any, Any], username: str) -> None:
        """Count an attempt, right or wrong. Raises the problem `rate-limited` over the bound."""
        await self._limiter.count(request, self._policy, f"{self._address(request)} {username}")


class Sessions:
    """Who may call, and for how long: an access token of an hour, and a family of refresh tokens that begins with a login and ends with a logout."""

    def __init__(
        self, store: IdentityStore, families: RefreshFamilies, passwords: Passwords, signer: TokenSigner, denylist: Denylist, *, clock: Clock, ids: Ids
    ) -> None:
        self._store = store
        self._families = families
        self._passwords = passwords
        self._signer = signer
        self._denylist = denylist
        self._clock = clock
        self._ids = ids

    async def register(self, new: Registration) -> None:
        """Add a user. Problems: a rule broken, `username-taken`, `email-taken`."""
        now = self._clock.now()
        _check_age(new.date_of_birth, now.date())
        profile = Profile(**new.model_dump(exclude={"password"}), created_at=now, updated_at=now)
        try:
            await self._store.register(profile, await self._passwords.hash(new.password.get_secret_value()))
        except UsernameTaken:
            raise ProblemError("username-taken", pointer="/username") from None
        except EmailTaken:
            raise ProblemError("email-taken", pointer="/email") from None

    async def login(self, credentials: Login) -> Tokens:
        """Tokens for the right password. The problem is the same, and takes the same time, for a wrong one and for a user that there is not."""
        password = credentials.password.get_secret_value()
        user = await self._store.user(credentials.username)
        is_right = await self._passwords.check(user.password_hash if user else None, password)
        if user is None or not is_right:
            raise ProblemError("invalid-credentials")
        await self._bring_up_to_date(user, password)
        return self._tokens(await self._families.begin(user.profile.username, self._ids.new(), self._clock.now()))

    async def refresh(self, text: str) -> Tokens:
        """New tokens for a refresh token, which is spent by this. A spent one ends its family, and the access tokens of it."""
        try:
            return self._tokens(await self._families.rotate(text, self._clock.now()))
        except InvalidRefreshToken as error:
            if error.revoked:
                await self._revoke_access(*error.revoked)
            raise ProblemError("invalid-refresh-token") from None

    async def logout(self, caller: Caller) -> None:
        """End the caller's family of refresh tokens, and refuse its access tokens from now on. CacheUnavailable: repeat it, the token still serves for that."""
        await self._families.end(caller.username, caller.family)
        await self._denylist.revoke_family(caller.family, self._clock.now() + timedelta(seconds=LIFETIME_S))
        await self._denylist.revoke(caller.token_id, caller.expires_at)

    async def update(self, username: str, changes: ProfileUpdate) -> Profile:
        """Change the profile; null clears an optional field. Problems: a rule broken, `email-taken`."""
        fields = changes.model_dump(exclude_unset=True)
        for name in _ALWAYS_THERE:
            if name in fields and fields[name] is None:
                raise ProblemError("validation-failed", "cannot be cleared", pointer=f"/{name}")
        _check_age(changes.date_of_birth, self._clock.now().date())
        try:
            return await self._store.update(username, fields, self._clock.now())
        except EmailTaken:
            raise ProblemError("email-taken", pointer="/email") from None
        except NoSuchUser:
            raise ProblemError("unauthorized", "The user of this token is not known.") from None

    async def _bring_up_to_date(self, user: User, password: str) -> None:
        if self._passwords.is_outdated(user.password_hash):
            await self._store.rehash(user.profile.username, user.password_hash, await self._passwords.hash(password))

    async def _revoke_access(self, username: str, family: str) -> None:
        log.warning("spent refresh token used again, family revoked", username=username, family=family)
        try:
            await self._denylist.revoke_family(family, self._clock.now() + timedelta(seconds=LIFETIME_S))
        except CacheUnavailable as error:
            log.error("access tokens of a revoked family serve until they expire", username=username, family=family, error=str(error))  # noqa: TRY400

    def _tokens(self, token: RefreshToken) -> Tokens:
        access = self._signer.sign(token.username, token.family)
        return Tokens(access_token=access.text, expires_in=LIFETIME_S, refresh_token=token.text)


@post("/auth/register", tags=["identity"], opt={PUBLIC: True, REFUSES: ("username-taken", "email-taken", "rate-limited")}, status_code=201)
async def register(data: Registration, sessions: Sessions) -> Message:
    """Register a user."""
    await sessions.register(data)
    return Message(message="User registered successfully")


@post("/auth/login", tags=["identity"], opt={PUBLIC: True, REFUSES: ("invalid-credentials", "rate-limited")}, status_code=200, response_headers=NOT_KEPT)
async def login(data: Login, request: JsonRequest, sessions: Sessions, login_limit: LoginLimit) -> Tokens:
    """Log in."""
    await login_limit.count(request, data.username)
    return await sessions.login(data)


@post("/auth/refresh", tags=["identity"], opt={PUBLIC: True, REFUSES: ("invalid-refresh-token", "rate-limited")}, status_code=200, response_headers=NOT_KEPT)
async def refresh(data: Refresh, sessions: Sessions) -> Tokens:
    """Spend a refresh token for new tokens."""
    return await sessions.refresh(data.refresh_token)


@put("/auth/profile", tags=["identity"], opt={REFUSES: ("email-taken",)})
async def update_profile(data: ProfileUpdate, caller: Caller, sessions: Sessions) -> ProfileUpdated:
    """Change one's own profile."""
    user = await sessions.update(caller.username, data)
    return ProfileUpdated(message="Profile updated successfully", user=user)


@post("/auth/logout", tags=["identity"], status_code=200)
async def logout(data: Logout, caller: Caller, sessions: Sessions) -> Message:  # noqa: ARG001 - an object is asked for, and nothing in it
    """Log out: the access token and the refresh tokens of this login are refused from now on."""
    await sessions.logout(caller)
    return Message(message="Logged out successfully")


LIMITED_ROUTES: Final[tuple[Any, ...]] = (register, login, refresh)
"""Those that need no token, and count against the bound of their client's address."""
ROUTES: Final[tuple[Any, ...]] = (update_profile, logout)


def _check_age(born: date | None, today: date) -> None:
    broken = age_error(born, today) if born else None
    if broken:
        raise ProblemError("validation-failed", broken, pointer="/date_of_birth")
