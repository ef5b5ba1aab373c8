"""Redis is killed under many readers, and comes back empty: every answer is right and the caller's own, or a 503 that may be repeated."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from infra.cache import Account, Arrived, Cache, Views
from infra.generations import Generations
from infra.ledger_bound import BoundedReads, TooManyReads
from schemas.results import encode_result
from tests.fakes.histories import History, HistoryReads
from tests.fakes.pointer import MemoryPointer
from tests.query.door import ReadDoor, read_door
from tests.valkey import valkey
from tests.waiting import eventually

READERS = 200
USERS = 50
ANSWER_S = 10.0
"""Nobody waits longer than this, on a machine that does much else."""
BYPASS = "cnop; fwd=bypass"


@dataclass
class Readers:
    """Reads of `/balance` again and again, each user's own, and what came."""

    door: ReadDoor
    histories: list[History]
    expected: dict[str, Any]
    stopped: bool = False
    bypassed: int = 0
    shown: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    async def read(self, number: int) -> None:
        history = self.histories[number % len(self.histories)]
        while not self.stopped:
            answer = await asyncio.wait_for(self.door.get("/balance", history), ANSWER_S)
            self._count(history, answer)

    def _count(self, history: History, answer: httpx.Response) -> None:
        if answer.status_code == 503 and answer.json()["code"] == "overloaded":
            self.refused += 1
        elif answer.status_code != 200 or answer.json() != self.expected[history.username]:
            self.wrong.append(answer.text)
        elif answer.headers.get("Cache-Status") == BYPASS:
            self.bypassed += 1
        else:
            self.shown += 1


async def test_redis_is_killed_under_readers(tmp_path: Path) -> None:
    """200 readers go on while it is killed and started again, empty: nobody hangs or sees another's; then the views are filled and used again."""
    async with valkey(tmp_path) as server, read_door(server.url, tmp_path) as door:
        histories = [await door.shown(*("deposit",) * number, "buy") for number in range(1, USERS + 1)]
        expected = {history.username: (await door.get("/balance", history)).json() for history in histories}
        assert len({body["total_balance"] for body in expected.values()}) == USERS
        readers = Readers(door, histories, expected)
        tasks = [asyncio.create_task(readers.read(number)) for number in range(READERS)]
        await eventually(lambda: readers.shown > READERS, ANSWER_S, "reads of views")
        await server.stop()
        await eventually(lambda: readers.bypassed > READERS, ANSWER_S, "reads of the ledger")
        await server.start()
        before = readers.shown
        await eventually(lambda: readers.shown > before + READERS, ANSWER_S, "reads of views again")
        readers.stopped = True
        await asyncio.gather(*tasks)
        assert readers.wrong == []
        asked = dict(door.reads.reads)
        for history in histories:
            answer = await door.get("/balance", history)
            assert (answer.json(), answer.headers.get("Cache-Status")) == (expected[history.username], None)
        assert door.reads.reads == asked


@dataclass
class SlowReads(HistoryReads):
    """A ledger that counts how many read the account at once."""

    at_once: int = 0
    at_once_max: int = 0

    async def account(self, username: str) -> Account:
        self.at_once += 1
        self.at_once_max = max(self.at_once, self.at_once_max)
        await asyncio.sleep(0.005)
        self.at_once -= 1
        return await super().account(username)


async def test_the_ledger_is_asked_by_few_at_once(tmp_path: Path) -> None:
    """While Redis is away, readers take turns at the ledger; one for whom the queue is too long is refused at once; the others get their own answer."""
    histories = [History(f"queued_{number}").grow(("deposit",) * (number % 7 + 1)) for number in range(READERS)]
    reads = SlowReads({history.username: history for history in histories})
    async with valkey(tmp_path) as server:
        cache = Cache(server.url, client_name="tests")
        views = Views(cache, BoundedReads(reads, at_once=4, waiting_max=100), Generations(cache, MemoryPointer()), ttl_s=1_000)
        await server.stop()
        answers = await asyncio.gather(*(views.account(history.username) for history in histories), return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, TooManyReads)]
        given = [(history, answer) for history, answer in zip(histories, answers, strict=True) if not isinstance(answer, BaseException)]
        assert len(refused) + len(given) == READERS
        assert refused
        assert len(given) >= 100
        assert all(answer.bypassed and answer.value == history.accounts[-1] for history, answer in given)
        assert reads.at_once_max == 4
        await server.start()
        await cache.ping()
        arrived = [Arrived(result, encode_result(result)) for history in histories[:50] for result in history.results]
        assert (await views.put(arrived)).put == len(arrived)
        await cache.stop()
