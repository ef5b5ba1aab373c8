"""The whole system as the tests have it: its stack, its users over HTTP, and a look behind the doors into log, ledger and cache."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from redis.asyncio import Redis

from infra.dynamo import Dynamo
from infra.ledger import Ledger
from infra.ledger_items import read_account, read_entry
from infra.local.home import MACHINES, PROCESSES, log_file
from infra.local.machines import Addresses
from infra.local.stack import Stack
from infra.secrets import derive, read_secret
from schemas.commands import KEY_PURPOSE, command_id
from schemas.ledger import Account, Entry
from schemas.requests import request_id
from schemas.tables import ACCOUNT_SK, LEDGER, account_pk
from tests.waiting import eventually

ROOT: Final = Path(__file__).parents[2]
API: Final = "/api/v1"
REGION: Final = "us-east-1"
PASSWORD: Final = "Correct-Horse-9"
ANSWER_S: Final = 20.0
"""No answer of this system takes longer, whatever is away."""
BACK_S: Final = 60.0
"""After this time at most the system is itself again, whatever happened to it."""
COMMAND_S: Final = 60.0
READ_MS: Final = 200
TEXT_MAX: Final = 600
CHOSEN: Final = {
    "CNOP_PORT": "0",
    "CNOP_FEE_BPS": "10",
    "CNOP_FEE_BPS_BY_CATEGORY": '{"stablecoin": 1}',
    "CNOP_WITHDRAW_DAY_LIMIT": "5000000.00",
    "CNOP_AUTH_REQUESTS_PER_MINUTE": "100000",
    "CNOP_ACCOUNT_PARTITIONS": "4",
    "CNOP_SHUTDOWN_S": "10",
    "CNOP_LAG_MAX": "500",
}
"""What differs from a default system: free ports, fees that can be seen, limits that can be met, and room for the many users of these tests."""


@dataclass
class User:
    """A registered user who is logged in, with a client of their own for all of /api/v1."""

    system: "System"
    username: str
    tokens: dict[str, Any]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}

    async def call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        return await self.system.http.request(method, API + path, headers={**self.headers, **(headers or {})}, **more)

    async def get(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> httpx.Response:
        return await self.call("GET", path, headers=headers, params=params)

    async def read(self, path: str, **params: Any) -> dict[str, Any]:
        """The body of a read that succeeds."""
        body: dict[str, Any] = answered(await self.get(path, **params), 200)
        return body

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Header names are written with underscores: Idempotency_Key."""
        return await self.call("POST", path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def deposit(self, amount: Any = "100.00", **headers: str) -> httpx.Response:
        return await self.post("/balance/deposit", {"amount": amount}, **headers)

    async def withdraw(self, amount: Any, **headers: str) -> httpx.Response:
        return await self.post("/balance/withdraw", {"amount": amount}, **headers)

    async def order(self, asset_id: str, quantity: Any, order_type: str = "market_buy", **headers: str) -> httpx.Response:
        return await self.post("/orders", {"asset_id": asset_id, "order_type": order_type, "quantity": quantity}, **headers)

    async def balance(self) -> str:
        return str((await self.read("/balance"))["current_balance"])


@dataclass
class System:
    """A running stack. `http` is a client of its origin; `dynamo` and `redis` are connected past the doors."""

    stack: Stack = field(repr=False)
    addresses: Addresses = field(repr=False)
    http: httpx.AsyncClient = field(repr=False)
    dynamo: Dynamo = field(repr=False)
    redis: Redis = field(repr=False)

    # Users

    async def user(self, cash: str | None = None) -> User:
        """A new user, with cash if it is asked for."""
        name = f"u_{uuid4().hex[:20]}"
        answered(await self.register(name), 201)
        user = User(self, name, await self.login(name))
        if cash:
            answered(await user.deposit(cash), 201)
        return user

    async def register(self, username: str, **changes: Any) -> httpx.Response:
        body = {"username": username, "email": f"{username}@example.com", "password": PASSWORD, "first_name": "Ann", "last_name": "Lee"}
        return await self.http.post(f"{API}/auth/register", json={name: value for name, value in (body | changes).items() if value is not None})

    async def login(self, username: str) -> dict[str, Any]:
        tokens: dict[str, Any] = answered(await self.http.post(f"{API}/auth/login", json={"username": username, "password": PASSWORD}), 200)
        return tokens

    # Behind the doors

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.dynamo)

    def command_id(self, username: str, key: str) -> str:
        """What the door would tell for a request under that key."""
        secret = read_secret(Path(self.stack.environment()["CNOP_SECRET_FILE"]))
        return command_id(derive(secret, KEY_PURPOSE), username, request_id(username, key))

    async def entry(self, username: str, key: str) -> Entry | None:
        return await self.ledger.entry(username, request_id(username, key))

    async def entries(self, username: str) -> list[Entry]:
        """All entries of an account, refusals too, in the order of their versions."""
        return sorted([read_entry(item) for item in await self._items(username) if item["sk"]["S"].startswith("ENTRY#")], key=lambda entry: entry.version)

    async def accounts(self) -> list[Account]:
        """The accounts of everybody."""
        items = await self._pages("scan", FilterExpression="sk = :sk", ExpressionAttributeValues={":sk": {"S": ACCOUNT_SK}})
        return [read_account(item) for item in items]

    async def records(self, topic: str, username: str | None = None) -> list[ConsumerRecord]:
        """What a read_committed reader of a topic sees now, of one user or of all."""
        client = AIOKafkaConsumer(bootstrap_servers=self.addresses.kafka, isolation_level="read_committed", auto_offset_reset="earliest")
        await client.start()
        try:
            known = await eventually(client._client.fetch_all_metadata, ANSWER_S)
            partitions = [TopicPartition(topic, number) for number in known.partitions_for_topic(topic)]
            client.assign(partitions)
            ends = await client.end_offsets(partitions)
            found: list[ConsumerRecord] = []
            async with asyncio.timeout(ANSWER_S):
                while [tp for tp in partitions if await client.position(tp) < ends[tp]]:
                    for records in (await client.getmany(timeout_ms=READ_MS)).values():
                        found += records
        finally:
            await client.stop()
        return [record for record in found if username is None or record.key == username.encode()]

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The log lines of a process, its older files included."""
        current = log_file(self.stack.home, name)
        for file in [*sorted(current.parent.glob(f"{current.name}.*"), reverse=True), current]:
            for line in file.read_text().splitlines():
                if line.startswith("{") and line.endswith("}"):  # a killed process may leave half a line
                    yield json.loads(line)

    def url(self, name: str) -> str:
        """Where a process tells of its health and metrics."""
        return f"http://127.0.0.1:{self.addresses.port(name)}"

    # Faults

    async def stop(self, name: str) -> None:
        await asyncio.to_thread(self.stack.stop_process, name)

    async def start(self, name: str) -> None:
        await asyncio.to_thread(self.stack.start_process, name)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        return self.stack.signal(name, number)

    async def replaced(self, name: str, pid: int) -> None:
        """Wait until a process that was ended has a successor that is ready."""
        await eventually(lambda: self.stack.pid(name) not in {0, pid}, BACK_S)
        await eventually(lambda: asyncio.to_thread(self.stack.is_ready, name), BACK_S)

    async def whole(self) -> None:
        """Wait until every machine and process answers."""
        for name in (*MACHINES, *PROCESSES):
            await eventually(lambda name=name: asyncio.to_thread(self.stack.is_ready, name), BACK_S)

    async def crash_and_restart(self) -> None:
        """Kill everything at once, keeper and supervisor too, and start again on the same home."""
        for process in self.stack.leftovers():
            with suppress(psutil.NoSuchProcess):  # they also end each other
                process.kill()
        await eventually(lambda: not self.stack.leftovers(), ANSWER_S)
        await asyncio.to_thread(self.stack.down)
        self.addresses = await asyncio.to_thread(lambda: self.stack.up(hold=True))

    async def _items(self, username: str) -> list[dict[str, Any]]:
        return await self._pages("query", KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": account_pk(username)}})

    async def _pages(self, operation: str, **arguments: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        start: dict[str, Any] = {}
        while True:
            page = await self.dynamo.call(operation, TableName=LEDGER.name, ConsistentRead=True, **arguments, **start)
            items += page["Items"]
            if "LastEvaluatedKey" not in page:
                return items
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def start(home: Path) -> Stack:
    """Bring up everything; it ends with this process, however that ends."""
    stack = Stack(home, env=CHOSEN)
    stack.up(hold=True)
    return stack


@contextmanager
def credentials(stack: Stack) -> Iterator[None]:
    """The clients of the tests reach the stack's engine as its own processes do."""
    given = {name: value for name, value in stack.environment().items() if name.startswith("AWS_")}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def answered(response: httpx.Response, status: int) -> Any:
    """The body of an answer with that status."""
    assert response.status_code == status, f"{response.request.method} {response.request.url}: {response.status_code} {response.text[:TEXT_MAX]}"
    return response.json()


def refused(response: httpx.Response, status: int, code: str, *pointers: str) -> dict[str, Any]:
    """The body of a problem: its status, code and pointers, and all that every problem tells."""
    body: dict[str, Any] = answered(response, status)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "request_id", "retryable", "instance", "errors"} <= body.keys()
    assert (body["code"], body["status"], body["type"]) == (code, status, f"urn:cnop:problem:{code}")
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["instance"] == response.request.url.path
    assert [error["pointer"] for error in body["errors"]] == list(pointers)
    assert response.headers["Cache-Control"] == "no-store"
    return body


async def begun(system: System, *arguments: str) -> asyncio.subprocess.Process:
    """A command against this system, begun, with pipes for what it says."""
    home = ["--home", str(system.stack.home.path)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "ops.main", *arguments, *home, cwd=ROOT, stdout=pipe, stderr=pipe)


async def cnop(system: System, *arguments: str) -> tuple[int, str, str]:
    """Status, output and messages of a command against this system."""
    process = await begun(system, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), COMMAND_S)
    return process.returncode or 0, out.decode(), err.decode()
