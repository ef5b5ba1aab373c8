"""`cnop up | down | status | logs`, as processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.local.stack import Stack

ROOT = Path(__file__).parents[2]
COMMAND_S = 60.0


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Kafka and the DynamoDB engine are said to be elsewhere: `--services-only` waits for what it starts itself, Valkey."""
    named = {"CNOP_HOME": str(tmp_path / "home"), "CNOP_KAFKA": "127.0.0.1:1", "CNOP_DYNAMODB_URL": "http://127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **named}


def cnop(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ops.main", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=COMMAND_S, check=False, cwd=ROOT)  # noqa: S603 - our own


def test_up_status_logs_down(env: dict[str, str]) -> None:
    try:
        first = cnop(env, "up", "--services-only")
        assert first.returncode == 0, first.stdout + first.stderr
        assert "Valkey    redis://127.0.0.1:" in first.stdout
        again = cnop(env, "up", "--services-only")
        assert "It is running already." in again.stdout
        status = cnop(env, "status")
        assert status.returncode == 0
        row = next(line for line in status.stdout.splitlines() if line.startswith("valkey"))
        assert "running" in row
        assert row.rstrip().endswith("yes")
        assert "Ready to accept connections" in cnop(env, "logs", "valkey").stdout
        assert cnop(env, "logs", "nothing").returncode == 2
    finally:
        down = cnop(env, "down")
    assert down.stdout == "Stopped: valkey. Nothing is left running.\n"


def test_without_a_stack_everything_says_so(env: dict[str, str]) -> None:
    assert cnop(env, "status").returncode == 3
    down = cnop(env, "down")
    assert (down.returncode, down.stdout.startswith("Nothing was running")) == (0, True)


def test_a_wrong_setting_is_named(env: dict[str, str]) -> None:
    answer = cnop(env | {"CNOP_REDIS_PORT": "many"}, "up", "--services-only")
    assert answer.returncode == 1
    assert "CNOP_REDIS_PORT" in answer.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_attached_up_takes_everything_with_it(env: dict[str, str], number: signal.Signals) -> None:
    command = [sys.executable, "-m", "ops.main", "up", "--services-only", "--foreground"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:  # noqa: S603 - our own
        assert process.stdout
        for line in process.stdout:
            if line.strip().startswith("Logs"):
                break
        stack = Stack(Path(env["CNOP_HOME"]), (), {name: env[name] for name in ("CNOP_KAFKA", "CNOP_DYNAMODB_URL")})
        assert stack.is_ready("valkey")
        keeper = stack.keeper()
        assert keeper
        process.send_signal(number)
        process.communicate(timeout=COMMAND_S)
        keeper.wait(COMMAND_S)
        assert stack.leftovers() == []


def test_every_command_has_help(env: dict[str, str]) -> None:
    answer = cnop(env, "--help")
    for command in ("up", "down", "status", "logs", "run", "provision", "demo", "load"):
        assert command in answer.stdout
