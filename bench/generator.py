"""A load generator that is not Python, so that measuring takes little of what is measured: hey or oha, from the PATH, the user's cache, or built once.

Both take the same flags and can tell every request as a line of CSV. One process serves one caller's token; many callers are many processes.
Where neither can be had, an asyncio client stands in, and the figures say so.
"""

import asyncio
import csv
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from infra.local import cache
from infra.local.home import LocalError

HEY: Final = ("hey", "0.1.4")
OHA: Final = ("oha", "1.15.0")
PYTHON: Final = "python"
TIMEOUT_S: Final = 20
"""Of one request."""
OVERTIME_S: Final = 40.0
"""A generator is given this long to end after its time is up."""
LEAN: Final = {"GOMAXPROCS": "1", "TOKIO_WORKER_THREADS": "1"}
"""There are several of them beside what is measured, with a few connections each: threads that look for work would take its CPU."""
COLUMNS: Final = {"hey": ("response-time", "status-code", "offset"), "oha": ("request-duration", "status", "request-start")}
CREATED: Final = 201
OK: Final = 200

Say = Callable[[str], None]


class NotMeasured(RuntimeError):
    """A run that answered something else than what was to be measured. The text says what."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does: the same call again and again on some connections."""

    url: str
    token: str
    connections: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def method(self) -> str:
        """POST where there is a body."""
        return "POST" if self.body else "GET"

    @property
    def expects(self) -> int:
        """The one status that counts."""
        return CREATED if self.body else OK

    @property
    def all_headers(self) -> dict[str, str]:
        """Those of the request."""
        return {"Authorization": f"Bearer {self.token}", **dict(self.headers)}


@dataclass(slots=True)
class Run:
    """What callers saw: seconds of each answer, sorted, and answers a second."""

    times_s: list[float] = field(default_factory=list)
    per_s: float = 0.0
    others: int = 0
    """Answers with another status than expected; they are in neither figure."""


@dataclass(frozen=True, slots=True)
class Generator:
    """A program that makes load; `program` is None for the asyncio client."""

    name: str
    program: Path | None = None

    def run(self, jobs: Sequence[Job], seconds: float) -> Run:
        """Run all jobs at once for some seconds. NotMeasured where nothing, or hardly anything, was answered as expected."""
        rows = asyncio.run(_asyncio(jobs, seconds)) if self.program is None else self._programs(self.program, jobs, seconds)
        run = Run()
        for job, told in zip(jobs, rows, strict=True):
            times = [took for took, status, _ in told if status == job.expects]
            run.others += len(told) - len(times)
            run.times_s += times
            run.per_s += len(times) / max((began + took for took, _, began in told), default=1.0)
        run.times_s.sort()
        if len(run.times_s) <= run.others:
            raise NotMeasured(f"{jobs[0].method} {jobs[0].url}: {run.others} answers of another status than {jobs[0].expects}, {len(run.times_s)} as expected")
        return run

    def _programs(self, program: Path, jobs: Sequence[Job], seconds: float) -> list[list[tuple[float, int, float]]]:
        # Each ends by itself when its time is up, also where this process is killed: nothing has to start before it to look after that.
        env = {**os.environ, **LEAN}
        running = [subprocess.Popen(self._argv(program, job, seconds), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) for job in jobs]  # noqa: S603
        try:
            told = [process.communicate(timeout=seconds + OVERTIME_S) for process in running]
        finally:
            for process in running:
                process.kill()
        for process, (_, complaint) in zip(running, told, strict=True):
            if process.returncode:
                raise NotMeasured(f"{self.name} failed: {complaint.strip()[-500:]}")
        return [read_csv(self.name, output.splitlines()) for output, _ in told]

    def _argv(self, program: Path, job: Job, seconds: float) -> list[str]:
        form = ["-o", "csv"] if self.name == "hey" else ["--no-tui", "--output-format", "csv", "--wait-ongoing-requests-after-deadline"]
        timeout = str(TIMEOUT_S) if self.name == "hey" else f"{TIMEOUT_S}s"
        headers = [flag for name, value in job.all_headers.items() for flag in ("-H", f"{name}: {value}")]
        body = ["-T", "application/json", "-d", job.body] if job.body else []
        calls = ["-z", f"{seconds:g}s", "-c", str(job.connections), "-t", timeout, "-m", job.method]
        return [str(program), *form, *calls, *headers, *body, job.url]


def read_csv(name: str, lines: Iterable[str]) -> list[tuple[float, int, float]]:
    """(seconds, status, start since the beginning) of each answer that a generator told."""
    took, status, began = COLUMNS[name]
    return [(float(row[took]), int(row[status]), float(row[began])) for row in csv.DictReader(lines)]


def ensure(say: Say) -> Generator:
    """The first that is found or can be built: hey or oha on the PATH, then in the cache, then hey by go, then oha by cargo, then the asyncio client."""
    for name, version in (HEY, OHA):
        found = shutil.which(name)
        if found:
            return Generator(name, Path(found))
        if _cached(name, version).exists():
            return Generator(name, _cached(name, version))
    for name, version, tool in ((*HEY, "go"), (*OHA, "cargo")):
        builder = shutil.which(tool)
        if builder:
            try:
                return Generator(name, _built(name, version, builder, say))
            except LocalError as error:
                say(str(error))
    say("Neither hey nor oha is on the PATH, and there is no go or cargo to build one with: a Python client makes the load, and takes its part of the CPU.")
    return Generator(PYTHON)


def _cached(name: str, version: str) -> Path:
    return cache.root() / name / version / name


def _built(name: str, version: str, builder: str, say: Say) -> Path:
    target = _cached(name, version)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with cache.building(target, lambda _, text: say(text), name) as folder:
        if folder is not None:
            say(f"building {name} {version} (once)")
            go = [builder, "install", f"github.com/rakyll/hey@v{version}"]
            cargo = [builder, "install", name, "--version", version, "--locked", "--root", str(folder)]
            env = {"GOBIN": str(folder / "bin"), "CARGO_TARGET_DIR": str(folder / "target"), "CARGO_TERM_COLOR": "never"}
            log = cache.root() / "logs" / f"{name}.log"
            cache.run_logged(go if name == "hey" else cargo, log, lambda _: None, f"{name} {version} could not be built", env)
            (folder / "bin" / name).rename(target)
    return target


async def _asyncio(jobs: Sequence[Job], seconds: float) -> list[list[tuple[float, int, float]]]:
    begun = time.monotonic()

    async def connection(client: httpx.AsyncClient, job: Job, told: list[tuple[float, int, float]]) -> None:
        while not told or time.monotonic() < begun + seconds:
            started = time.monotonic()
            answer = await client.request(job.method, job.url, content=job.body or None, headers={**job.all_headers, "Content-Type": "application/json"})
            told.append((time.monotonic() - started, answer.status_code, started - begun))

    async def one(job: Job) -> list[tuple[float, int, float]]:
        told: list[tuple[float, int, float]] = []
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=job.connections)) as client:
            await asyncio.gather(*(connection(client, job, told) for _ in range(job.connections)))
        return told

    return await asyncio.gather(*(one(job) for job in jobs))
