"""Reads beside a bare handler."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from bench.bare import PATH, Bare
from bench.generator import Run
from bench.reads import Turns
from infra.cache import Cache, Denylist
from infra.clock import SystemClock, SystemIds
from infra.local import keys
from infra.settings import Settings
from infra.tokens import SignedToken, TokenSigner
from tests.valkey import valkey


def run(per_s: float) -> Run:
    return Run(times_s=[1 / per_s], per_s=per_s)


def test_a_ratio_is_that_of_the_turns() -> None:
    """One turn that something else hit does not decide."""
    turns = Turns([run(700), run(70), run(800)], [run(1_000), run(1_000), run(1_000)])
    assert turns.ratios == [0.07, 0.7, 0.8]
    assert turns.ratio == 0.7


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    files = {"jwt_private_key_file": tmp_path / "private.pem", "jwt_public_key_file": tmp_path / "public.pem", "secret_file": tmp_path / "secret"}
    keys.ensure(files["jwt_private_key_file"], files["jwt_public_key_file"], files["secret_file"])
    async with valkey(tmp_path) as server:
        yield Settings(redis_url=server.url, **files)


async def test_the_bare_handler_does_what_a_read_needs(settings: Settings) -> None:
    """It refuses without a token and with a revoked one, and answers what is kept of the caller."""
    bare, cache, clock = Bare(settings), Cache(settings.redis_url, client_name="test"), SystemClock()
    token: SignedToken = TokenSigner.from_file(settings.jwt_private_key_file, clock, SystemIds()).sign("reader", "family")
    headers = {"Authorization": f"Bearer {token.text}"}
    await cache.client.hset("g1:{reader}:acct", mapping={"version": "7"})
    async with bare.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(bare), base_url="http://test") as client:
        assert (await client.get(PATH)).status_code != 200
        answer = await client.get(PATH, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"7")
        await Denylist(cache, clock).revoke(token.claims.token_id, token.claims.expires_at)
        assert (await client.get(PATH, headers=headers)).status_code != 200
    await cache.stop()
