"""What Redis says of itself: which servers there are, and whether they may evict what must not be lost, looked at by every process that uses it.

What has no lifetime stays: the denylist of tokens above all, which nothing can rebuild, the pointer to the generations of the views, the market. With
`volatile-lru` (or another `volatile` policy) only what has a lifetime goes, the views and the counts of rate limits. An `allkeys` policy would let a
revoked token in again one day, without a word: under it no process is ready. Policies can be changed in a server that runs, so the look is repeated.
"""

import asyncio
import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, cast

import structlog
from prometheus_client import Gauge
from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from infra.cache_address import is_cluster
from infra.cache_client import Cache

log = structlog.get_logger()

LOOK_S: Final = 15.0
"""Between two looks at the server's own figures."""
WANTED: Final = "volatile-lru"
EVICTS_ALL: Final = "allkeys-"
EVICTS_NOTHING: Final = "noeviction"

MEMORY: Final = Gauge("cnop_redis_memory_share", "Memory of Redis in use, of its bound; of a cluster that of the fullest node; NaN without a bound")
EVICTED: Final = Gauge("cnop_redis_evicted_keys", "Keys that Redis has evicted since it was started; of a cluster in all nodes")


class UnsafePolicy(RuntimeError):
    """Redis may evict the denylist. Whoever runs Redis has to set another policy."""


class CachePolicy:
    """The check of readiness that Redis answers, and keeps what it must."""

    def __init__(self, cache: Cache, *, look_s: float = LOOK_S) -> None:
        self._cache = cache
        self._look_s = look_s
        self._looked_at = -math.inf
        self._unsafe: str | None = None
        self._told: frozenset[str] = frozenset()

    async def check(self) -> None:
        """Returns where all is well. CacheUnavailable where Redis is away; UnsafePolicy where it may evict the denylist."""
        await self._cache.ping()
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= self._look_s:
            await self._look()
            self._looked_at = now
        if self._unsafe:
            raise UnsafePolicy(self._unsafe)

    async def _look(self) -> None:
        try:
            nodes = await self._cache.run("policy", partial(_infos, self._cache, "memory", "stats"))
        except ResponseError as error:
            self._unsafe = None
            self._tell({f"the eviction policy of Redis cannot be looked at ({error}); it must be {WANTED}"})
            return
        shares = [node["used_memory"] / node["maxmemory"] if node.get("maxmemory") else math.nan for node in nodes]
        MEMORY.set(math.nan if any(map(math.isnan, shares)) else max(shares))
        EVICTED.set(sum(node.get("evicted_keys", 0) for node in nodes))
        policies = {str(node.get("maxmemory_policy", "unknown")) for node in nodes}
        unsafe = sorted(policy for policy in policies if policy.startswith(EVICTS_ALL))
        self._unsafe = f"maxmemory-policy of Redis is {unsafe[0]}, which may evict the denylist of tokens; set it to {WANTED}" if unsafe else None
        self._tell(set(_warnings(policies, shares)))

    def _tell(self, warnings: set[str]) -> None:
        for warning in sorted(warnings - self._told):
            log.warning(warning)
        self._told = frozenset(warnings)


async def servers(cache: Cache) -> frozenset[str]:
    """A name of each Redis server that takes writes; one that was started again has another name. CacheUnavailable.

    Where it may not be asked all servers have one name, and nobody sees them change.
    """
    try:
        nodes = await cache.run("servers", partial(_infos, cache, "server"))
    except ResponseError:
        nodes = [{}]
    return frozenset(str(node.get("run_id", "unknown")) for node in nodes)


async def _infos(cache: Cache, *sections: str) -> list[Mapping[str, Any]]:
    """Of each primary, what INFO says in these sections: managed services that refuse CONFIG answer it."""
    client, nodes = cache.client, dict[str, dict[str, Any]]()
    for section in sections:
        if is_cluster(client):
            for name, told in cast("dict[str, dict[str, Any]]", await client.info(section, target_nodes=RedisCluster.PRIMARIES)).items():
                nodes.setdefault(name, {}).update(told)
        else:
            nodes.setdefault("", {}).update(await client.info(section))
    return list(nodes.values())


def _warnings(policies: Iterable[str], shares: Iterable[float]) -> Iterable[str]:
    if EVICTS_NOTHING in policies:
        yield f"maxmemory-policy of Redis is {EVICTS_NOTHING}: once it is full no view can be put; {WANTED} lets views go instead"
    if any(map(math.isnan, shares)):
        yield "Redis has no bound of memory (maxmemory): it takes what the machine has, and nothing is evicted before"
