"""The stand-in API, served over real HTTP on a free port."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn

from tests.ops.stand_in import StandIn
from tests.waiting import eventually

READY_S = 10.0


@pytest.fixture
async def api() -> AsyncIterator[StandIn]:
    stand_in = StandIn()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stand_in.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(stand_in.app(), log_config=None, lifespan="off", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server._serve([listener]))
        await eventually(lambda: server.started, READY_S)
        yield stand_in
        server.should_exit = True
        await serving
