"""Where Redis is: one server, a cluster, or whatever primary sentinels name; and a client for it.

* `redis://[user:password@]host:port/db` - one server
* `redis+cluster://[user:password@]host:port[,host:port]` - a cluster, asked of any of these nodes
* `redis+sentinel://[user:password@]host:port[,host:port]/service[/db]` - the primary of that service, told by any of these sentinels. The
  credentials are those of the servers; `?sentinel_username=…&sentinel_password=…` are those of the sentinels.

With `rediss` instead of `redis` all connections are TLS. Further options of the client go into the query (`?ssl_ca_certs=…`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, ClusterPubSub
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

from infra.cache_connection import lean

CONNECTION_WAIT_S: Final = 1.0
"""How long a call may wait for a free connection of the pool."""
RETRIES_MAX: Final = 1
"""Repetitions inside one call, for a connection that died while it was idle. Whoever can wait longer repeats knowingly."""
RETRY_WAIT_S_MAX: Final = 0.1
SUBSCRIPTIONS_MAX: Final = 8
"""Connections to one node of a cluster beside those of calls: subscriptions hold theirs."""
PORT: Final = 6379
SENTINEL_PORT: Final = 26379

Kind = Literal["server", "cluster", "sentinel"]
_KINDS: Final[Mapping[str, Kind]] = {"": "server", "cluster": "cluster", "sentinel": "sentinel"}


class AddressInvalid(ValueError):
    """An address of Redis that is none of the forms above. The message never has the address: there may be a password in it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address. `options` are the client's own names; `sentinel_options` those of connections to sentinels."""

    kind: Kind
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, url: str) -> "Address":
        """Parse. AddressInvalid for what is none."""
        try:
            return _parsed(url)
        except (ValueError, KeyError) as error:
            raise AddressInvalid(
                "CNOP_REDIS_URL: redis://host:port/db, redis+cluster://host:port,… or redis+sentinel://host:port,…/service is wanted"
            ) from error


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary that sentinels name; who finds none free waits for one."""


class _ClusterPipeline(ClusterPipeline):
    """Takes messages too. The client's own refuses them, though a message may go to any node."""

    def publish(self, channel: str, message: bytes) -> ClusterPipeline:  # type: ignore[override] # a pipeline's commands give the pipeline
        return self.execute_command("PUBLISH", channel, message)


class _ClusterPubSub(ClusterPubSub):
    """Finds its node anew where the one that it had is gone, and says in the way of a server that there is none."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            await self.cluster.initialize()
            return await super().execute_command(*args, **options)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        except (RedisConnectionError, RedisTimeoutError, OSError):
            if isinstance(self.cluster, _Cluster):
                self.cluster.look_again()
            raise


class _Cluster(RedisCluster):
    """A client of a cluster that is used like one of a server, where the keys of a call have one hash tag."""

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        if shard_hint is not None:
            return super().pipeline(transaction, shard_hint)
        return _ClusterPipeline(self, transaction)  # type: ignore[abstract] # so is the client's own

    def pubsub(self, *place: Any, **options: Any) -> ClusterPubSub:
        return _ClusterPubSub(self, *place, **options)

    def look_again(self) -> None:
        """Ask which node has which keys before the next call."""
        self._initialize = True


def is_cluster(client: object) -> bool:
    """Whether a client that `connect` made is one of a cluster. Such a client does not wait for a free connection, it fails."""
    return isinstance(client, RedisCluster)


def connect(url: str, *, client_name: str, connections_max: int, connect_s: float, answer_s: float) -> Redis:
    """A client; nothing is connected yet. Connections are made when they are first needed, and again after a failover. AddressInvalid.

    A cluster's client passes for one of a server: for what is asked of it here they are the same.
    """
    address = Address.of(url)
    timing = {"socket_connect_timeout": connect_s, "socket_timeout": answer_s}
    named = {"client_name": client_name, "retry": _retry(), **timing, **address.options}
    if address.kind == "cluster":
        return cast("Redis", _cluster(address, {"max_connections": connections_max + SUBSCRIPTIONS_MAX, **named}))
    waiting = {"max_connections": connections_max, "timeout": CONNECTION_WAIT_S, **named}
    if address.kind == "server":
        return _over(BlockingConnectionPool(**waiting))
    sentinels = Sentinel(address.nodes, sentinel_kwargs={"retry": _retry(), **timing, **address.sentinel_options})  # type: ignore[no-untyped-call]
    return _over(_SentinelPool(address.service, sentinels, **waiting))  # type: ignore[no-untyped-call]


def _cluster(address: Address, options: dict[str, Any]) -> RedisCluster:
    client = _Cluster(startup_nodes=[ClusterNode(*node) for node in address.nodes], **options)
    kind = lean(client.connection_kwargs["connection_class"])
    client.connection_kwargs["connection_class"] = kind
    for node in client.startup_nodes:
        node.connection_class = kind
    return client


def _over(pool: ConnectionPool) -> Redis:
    pool.connection_class = lean(pool.connection_class)
    return Redis.from_pool(pool)


def _retry() -> Retry:
    return Retry(ExponentialBackoff(cap=RETRY_WAIT_S_MAX, base=RETRY_WAIT_S_MAX / 4), RETRIES_MAX)


def _parsed(url: str) -> Address:
    parts = urlsplit(url)
    scheme, _, variant = parts.scheme.partition("+")
    kind = _KINDS[variant]
    if kind == "server":
        return Address(kind, options=parse_url(url))
    if scheme not in {"redis", "rediss"}:
        raise ValueError(scheme)
    credentials, _, hosts = parts.netloc.rpartition("@")
    nodes = tuple(_node(host, PORT if kind == "cluster" else SENTINEL_PORT) for host in hosts.split(","))
    service, _, db = parts.path.strip("/").partition("/")
    if bool(service) != (kind == "sentinel"):
        raise ValueError(parts.path)
    # Read by the client as if it were the address of one server.
    netloc = f"{credentials}@any" if credentials else "any"
    options: dict[str, Any] = {**parse_url(urlunsplit((scheme, netloc, f"/{db}" if db else "", parts.query, "")))}
    del options["host"]
    options.pop("connection_class", None)
    tls = {"ssl": True} if scheme == "rediss" else {}
    theirs = {name: options.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in options}
    certificates = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return Address(kind, nodes, service, {**options, **tls}, {**theirs, **tls, **certificates})


def _node(text: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or port
