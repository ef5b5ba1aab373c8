"""A real DynamoDB engine for tests, with our tables: that of a local system, on a free port, gone with the block."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.dynamo import Dynamo
from infra.local import dynamodb, ports
from infra.tables import provision

STOP_S = 5.0
REGION = "us-east-1"


@asynccontextmanager
async def engine(folder: Path) -> AsyncIterator[Dynamo]:
    """A client of a running engine that keeps its data in a folder."""
    name, program = await asyncio.to_thread(dynamodb.ensure, "auto", lambda *_: None)
    assert name == "dynoxide", "these tests want the engine that keeps data on disk"
    port = ports.free()
    argv = (str(program), "serve", "--host", "127.0.0.1", "--port", str(port), "--db-path", str(folder / "data.sqlite"))
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            await provision(url, REGION)
            async with Dynamo(url, REGION) as connected:
                yield connected
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), STOP_S)
