"""The one way of every write: publish the request, wait for its outcome, answer.

What is answered is the outcome in the ledger, whether it was learned from a reply or by a look; a reply only saves the look. A request that
was acknowledged by the log and has no outcome at the end of the wait is answered 202 with the command to ask for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

import structlog
from litestar import Response
from opentelemetry.trace import SpanKind
from prometheus_client import Counter, Histogram

from command_api.call import IDEMPOTENCY_KEY, Call
from events.bus import OutcomeUnknown, TooLarge, TooManyInFlight, Unavailable
from events.envelope import Envelope
from events.topics import REQUESTS
from events.tracing import current_traceparent, span
from infra.cache import Views
from infra.clock import Clock
from infra.dynamo import DynamoUnavailable
from infra.http import API, ProblemError
from infra.ledger_bound import TooManyReads
from infra.parked import ParkedReads
from infra.replies import Replies, TooManyWaiters, Waiter
from schemas.commands import FENCED, answer_of, command_id, command_view, read_command_id, refusal_of
from schemas.ledger import Entry
from schemas.problems import FieldError
from schemas.requests import AccountRequest, FenceRequested, OrderCancelRequested, canonical, encode_request, request_id, request_type
from schemas.results import Result
from schemas.rows import order_view
from schemas.views import CommandView, consistency_token

log = structlog.get_logger()

Outcome = Entry | Result
R = TypeVar("R", bound=AccountRequest)

SOURCE: Final = "urn:cnop:command-api"
COMMANDS_PATH: Final = f"{API}/commands"
RETRY_AFTER_S: Final = 1
LOOK_FIRST_S: Final = 0.25
"""A request that may be a repetition gets no reply of its own (settlement ignores later records of an id): the door looks into the ledger after this time,"""
LOOK_S_MAX: Final = 1.0
"""and again after twice the last pause, up to this one."""

COMMAND_ID: Final = "Command-Id"
CONSISTENCY_TOKEN: Final = "Consistency-Token"  # noqa: S105 - a header's name
REPLAYED: Final = "Idempotent-Replayed"
_MADE, _CHANGED = 201, 200
_POINTERS: Final = {"order_id": "#/path/order_id"}
"""What a request names outside of its body."""

ACCEPTED: Final = Counter("cnop_requests_accepted_total", "Requests acknowledged by the log", ["type"])
OUTCOMES: Final = Counter("cnop_outcomes_total", "Answers to requests that were sent: settled, pending, or the code of the refusal", ["type", "code"])
SHED: Final = Counter("cnop_requests_shed_total", "Requests refused because of the load, before anything was sent", ["reason"])
VISIBLE_S: Final = Histogram(
    "cnop_accept_to_visible_seconds",
    "From the request's coming in to its outcome's being settled and visible",
    ["type"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


class Publisher(Protocol):
    """Where requests go: `events.bus.Bus`, or a fake."""

    async def publish(self, topic: str, envelope: Envelope) -> None:
        """Returns when the event is in the log. Unavailable, TooManyInFlight, OutcomeUnknown or TooLarge otherwise."""
        ...


class Backlog(Protocol):
    """How much waits to be settled: `events.lag.Lag`, or a fake."""

    def retry_after_s(self, key: str) -> int | None:
        """None where a request of this account may be sent; else seconds until what waits before it should be less."""
        ...


@dataclass(frozen=True, slots=True)
class Command:
    """A request on its way, under the ids that it has for ever."""

    call: Call
    request: AccountRequest
    request_id: str
    command_id: str

    @property
    def location(self) -> str:
        """Where to ask what became of it."""
        return f"{COMMANDS_PATH}/{self.command_id}"

    @property
    def kind(self) -> str:
        """The request's class name."""
        return type(self.request).__name__

    def headers(self) -> dict[str, str]:
        """What every answer to it says. A fence has no key of its own: it names the command that it is about."""
        key = {} if isinstance(self.request, FenceRequested) else {IDEMPOTENCY_KEY: self.call.key}
        return {COMMAND_ID: self.command_id, **key}


class Door:
    """Takes requests of authenticated callers. `command_key` makes command ids; `wait_s` is the wait of a caller without a preference.

    Load is shed before anything is sent: where `backlog` says that too much waits already, where too many callers wait (`replies`), and where too
    many requests are on their way to the log (`publisher`).
    """

    def __init__(
        self,
        publisher: Publisher,
        replies: Replies,
        ledger: ParkedReads,
        views: Views,
        clock: Clock,
        *,
        backlog: Backlog,
        command_key: bytes,
        wait_s: float,
    ) -> None:
        self._publisher = publisher
        self._backlog = backlog
        self._replies = replies
        self._ledger = ledger
        self._views = views
        self._clock = clock
        self._command_key = command_key
        self._wait_s = wait_s

    async def submit(self, call: Call, request: R, stamped: Callable[[R], Awaitable[R]] | None = None) -> Response[Any]:
        """201 with what was made (200 with what was changed), once that is settled and visible; 202 with the command where the wait ended before.

        The same call again answers the same, from the ledger, without being sent. `stamped` adds what the door knows, where that may fail or
        have changed since the first call: it is asked for what is sent only. Raises the problem of a refusal, of a key that was used for
        something else, and 503 `unavailable` or `overloaded` (nothing was sent) or `outcome-unknown` (repeat with the same key only).
        """
        rid = request_id(call.username, call.key)
        command = Command(call, request, rid, command_id(self._command_key, call.username, rid))
        if call.is_own_key and (decided := await self._decided(command)):
            await self._show(decided)
            return _answer(command, decided, replayed=True)
        self._shed_if_behind(command)
        if stamped:
            request = await self._stamped(command, request, stamped)
            command = replace(command, request=request)
        outcome = await self._send(command, may_be_repeated=call.is_own_key)
        OUTCOMES.labels(command.kind, _code(outcome)).inc()
        return _answer(command, outcome) if outcome else _pending(command, waits=await self._waits(command))

    async def _stamped(self, command: Command, request: R, stamped: Callable[[R], Awaitable[R]]) -> R:
        """What the door refuses is refused for this call alone: where an earlier one with the key may be on its way, the answer says so, and where to ask."""
        try:
            return await stamped(request)
        except ProblemError as refused:
            if command.call.is_own_key:
                refused.detail = f"{refused.detail} {_sent_nothing(command)}"
                refused.headers = {**command.headers(), "Location": command.location, **refused.headers}
                refused.extensions = {"command_id": command.command_id, **refused.extensions}
            raise

    async def fence(self, call: Call, fenced: str) -> Response[CommandView]:
        """Make sure that a command never happens any more, unless it already did: 200 with what holds for ever, 202 where that is not known yet.

        It is not shed because of a backlog: who is in doubt must be able to ask, the more so when settlement is late.
        The problem `not-found` for an id that this caller was never given.
        """
        rid = read_command_id(self._command_key, call.username, fenced)
        if rid is None:
            raise ProblemError("not-found", "You have no such command.")
        command = Command(call, FenceRequested(call.username), rid, fenced)
        decided = await self._decided(command)
        if decided:
            await self._show(decided)
        outcome = decided or await self._send(command, may_be_repeated=True)
        if outcome is None:
            return _pending(command, waits=await self._waits(command))
        return Response(command_view(outcome, command.command_id), status_code=200, headers=_headers(command, outcome))

    def _shed_if_behind(self, command: Command) -> None:
        retry_after_s = self._backlog.retry_after_s(command.call.username)
        if retry_after_s is not None:
            raise _overloaded(command, "lag", "Too many requests wait to be settled before this one.", retry_after_s)

    async def _decided(self, command: Command) -> Entry | None:
        try:
            return await self._ledger.entry(command.call.username, command.request_id)
        except DynamoUnavailable:
            raise _problem(command, "unavailable", "The ledger does not answer. Nothing was sent.") from None
        except TooManyReads:
            raise _overloaded(command, "reads", "The ledger is asked too much.") from None

    async def _send(self, command: Command, *, may_be_repeated: bool) -> Outcome | None:
        """Publish, and wait for the outcome as long as the caller wants to; None at the end of the wait."""
        started = asyncio.get_running_loop().time()
        wait_s = command.call.preferences.wait(self._wait_s)
        if not wait_s:
            await self._publish(command, None)
            return None
        try:
            with self._replies.expect(command.request_id) as waiter:
                await self._publish(command, self._replies.channel)
                outcome = await self._outcome(command, waiter, started + wait_s, looks=may_be_repeated or not self._replies.connected)
        except TooManyWaiters:
            raise _overloaded(command, "waiters", "Too many callers wait already; `Prefer: respond-async` does not wait.") from None
        if outcome:
            VISIBLE_S.labels(command.kind).observe(asyncio.get_running_loop().time() - started)
        return outcome

    async def _publish(self, command: Command, reply_to: str | None) -> None:
        with span(f"publish {REQUESTS}", SpanKind.PRODUCER):
            envelope = self._envelope(command, reply_to)
            try:
                await self._publisher.publish(REQUESTS, envelope)
            except Unavailable:
                raise _problem(command, "unavailable", f"The log of requests cannot be reached. {_sent_nothing(command)}") from None
            except TooManyInFlight:
                raise _overloaded(command, "publishes", "Too many requests are on their way to the log.") from None
            except OutcomeUnknown:
                log.warning("request not acknowledged", event_id=command.request_id, type=envelope.type)
                raise _problem(command, "outcome-unknown", "The log did not acknowledge the request in time.", Location=command.location) from None
            except TooLarge:
                raise _problem(command, "body-too-large", "The request does not fit into one record.") from None
        ACCEPTED.labels(command.kind).inc()
        log.info("request accepted", event_id=command.request_id, type=envelope.type)

    def _envelope(self, command: Command, reply_to: str | None) -> Envelope:
        traceparent, tracestate = current_traceparent()
        return Envelope(
            id=command.request_id,
            source=SOURCE,
            type=request_type(command.request),
            subject=command.call.username,
            time=self._clock.now(),
            value=encode_request(command.request),
            correlation_id=command.call.trace_id,
            trace_id=command.call.trace_id,
            traceparent=traceparent,
            tracestate=tracestate,
            reply_to=reply_to,
        )

    async def _outcome(self, command: Command, waiter: Waiter, deadline: float, *, looks: bool) -> Outcome | None:
        """The reply; or the ledger's word at the end of the wait, after a reconnect of the replies, and (with `looks`) every now and then."""
        loop = asyncio.get_running_loop()
        pause_s = LOOK_FIRST_S if looks else float("inf")
        while True:
            result = await waiter.result(max(0.0, min(pause_s, deadline - loop.time())))
            if result:
                return result
            entry = await self._look(command)
            if entry:
                await self._show(entry)
                return entry
            if loop.time() >= deadline:
                return None
            pause_s = min(2 * pause_s, LOOK_S_MAX) if looks else pause_s

    async def _look(self, command: Command) -> Entry | None:
        """A failed look is no answer: the request is in the log, and will be settled when the ledger is back."""
        try:
            return await self._ledger.entry(command.call.username, command.request_id)
        except (DynamoUnavailable, TooManyReads) as error:
            log.warning("ledger not asked for the outcome", event_id=command.request_id, error=str(error))
            return None

    async def _waits(self, command: Command) -> bool:
        """Whether the request waits in a parked account; asked at the end of a wait only, since hardly any does."""
        if not command.call.preferences.wait(self._wait_s):
            return False
        try:
            return await self._ledger.waits(command.call.username, command.request_id)
        except (DynamoUnavailable, TooManyReads):
            return False

    async def _show(self, outcome: Outcome) -> None:
        """See to it that the next read shows it. Where that fails the answer is true all the same, and reads bypass a cache that is away."""
        try:
            await self._views.load(outcome.username, at_least=outcome.version)
        except (DynamoUnavailable, TooManyReads) as error:
            log.warning("view not loaded", event_id=outcome.request_id, error=str(error))


def _answer(command: Command, outcome: Outcome, *, replayed: bool = False) -> Response[Any]:
    """What the first call answered, or would have. Raises the problem of a refusal, and where the key belongs to another request."""
    headers = _headers(command, outcome) | ({REPLAYED: "true"} if replayed else {})
    differences = [] if outcome.kind == FENCED else _differences(canonical(command.request), outcome.payload)
    if differences:
        detail = "The Idempotency-Key belongs to an earlier request that asked for something else."
        raise ProblemError("idempotency-key-reused", detail, errors=differences, headers=headers, extensions={"command_id": command.command_id})
    refusal = refusal_of(outcome)
    if refusal:
        order = {"order": order_view(refusal.order).model_dump(mode="json")} if refusal.order else {}
        extensions = {"command_id": command.command_id, **order}
        raise ProblemError(refusal.code, refusal.detail, pointer=refusal.pointer, headers=headers, extensions=extensions)
    return Response(answer_of(outcome), status_code=_CHANGED if isinstance(command.request, OrderCancelRequested) else _MADE, headers=headers)


def _pending(command: Command, *, waits: bool) -> Response[Any]:
    applied = command.call.preferences.applied(asynchronously=True)
    headers = {**command.headers(), "Location": command.location, "Retry-After": str(RETRY_AFTER_S), **({"Preference-Applied": applied} if applied else {})}
    return Response(command_view(None, command.command_id, waits=waits), status_code=202, headers=headers)


def _headers(command: Command, outcome: Outcome) -> dict[str, str]:
    applied = command.call.preferences.applied(asynchronously=False)
    token = {CONSISTENCY_TOKEN: consistency_token(command.call.username, outcome.version)}
    return {**command.headers(), **token, **({"Preference-Applied": applied} if applied else {})}


def _problem(command: Command, code: str, detail: str, **headers: str) -> ProblemError:
    """A failure on the way: under which key and command to try again, and when."""
    told = {**command.headers(), "Retry-After": str(RETRY_AFTER_S), **headers}
    return ProblemError(code, detail, headers=told, extensions={"command_id": command.command_id})


def _overloaded(command: Command, reason: str, detail: str, retry_after_s: int = RETRY_AFTER_S) -> ProblemError:
    """Load that is not taken on. `reason` is the metric's."""
    SHED.labels(reason).inc()
    return _problem(command, "overloaded", f"{detail} {_sent_nothing(command)}", **{"Retry-After": str(retry_after_s)})


def _sent_nothing(command: Command) -> str:
    """True of this call; of the request only where no earlier call can have sent it."""
    return "This call sent nothing." + (" An earlier call with this key may still be on its way: keep the key." if command.call.is_own_key else "")


def _differences(asked: Mapping[str, str], first: Mapping[str, str]) -> list[FieldError]:
    """The fields in which a repetition differs from the first request; that it is another operation altogether is told of the path."""
    names = [name for name in {**asked, **first} if asked.get(name) != first.get(name)]
    if "type" in names:
        return [FieldError(pointer="#/path", detail=f"the first request with this key was a {first.get('type')}")]
    return [FieldError(pointer=_POINTERS.get(name, f"/{name}"), detail="differs from the first request with this key") for name in names]


def _code(outcome: Outcome | None) -> str:
    if outcome is None:
        return "pending"
    refusal = refusal_of(outcome)
    return refusal.code if refusal else "settled"
