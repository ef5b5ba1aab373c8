"""The machines for those tests that need real ones: started when the first of them asks, gone with the session."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from infra.local import ports
from infra.local.config import LocalSettings
from infra.local.machines import fetch
from infra.local.stack import Addresses, Stack
from infra.tables import provision as provision_tables

# A machine that stands still for a moment is no failure.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

PARTITIONS = 4
HERE = Path(__file__).parent
WHOLE = ("tests/system/", "tests/soak/")
"""Folders of tests with a whole system running: its ten processes are as much as two cores bear beside another test."""
FIRST = ("system", "soak", "simulation")
"""Folders of tests, the ones that take longest first."""
NEED_PROGRAMS = {"machines", "dynamo", "system"}
"""Fixtures that start real services, here and in the folders."""
FREE = ("CNOP_KAFKA_PORT", "CNOP_KAFKA_CONTROLLER_PORT", "CNOP_DYNAMODB_PORT", "CNOP_REDIS_PORT")


def pytest_configure() -> None:
    """A shell that runs the tests in the background has them ignore Ctrl-C, and every process they start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first."""
    items.sort(key=lambda item: FIRST.index(part) if (part := item.path.relative_to(HERE).parts[0]) in FIRST else len(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Of two workers one has the tests with a whole system, some of which share it and have an order; others go by file."""
    return Shares(config, log)


class Shares(LoadScopeScheduling):
    """Which tests go to the same worker, by name: `--dist loadgroup` would do it by marks, but what it adds to names is lost in pytest 9."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "whole" if file.startswith(WHOLE) else file


def pytest_collection_finish(session: pytest.Session) -> None:
    """On a new machine the programs of the real services are downloaded and built here: that takes minutes, and every test has a time limit."""
    if session.config.option.collectonly or not any(NEED_PROGRAMS.intersection(getattr(item, "fixturenames", ())) for item in session.items):
        return
    capture = session.config.pluginmanager.get_plugin("capturemanager")

    def say(name: str, text: str) -> None:
        # A worker has no terminal; its standard error is that of all.
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            print(f"{name}: {text}", file=sys.stderr, flush=True)  # noqa: T201

    fetch(LocalSettings(), say)


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """Kafka, DynamoDB and Valkey of this session, on free ports; the environment has credentials that the local engine takes."""
    stack = Stack(tmp_path_factory.mktemp("machines"), processes=(), env={name: str(ports.free()) for name in FREE})
    with pytest.MonkeyPatch.context() as environment:
        addresses = stack.up(hold=True)
        for name, value in stack.environment().items():
            if name.startswith("AWS_"):
                environment.setenv(name, value)
        try:
            yield addresses
        finally:
            stack.down()


@pytest.fixture(scope="session")
def provisioned(machines: Addresses) -> Addresses:
    """The machines with every topic and table. A plain fixture, so that an async one may ask for it by name."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _provision(machines)).result()
    return machines


async def _provision(machines: Addresses) -> None:
    from events.topics import provision as provision_topics  # noqa: PLC0415 - importing the Kafka client is slow, most tests need none

    await provision_topics(machines.kafka, PARTITIONS, 1)
    await provision_tables(machines.dynamodb_url, os.environ.get("AWS_REGION", "us-east-1"))
