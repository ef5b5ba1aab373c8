"""Rate limits, counted in Redis over a moving window, told by the headers of draft-ietf-httpapi-ratelimit-headers (revision 10).

Limits protect against guessing and floods, they are no part of any guarantee: without Redis everything is allowed, and counted.
"""

import asyncio
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisClusterException

from infra.cache_address import connect
from infra.http_edge import EXTRA_HEADERS
from infra.http_problems import ProblemError

Connection = ASGIConnection[Any, Any, Any, Any]
KeyOf = Callable[[Connection], str]
Guard = Callable[[Connection, BaseRouteHandler], Awaitable[None]]

COUNT_WAIT_S: Final = 0.5
COUNTS_AT_ONCE: Final = 32
KEY_PREFIX: Final = "limits"
IPV6_PREFIX: Final = 64
"""One customer of an IPv6 network has at least this net to himself."""

LIMITED: Final = Counter("cnop_rate_limited_total", "Requests refused by a rate limit", ["policy"])
UNCOUNTED: Final = Counter("cnop_rate_limit_unavailable_total", "Requests allowed because Redis could not count them", ["policy"])


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `quota` requests in any `window_s` seconds for one key. The name is told to clients."""

    name: str
    quota: int
    window_s: int = 60


class _Counts(RedisStorage):
    """Counts through a client that is there: the library would make its own of an address."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        super().__init__("async+redis://", wrap_exceptions=True, implementation="redispy", key_prefix=KEY_PREFIX)

    def configure_bridge(self) -> None:
        """Called by the library while it is made."""
        bridge: Any = self.bridge
        bridge.storage = self._client
        bridge.connection_getter = lambda _readonly: self._client


class RateLimiter:
    """Counts requests. Connects at the first use; `aclose` disconnects."""

    def __init__(self, redis_url: str) -> None:
        self._client = connect(redis_url, client_name="limits", connections_max=COUNTS_AT_ONCE, connect_s=COUNT_WAIT_S, answer_s=COUNT_WAIT_S)
        self._windows = MovingWindowRateLimiter(_Counts(self._client))

    def guard(self, policy: Policy, key_of: KeyOf) -> Guard:
        """A Litestar guard: counts each request of a route before its body is read; ProblemError 429 over the quota."""

        async def limit(connection: Connection, _handler: BaseRouteHandler) -> None:
            await self.count(connection, policy, key_of(connection))

        return limit

    async def count(self, connection: Connection, policy: Policy, key: str) -> None:
        """Count one request under a key: for keys that are not known before the body is read. ProblemError 429 over the quota."""
        item = RateLimitItemPerSecond(policy.quota, policy.window_s, namespace=policy.name)
        try:
            async with asyncio.timeout(COUNT_WAIT_S):
                allowed = await self._windows.hit(item, key)
                window = await self._windows.get_window_stats(item, key)
        except (StorageError, RedisClusterException, OSError, TimeoutError):
            UNCOUNTED.labels(policy.name).inc()
            return
        wait_s = max(1, math.ceil(window.reset_time - time.time()))
        _tell(connection, policy, remaining=max(0, window.remaining) if allowed else 0, wait_s=wait_s)
        if not allowed:
            LIMITED.labels(policy.name).inc()
            raise ProblemError(
                "rate-limited",
                f"At most {policy.quota} requests in {policy.window_s} seconds are allowed here.",
                headers={"Retry-After": str(wait_s)},
            )

    async def aclose(self) -> None:
        """Disconnect."""
        await self._client.aclose()


def by_address(trusted_proxies: int) -> KeyOf:
    """Key of a request: the client's address; of IPv6 its /64 net."""

    def key(connection: Connection) -> str:
        address = client_address(connection, trusted_proxies)
        try:
            net = ipaddress.ip_address(address)
        except ValueError:
            return address
        return str(ipaddress.ip_network((net, IPV6_PREFIX), strict=False)) if net.version == 6 else address  # noqa: PLR2004 - of IP

    return key


def client_address(connection: Connection, trusted_proxies: int) -> str:
    """Who is at the other end: the peer of the connection, or, behind N trusted proxies, the N-th address from the right of X-Forwarded-For.

    Addresses further left are what the client claims, and count for nothing. With fewer addresses than proxies the request did not come
    through them: the peer counts.
    """
    peer = connection.client.host if connection.client else "unknown"
    if not trusted_proxies:
        return peer
    hops = [hop.strip() for line in connection.headers.getall("x-forwarded-for", []) for hop in line.split(",")]
    try:
        return str(ipaddress.ip_address(hops[-trusted_proxies])) if len(hops) >= trusted_proxies else peer
    except ValueError:
        return peer


def _tell(connection: Connection, policy: Policy, *, remaining: int, wait_s: int) -> None:
    headers: dict[str, str] = connection.scope["state"].setdefault(EXTRA_HEADERS, {})
    for name, item in (
        ("RateLimit-Policy", f'"{policy.name}";q={policy.quota};w={policy.window_s}'),
        ("RateLimit", f'"{policy.name}";r={remaining};t={wait_s}'),
    ):
        headers[name] = f"{headers[name]}, {item}" if name in headers else item
