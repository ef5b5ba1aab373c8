"""The consumers shown in docs/topics.md, run as they stand there on a real Kafka."""

import asyncio
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from events.envelope import Envelope
from events.topics import RESULTS, provision
from infra.local.stack import Stack
from ops.contracts import PAGE
from ops.samples import samples
from schemas.results import RESULT_TYPES

PARTITION = 1
ANSWER_S = 60.0
ELSEWHERE = {"CNOP_DYNAMODB_URL": "http://127.0.0.1:9", "CNOP_REDIS_URL": "redis://127.0.0.1:9/0"}
"""Only Kafka is started: the others are said to be elsewhere, and nobody asks for them."""


def results() -> list[Envelope]:
    """One result for each version of the samples' account."""
    by_version = {sample.sequence: sample for sample in reversed(samples()) if sample.type in RESULT_TYPES}
    return [by_version[version] for version in sorted(by_version, key=lambda version: version or 0)]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    stack = Stack(tmp_path_factory.mktemp("kafka"), (), ELSEWHERE)
    yield stack.up(hold=True).kafka
    stack.down()


@pytest.fixture(scope="module")
async def log(kafka: str) -> str:
    """The results topic after a settlement that failed half-way, was repeated, and sent one batch once more."""
    await provision(kafka, account_partitions=4, replication=1)
    async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id="cnop-settlement-1") as producer:
        await producer.begin_transaction()
        await send(producer, results()[1:])
        await producer.abort_transaction()
        for batch in (results()[:4], results()[2:]):
            async with producer.transaction():
                await send(producer, batch)
    return kafka


async def send(producer: AIOKafkaProducer, batch: Iterable[Envelope]) -> None:
    for result in batch:
        await producer.send_and_wait(RESULTS, key=result.key, value=result.value, partition=PARTITION, headers=result.headers())


@pytest.mark.parametrize("name", ["aiokafka", "faststream"])
async def test_shown_consumer_sees_each_result_once(name: str, log: str, tmp_path: Path) -> None:
    """Pasted and run, it prints the results of an account once each, in order, and nothing of an aborted transaction."""
    code = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code
    program = tmp_path / "consumer.py"
    program.write_text(code[1].replace('"my-service"', f'"{name}-reader"'))
    expected = [f"ada_lovelace {result.sequence} {result.type}" for result in results()]
    lines = await printed(program, log, len(expected))
    assert [line.rsplit(" ", 1)[0] for line in lines] == expected
    assert [line.rsplit(" ", 1)[1] for line in lines][3:6] == ["limit-exceeded", "insufficient-funds", "insufficient-funds"]


async def printed(program: Path, bootstrap: str, count: int) -> list[str]:
    """The first lines that a program prints; what it wrote to its log where they do not come. It is killed in the end."""
    errors = program.with_suffix(".log")
    with errors.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), stdout=asyncio.subprocess.PIPE, stderr=log, env={**os.environ, "CNOP_KAFKA": bootstrap}
        )
    assert process.stdout
    lines: list[str] = []
    try:
        async with asyncio.timeout(ANSWER_S):
            while len(lines) < count and (line := await process.stdout.readline()):
                lines.append(line.decode().strip())
    except TimeoutError:
        pytest.fail(f"{len(lines)} of {count} lines in {ANSWER_S} s\n{errors.read_text()}")
    finally:
        process.kill()
        await process.wait()
    assert len(lines) == count, errors.read_text()
    return lines
