"""Becomes the program it is given, after asking the system to end that program when its parent dies.

Run as a file with `python -I -S guard.py SPEC` (a JSON file) or `guard.py -SIGNAL PARENT_PID ARGV…`; imports next to nothing, since every start of a
process waits for it. Also holds back a program that was started a moment ago, so that one which cannot start does not use up the machine.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

RESTART_PAUSE_S = 1.0
"""Least time between two starts of the same program. Constant: a dependency that comes back is met at once, however long it was away."""

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the program."""
    if sys.argv[1].startswith("-"):
        _die_with_parent(-int(sys.argv[1]), int(sys.argv[2]))
        os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - becoming another program is its purpose
    spec_file = Path(sys.argv[1])
    _die_with_parent(signal.SIGKILL, os.getppid())
    spec = json.loads(spec_file.read_bytes())
    _pause(spec_file.with_suffix(".started"))
    os.chdir(spec["cwd"])
    os.environ.update(spec["env"])
    os.execvp(spec["argv"][0], spec["argv"])  # noqa: S606


def _die_with_parent(number: int, parent: int) -> None:
    """Linux only; elsewhere the keeper's sweep has to do."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it died before the request was made
        sys.exit(1)


def _pause(stamp: Path) -> None:
    try:
        since_s = time.time() - stamp.stat().st_mtime
    except FileNotFoundError:
        since_s = RESTART_PAUSE_S
    if 0 <= since_s < RESTART_PAUSE_S:
        time.sleep(RESTART_PAUSE_S - since_s)
    stamp.touch()


if __name__ == "__main__":
    main()
