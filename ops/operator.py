"""What operators' commands have in common: a way to the store and to the log, rows as a table or as JSON, and an end with a message."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Final, TypeVar

import typer
from rich.console import Console

from events.bus import Bus
from infra.dynamo import Dynamo
from infra.settings import Settings
from ops.target import Target, use_embedded_credentials

R = TypeVar("R")

ACKNOWLEDGE_S: Final = 10.0
STOP_BUS_S: Final = 3.0

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@asynccontextmanager
async def store(target: Target) -> AsyncIterator[Dynamo]:
    """The DynamoDB of a system."""
    if target.is_embedded:
        use_embedded_credentials()
    async with Dynamo(target.dynamodb_url, Settings().aws_region) as dynamo:
        yield dynamo


@asynccontextmanager
async def publisher(kafka: str) -> AsyncIterator[Bus]:
    """A way to the log. Unavailable or BrokerError where no broker answers."""
    bus = Bus(kafka, client_id="cnop-operator", acknowledge_s=ACKNOWLEDGE_S)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop(STOP_BUS_S)


def print_rows(rows: Sequence[R], show: Callable[[Sequence[R]], None], *, as_json: bool) -> None:
    """Dataclasses as one JSON object each, or in the way that is meant for people."""
    if not as_json:
        show(rows)
        return
    for row in rows:
        values: Any = row
        out.print_json(json.dumps(asdict(values)))


def stopped(text: str) -> typer.Exit:
    """To be raised: the command ends with this message and status 1."""
    err.print(text, markup=False)
    return typer.Exit(1)
