"""Which processes belong to a stack, as the system's own table tells: state files may be old, and process ids are given again."""

import contextlib
import os
import time

import psutil

from infra.local.home import Home, LocalError

STACK_VARIABLE = "CNOP_STACK"
"""In the environment of every process of a stack: by it `down` finds what nobody keeps any more."""

KILLED_S = 5.0
"""Bound of killing what is left."""


def keeper(home: Home) -> psutil.Process | None:
    """The process that keeps this stack; None where nobody does."""
    try:
        found = psutil.Process(int(home.keeper_lock.read_text()))
        command_line = found.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return found if "infra.local.keeper" in command_line and str(home.path) in command_line else None


def leftovers(home: Home) -> list[psutil.Process]:
    """Every process of this stack that exists, found by its environment: also those that nobody keeps."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(STACK_VARIABLE) == str(home.path) and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_leftovers(home: Home) -> list[str]:
    """Kill what nobody keeps, and what it may have started meanwhile; returns what that was."""
    names: list[str] = []
    deadline = time.monotonic() + KILLED_S
    while left := leftovers(home):
        if time.monotonic() > deadline:
            raise LocalError(f"These processes do not end: {', '.join(str(process.pid) for process in left)}")
        for process in left:
            with contextlib.suppress(psutil.Error):
                names.append(f"{process.name()} ({process.pid})")
                process.kill()
        psutil.wait_procs(left, timeout=max(0.0, deadline - time.monotonic()))
    return names
