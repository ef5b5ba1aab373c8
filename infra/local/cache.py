"""The user's cache folder: what was downloaded or compiled once serves every clone. A thing is there whole (renamed into place) or not at all."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.local.files import locked
from infra.local.home import LocalError
from infra.local.logs import with_last_lines

Say = Callable[[str, str], None]
"""Tells the user what is being done: (which part, what)."""

GUARD = Path(__file__).with_name("guard.py")


def root() -> Path:
    """`$XDG_CACHE_HOME/cnop`, or `~/.cache/cnop`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "cnop"


@contextmanager
def building(target: Path, say: Say, part: str) -> Iterator[Path | None]:
    """Yields a temporary folder to build `target` in, or None where `target` is there (perhaps since another clone has just made it).

    One builder at a time on this machine. The block puts its product into `target` with `Path.rename`, so a half-built one never counts.
    """
    if target.exists():
        yield None
        return
    lock = target.with_name(f".{target.name}.lock")
    with locked(lock, wait=False) as mine:
        if mine:
            yield from _in_turn(target)
            return
    say(part, "waiting for another process that is making the same thing")
    with locked(lock, wait=True):
        yield from _in_turn(target)


def run_logged(argv: Sequence[str], log: Path, on_line: Callable[[str], None], failure: str, env: Mapping[str, str] | None = None) -> list[str]:
    """Run a command to its end; its output goes to `log` and, line by line, to `on_line`. Returns its lines of standard output and error.

    Raises LocalError with `failure`, the place of the log and its last lines where the command cannot be run or fails. The command dies with this process.
    """
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    guarded = [sys.executable, "-I", "-S", str(GUARD), "-9", str(os.getpid()), *argv]
    lines = []
    with (
        log.open("w") as file,
        subprocess.Popen(  # noqa: S603 - our own command lines
            guarded, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env={**os.environ, **(env or {})}
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            file.flush()
            lines.append(line.rstrip("\n"))
            on_line(lines[-1])
    if process.returncode:
        raise LocalError(with_last_lines(f"{failure} (exit status {process.returncode}; log: {log})", log))
    return lines


def _in_turn(target: Path) -> Iterator[Path | None]:
    """By the holder of the lock, who looks again: another builder may have finished after the first look and before the lock was taken."""
    if target.exists():
        yield None
        return
    for dead in target.parent.glob(f".{target.name}.build-*"):  # their makers hold no lock, so they are gone
        shutil.rmtree(dead, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.build-", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
