"""One local system: three machines and the processes, brought up in order, kept by a supervisor, stopped without a trace.

stack = Stack(tmp_path, processes=(), env={"CNOP_PORT": "0"})
addresses = stack.up(hold=True)      # ends with the calling process, however that ends
...
stack.down()
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

import infra
from infra.local import cache, census, keys, machines, ports, supervision
from infra.local.cache import Say
from infra.local.config import LocalSettings
from infra.local.files import locked, read_json, write_json
from infra.local.home import MACHINES, PROCESSES, SPARES, Home, LocalError, kind_and_slot, log_file
from infra.local.keeper import READY
from infra.local.logs import with_last_lines
from infra.local.machines import LOCAL_CREDENTIALS, Addresses, external, probe, settle_ports, through, together
from infra.local.probes import listens
from infra.local.supervision import MACHINE_STOP_S, STOP_MARGIN_S, ProcessState, Supervisor

SUPERVISOR_READY_S = 30.0
MACHINE_READY_S = 120.0
PROCESS_READY_S = 120.0
"""Bounds of the waits at start: many times what an idle machine needs, since a busy one is no failure."""

STARTS_MAX = 3
"""A process that ended this often while it was waited for will not become ready."""

POLL_S = 0.05
"""Time between two looks at a condition."""

DOWN_MARGIN_S = 10.0
"""`down` waits this much longer than the keeper's own bounds before it kills."""

UP_FAILS_S = 45.0
"""An `up` whose keeper was stopped has failed after this time: its provisioning goes on trying for 30 s."""

LOCAL_DEFAULTS = {"CNOP_ACCOUNT_PARTITIONS": "2"}
"""One machine settles faster in fewer and larger transactions; two partitions still show what several slots do."""


class Stack:
    """A stack under a home folder. Any number of objects, in any number of processes, may speak of the same one."""

    def __init__(
        self,
        home: Path,
        processes: Sequence[str] = PROCESSES,
        env: Mapping[str, str] | None = None,
        *,
        proxies: Mapping[str, int] | None = None,
        runner: Sequence[str] = (sys.executable, "-m", "ops.main"),
        say: Say = lambda _part, _text: None,
    ) -> None:
        """`env` goes over this process's environment, for the choices (ports, engine) as for the processes; `runner` is the command line in front
        of `provision` and `run NAME`; `say` is told what is being done, from several threads. Our processes reach a machine that is named in `proxies`
        at that port; everybody else reaches it directly.
        """
        self.home = Home.at(home)
        self.supervisor = Supervisor(self.home)
        self._processes = tuple(processes)
        self._env = dict(env or {})
        self._settings = LocalSettings.of(self._env)
        self._proxies = dict(proxies or {})
        self._runner = tuple(runner)
        self._say = say
        self._pipe: int | None = None

    # The whole

    def up(self, *, hold: bool = False) -> Addresses:
        """Bring up what does not run yet; returns when all of it is ready. With `hold` everything ends with the calling process.

        Raises LocalError, with the whole message for the user, where something fails; then nothing that this call started is left.
        """
        self.home.make()
        with locked(self.home.up_lock, wait=False) as mine:
            if not mine:
                raise LocalError(f"Another `cnop up` is at work on {self.home.path}.")
            if hold and self.running():
                raise LocalError(f"A stack runs on {self.home.path} already; stop it first (cnop down).")
            with ports.kept(), self._all_or_nothing():
                addresses = self._start_processes(self._start_machines())
            if not hold:
                self._let_go()
        return addresses

    def down(self) -> list[str]:
        """Stop everything, in bounded time; returns the names of what was stopped. When it returns nothing of this stack runs.

        An `up` that it interrupts fails; one that began later stands. Raises LocalError where one is at work that has started nothing yet.
        """
        keeper = self.keeper()
        stopped = self._stop_kept_by(keeper) if keeper else []
        deadline = time.monotonic() + (UP_FAILS_S if keeper else 0.0)
        while (swept := self._swept(keeper)) is None:
            if time.monotonic() > deadline:
                raise LocalError(f"`cnop up` is at work on {self.home.path}. End it with Ctrl-C, or wait until it is done.")
            time.sleep(POLL_S)
        return stopped + swept

    def running(self) -> bool:
        """Whether a keeper looks after this stack."""
        return self.keeper() is not None

    def keeper(self) -> psutil.Process | None:
        """The process that keeps this stack."""
        return census.keeper(self.home)

    def leftovers(self) -> list[psutil.Process]:
        """Every process of this stack that exists: also those that nobody keeps."""
        return census.leftovers(self.home)

    @property
    def addresses(self) -> Addresses:
        """Where the running stack is reached; raises LocalError where none runs."""
        state = read_json(self.home.state_file)
        if not state or not self.running():
            raise LocalError(f"No stack runs on {self.home.path}. Start one with `cnop up`.")
        return Addresses(**state)

    def environment(self) -> dict[str, str]:
        """The variables with which any program (or `Settings()`) reaches the running stack as its own processes do."""
        return self._environment(self.addresses)

    # One process of it, for operators and fault tests

    def start_process(self, name: str) -> None:
        """Start a stopped process or machine and wait until it is ready."""
        self.supervisor.start(name)
        self.await_ready(name)

    def stop_process(self, name: str) -> None:
        """Stop a process or machine in good order; it stays stopped. Returns when it is gone."""
        self.supervisor.stop(name)

    def restart_process(self, name: str) -> None:
        """Stop it, start it, wait until it is ready."""
        self.stop_process(name)
        self.start_process(name)

    def pid(self, name: str) -> int:
        """Its process id; 0 where it does not run."""
        return self.supervisor.state(name).pid

    def signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal to it (SIGKILL, SIGSTOP, SIGCONT, …); returns the process id that got it. What it ends is started again by the supervisor."""
        pid = self.pid(name)
        if not pid:
            raise LocalError(f"{name} does not run.")
        os.kill(pid, number)
        return pid

    def await_ready(self, name: str) -> None:
        """Wait, within the bounds of a start, until it answers; raises LocalError with its last log lines where it does not."""
        self._await(name, self.addresses)

    def is_ready(self, name: str) -> bool:
        """Whether it answers now."""
        return self._question(name, self.addresses)()

    # Machines

    def _start_machines(self) -> Addresses:
        addresses = self.addresses if self.running() else self._launch()
        embedded = [name for name in MACHINES if not external(name, self._settings)]
        together([lambda name=name: self._start(name, addresses) for name in embedded])  # type: ignore[misc]
        return addresses

    def _launch(self) -> Addresses:
        """Have everything that is needed, choose ports, start keeper and supervisor."""
        leftover = self._sweep()
        if leftover:
            self._say("stack", f"ended what a crash had left: {', '.join(leftover)}")
        commands, addresses = machines.prepare(self._settings, self.home, self._say, self._proxies)
        stop_s = dict.fromkeys(commands, MACHINE_STOP_S) | dict.fromkeys(PROCESSES + SPARES, int(self._settings.shutdown_s + STOP_MARGIN_S))
        supervision.configure(self.home, stop_s)
        for name, command in commands.items():
            supervision.write_spec(self.home, name, command.argv, command.env)
        self._start_keeper()
        write_json(self.home.state_file, asdict(addresses))
        return addresses

    # Processes

    def _start_processes(self, addresses: Addresses) -> Addresses:
        if self._processes:
            for machine in MACHINES:
                if external(machine, self._settings):
                    self._await_external(machine, addresses)
            running = {state.name for state in self.supervisor.states() if state.running}
            missing = [name for name in self._processes if name not in running]
            if missing:
                addresses = self._place(missing, addresses)
                self._provision(addresses)
            try:
                together([lambda name=name: self._start(name, addresses) for name in self._processes])  # type: ignore[misc]
            except BaseException:
                for name in missing:
                    with contextlib.suppress(LocalError):
                        self.supervisor.stop(name)
                raise
        pids = {state.name: state.pid for state in self.supervisor.states() if state.running}
        addresses = Addresses(**(asdict(addresses) | {"pids": pids}))
        write_json(self.home.state_file, asdict(addresses))
        return addresses

    def _place(self, names: Sequence[str], addresses: Addresses) -> Addresses:
        """Choose ports for these processes, make the keys, write what is to be run."""
        files = self._key_files()
        keys.ensure(files["CNOP_JWT_PRIVATE_KEY_FILE"], files["CNOP_JWT_PUBLIC_KEY_FILE"], files["CNOP_SECRET_FILE"])
        port = settle_ports(self.home, {name: (self._settings.port if name == "origin" else 0, "CNOP_PORT") for name in names})
        admin_ports = dict(addresses.admin_ports) | {name: number for name, number in port.items() if name != "origin"}
        origin_url = f"http://{ports.HOST}:{port['origin']}" if "origin" in port else addresses.origin_url
        addresses = Addresses(**(asdict(addresses) | {"admin_ports": admin_ports, "origin_url": origin_url}))
        for name in names:
            variable = "CNOP_PORT" if name == "origin" else "CNOP_ADMIN_PORT"
            kind, slot = kind_and_slot(name)
            env = self._chosen_by_user() | self._environment(addresses) | {variable: str(port[name])} | ({"CNOP_SLOT": slot} if slot else {})
            supervision.write_spec(self.home, name, [*self._runner, "run", kind], env)
        return addresses

    def _provision(self, addresses: Addresses) -> None:
        self._say("provision", "topics and tables")
        env = {**self._environment_of_children(), **self._chosen_by_user(), **self._environment(addresses)}
        cache.run_logged([*self._runner, "provision"], log_file(self.home, "provision"), lambda _: None, "Topics and tables could not be provisioned", env)
        self._say("provision", "done")

    def _environment(self, addresses: Addresses) -> dict[str, str]:
        addresses = through(addresses, self._proxies)
        variables = {"CNOP_KAFKA": addresses.kafka, "CNOP_DYNAMODB_URL": addresses.dynamodb_url, "CNOP_REDIS_URL": addresses.redis_url}
        if addresses.origin_url:
            variables["CNOP_PORT"] = str(addresses.port("origin"))
        credentials = LOCAL_CREDENTIALS if addresses.engine != "external" else {}
        return variables | {name: str(path) for name, path in self._key_files().items()} | credentials

    def _key_files(self) -> dict[str, Path]:
        folder, settings = self.home.keys, self._settings
        return {
            "CNOP_JWT_PRIVATE_KEY_FILE": (settings.jwt_private_key_file or folder / "jwt_private.pem").absolute(),
            "CNOP_JWT_PUBLIC_KEY_FILE": (settings.jwt_public_key_file or folder / "jwt_public.pem").absolute(),
            "CNOP_SECRET_FILE": (settings.secret_file or folder / "secret").absolute(),
        }

    def _chosen_by_user(self) -> dict[str, str]:
        """Every `CNOP_*` variable of now: the keeper may have been started with others."""
        return LOCAL_DEFAULTS | {name: value for name, value in (os.environ | self._env).items() if name.startswith("CNOP_")}

    # Starting and waiting

    def _start(self, name: str, addresses: Addresses) -> None:
        if not self.supervisor.state(name).running:
            self._say(name, "starting")
            self.supervisor.start(name)
        self._await(name, addresses)
        self._say(name, "ready")

    def _question(self, name: str, addresses: Addresses) -> Callable[[], bool]:
        """Whether it answers, and is this stack's own: a port may be lost to another stack between its choice and the start, and then that one answers."""
        answers = probe(name, addresses)
        if name in MACHINES and external(name, self._settings):
            return answers
        return lambda: answers() and listens(self.pid(name), addresses.port(name))

    def _await(self, name: str, addresses: Addresses) -> None:
        ready, bound_s = self._question(name, addresses), MACHINE_READY_S if name in MACHINES else PROCESS_READY_S
        deadline = time.monotonic() + bound_s
        pids = set()
        while not ready():
            state = self.supervisor.state(name)
            pids.add(state.pid)
            if len(pids - {0}) > STARTS_MAX:
                raise self._failure(name, f"ended {STARTS_MAX} times instead of becoming ready")
            if time.monotonic() > deadline:
                raise self._failure(name, f"was not ready after {bound_s:.0f} s (state {state.state})")
            time.sleep(POLL_S)

    def _await_external(self, machine: str, addresses: Addresses) -> None:
        self._say(machine, f"external: {external(machine, self._settings)}")
        deadline = time.monotonic() + MACHINE_READY_S
        answers = probe(machine, addresses)
        while not answers():
            if time.monotonic() > deadline:
                variable = {"kafka": "CNOP_KAFKA", "dynamodb": "CNOP_DYNAMODB_URL", "valkey": "CNOP_REDIS_URL"}[machine]
                raise LocalError(f"{variable}={external(machine, self._settings)} does not answer.")
            time.sleep(POLL_S)
        self._say(machine, "ready")

    def _failure(self, name: str, what: str) -> LocalError:
        log = log_file(self.home, name)
        return LocalError(with_last_lines(f"{name} {what}. Last lines of {log}:", log))

    # The keeper

    def _start_keeper(self) -> None:
        reading, self._pipe = os.pipe()
        argv = [sys.executable, "-m", "infra.local.keeper", str(self.home.path), str(reading), str(self._stop_s())]
        log = log_file(self.home, "keeper")
        with log.open("w") as output:
            subprocess.Popen(  # noqa: S603 - our own command line
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(reading,),
                env={**self._environment_of_children(), census.STACK_VARIABLE: str(self.home.path)},
            )
        os.close(reading)
        deadline = time.monotonic() + SUPERVISOR_READY_S
        while not (self.running() and self.supervisor.answers()):
            if time.monotonic() > deadline:
                raise self._failure("keeper", f"and its supervisor were not ready after {SUPERVISOR_READY_S:.0f} s")
            time.sleep(POLL_S)

    def _environment_of_children(self) -> dict[str, str]:
        root = str(Path(infra.__file__).parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        # The working folder is the user's: nothing in it may stand in for a package.
        fixed = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        return {name: value for name, value in (os.environ | self._env | fixed).items() if name != "AWS_PROFILE" or self._settings.dynamodb_url}

    def _stop_s(self) -> float:
        """Bound of a stop in good order: the processes, then the machines."""
        return self._settings.shutdown_s + STOP_MARGIN_S + MACHINE_STOP_S + STOP_MARGIN_S

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Where the block fails, the keeper that it started stops everything before the error goes on."""
        try:
            yield
        except BaseException:
            if self._pipe is not None:
                self._close_pipe()
                if keeper := self.keeper():
                    self._stop_kept_by(keeper)
                self._sweep()
            raise

    def _let_go(self) -> None:
        if self._pipe is not None:
            os.write(self._pipe, READY)
            self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _stop_kept_by(self, keeper: psutil.Process) -> list[str]:
        """Have the keeper stop everything; returns the names of what ran."""
        stopped = []
        with contextlib.suppress(LocalError):
            stopped = [state.name for state in self.supervisor.states() if state.running]
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            keeper.terminate()
            keeper.wait(self._stop_s() + DOWN_MARGIN_S)
        return stopped

    def _swept(self, stopped_keeper: psutil.Process | None) -> list[str] | None:
        """End what a keeper that was stopped has left, and itself, unless there is another one; what was killed. None where an `up` is at work."""
        if not self.home.run.exists():  # removed while it ran, perhaps
            return census.kill_leftovers(self.home)
        with locked(self.home.up_lock, wait=False) as mine:
            if not mine:
                return None
            return self._sweep() if self.keeper() in {None, stopped_keeper} else []

    def _sweep(self) -> list[str]:
        """Without a keeper: end what is left, so that nothing speaks of a stack that does not run; returns what was killed."""
        killed = census.kill_leftovers(self.home)
        self._close_pipe()
        for file in (self.home.state_file, self.home.socket):
            file.unlink(missing_ok=True)
        return killed


def states(stack: Stack) -> list[ProcessState]:
    """What runs, in the order of the flow; empty where the stack does not run."""
    return stack.supervisor.states() if stack.running() else []
