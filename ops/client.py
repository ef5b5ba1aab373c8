"""A client of the REST API as an operator's tools need it: every write has a key that stays the same through all retries, and ends in an outcome.

What is retried: no answer, 429, and 502 to 504; after the time that `Retry-After` names, else after a growing pause. 401 is answered by logging in again, once.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Literal, Self
from zlib import crc32

import httpx

API: Final = "/api/v1"
ANSWER_S: Final = 45.0
"""Longest wait for one answer; the API itself waits at most 30 s for an outcome."""
CONNECT_S: Final = 5.0
RETRY_S: Final = 90.0
"""How long one call is tried again; longer than any pause that a server may ask for."""
PAUSE_S: Final = 0.25
PAUSE_S_MAX: Final = 8.0
PAUSE_DOUBLINGS_MAX: Final = 10
SPREAD: Final = 1024
RETRY_AFTER_S_MAX: Final = 65.0
"""A server may ask for a pause up to this one; rate limits count by the minute."""
FOLLOW_S: Final = 60.0
"""How long a command that was answered 202 is asked for, where the caller names no other deadline."""
FOLLOW_PAUSE_S: Final = 0.1
FOLLOW_PAUSE_S_MAX: Final = 1.0
DETAIL_MAX: Final = 300
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_RETRIED: Final = frozenset({429, 502, 503, 504})
_MAYBE_TAKEN: Final = frozenset({502, 504})
DECIDED: Final = frozenset({"settled", "refused", "fenced", "unreadable"})
"""States of a command that it keeps for ever."""

State = Literal["settled", "refused", "unknown", "failed"]


class ClientError(RuntimeError):
    """A call that is no write did not succeed. The text says what was asked and what came back."""


class Unanswered(ClientError):
    """There was no answer, or one that asks to come again later."""


class LoginRefused(ClientError):
    """The API knows no such user, or another password."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """What is needed to register."""

    username: str
    password: str = field(repr=False)
    email: str
    first_name: str
    last_name: str


@dataclass(slots=True)
class Session:
    """A user who is logged in. The token is renewed by the client when it has expired."""

    username: str
    password: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one write.

    `settled`: it happened. `refused`: it did not and never will, for the reason `code`. `unknown`: it was sent, or may have been, and no outcome came
    in time. `failed`: the API took nothing. After the last two the same key may be sent again at any time, without doubling anything.
    """

    state: State
    seconds: float
    code: str = ""
    detail: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    command_id: str = ""

    @property
    def is_final(self) -> bool:
        """Whether it is decided."""
        return self.state in {"settled", "refused"}


@dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP request, without its token."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    key: str = ""
    params: Mapping[str, str | int] | None = None


@dataclass(frozen=True, slots=True)
class _Tried:
    """The last answer, None where there never was one; and whether an earlier try may have been taken."""

    answer: httpx.Response | None
    maybe_taken: bool
    error: str = ""


class Client:
    """One client for many users, as an async context manager. `url` is the origin, without /api/v1."""

    def __init__(self, url: str, *, connections_max: int, retry_s: float = RETRY_S) -> None:
        self._retry_s = retry_s
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S, pool=None),
            limits=httpx.Limits(max_connections=connections_max, max_keepalive_connections=connections_max),
            headers={"user-agent": "cnop"},
            trust_env=httpx.URL(url).host not in _LOOPBACK,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def register(self, user: NewUser) -> bool:
        """Register a user; False where the name or the address is taken. ClientError otherwise."""
        fields = ("username", "password", "email", "first_name", "last_name")
        tried = await self._tried(_Call("POST", f"{API}/auth/register", {name: getattr(user, name) for name in fields}))
        if tried.answer is not None and tried.answer.status_code in {HTTPStatus.CREATED, HTTPStatus.CONFLICT}:
            return tried.answer.status_code == HTTPStatus.CREATED
        raise ClientError(f"registering {user.username}: {_told(tried)}")

    async def log_in(self, session: Session) -> None:
        """Get a token for the session. LoginRefused for a wrong name or password, ClientError otherwise."""
        tried = await self._tried(_Call("POST", f"{API}/auth/login", {"username": session.username, "password": session.password}))
        if tried.answer is not None and tried.answer.status_code == HTTPStatus.OK:
            session.token = tried.answer.json()["access_token"]
            return
        refused = tried.answer is not None and tried.answer.status_code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY}
        raise (LoginRefused if refused else _error_of(tried))(f"logging in {session.username}: {_told(tried)}")

    async def read(self, path: str, session: Session | None = None, params: Mapping[str, str | int] | None = None) -> dict[str, Any]:
        """The body of a GET under /api/v1, its decimals as Decimal. ClientError where it is not answered 200."""
        call = _Call("GET", f"{API}{path}", params=params)
        tried = await (self._authorized(session, call) if session else self._tried(call))
        if tried.answer is None or tried.answer.status_code != HTTPStatus.OK:
            raise _error_of(tried)(f"reading {path}: {_told(tried)}")
        body: dict[str, Any] = tried.answer.json(parse_float=Decimal)
        return body

    async def write(self, session: Session, path: str, body: Mapping[str, Any], key: str, *, follow_s: float = FOLLOW_S) -> Outcome:
        """POST under /api/v1 with this Idempotency-Key, and follow a 202 until it is decided, for at most `follow_s`. Raises nothing of the network's."""
        started = time.perf_counter()
        try:
            tried = await self._authorized(session, _Call("POST", f"{API}{path}", body, key))
        except ClientError as error:
            return Outcome("failed", time.perf_counter() - started, "login-failed", str(error))
        if tried.answer is not None and tried.answer.status_code == HTTPStatus.ACCEPTED:
            return await self._followed(session, tried.answer, started, follow_s)
        return _outcome(tried, time.perf_counter() - started)

    async def _followed(self, session: Session, answer: httpx.Response, started: float, follow_s: float) -> Outcome:
        location = answer.headers["location"]
        command_id = location.rsplit("/", 1)[-1]
        pause_s = FOLLOW_PAUSE_S
        while time.perf_counter() - started < follow_s:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, FOLLOW_PAUSE_S_MAX)
            try:
                tried = await self._authorized(session, _Call("GET", location))
            except ClientError:
                continue
            if tried.answer is not None and tried.answer.status_code == HTTPStatus.OK and tried.answer.json()["state"] in DECIDED:
                return _of_command(tried.answer.json(), time.perf_counter() - started)
        return Outcome("unknown", time.perf_counter() - started, "pending", f"no outcome within {follow_s:g} s", command_id=command_id)

    async def _authorized(self, session: Session, call: _Call) -> _Tried:
        if not session.token:
            await self.log_in(session)
        tried = await self._tried(call, session.token)
        if tried.answer is not None and tried.answer.status_code == HTTPStatus.UNAUTHORIZED:
            await self.log_in(session)
            tried = await self._tried(call, session.token)
        return tried

    async def _tried(self, call: _Call, token: str = "") -> _Tried:
        answer, maybe_taken, error = None, False, ""
        headers = ({"Authorization": f"Bearer {token}"} if token else {}) | ({"Idempotency-Key": call.key} if call.key else {})
        started = time.perf_counter()
        for attempt in itertools.count():
            try:
                answer = await self._http.request(call.method, call.path, headers=headers, json=call.body, params=call.params)
            except httpx.TransportError as failure:
                answer, error = None, f"{type(failure).__name__} {failure}".strip()
                maybe_taken = maybe_taken or not isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if answer.status_code not in _RETRIED:
                    break
                maybe_taken = maybe_taken or answer.status_code in _MAYBE_TAKEN or _problem(answer).get("code") == "outcome-unknown"
            pause_s = _pause_s(attempt, answer, call)
            if time.perf_counter() - started + pause_s > self._retry_s:
                break
            await asyncio.sleep(pause_s)
        return _Tried(answer, maybe_taken, error)


def _pause_s(attempt: int, answer: httpx.Response | None, call: _Call) -> float:
    """What the answer asks for, else ever longer; up to a quarter more by the call's key, so that many callers do not come back in step."""
    asked = answer.headers.get("retry-after", "") if answer is not None else ""
    pause_s = min(float(asked), RETRY_AFTER_S_MAX) if asked.isdigit() else min(PAUSE_S * 2.0 ** min(attempt, PAUSE_DOUBLINGS_MAX), PAUSE_S_MAX)
    return pause_s * (1 + crc32(f"{call.path} {call.key} {attempt}".encode()) % SPREAD / (4 * SPREAD))


def _outcome(tried: _Tried, seconds: float) -> Outcome:
    """Of a write that was not answered 202."""
    answer = tried.answer
    if answer is not None and answer.status_code in {HTTPStatus.OK, HTTPStatus.CREATED}:
        return Outcome("settled", seconds, body=answer.json(), command_id=answer.headers.get("command-id", ""))
    problem = _problem(answer) if answer is not None else {}
    code = str(problem.get("code") or (f"http-{answer.status_code}" if answer is not None else "no-answer"))
    detail = str(problem.get("detail") or tried.error)[:DETAIL_MAX]
    command_id = str(problem.get("command_id", ""))
    is_refusal = answer is not None and answer.status_code < HTTPStatus.INTERNAL_SERVER_ERROR and answer.status_code not in {401, 429}
    # A door's own refusal, which names no command, says nothing of an earlier try that may be in the log.
    if is_refusal and problem and (command_id or not tried.maybe_taken):
        return Outcome("refused", seconds, code, detail, problem, command_id)
    maybe_taken = tried.maybe_taken or (answer is not None and answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR)
    return Outcome("unknown" if maybe_taken else "failed", seconds, code, detail, problem, command_id)


def _of_command(view: Mapping[str, Any], seconds: float) -> Outcome:
    if view["state"] == "settled":
        return Outcome("settled", seconds, body=view.get("outcome") or {}, command_id=view["command_id"])
    return Outcome("refused", seconds, view.get("code") or view["state"], view.get("detail") or "", view, view["command_id"])


def _problem(answer: httpx.Response) -> dict[str, Any]:
    """The members of a problem+json body; empty for any other."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) and "code" in body else {}


def _error_of(tried: _Tried) -> type[ClientError]:
    return Unanswered if tried.answer is None or tried.answer.status_code in _RETRIED else ClientError


def _told(tried: _Tried) -> str:
    if tried.answer is None:
        return f"no answer ({tried.error})"
    problem = _problem(tried.answer)
    errors = "; ".join(f"{error['pointer']}: {error['detail']}" for error in problem.get("errors", []))
    return f"{tried.answer.status_code} {problem.get('code') or tried.answer.reason_phrase}: {problem.get('detail', '')} {errors}".strip()[:DETAIL_MAX]
