"""The operator's commands on the views of a running system: built anew under load, switched, rolled back, given up; no reader notices."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from bench.rebuild import PATHS, Seen
from tests.system.running import BACK_S, System, User, answered, begun, cnop

USERS = 3


@dataclass
class Reader:
    """Reads one account again and again. Each answer shows at least what any answer before it showed, and what its token asks for."""

    user: User
    seen: Seen = field(default_factory=Seen)
    token: str = ""
    deposits: int = 0

    @property
    def reads(self) -> int:
        return self.seen.reads

    async def read(self) -> None:
        for path in PATHS:
            token = {"Consistency-Token": self.token} if self.token and self.reads % 2 else {}
            answer = await self.user.get(path, headers=token)
            self.seen.note(self.user.username, path, answer, presented=bool(token))
            self.token = answer.headers.get("Consistency-Token", self.token)

    async def write(self) -> None:
        answered(await self.user.deposit("1.00"), 201)
        self.deposits += 1

    async def go_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.read()
            await self.write()


@asynccontextmanager
async def under_load(system: System) -> AsyncIterator[list[Reader]]:
    """Users who write and read while the block runs; at its end none of them has seen anything wrong."""
    readers = [Reader(await system.user("10.00")) for _ in range(USERS)]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.go_on(stop))
        try:
            yield readers
        finally:
            stop.set()
    assert [failure for reader in readers for failure in reader.seen.failures] == []
    assert all(reader.reads and reader.deposits for reader in readers)


async def command(system: System, *arguments: str, status: int = 0) -> str:
    """Output and messages of a command that ends with this status."""
    code, out, err = await cnop(system, "projections", *arguments)
    assert code == status, out + err
    return out + err


@pytest.fixture
async def alone(system: System) -> None:
    """Only one generation."""
    await cnop(system, "projections", "drop")


@pytest.mark.usefixtures("alone")
@pytest.mark.timeout(300)
async def test_built_switched_and_rolled_back_under_load(system: System) -> None:
    """Writers and readers go on; no read fails, none shows less than one before it, and every token is met. From the ledger, then from the results."""
    async with under_load(system) as readers:
        assert " 0 differ" in await command(system, "rebuild")
        await command(system, "switch")
        at_switch = [reader.reads for reader in readers]
        await command(system, "rollback")
        assert all(reader.reads > before for reader, before in zip(readers, at_switch, strict=True))
        text = await command(system, "drop")
        assert int(re.findall(r"(\d+) keys are gone", text)[0]) >= USERS
        text = await command(system, "rebuild", "--source", "results", "--switch")
        assert re.search(r"[1-9]\d* results shown again", text)
        assert " 0 differ" in text


@pytest.mark.usefixtures("alone")
async def test_a_building_that_was_killed_goes_on(system: System) -> None:
    """A command that is killed at once; it is told how far it had come, another one waits until it is known to be dead, and then goes on."""
    user = await system.user("10.00")
    process = await begun(system, "projections", "rebuild", "--rate", "1")
    assert process.stderr
    async with asyncio.timeout(BACK_S):
        while b"Loads accounts" not in await process.stderr.readline():
            pass
    process.kill()
    await process.wait()
    assert "another operator's command" in await command(system, "rebuild", status=1)
    assert "building" in await command(system, "status")
    await system.redis.delete("{projections}:operator")
    assert "is complete" in await command(system, "rebuild", "--switch")
    answered(await user.deposit("1.00"), 201)
    assert await user.balance() == "11.00"


async def test_one_view_is_shown_and_made_anew(system: System) -> None:
    """What somebody has spoilt in Redis is seen beside the ledger's version, and mended in its place."""
    user = await system.user("10.00")
    assert user.username
    out = await command(system, "show", user.username, "--json")
    assert '"version": 1' in out
    serving = re.findall(r'"generation": (\d+)', out)[0]
    await system.redis.hset(f"g{serving}:{{{user.username}}}:acct", "cash:USD", '{"available":"99","held":"0","updated_at":"2026-11-25T00:00:00.000Z"}')
    assert await user.balance() == "99.00"
    await command(system, "rebuild", "--account", user.username)
    assert await user.balance() == "10.00"


@pytest.mark.usefixtures("alone")
async def test_commands_that_cannot_be_done_say_why(system: System) -> None:
    """Nothing to switch to, nothing to drop, no such user name."""
    assert "rebuild" in await command(system, "switch", status=1)
    assert "one generation" in await command(system, "drop", status=1)
    assert "USERNAME" in await command(system, "show", "no/name", status=2)
