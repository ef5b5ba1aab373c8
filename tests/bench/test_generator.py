"""What the load generators tell, and how they are told what to do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.generator import PYTHON, Generator, Job, NotMeasured, read_csv

HEY = """\
response-time,DNS+dialup,DNS,Request-write,Response-delay,Response-read,status-code,offset
0.0105,0.0001,0.0000,0.0000,0.0100,0.0000,201,0.0003
0.0207,0.0000,0.0000,0.0000,0.0200,0.0000,503,0.0110
"""
OHA = """\
request-start,DNS,DNS+dialup,Response-delay,request-duration,bytes,status
0.0003,0,0.0001,0.0100,0.0105,120,201
0.0110,0,0,0.0200,0.0207,120,503
"""


@pytest.mark.parametrize(("name", "text"), [("hey", HEY), ("oha", OHA)])
def test_both_generators_tell_the_same(name: str, text: str) -> None:
    """Time, status and start of each answer."""
    assert read_csv(name, text.splitlines()) == [(0.0105, 201, 0.0003), (0.0207, 503, 0.0110)]


def test_only_expected_answers_are_figures(tmp_path: Path) -> None:
    """Answers of another status are counted apart: a quick refusal must not look like speed."""
    run = Generator("hey", _program(tmp_path, HEY + "0.0300,0,0,0,0.03,0,201,0.0600\n")).run([Job("http://nowhere", "token", 1, "{}")], 0.1)
    assert run.times_s == [0.0105, 0.03]
    assert run.others == 1
    assert run.per_s == pytest.approx(2 / 0.09)


def test_a_run_of_refusals_is_no_measurement(tmp_path: Path) -> None:
    """Where not even half is answered as expected there is nothing to tell, and the reason is told."""
    with pytest.raises(NotMeasured, match="1 answers of another status than 201, 1 as expected"):
        Generator("hey", _program(tmp_path, HEY)).run([Job("http://nowhere", "token", 1, "{}")], 0.1)


def test_a_generator_that_fails_is_told(tmp_path: Path) -> None:
    """Its last words are in the message."""
    program = tmp_path / "hey"
    program.write_text("#!/bin/sh\necho no such flag >&2\nexit 2\n")
    program.chmod(0o755)
    with pytest.raises(NotMeasured, match="no such flag"):
        Generator("hey", program).run([Job("http://nowhere", "token", 1)], 0.1)


async def test_the_stand_in_measures_too() -> None:
    """Without a generator an asyncio client sends what the job says."""
    seen: list[bytes] = []
    async with _server(seen.append) as url:
        run = await asyncio.to_thread(Generator(PYTHON).run, [Job(url, "a-token", 2, '{"amount":"1"}')], 0.2)
    assert run.times_s
    assert run.others == 0
    assert seen[0].startswith(b"POST / HTTP/1.1")
    assert b"authorization: bearer a-token" in seen[0].lower()


def _program(folder: Path, output: str) -> Path:
    program = folder / "hey"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}END\n")
    program.chmod(0o755)
    return program


@asynccontextmanager
async def _server(see: Callable[[bytes], None]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.read(65536):
            see(head)
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
