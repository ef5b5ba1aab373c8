"""The write door's process: everything it is made of, and nothing else.

It is ready while Kafka, DynamoDB and Redis answer. At start it waits for each of them within a bound; afterwards it lives through their
absence, refusing what it cannot do.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import stamina
from litestar import Litestar, Request, Response, Router
from litestar.di import Provide

from command_api import balances, commands, identity, orders
from command_api.call import ReadCall, read_caller
from command_api.outcome import Door
from command_api.passwords import Passwords, TooManyPasswords
from events.bus import Bus
from events.lag import Lag
from events.topics import REQUESTS, SETTLEMENT
from infra import http_problems
from infra.cache import Cache, CacheUnavailable, Denylist, Views
from infra.cache_policy import CachePolicy
from infra.clock import Clock, Ids, SystemClock, SystemIds
from infra.dynamo import Dynamo, DynamoUnavailable
from infra.generations import Generations, KeptPointer
from infra.http import Auth, Background, DoorApp, Health, Policy, ProblemError, RateLimiter, be, build_app, by_address
from infra.http_bodies import Bodies
from infra.identity import IdentityStore, RefreshFamilies
from infra.ledger_bound import BoundedReads, TooManyReads
from infra.market import MarketCache, MarketStore
from infra.parked import ParkingLedger
from infra.replies import Replies
from infra.secrets import derive, read_secret
from infra.settings import Settings
from infra.tokens import TokenSigner, TokenVerifier
from schemas.commands import KEY_PURPOSE

NAME: Final = "command-api"
START_ATTEMPTS_MAX: Final = 60
START_WAIT_S_MAX: Final = 30.0
START_PAUSE_S_MAX: Final = 1.0
STOP_BUS_S: Final = 3.0
"""How long what was handed to Kafka's client may take to get acknowledged when the process stops."""
_AWAY: Final = ("unavailable", "A store that this needs does not answer.")
_PROBLEMS: Final[dict[type[Exception], tuple[str, str]]] = {
    DynamoUnavailable: _AWAY,
    CacheUnavailable: _AWAY,
    TooManyReads: ("overloaded", "The ledger is asked too much."),
    TooManyPasswords: ("overloaded", "Too many passwords are being checked."),
}


class StartFailed(RuntimeError):
    """A machine did not answer at start. The text names it and the setting of its address."""


def run(settings: Settings) -> None:
    """Be the command API until told to stop."""
    be(NAME, settings, lambda: build(settings), settings.port)


def build(settings: Settings) -> DoorApp:
    """The door, not yet connected: its lifespan does that. Call it on the loop that will serve it.

    Raises SecretRefused where a key file cannot be used; the lifespan raises StartFailed.
    """
    ids = SystemIds()
    return assemble(settings, Machines.of(settings, ids), SystemClock(), ids)


def assemble(settings: Settings, machines: "Machines", clock: Clock, ids: Ids) -> DoorApp:
    """The door on given machines."""
    denylist = Denylist(machines.cache, clock)
    return build_app(
        NAME,
        [_routes(machines.limiter, settings)],
        ids=ids,
        health=_health(machines),
        auth=Auth(TokenVerifier.from_file(settings.jwt_public_key_file, clock), denylist, fail_closed=True),
        dependencies=_provided(
            call=ReadCall(ids),
            caller=read_caller,
            door=_always(_door(machines, clock, settings)),
            desk=_always(_desk(machines, clock, settings)),
            sessions=_always(_sessions(machines, denylist, clock, ids, settings)),
            login_limit=_always(_login_limit(machines.limiter, settings)),
            settings=_always(settings),
        ),
        lifespan=[machines.connected],
        middleware=[Bodies(settings.bodies_bytes_max)],
        title="cnop command API",
        description="Everything that changes something: users and their sessions, money, orders.",
    )


@dataclass(frozen=True, slots=True)
class Machines:
    """What the door is connected to, and its threads."""

    dynamo: Dynamo
    cache: Cache
    bus: Bus
    lag: Lag
    replies: Replies
    limiter: RateLimiter
    passwords: Passwords

    @classmethod
    def of(cls, settings: Settings, ids: Ids) -> "Machines":
        """Those of the settings. Nothing is connected yet."""
        cache = Cache(settings.redis_url, client_name=NAME)
        return cls(
            dynamo=Dynamo(settings.dynamodb_url, settings.aws_region),
            cache=cache,
            bus=Bus(settings.kafka, client_id=f"{NAME}-{settings.slot}", acknowledge_s=settings.publish_wait_s, in_flight_max=settings.publishes_max),
            lag=Lag(settings.kafka, client_id=f"{NAME}-lag-{settings.slot}", group=SETTLEMENT, topic=REQUESTS, records_max=settings.lag_max),
            replies=Replies(cache.client, ids.new(), waiters_max=settings.waiters_max),
            limiter=RateLimiter(settings.redis_url),
            passwords=Passwords(),
        )

    @asynccontextmanager
    async def connected(self, app: Litestar) -> AsyncIterator[None]:
        """Connect, keep watch, and at the end flush and disconnect. The subscription to replies is confirmed before the first request is taken."""
        if not isinstance(app, DoorApp):
            raise TypeError("a door is needed, for its background tasks")
        async with self.dynamo:
            try:
                await _answering("DynamoDB", "CNOP_DYNAMODB_URL", self.dynamo.ping)
                await _answering("Redis", "CNOP_REDIS_URL", self.replies.start)
                await _answering("Kafka", "CNOP_KAFKA", self.bus.start)
                async with Background() as tasks:  # ended before what they work on is closed
                    tasks.start("broker watch", self.bus.watch())
                    tasks.start("settlement's lag", self.lag.watch())
                    tasks.start("replies", self.replies.run())
                    app.background.start("connections", tasks.failed())
                    yield
            finally:
                await self.bus.stop(STOP_BUS_S)
                await self.limiter.aclose()
                await self.cache.stop()
                self.passwords.stop()


async def _answering(name: str, setting: str, call: Callable[[], Awaitable[object]]) -> None:
    try:
        async for attempt in stamina.retry_context(on=Exception, attempts=START_ATTEMPTS_MAX, timeout=START_WAIT_S_MAX, wait_max=START_PAUSE_S_MAX):
            with attempt:
                await call()
    except Exception as error:
        raise StartFailed(f"{name} ({setting}) does not answer as it should within {START_WAIT_S_MAX:g} s: {type(error).__name__}: {error}") from error


def _routes(limiter: RateLimiter, settings: Settings) -> Router:
    by_client = limiter.guard(Policy("auth", settings.auth_requests_per_minute, identity.WINDOW_S), by_address(settings.trusted_proxies))
    limited = Router("/", route_handlers=[*identity.LIMITED_ROUTES], guards=[by_client])
    return Router(
        "/",
        route_handlers=[limited, *identity.ROUTES, *balances.ROUTES, *orders.ROUTES, *commands.ROUTES],
        exception_handlers=dict.fromkeys(_PROBLEMS, _told),
    )


def _told(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return http_problems.answer(request, ProblemError(*_PROBLEMS[type(error)]))


def _health(machines: Machines) -> Health:
    async def kafka() -> None:
        if not machines.bus.reachable:
            raise ConnectionError("no broker answers")

    health = Health()
    health.check("kafka", kafka)
    health.check("dynamodb", machines.dynamo.ping)
    health.check("redis", CachePolicy(machines.cache).check)
    return health


def _door(machines: Machines, clock: Clock, settings: Settings) -> Door:
    ledger = BoundedReads(ParkingLedger(machines.dynamo))
    views = Views(machines.cache, ledger, Generations(machines.cache, KeptPointer(machines.dynamo)), ttl_s=settings.view_ttl_s)
    key = derive(read_secret(settings.secret_file), KEY_PURPOSE)
    return Door(machines.bus, machines.replies, ledger, views, clock, backlog=machines.lag, command_key=key, wait_s=settings.wait_s)


def _desk(machines: Machines, clock: Clock, settings: Settings) -> orders.OrderDesk:
    market = MarketCache(machines.cache, MarketStore(machines.dynamo))
    return orders.OrderDesk(
        market,
        clock,
        price_age_max_s=settings.price_age_max_s,
        quote_age_max_s=settings.quote_age_max_s,
        fees=orders.Fees(settings.fee_bps, settings.fee_bps_by_category),
        total_max=settings.order_total_max,
    )


def _sessions(machines: Machines, denylist: Denylist, clock: Clock, ids: Ids, settings: Settings) -> identity.Sessions:
    signer = TokenSigner.from_file(settings.jwt_private_key_file, clock, ids)
    families = RefreshFamilies(machines.dynamo, secrets.token_bytes)
    return identity.Sessions(IdentityStore(machines.dynamo), families, machines.passwords, signer, denylist, clock=clock, ids=ids)


def _login_limit(limiter: RateLimiter, settings: Settings) -> identity.LoginLimit:
    return identity.LoginLimit(limiter, attempts_per_minute=settings.login_attempts_per_minute, trusted_proxies=settings.trusted_proxies)


def _provided(**providers: Callable[..., Any]) -> dict[str, Provide]:
    return {name: Provide(provider, sync_to_thread=False) for name, provider in providers.items()}


def _always(thing: object) -> Callable[[], Any]:
    return lambda: thing
