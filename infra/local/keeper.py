"""Outlives the starter and answers for its stack: the parent of the supervisor, and the one process that must not leave anything behind.

Run as `python -m infra.local.keeper HOME PIPE_FD STOP_S`. The starter holds the other end of the pipe. It writes `READY` once the stack may live on without
it; where the pipe ends before that word, the starter was interrupted or died, and everything is stopped. On Linux the keeper adopts what its descendants
leave behind, and the supervisor and its children end when their parent dies, so that no order of kill -9 leaves an orphan.
"""

import contextlib
import ctypes
import fcntl
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from infra.local.cache import GUARD
from infra.local.home import Home

READY = b"r"

PR_SET_CHILD_SUBREAPER = 36

POLL_S = 0.05
"""Time between two looks at a supervisor that is stopping."""

KILLED_S = 5.0
"""What got SIGKILL is gone after this time."""

SUPERVISOR_SIGNAL = -signal.SIGTERM
"""What the supervisor gets when the keeper dies: it stops its programs in order."""


def main() -> None:
    """Keep one stack until it is told to stop (SIGTERM, SIGINT), its supervisor ends, or its starter dies early."""
    home, pipe, stop_s = Home(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
    lock = _lock(home)
    if lock is None:
        sys.exit("another keeper holds this folder")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signals = _signals()
    supervisor = _start_supervisor(home)
    _say(f"keeping; supervisor is {supervisor.pid}")
    _say(_watch(supervisor, pipe, signals))
    _stop(home, supervisor, stop_s)
    _say("nothing is left")


def _lock(home: Home) -> int | None:
    """Held until this process ends; says who holds it."""
    descriptor = os.open(home.keeper_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _signals() -> int:
    """A descriptor that becomes readable with the numbers of the signals that arrive."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    return reading


def _start_supervisor(home: Home) -> subprocess.Popen[bytes]:
    guard = [sys.executable, "-I", "-S", str(GUARD), str(SUPERVISOR_SIGNAL), str(os.getpid())]
    argv = [sys.executable, "-m", "infra.local.supervisord", str(home.run / "supervisord.conf")]
    return subprocess.Popen([*guard, *argv], stdin=subprocess.DEVNULL)  # noqa: S603 - our own command line


def _watch(supervisor: subprocess.Popen[bytes], pipe: int, signals: int) -> str:
    """Returns, with the reason, when it is time to stop."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(signals, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                got = os.read(key.fd, 64)
                if key.fd == pipe:
                    if READY not in got:
                        return "the starter ended before the stack was ready"
                    selector.unregister(pipe)
                elif {signal.SIGTERM, signal.SIGINT} & set(got):
                    return "told to stop"
            if supervisor.poll() is not None:
                return f"the supervisor ended with status {supervisor.returncode}"
            _reap_adopted(supervisor.pid)


def _stop(home: Home, supervisor: subprocess.Popen[bytes], stop_s: float) -> None:
    """The supervisor stops its programs, within `stop_s` seconds; whatever is a descendant of this process after that is killed."""
    if supervisor.poll() is None:
        supervisor.terminate()
        deadline = time.monotonic() + stop_s
        while supervisor.poll() is None and time.monotonic() < deadline:
            _wake(home)
            time.sleep(POLL_S)
    deadline = time.monotonic() + KILLED_S
    while left := psutil.Process().children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=max(0.0, deadline - time.monotonic()))
        if time.monotonic() > deadline:
            _say(f"could not kill {[process.pid for process in left]}")
            return


def _wake(home: Home) -> None:
    """The supervisor looks after its children once a second, and whenever somebody calls."""
    with socket.socket(socket.AF_UNIX) as call, contextlib.suppress(OSError):
        call.connect(str(home.socket))


def _reap_adopted(supervisor_pid: int) -> None:
    """Collect what ended after its parent had; the supervisor itself is collected by its own handle."""
    for process in psutil.Process().children():
        if process.pid != supervisor_pid:
            with contextlib.suppress(psutil.Error, ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} keeper {text}\n")


if __name__ == "__main__":
    main()
