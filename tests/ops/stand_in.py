"""A stand-in for the API: keeps what it was sent and answers as a script says, over real HTTP."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from litestar import Litestar, Request, Response, get, post


def problem(status: int, code: str, headers: dict[str, str] | None = None, **more: Any) -> Response[dict[str, Any]]:
    """An error answer."""
    return Response({"code": code, "detail": code, "status": status, **more}, status_code=status, headers=headers or {})


def created(key: str) -> Response[dict[str, Any]]:
    """A settled answer."""
    return Response({"transaction_id": key}, status_code=201, headers={"Command-Id": f"cmd_{key}"})


@dataclass
class StandIn:
    """Users and their passwords, the keys that came by user in order, how often each, and the script of answers by key."""

    url: str = ""
    users: dict[str, str] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    bodies: dict[str, Any] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    script: dict[str, list[Callable[[], Any]]] = field(default_factory=lambda: defaultdict(list))
    commands: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    logins: Counter[str] = field(default_factory=Counter)
    expired: set[str] = field(default_factory=set)
    hold: asyncio.Event | None = None
    under_way: int = 0
    together_max: int = 0

    @property
    def settled(self) -> set[str]:
        """Every key that came."""
        return {key for keys in self.keys.values() for key in keys}

    async def take(self, request: Request[Any, Any, Any]) -> Response[Any]:
        """A write."""
        token = request.headers["authorization"].removeprefix("Bearer ")
        username = token.rsplit("-", 1)[0]
        if token in self.expired or username not in self.users:
            return problem(401, "unauthorized")
        key = request.headers["idempotency-key"]
        self.seen[key] += 1
        self.under_way += 1
        self.together_max = max(self.together_max, self.under_way)
        try:
            if self.hold:
                await self.hold.wait()
            steps = self.script[key]
            if steps:
                answer = steps.pop(0)()
                if answer is not None:
                    return answer
        finally:
            self.under_way -= 1
        self.keys[username].append(key)
        self.bodies[key] = await request.json()
        return created(key)

    def app(self) -> Litestar:
        """The routes."""

        @post("/api/v1/auth/register")
        async def register(data: dict[str, Any]) -> Response[Any]:
            if data["username"] in self.users:
                return problem(409, "username-taken")
            self.users[data["username"]] = data["password"]
            return Response({"message": "ok"}, status_code=201)

        @post("/api/v1/auth/login")
        async def login(data: dict[str, Any]) -> Response[Any]:
            if self.users.get(data["username"]) != data["password"]:
                return problem(401, "invalid-credentials")
            self.logins[data["username"]] += 1
            return Response({"access_token": f"{data['username']}-{self.logins[data['username']]}"}, status_code=200)

        @post(["/api/v1/balance/{kind:str}", "/api/v1/orders"])
        async def write(request: Request[Any, Any, Any]) -> Response[Any]:
            return await self.take(request)

        @get("/api/v1/commands/{command_id:str}")
        async def command(command_id: str) -> Response[Any]:
            views = self.commands[command_id]
            if not views and command_id.removeprefix("cmd_") not in self.settled:
                return problem(404, "not-found")
            view = views.pop(0) if len(views) > 1 else views[0] if views else {"state": "settled"}
            return Response({"command_id": command_id, **view})

        return Litestar([register, login, write, command], openapi_config=None, logging_config=None)
