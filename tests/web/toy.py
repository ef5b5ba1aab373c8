"""A door with one route for each thing that doors have in common, and what stands around it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from litestar import Response, delete, get, post
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.params import FromPath, HeaderParameter, PathParameter, QueryParameter
from pydantic import BaseModel

from events import tracing
from infra.clock import SystemClock, SystemIds
from infra.http import PUBLIC, REFUSES, Auth, DoorApp, Health, JsonRequest, ProblemError, build_app
from infra.http_serve import App, serve
from infra.local import ports
from infra.tokens import TokenSigner, TokenVerifier
from schemas.identity import Body, Logout
from schemas.instants import Instant
from schemas.money import Amount
from tests.waiting import eventually

DEADLINE_S = 10.0


class Leg(Body):
    amount: Amount


class Pay(Body):
    amount: Amount
    note: str = ""
    legs: tuple[Leg, ...] = ()


class Paid(BaseModel):
    """What was paid."""

    amount: Amount
    at: Instant | None = None


@post("/pay")
async def pay(data: Pay, request: JsonRequest) -> Paid:
    """Pay an amount.

    Everything about it is said here.
    """
    assert request.user is not None
    return Paid(amount=data.amount)


@post("/logout")
async def logout(data: Logout) -> dict[str, str]:
    return {"message": "ok"}


@post("/maybe")
async def maybe(data: Pay | None = None) -> dict[str, bool]:
    return {"given": data is not None}


@get("/rows/{row_id:str}")
async def rows(
    row_id: Annotated[str, PathParameter(pattern=r"^[a-z]{3,5}$")],
    limit: Annotated[int, QueryParameter(ge=1, le=100)] = 50,
    wanted: Annotated[int | None, HeaderParameter(name="X-Wanted")] = None,
) -> dict[str, Any]:
    return {"row_id": row_id, "limit": limit, "wanted": wanted}


@delete("/rows/{row_id:str}", status_code=200, opt={REFUSES: ("order-not-open",)})
async def delete_row(row_id: FromPath[str]) -> dict[str, Any]:
    raise ProblemError("order-not-open", f"{row_id} is closed.", extensions={"order": {"status": "completed"}})


@get("/needs")
async def needs(word: Annotated[str, QueryParameter(name="the-word")]) -> str:
    return word


@get("/me")
async def me(request: JsonRequest) -> dict[str, Any]:
    assert request.user is not None
    return {"username": request.user.username, "request_id": request.state.request_id, "traceparent": tracing.current_traceparent()[0]}


@get("/open", opt={PUBLIC: True})
async def open_to_all(request: JsonRequest) -> dict[str, Any]:
    return {"user": request.user}


@post("/open-write", opt={PUBLIC: True})
async def open_write() -> dict[str, str]:
    return {"token": "t"}


@get("/bug")
async def bug() -> str:
    raise RuntimeError("the database password is hunter2")


@get("/away")
async def away() -> str:
    raise ProblemError("unavailable", "Kafka is away.")


@get("/broken-model")
async def broken_model() -> str:
    Pay.model_validate({"amount": "secret-looking"})
    return ""


@get("/forbidden")
async def forbidden() -> str:
    raise PermissionDeniedException


@get("/litestar-401")
async def litestar_401() -> str:
    raise NotAuthorizedException


@get("/cached", opt={PUBLIC: True})
async def cached() -> Response[dict[str, str]]:
    return Response({"a": "b"}, headers={"Cache-Control": "public, max-age=60"})


ROUTES = [pay, logout, maybe, rows, delete_row, needs, me, open_to_all, open_write, bug, away, broken_model, forbidden, litestar_401, cached]


class FakeRevocations:
    def __init__(self) -> None:
        self.revoked: set[str] = set()
        self.away = False

    async def is_revoked(self, token_id: str, family: str) -> bool:
        if self.away:
            raise ConnectionError("no denylist")
        return bool(self.revoked & {token_id, family})


class Door:
    """A toy door with its keys."""

    def __init__(self, *, fail_closed: bool = True) -> None:
        key = Ed25519PrivateKey.generate()
        self.revocations = FakeRevocations()
        self.signer = TokenSigner(key, SystemClock(), SystemIds())
        self.health = Health(timeout_s=0.2)
        auth = Auth(TokenVerifier(key.public_key(), SystemClock()), self.revocations, fail_closed=fail_closed)
        self.app: DoorApp = build_app("toy", ROUTES, ids=SystemIds(), health=self.health, auth=auth, title="Toy", description="A toy.")

    def bearer(self, username: str = "alice_1", family: str = "fam") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.signer.sign(username, family).text}"}


@asynccontextmanager
async def served(app: App, *, shutdown_s: float = 2.0) -> AsyncIterator[httpx.AsyncClient]:
    """The app behind a real HTTP server; a client of it."""
    port, stop = ports.free(), asyncio.Event()
    serving = asyncio.create_task(serve(app, "127.0.0.1", port, stop, shutdown_s))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as client:
        await until_answering(client, serving)
        try:
            yield client
        finally:
            stop.set()
            await asyncio.wait_for(serving, DEADLINE_S)


async def until_answering(client: httpx.AsyncClient, serving: "asyncio.Task[None]") -> None:
    async def answers() -> bool:
        if serving.done():
            serving.result()
        try:
            await client.get("/livez")
        except httpx.TransportError:
            return False
        return True

    await eventually(answers, DEADLINE_S)
