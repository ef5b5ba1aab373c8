"""Redis as a cluster and under sentinels, both real: all that is kept there works, and goes on after a primary is killed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from infra.cache import Arrived, Cache, CacheUnavailable, Denylist, Views
from infra.cache_address import Address, AddressInvalid
from infra.cache_client import Call, Script
from infra.cache_connection import exchanging
from infra.cache_policy import servers
from infra.generations import Generations, Live
from infra.http import ProblemError
from infra.http_limits import UNCOUNTED, Policy, RateLimiter
from infra.market import MarketCache
from infra.replies import Replies
from schemas.market import PriceChanged
from schemas.results import encode_result
from tests.fakes.clock import START, FakeClock
from tests.fakes.histories import History, HistoryReads, begin
from tests.fakes.pointer import MemoryPointer
from tests.query.door import PRICES, MemoryMarket
from tests.valkey import SERVICE, Valkey, Watched, cluster, valkey, watched
from tests.waiting import eventually

EVERYTHING = ("deposit", "buy", "open", "sell", "refuse", "close", "withdraw", "buy")
USERS = count(1)
MANY = 300
"""Accounts in one batch: more than one pipeline takes, on all nodes."""
FAILOVER_S = 15.0
WRITES = Script("tests writes", "return redis.call('SET', KEYS[1], ARGV[1])")


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
async def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    started = {"cluster": cluster, "sentinel": watched}[request.param]
    async with started(tmp_path_factory.mktemp(request.param)) as running:
        yield running.url


@pytest.fixture
async def cache(url: str) -> AsyncIterator[Cache]:
    async with connected(url) as cache:
        yield cache


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Cache]:
    cache = Cache(url, client_name="tests")
    try:
        yield cache
    finally:
        await cache.stop()


@asynccontextmanager
async def heard(cache: Cache) -> AsyncIterator[Replies]:
    """A door's subscription to replies, at work."""
    replies = Replies(cache.client, f"door{next(USERS)}", waiters_max=1_000)
    await replies.start()
    listening = asyncio.create_task(replies.run())
    try:
        yield replies
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


def user() -> History:
    return History(f"user_{next(USERS):06d}").grow(EVERYTHING)


def arrived(history: History, *versions: int, reply_to: str | None = None) -> list[Arrived]:
    results = [history.results[version - 1] for version in versions]
    return [Arrived(result, encode_result(result), reply_to) for result in results]


def views_of(cache: Cache, *histories: History) -> tuple[Views, HistoryReads]:
    reads = HistoryReads({history.username: history for history in histories})
    return Views(cache, reads, Generations(cache, MemoryPointer()), ttl_s=1_000), reads


async def assert_shows_all(views: Views, history: History) -> None:
    last = len(history.entries)
    account = await views.account(history.username)
    assert (account.value, account.bypassed) == (history.accounts[last], False)
    assert (await views.orders(history.username, 100)).value.rows == history.orders(last)
    assert (await views.transactions(history.username, 100)).value.rows == history.rows(last)
    assert (await views.order(history.username, history.orders(last)[0].order_id)).value == history.orders(last)[0]


async def test_views(cache: Cache) -> None:
    """Results of many accounts in one batch are shown and read, a gap is filled, a cold view is loaded."""
    histories = [user() for _ in range(MANY)]
    views, reads = views_of(cache, *histories)
    for history in histories:
        await begin(views, reads, history)
    for version in (1, 2):
        projected = await views.put([one for history in histories for one in arrived(history, version)])
        assert (projected.put, projected.loaded) == (MANY, 0)
    late = histories[:20]
    projected = await views.put([one for history in late for one in arrived(history, 7, 8)])
    assert projected.loaded == len(late)
    for history in late:
        await assert_shows_all(views, history)
    asked = dict(reads.reads)
    await assert_shows_all(views, late[0])
    assert reads.reads == asked
    cold = user()
    reads.histories[cold.username] = cold
    await asyncio.gather(*(assert_shows_all(views, cold) for _ in range(50)))


async def test_more_calls_than_connections(url: str) -> None:
    """Who finds all connections in use waits for one."""
    cache = Cache(url, client_name="tests", connections_max=2)
    history = user()
    views, _ = views_of(cache, history)
    await views.put(arrived(history, *range(1, 9)))
    shown = await asyncio.gather(*(views.account(history.username) for _ in range(200)))
    assert {(one.version, one.bypassed) for one in shown} == {(8, False)}
    await cache.stop()


async def test_two_generations(cache: Cache) -> None:
    """Both are put by one script, and the pointer is switched between them."""
    history = user()
    generations = Generations(cache, MemoryPointer())
    views, _ = views_of(cache, history)
    before = await generations.read()
    both = Live(before.serving, before.serving + 1, "building")
    await generations.change(before, both)
    try:
        await views.put(arrived(history, *range(1, 9)))
        await assert_shows_all(views, history)
    finally:
        await generations.change(both, before)
    await assert_shows_all(views, history)


async def test_replies(cache: Cache) -> None:
    """A door hears of results of accounts on every node, of those put and of those loaded."""
    histories = [user() for _ in range(30)]
    views, _ = views_of(cache, *histories)
    async with heard(cache) as replies:
        for versions in ((1, 2), (7, 8)):
            expected = [history.results[version - 1] for history in histories for version in versions]
            await assert_heard(views, replies, histories, versions, [result.request_id for result in expected])


async def assert_heard(views: Views, replies: Replies, histories: list[History], versions: tuple[int, ...], request_ids: list[str]) -> None:
    async def wait(request_id: str) -> str | None:
        with replies.expect(request_id) as waiter:
            result = await waiter.result(5)
            return result and result.request_id

    waiting = asyncio.gather(*map(wait, request_ids))
    await asyncio.sleep(0)
    await views.put([one for history in histories for one in arrived(history, *versions, reply_to=replies.channel)])
    assert await waiting == request_ids


async def test_the_denylist(cache: Cache) -> None:
    """What was revoked is known."""
    clock = FakeClock()
    denylist = Denylist(cache, clock)
    await denylist.revoke("token", clock.now() + timedelta(seconds=100))
    await denylist.revoke_family("family", clock.now() + timedelta(seconds=100))
    answers = await asyncio.gather(denylist.is_revoked("token", "f"), denylist.is_revoked("t", "family"), denylist.is_revoked("t", "f"))
    assert answers == [True, True, False]


async def test_the_market(cache: Cache) -> None:
    """The two hashes are filled together from the table, moved on by the projector, and read together."""
    table = MemoryMarket()
    market = MarketCache(cache, table, memory_s=0)  # type: ignore[arg-type]
    assert (await market.price("BTC")) is not None
    table.away = True
    await market.put_price(PriceChanged("BTC", PRICES["BTC"] + 1, 2, START))
    shown = await market.price("BTC")
    assert shown is not None
    assert shown.price == PRICES["BTC"] + 1


async def test_rate_limits(url: str) -> None:
    """Requests are counted, and refused over the quota. One that takes too long to count is let through, as it is by design."""
    limiter = RateLimiter(url)
    connection: Any = SimpleNamespace(scope={"state": {}})
    policy, key, allowed = Policy("few", 3), f"key{next(USERS)}", 0
    before = uncounted(policy)

    async def is_refused() -> bool:
        nonlocal allowed
        try:
            await limiter.count(connection, policy, key)
        except ProblemError:
            return True
        allowed += 1
        return False

    await eventually(is_refused, FAILOVER_S)
    assert allowed - (uncounted(policy) - before) <= policy.quota <= allowed
    await limiter.aclose()


def uncounted(policy: Policy) -> float:
    return float(UNCOUNTED.labels(policy.name)._value.get())


async def test_tls(tmp_path: Path) -> None:
    """With `rediss` the connection is encrypted and the server's certificate is checked."""
    history = user()
    async with valkey(tmp_path) as server, encrypted(server, tmp_path) as port:
        async with connected(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'certificate.pem'}") as cache:
            views, _ = views_of(cache, history)
            await views.put(arrived(history, *range(1, 9)))
            await assert_shows_all(views, history)
        async with connected(f"rediss://localhost:{port}/0") as cache:
            with pytest.raises(CacheUnavailable, match="certificate"):
                await cache.ping()


@asynccontextmanager
async def encrypted(server: Valkey, folder: Path) -> AsyncIterator[int]:
    """A port on which TLS is spoken in front of a server: the binary of the tests has none of its own. Its certificate is `certificate.pem`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate(folder))
    taken: set[asyncio.Task[None]] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while got := await source.read(65_536):
                sink.write(got)
                await sink.drain()
        sink.close()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", server.port)
        taken.update(asyncio.create_task(pump(*ends)) for ends in ((reader, forth), (back, writer)))

    async with await asyncio.start_server(take, "localhost", 0, ssl=context) as listener:
        yield int(listener.sockets[0].getsockname()[1])
        for task in taken:
            task.cancel()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost, signed by itself, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


async def test_a_cluster_goes_on_without_one_primary(tmp_path: Path) -> None:
    """A primary is killed: its accounts are answered by the ledger until its replica takes over, then views, scripts and replies work again."""
    async with cluster(tmp_path) as running, connected(running.url) as cache:
        await assert_survives(cache, running.primaries[0])


async def test_sentinels_tell_of_the_new_primary(tmp_path: Path) -> None:
    """The primary is killed: the ledger answers until sentinels have made the replica the primary, then views, scripts and replies work again."""
    async with watched(tmp_path) as running, connected(running.url) as cache:
        await assert_survives(cache, running.primary)


async def test_a_primary_that_became_a_replica_is_left(tmp_path: Path) -> None:
    """Its connections live on, and it answers that it takes no writes: the call is repeated at the one that sentinels name now."""
    async with watched(tmp_path) as running, connected(running.url) as cache:
        async with exchanging(cache.client) as held:
            await held([("GET", "{a}")])
            await cache.script(WRITES, Call(("{a}",), ("before",)))
            await demote(running)
            await cache.script(WRITES, Call(("{a}",), ("after",)))
            assert await held([("GET", "{a}")]) == [b"after"]
        async with Redis.from_url(running.replica.url) as client:
            assert await client.get("{a}") == b"after"


async def demote(running: Watched) -> None:
    """As a failover does it, without the end that sentinels make of all connections."""
    ((host, port),) = Address.of(running.url).nodes
    old, new, sentinel = Redis.from_url(running.primary.url), Redis.from_url(running.replica.url), Redis(host=host, port=port)
    async with old, new, sentinel:
        await new.replicaof("NO", "ONE")  # type: ignore[no-untyped-call] # of the client
        await sentinel.sentinel_remove(SERVICE)  # type: ignore[no-untyped-call]
        await sentinel.sentinel_monitor(SERVICE, host, running.replica.port, 1)  # type: ignore[no-untyped-call]
        await old.replicaof(host, running.replica.port)  # type: ignore[no-untyped-call]


async def assert_survives(cache: Cache, primary: Valkey) -> None:
    histories = [user() for _ in range(60)]
    views, reads = views_of(cache, *histories)
    async with heard(cache) as replies:
        await views.put([one for history in histories for one in arrived(history, 1, 2)])
        before = await servers(cache)
        await primary.stop()
        for history in histories:
            assert (await views.account(history.username)).version in {2, len(EVERYTHING)}
        asked_of_ledger = reads.reads["account"]
        assert asked_of_ledger
        await eventually(lambda: _taken(views, histories), FAILOVER_S, "put")
        assert len(await servers(cache) - before) == 1
        for history in histories:
            shown = await eventually(lambda name=history.username: _kept(views, name), FAILOVER_S, "read")  # type: ignore[misc]
            assert shown.version >= 3
        await eventually(lambda: replies.connected, FAILOVER_S, "replies")
        await eventually(lambda: _hears(views, replies, histories), FAILOVER_S, "a reply")


async def _taken(views: Views, histories: list[History]) -> bool:
    try:
        await views.put([one for history in histories for one in arrived(history, 3)])
    except CacheUnavailable:
        return False
    return True


async def _kept(views: Views, username: str) -> object:
    shown = await views.account(username)
    return None if shown.bypassed else shown


async def _hears(views: Views, replies: Replies, histories: list[History]) -> bool:
    try:
        await assert_heard(views, replies, histories, (4,), [history.results[3].request_id for history in histories])
    except (CacheUnavailable, AssertionError):
        return False
    return True


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/2", ("server", (), "", {"host": "h", "port": 1, "db": 2})),
        ("redis+cluster://a:1,b", ("cluster", (("a", 1), ("b", 6379)), "", {})),
        (
            "redis+cluster://u:p%40@[::1]:1,b:2?socket_keepalive=yes",
            ("cluster", (("::1", 1), ("b", 2)), "", {"username": "u", "password": "p@", "socket_keepalive": True}),
        ),
        ("rediss+cluster://a:1", ("cluster", (("a", 1),), "", {"ssl": True})),
        ("redis+sentinel://a:1,b/cnop/3", ("sentinel", (("a", 1), ("b", 26379)), "cnop", {"db": 3})),
        ("rediss+sentinel://:p@a/cnop", ("sentinel", (("a", 26379),), "cnop", {"password": "p", "ssl": True})),
    ],
)
def test_addresses(url: str, expected: tuple[str, tuple[tuple[str, int], ...], str, dict[str, object]]) -> None:
    """Each form is read as it is documented."""
    address = Address.of(url)
    assert (address.kind, address.nodes, address.service, dict(address.options)) == expected


def test_sentinels_have_credentials_of_their_own() -> None:
    """Those of the servers are not told to sentinels; certificates count for both."""
    address = Address.of("rediss+sentinel://u:p@a/cnop?sentinel_username=s&sentinel_password=q&ssl_ca_certs=/ca")
    assert dict(address.options) == {"username": "u", "password": "p", "ssl": True, "ssl_ca_certs": "/ca"}
    assert dict(address.sentinel_options) == {"username": "s", "password": "q", "ssl": True, "ssl_ca_certs": "/ca"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "secret",
        "http://secret",
        "redis+other://secret:1",
        "http+cluster://secret",
        "redis+sentinel://secret",
        "redis+cluster://secret/1/2",
        "redis+cluster://secret:x",
        "redis+cluster://secret:1,",
    ],
)
def test_no_address(url: str) -> None:
    """What is no address is refused, and not repeated: there may be a password in it."""
    with pytest.raises(AddressInvalid) as refused:
        Address.of(url)
    assert "secret" not in str(refused.value)
