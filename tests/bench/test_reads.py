"""Reads beside a bare handler."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from bench.bare import PATH, Bare
from bench.generator import Run
from bench.reads import TURNS_MIN, Turns, in_turns
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


@pytest.mark.parametrize(("seconds", "turn_s", "count"), [(8, 0.5, 16), (8, 1.0, 8), (1, 0.5, TURNS_MIN), (2.6, 0.5, 5)])
def test_turns_are_short_and_many(seconds: float, turn_s: float, count: int) -> None:
    """All time is used, both sides have equally much, and the first turn of each is not counted."""
    asked: list[tuple[str, float]] = []

    class Generator:
        def run(self, jobs: str, part: float) -> Run:
            asked.append((jobs, part))
            return run(1)

    turns = in_turns(SimpleNamespace(generator=Generator()), "a", "b", seconds, turn_s=turn_s, cpu=lambda: float(len(asked)))  # type: ignore[arg-type]
    assert [jobs for jobs, _ in asked] == ["a", "b"] * (count + 1)
    assert {round(part * count, 6) for _, part in asked} == {seconds}
    assert (len(turns.a), len(turns.b), turns.a_cpu_s, turns.b_cpu_s) == (count, count, count, count)


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
