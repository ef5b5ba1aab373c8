"""The read door's composition root: builds everything once and passes it down."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from litestar import Litestar, Request, Response, Router
from litestar.di import Provide

from infra import http_problems
from infra.cache import Cache, Denylist, Views
from infra.cache_policy import CachePolicy
from infra.candles import BoundedCandles, CandleReads, CandleStore
from infra.changes import Changes
from infra.clock import Clock, Ids, SystemClock, SystemIds
from infra.dynamo import Dynamo, DynamoUnavailable
from infra.generations import Generations, KeptPointer
from infra.http import Auth, Background, DoorApp, FromRequest, Given, Health, ProblemError, Revocations, be, build_app
from infra.identity import IdentityStore
from infra.ledger_bound import BoundedReads, TooManyReads
from infra.market import MarketCache, MarketStore
from infra.parked import ParkedReads, ParkingLedger
from infra.position import ProjectionLag
from infra.secrets import derive, read_secret
from infra.settings import Settings
from infra.tokens import TokenVerifier
from query_api import assets, explain, history, orders, portfolio, portfolio_history, prices, profile, status, stream
from query_api.bodies import Bodies
from query_api.cursors import KEY_PURPOSE as CURSOR_KEY
from query_api.cursors import Cursors
from query_api.fresh import asked, asking
from query_api.given import ProfileReads
from query_api.status import CommandKey
from query_api.stream_hub import Streams
from query_api.time_travel import Past, moment, moment_of
from schemas.commands import KEY_PURPOSE as COMMAND_KEY

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[Any]]

NAME: Final = "query-api"
ROUTES: Final = (
    *assets.ROUTES,
    *prices.ROUTES,
    *portfolio.ROUTES,
    *portfolio_history.ROUTES,
    *explain.ROUTES,
    *history.ROUTES,
    *orders.ROUTES,
    *profile.ROUTES,
    *status.ROUTES,
    *stream.ROUTES,
)
_PROBLEMS: Final[dict[type[Exception], tuple[str, str]]] = {
    DynamoUnavailable: ("unavailable", "The store does not answer now."),
    TooManyReads: ("overloaded", "The store is asked too much now."),
}


def run(settings: Settings) -> None:
    """Be the query API until told to stop."""
    be(NAME, settings, lambda: build(settings), settings.port)


def build(settings: Settings) -> DoorApp:
    """The door, not yet connected: its lifespan does that. Call it on the loop that will serve it. SecretRefused where a key file cannot be used.

    It needs the store and the cache, never the log: it goes on answering while Kafka is away, and while the cache is.
    """
    clock = SystemClock()
    dynamo = Dynamo(settings.dynamodb_url, settings.aws_region)
    cache = Cache(settings.redis_url, client_name=NAME)
    ledger = BoundedReads(ParkingLedger(dynamo))
    views = Views(cache, ledger, Generations(cache, KeptPointer(dynamo)), ttl_s=settings.view_ttl_s)
    market = MarketCache(cache, MarketStore(dynamo))
    revocations = Denylist(cache, clock)
    sources = Sources(
        ledger=ledger,
        views=views,
        market=market,
        candles=BoundedCandles(CandleStore(dynamo)),
        profiles=IdentityStore(dynamo),
        revocations=revocations,
        lag=ProjectionLag(cache, clock),
        streams=Streams(
            views,
            Changes(cache.client),
            market=market,
            revocations=revocations,
            clock=clock,
            listeners_max=settings.stream_listeners_max,
        ),
    )
    health = Health()
    health.check("dynamodb", dynamo.ping)
    health.check("redis", CachePolicy(cache).check)
    return assemble(settings, sources, clock, SystemIds(), health, lifespan=[_connected(dynamo, cache)])


@dataclass(frozen=True, slots=True)
class Sources:
    """What the answers are taken from."""

    ledger: ParkedReads
    views: Views
    market: MarketCache
    candles: CandleReads
    profiles: ProfileReads
    revocations: Revocations
    lag: ProjectionLag
    streams: Streams


def assemble(settings: Settings, sources: Sources, clock: Clock, ids: Ids, health: Health, *, lifespan: Sequence[Lifespan] = ()) -> DoorApp:
    """The door over given sources. With the denylist away a signed token in time is enough: nothing is changed on its word here."""
    secret = read_secret(settings.secret_file)
    background = Background()
    bodies = Bodies()
    health.at_stop(sources.streams.stop)
    return build_app(
        NAME,
        [Router("/", route_handlers=ROUTES, exception_handlers=dict.fromkeys(_PROBLEMS, _told))],
        ids=ids,
        health=health,
        background=background,
        auth=Auth(TokenVerifier.from_file(settings.jwt_public_key_file, clock), sources.revocations, fail_closed=False),
        dependencies=_provided(
            bodies=_always(bodies),
            by=FromRequest(asking(sources.lag, bodies), asked),
            candles=_always(sources.candles),
            clock=_always(clock),
            command_key=_always(CommandKey(derive(secret, COMMAND_KEY))),
            cursors=_always(Cursors(derive(secret, CURSOR_KEY), clock)),
            profiles=_always(sources.profiles),
            lag=_always(sources.lag),
            inventory=_always(assets.Inventory(sources.market)),
            ledger=_always(sources.ledger),
            market=_always(sources.market),
            streams=_always(sources.streams),
            moment=FromRequest(moment_of, moment),
            past=_always(Past(sources.ledger, sources.candles, clock)),
            views=_always(sources.views),
        ),
        lifespan=[*lifespan, _streaming(sources.streams, background)],
        title="cnop query API",
        description="Everything that is shown: balances, holdings, orders, history, the inventory.",
    )


def _connected(dynamo: Dynamo, cache: Cache) -> Lifespan:
    @asynccontextmanager
    async def connected(_app: Litestar) -> AsyncIterator[None]:
        async with dynamo:
            try:
                yield
            finally:
                await cache.stop()

    return connected


def _streaming(streams: Streams, background: Background) -> Lifespan:
    @asynccontextmanager
    async def streaming(_app: Litestar) -> AsyncIterator[None]:
        streams.start(background)
        yield

    return streaming


def _told(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return http_problems.answer(request, ProblemError(*_PROBLEMS[type(error)]))


def _provided(**providers: Callable[..., Any]) -> dict[str, Provide]:
    return {name: provider if isinstance(provider, Provide) else Provide(provider, sync_to_thread=False) for name, provider in providers.items()}


def _always(thing: object) -> Given:
    return Given(thing)
