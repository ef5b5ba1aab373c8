"""A whole system to measure: one of its own in a temporary folder, or a running one by its home. What was stopped for a measurement runs again after it."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.local.home import MACHINES, PROCESSES, SPARES
from infra.local.stack import Stack, states

SETTLEMENT: Final = "settlement"
SETTINGS: Final = {
    "CNOP_PORT": "0",
    "CNOP_AUTH_REQUESTS_PER_MINUTE": "100000",
    "CNOP_DEPOSIT_DAY_LIMIT": "1000000000000.00",
    "CNOP_WITHDRAW_DAY_LIMIT": "1000000000000.00",
}
"""Limits that protect against people, raised: many callers here have one address, and one user deposits all day."""


class Stage:
    """The system under measurement."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.addresses = stack.addresses

    @property
    def home(self) -> Path:
        """Its folder: what commands take as --home."""
        return self._stack.home.path

    @property
    def settlements(self) -> tuple[str, ...]:
        """Names of settlement's slots, whether they run or not."""
        return (SETTLEMENT, *(name for name in SPARES if name.startswith(SETTLEMENT)))

    @property
    def environment(self) -> dict[str, str]:
        """With these variables a program reaches the system as its own processes do."""
        return dict(self._stack.environment())

    def pids(self) -> dict[str, int]:
        """What runs, by name."""
        return {state.name: state.pid for state in states(self._stack) if state.running}

    def start(self, *names: str) -> None:
        """Start processes, without waiting for them."""
        for name in names:
            self._stack.supervisor.start(name)

    def stop(self, *names: str) -> None:
        """Stop processes in good order; returns when they are gone."""
        for name in names:
            self._stack.stop_process(name)

    def await_ready(self, *names: str) -> None:
        """Wait until they answer."""
        for name in names:
            self._stack.await_ready(name)

    @contextmanager
    def only(self, *names: str) -> Iterator[None]:
        """Machines and these processes alone; what ran besides starts again after the block."""
        others = [name for name in self.pids() if name not in (*MACHINES, *names)]
        self.stop(*others)
        try:
            self.start(*names)
            self.await_ready(*names)
            yield
        finally:
            self.start(*others)
            self.await_ready(*others)


@contextmanager
def stage(home: Path | None, say: Callable[[str], None], *, processes: Sequence[str] = PROCESSES, slots: int = 1) -> Iterator[Stage]:
    """The running system of `home`, or where that is None one of these processes that lives as long as the block."""
    with _running(home, say) if home is not None else _own(say, (*processes, *SPARES[: slots - 1])) as stack, _as_its_processes(stack):
        yield Stage(stack)


@contextmanager
def _running(home: Path, say: Callable[[str], None]) -> Iterator[Stack]:
    """Leaves running what ran before."""
    stack = Stack(home, say=lambda part, text: say(f"{part}: {text}"))
    at = Stage(stack)
    ran = at.pids()
    try:
        yield stack
    finally:
        at.start(*ran)
        at.await_ready(*ran)


@contextmanager
def _own(say: Callable[[str], None], processes: Sequence[str]) -> Iterator[Stack]:
    """Leaves nothing."""
    with tempfile.TemporaryDirectory(prefix="cnop-bench-") as folder:
        stack = Stack(Path(folder), processes, env=SETTINGS, say=lambda part, text: say(f"{part}: {text}"))
        try:
            stack.up(hold=True)
            yield stack
        finally:
            stack.down()


@contextmanager
def _as_its_processes(stack: Stack) -> Iterator[None]:
    """The environment of its processes in this one, for as long as the block runs: clients here and in children have the same credentials."""
    before = dict(os.environ)
    os.environ.update(stack.environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
