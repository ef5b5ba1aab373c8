"""Starting, stopping and dying of a stack. Kafka and the DynamoDB engine are external here (a socket that answers), so each start takes well under a second."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from infra.local.files import locked
from infra.local.home import LocalError
from infra.local.stack import Stack
from infra.local.supervision import LOG_BYTES_MAX
from ops.target import NoTarget, Target, find

HERE = Path(__file__).parent
RUNNER = sys.executable, str(HERE / "stub.py")
GONE_S = 60.0


def wait_for(condition: Callable[[], bool], what: str, bound_s: float = GONE_S) -> None:
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {bound_s} s"
        time.sleep(0.02)


class Tables(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"TableNames":[]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def external() -> Iterator[dict[str, str]]:
    """A broker and a DynamoDB endpoint that can answer one question each."""
    broker = socket.create_server(("127.0.0.1", 0))
    tables = ThreadingHTTPServer(("127.0.0.1", 0), Tables)

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = broker.accept()
                with connection:
                    connection.recv(1024)
                    connection.sendall(struct.pack(">iih", 6, 7, 0))

    threading.Thread(target=answer, daemon=True).start()
    threading.Thread(target=tables.serve_forever, daemon=True).start()
    yield {"CNOP_KAFKA": f"127.0.0.1:{broker.getsockname()[1]}", "CNOP_DYNAMODB_URL": f"http://127.0.0.1:{tables.server_port}", "CNOP_PORT": "0"}
    tables.shutdown()
    tables.server_close()
    broker.close()


@pytest.fixture
def stack(tmp_path: Path, external: dict[str, str]) -> Iterator[Stack]:
    stack = Stack(tmp_path / "home", ("origin", "settlement"), external | {"STUB_MARK": str(tmp_path / "mark")}, runner=RUNNER)
    yield stack
    stack.down()
    assert stack.leftovers() == []


@contextlib.contextmanager
def starter(stack: Stack, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that brings the stack up."""
    env = {**os.environ, **stack._env, "PYTHONPATH": str(HERE.parents[1])}
    process = subprocess.Popen([sys.executable, str(HERE / "starter.py"), str(stack.home.path), how], env=env, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    assert process.stdout
    with process:
        yield process
        process.kill()


def everything(stack: Stack) -> list[psutil.Process]:
    found = stack.leftovers()
    assert len(found) == 5, found  # keeper, supervisor, Valkey, two processes
    return found


def test_up_starts_everything_and_down_leaves_nothing(stack: Stack, tmp_path: Path) -> None:
    addresses = stack.up()
    assert stack.is_ready("origin")
    assert stack.is_ready("settlement")
    assert set(addresses.pids) == {"valkey", "origin", "settlement"}
    assert (tmp_path / "mark").read_text() == "provisioned\n"
    everything(stack)
    assert set(stack.down()) == {"valkey", "origin", "settlement"}
    assert stack.leftovers() == []
    assert stack.down() == []


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    first = stack.up()
    assert stack.up() == first


def test_a_restart_keeps_ports_and_data(stack: Stack) -> None:
    first = stack.up()
    valkey = first.port("valkey")
    with socket.create_connection(("127.0.0.1", valkey)) as connection:
        connection.sendall(b"SET kept yes\r\n")
        assert connection.recv(64) == b"+OK\r\n"
    stack.down()
    again = stack.up()
    assert (again.redis_url, again.origin_url, again.admin_ports) == (first.redis_url, first.origin_url, first.admin_ports)
    with socket.create_connection(("127.0.0.1", valkey)) as connection:
        connection.sendall(b"GET kept\r\n")
        assert connection.recv(64) == b"$3\r\nyes\r\n"


def test_two_stacks_live_side_by_side(stack: Stack, tmp_path: Path, external: dict[str, str]) -> None:
    other = Stack(tmp_path / "other", (), external)
    first, second = stack.up(), other.up()
    try:
        assert first.redis_url != second.redis_url
        stack.down()
        assert other.is_ready("valkey")
    finally:
        other.down()


def test_a_home_is_one_home_however_it_is_spelled(stack: Stack, tmp_path: Path) -> None:
    stack.home.make()
    (tmp_path / "link").symlink_to(stack.home.path)
    linked = Stack(tmp_path / "link", stack._processes, stack._env, runner=RUNNER)
    assert linked.up() == stack.up()
    Stack(stack.home.path / ".." / "home", (), stack._env).down()
    assert not linked.running()


def test_commands_go_to_what_runs_and_never_where_something_ran_once(stack: Stack) -> None:
    addresses = stack.up()
    here = addresses.origin_url, addresses.dynamodb_url
    assert find("", stack.home.path) == Target(*here, is_embedded=False, kafka=addresses.kafka, redis_url=addresses.redis_url)
    keeper = stack.keeper()
    assert keeper
    keeper.kill()
    wait_for(lambda: not stack.leftovers(), "nothing is left")
    assert stack.home.state_file.exists()
    with pytest.raises(NoTarget):
        find("", stack.home.path)
    assert find("http://elsewhere", stack.home.path).origin_url == "http://elsewhere"


def test_down_leaves_alone_what_came_up_meanwhile(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keeper ended, and another `up` was quicker than the rest of `down`."""
    first, stop, other = stack.up(), stack._stop_kept_by, Stack(stack.home.path, stack._processes, stack._env, runner=RUNNER)

    def overtaken(keeper: psutil.Process) -> list[str]:
        stopped = stop(keeper)
        other.up()
        return stopped

    monkeypatch.setattr(stack, "_stop_kept_by", overtaken)
    assert set(stack.down()) == {"valkey", "origin", "settlement"}
    assert other.is_ready("origin")
    assert other.addresses.pids != first.pids
    other.down()


def test_down_says_where_an_up_is_at_work(stack: Stack) -> None:
    stack.home.make()
    with locked(stack.home.up_lock, wait=False), pytest.raises(LocalError, match="`cnop up` is at work"):
        stack.down()


def test_down_ends_a_keeper_that_does_not_end(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.up()
    for bound in ("MACHINE_STOP_S", "STOP_MARGIN_S", "DOWN_MARGIN_S"):
        monkeypatch.setattr(f"infra.local.stack.{bound}", 0.1)
    stack._settings = stack._settings.model_copy(update={"shutdown_s": 0.1})
    keeper = stack.keeper()
    assert keeper
    keeper.suspend()
    assert stack.down()
    assert stack.leftovers() == []


def test_down_finds_what_runs_without_its_home(stack: Stack) -> None:
    stack.up()
    shutil.rmtree(stack.home.path)
    assert stack.down()
    assert stack.leftovers() == []


def test_processes_can_be_added_to_running_machines(stack: Stack, external: dict[str, str]) -> None:
    Stack(stack.home.path, (), external).up()
    assert set(stack.up().pids) == {"valkey", "origin", "settlement"}


def test_what_dies_is_started_again_and_what_was_stopped_stays_so(stack: Stack) -> None:
    stack.up()
    killed = stack.signal("settlement", signal.SIGKILL)
    wait_for(lambda: stack.pid("settlement") not in {0, killed} and stack.is_ready("settlement"), "a new settlement")
    stack.stop_process("settlement")
    assert stack.pid("settlement") == 0
    assert not stack.is_ready("settlement")
    stack.start_process("settlement")
    assert stack.is_ready("settlement")


def test_a_process_that_cannot_start_is_named_with_its_last_words(stack: Stack) -> None:
    stack._env["STUB_FAIL"] = "settlement"
    with pytest.raises(LocalError, match=r"settlement ended 3 times.*(?s:.*)settlement cannot start: it was told to fail"):
        stack.up()
    assert stack.leftovers() == []


def test_a_failed_provisioning_stops_the_start(stack: Stack) -> None:
    stack._env["STUB_FAIL"] = "provision"
    with pytest.raises(LocalError, match=r"could not be provisioned(?s:.*)told to fail"):
        stack.up()
    assert stack.leftovers() == []


@pytest.mark.parametrize("variable", ["CNOP_PORT", "CNOP_REDIS_PORT"])
def test_a_taken_port_is_named_with_its_variable(stack: Stack, external: dict[str, str], variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        blocked = Stack(stack.home.path, ("origin",), external | {"STUB_MARK": os.devnull, variable: str(port)}, runner=RUNNER)
        with pytest.raises(LocalError, match=rf"Port {port} .*{variable}="):
            blocked.up()
    assert stack.leftovers() == []


@pytest.mark.parametrize(("name", "variable"), [("valkey", "CNOP_REDIS_PORT"), ("origin", "CNOP_PORT")])
def test_a_port_that_is_lost_after_it_was_chosen_is_never_shared(
    stack: Stack, external: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    other = Stack(stack.home.path.with_name("other"), ("origin",), external | {"STUB_MARK": os.devnull}, runner=RUNNER)
    try:
        taken = other.up().port(name)
        monkeypatch.setattr("infra.local.ports.is_free", lambda _port: True)  # the other stack came up a moment later
        late = Stack(stack.home.path, ("origin",), external | {"STUB_MARK": os.devnull, variable: str(taken)}, runner=RUNNER)
        with pytest.raises(LocalError, match=rf"{name} ended 3 times.*(?s:.*)[Aa]ddress already in use"):
            late.up()
        assert other.is_ready(name)
    finally:
        other.down()
    assert stack.leftovers() == []


def test_an_external_service_that_is_away_is_named(tmp_path: Path, external: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.local.stack.MACHINE_READY_S", 0.2)
    stack = Stack(tmp_path / "home", ("origin",), external | {"CNOP_REDIS_URL": "redis://127.0.0.1:1"}, runner=RUNNER)
    with pytest.raises(LocalError, match=r"CNOP_REDIS_URL=redis://127\.0\.0\.1:1 does not answer"):
        stack.up()
    assert stack.leftovers() == []


def test_a_held_stack_ends_with_a_killed_starter(stack: Stack) -> None:
    with starter(stack, "hold") as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        everything(stack)
        process.kill()
        wait_for(lambda: not stack.leftovers(), "nothing is left")


def test_a_detached_stack_outlives_its_starter(stack: Stack) -> None:
    with starter(stack, "detached") as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.kill()
        process.wait()
        assert stack.is_ready("origin")
        everything(stack)


def test_a_starter_killed_halfway_leaves_nothing(stack: Stack) -> None:
    with starter(stack, "detached") as process:
        wait_for(stack.running, "a keeper")
        process.kill()
        wait_for(lambda: not stack.leftovers(), "nothing is left")


@pytest.mark.parametrize("victims", [("supervisor",), ("keeper",), ("keeper", "supervisor"), ("supervisor", "keeper")])
def test_no_order_of_kills_leaves_an_orphan(stack: Stack, victims: tuple[str, ...]) -> None:
    stack.up()
    keeper = stack.keeper()
    assert keeper
    found = {"keeper": keeper, "supervisor": keeper.children()[0]}
    everything(stack)
    for victim in victims:
        found[victim].kill()
    wait_for(lambda: not stack.leftovers(), "nothing is left")
    assert set(stack.up().pids) == {"valkey", "origin", "settlement"}


def test_a_stopped_process_does_not_hold_up_down(stack: Stack) -> None:
    """SIGSTOP: it cannot end in good order, so it is killed after its bound."""
    quick = Stack(stack.home.path, ("origin", "settlement"), stack._env | {"CNOP_SHUTDOWN_S": "0.1"}, runner=RUNNER)
    quick.up()
    quick.signal("settlement", signal.SIGSTOP)
    quick.down()
    assert quick.leftovers() == []


def test_secrets_and_state_are_their_owners_alone(stack: Stack) -> None:
    stack.up()
    files = [*stack.home.keys.iterdir(), stack.home.state_file, *(stack.home.run / "programs").glob("*.json")]
    assert len(files) >= 6
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {"0o600"}
    assert oct(stack.home.path.stat().st_mode & 0o777) == "0o700"
    kept = {file: file.read_bytes() for file in stack.home.keys.iterdir()}
    stack.down()
    stack.up()
    assert kept == {file: file.read_bytes() for file in stack.home.keys.iterdir()}


def test_logs_are_bounded(stack: Stack) -> None:
    stack.up()
    config = (stack.home.run / "supervisord.conf").read_text()
    sections = config.count("[program:")
    assert config.count(f"stdout_logfile_maxbytes={LOG_BYTES_MAX}") == sections
    assert config.count("stdout_logfile_backups=3") == sections
