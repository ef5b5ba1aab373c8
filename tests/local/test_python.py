"""Which Python `.venv` is made with: one that was built with optimisation, wherever there is one that can run the system at all."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "local" / "python.sh"
SLOW, OLD = 10, 11


def python(folder: Path, name: str, status: int) -> str:
    """Something in the place of a Python, whose answer to the probe is this."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("statuses", "taken", "is_told"),
    [
        ((0, 0), 0, False),
        ((SLOW, 0), 1, True),
        ((OLD, 0), 1, False),
        ((0, SLOW), 0, False),
        ((SLOW, SLOW), 0, False),
        ((SLOW, OLD), 0, False),
        ((OLD, SLOW), 1, False),
        ((OLD, OLD), None, False),
    ],
)
def test_the_first_optimised_one_else_the_first_that_can(tmp_path: Path, statuses: tuple[int, ...], taken: int | None, is_told: bool) -> None:
    """Whoever has the first one passed over hears why."""
    pythons = [python(tmp_path, f"python{number}", status) for number, status in enumerate(statuses)]
    done = subprocess.run([SCRIPT, *pythons], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert done.stdout.strip() == ("" if taken is None else pythons[taken])
    assert ("was built without optimisation" in done.stderr) is is_told


def test_one_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    """As on a machine whose only Python has another name."""
    there = python(tmp_path, "there", 0)
    done = subprocess.run([SCRIPT, str(tmp_path / "gone"), there], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert (done.stdout.strip(), done.stderr) == (there, "")


def test_the_probe_knows_this_python() -> None:
    """It runs these tests, so that it can; whether it is optimised is its builder's matter."""
    found = subprocess.run([SCRIPT, sys.executable], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    assert found.stdout.strip() == sys.executable
