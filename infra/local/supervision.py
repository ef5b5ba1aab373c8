"""The supervisor (supervisord) of one stack: its generated configuration and its control socket."""

import http.client
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ProtocolError, ServerProxy

from infra.local.cache import GUARD
from infra.local.files import write_json, write_private
from infra.local.home import MACHINES, PROCESSES, SPARES, Home, LocalError, log_file

LOG_BYTES_MAX = 10 * 1024 * 1024
LOG_BACKUPS = 3
"""Each process keeps at most this many older logs of that size."""

MACHINE_STOP_S = 20
"""A machine that was told to stop is killed after this time."""

STOP_MARGIN_S = 2
"""Our processes keep a bound of their own; the kill comes this much after it."""


@dataclass(frozen=True)
class ProcessState:
    """What the supervisor knows of a process: pid 0 where none runs, `started` in seconds since the epoch."""

    name: str
    state: str
    pid: int
    started: int

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.pid > 0


GROUPS = {"machines": MACHINES, "processes": PROCESSES + SPARES}
"""Stopped in reverse: the machines go when nobody needs them any more."""


def configure(home: Home, programs: Mapping[str, int]) -> None:
    """Write the supervisor's configuration for programs by name, each with the seconds it has for stopping.

    None starts by itself: the starter knows the order.
    """
    shutil.rmtree(_specs(home), ignore_errors=True)
    sections = [_section(home, name, stop_s) for name, stop_s in programs.items()]
    groups = [_group(programs, group) for group in GROUPS]
    write_private(home.run / "supervisord.conf", "\n".join([_head(home), *groups, *sections, ""]).encode())


def write_spec(home: Home, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Say what a program is: its command line, and its environment over the keeper's. Read anew at each start of it."""
    _specs(home).mkdir(mode=0o700, exist_ok=True)
    write_json(_specs(home) / f"{name}.json", {"argv": list(argv), "env": dict(env), "cwd": str(Path.cwd())})


class Supervisor:
    """The running supervisor, asked over its socket. Raises LocalError where it does not answer."""

    def __init__(self, home: Home) -> None:
        self._url = f"unix://{home.socket}"
        self._specs = _specs(home)

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            self._call("getState")
        except LocalError:
            return False
        return True

    def states(self) -> list[ProcessState]:
        """All programs that were ever started since the supervisor runs, in the order of the flow."""
        states = [ProcessState(info["name"], info["statename"], info["pid"], info["start"]) for info in self._call("getAllProcessInfo")]
        order = MACHINES + PROCESSES + SPARES
        return sorted((state for state in states if state.name in self._names()), key=lambda state: order.index(state.name))

    def state(self, name: str) -> ProcessState:
        """One program."""
        info = self._call("getProcessInfo", self._full(name))
        return ProcessState(info["name"], info["statename"], info["pid"], info["start"])

    def _names(self) -> set[str]:
        return {spec.stem for spec in self._specs.glob("*.json")}

    def start(self, name: str) -> None:
        """Start a program, without waiting until it is ready. Nothing happens where it runs."""
        (self._specs / f"{name}.started").unlink(missing_ok=True)  # wanted now: no pause
        self._call("startProcess", self._full(name), False, harmless="ALREADY_STARTED")

    def stop(self, name: str) -> None:
        """Stop a program for good; returns when it is gone. Nothing happens where it does not run."""
        self._call("stopProcess", self._full(name), True, harmless="NOT_RUNNING")

    def _full(self, name: str) -> str:
        return f"{_group_of(name)}:{name}"

    def _call(self, method: str, *arguments: Any, harmless: str = "") -> Any:
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - a wheel of the `local` extra

        try:
            with ServerProxy("http://127.0.0.1", transport=SupervisorTransport(serverurl=self._url)) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except Fault as fault:
            if harmless and fault.faultString.startswith(harmless):
                return None
            raise LocalError(f"The supervisor refuses {method}{arguments}: {fault.faultString}") from fault
        except (OSError, http.client.HTTPException, ProtocolError) as error:
            raise LocalError(f"The supervisor does not answer: {error}") from error


def _head(home: Home) -> str:
    return f"""\
[supervisord]
nodaemon=true
silent=true
umask=077
logfile={_escaped(log_file(home, "supervisor"))}
logfile_maxbytes={LOG_BYTES_MAX}
logfile_backups={LOG_BACKUPS}
pidfile={_escaped(home.run / "supervisord.pid")}
[unix_http_server]
file={_escaped(home.socket)}
chmod=0700
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface"""


def _group(programs: Iterable[str], group: str) -> str:
    members = ",".join(name for name in programs if name in GROUPS[group])
    return f"[group:{group}]\nprograms={members}\npriority={list(GROUPS).index(group)}" if members else ""


def _group_of(name: str) -> str:
    for group, members in GROUPS.items():
        if name in members:
            return group
    raise LocalError(f"There is no process {name!r}. Known: {', '.join(MACHINES + PROCESSES + SPARES)}")


def _section(home: Home, name: str, stop_s: int) -> str:
    argv = [sys.executable, "-I", "-S", str(GUARD), str(_specs(home) / f"{name}.json")]
    # startsecs=0: a start always counts, so the supervisor never gives up; the guard keeps the pace.
    return f"""\
[program:{name}]
command={_escaped(shlex.join(argv))}
autostart=false
autorestart=true
startsecs=0
stopsignal=TERM
stopwaitsecs={stop_s}
killasgroup=true
redirect_stderr=true
stdout_logfile={_escaped(log_file(home, name))}
stdout_logfile_maxbytes={LOG_BYTES_MAX}
stdout_logfile_backups={LOG_BACKUPS}"""


def _specs(home: Home) -> Path:
    return home.run / "programs"


def _escaped(text: object) -> str:
    return str(text).replace("%", "%%")
