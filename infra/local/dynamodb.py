"""An embedded engine for the DynamoDB API: dynoxide (SQLite on disk, survives kill -9), or, where neither a binary nor cargo is found, ministack
(memory only).
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from infra.local import cache
from infra.local.cache import Say
from infra.local.home import LocalError
from infra.local.ports import HOST

VERSION = "3.2.0"
CRATE = "dynoxide-rs"
FEATURES = "native-sqlite,http-server,cli"
MINISTACK_LOCK = Path(__file__).with_name("ministack.lock")

Engine = Literal["dynoxide", "ministack"]

MEMORY_ONLY = "DATA IS KEPT IN MEMORY ONLY: the DynamoDB engine is ministack; all accounts are gone when it stops, and each start begins empty."

VERSION_S = 10
"""Bound of asking a binary for its version."""


def ensure(engine: Literal["auto", "dynoxide", "ministack"], say: Say) -> tuple[Engine, Path]:
    """The engine that is used and its program, made at the first call on this machine. Raises LocalError where the wanted one cannot be had."""
    if engine == "ministack":
        return "ministack", _ensure_ministack(say)
    found = _found() or _cached()
    if found:
        return "dynoxide", found
    cargo = shutil.which("cargo")
    if cargo:
        return "dynoxide", _build(cargo, say)
    if engine == "dynoxide":
        raise LocalError(
            f"CNOP_DYNAMODB=dynoxide, but there is no `dynoxide` on the PATH and no `cargo` to build it with. Install Rust (https://rustup.rs), "
            f"or put a dynoxide {VERSION} binary on the PATH, or use CNOP_DYNAMODB=ministack (data in memory only)."
        )
    say("dynamodb", "neither a `dynoxide` binary nor `cargo` is found: falling back to ministack")
    return "ministack", _ensure_ministack(say)


def command(data: Path, engine: Engine, program: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command line that starts the engine, and its environment."""
    if engine == "dynoxide":
        folder = data / "dynamodb"
        folder.mkdir(mode=0o700, exist_ok=True)
        return [str(program), "serve", "--host", HOST, "--port", str(port), "--db-path", str(folder / "dynoxide.sqlite")], {}
    closed = {"SERVICES": "dynamodb", "GATEWAY_PORT": str(port), "BIND_HOST": HOST, "LOG_LEVEL": "WARNING", "IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0"}
    return [str(program), "-m", "ministack.app"], closed | {"PYTHONPATH": "", "PYTHONSAFEPATH": "1"}


def _found() -> Path | None:
    """A binary on the PATH, of the version that the contract tests were run with."""
    path = shutil.which("dynoxide")
    if path is None:
        return None
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=VERSION_S, check=False)  # noqa: S603 - the user's own binary
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(path) if VERSION in answer.stdout.split() else None


def _cached() -> Path | None:
    binary = _binary()
    return binary if binary.exists() else None


def _binary() -> Path:
    return cache.root() / "dynoxide" / VERSION / "dynoxide"


def _build(cargo: str, say: Say) -> Path:
    binary = _binary()
    binary.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with cache.building(binary, say, "dynamodb") as folder:
        if folder is not None:
            say("dynamodb", f"compiling dynoxide {VERSION} with cargo (about 2 minutes on 2 cores, once)")
            _install(cargo, folder, say)
            (folder / "bin" / "dynoxide").rename(binary)
    return binary


def _install(cargo: str, folder: Path, say: Say) -> None:
    compiled = 0

    def on_line(line: str) -> None:
        nonlocal compiled
        words = line.split()
        if words[:1] == ["Compiling"]:
            compiled += 1
            say("dynamodb", f"compiling dynoxide {VERSION}: crate {compiled}, {words[1]}")

    argv = [cargo, "install", CRATE, "--version", VERSION, "--locked", "--no-default-features", "--features", FEATURES, "--root", str(folder)]
    cache.run_logged(
        argv,
        cache.root() / "logs" / "dynoxide.log",
        on_line,
        f"dynoxide {VERSION} could not be built. CNOP_DYNAMODB=ministack does without it (data in memory only)",
        {"CARGO_TARGET_DIR": str(folder / "target"), "CARGO_TERM_COLOR": "never"},
    )


def _ensure_ministack(say: Say) -> Path:
    """Its botocore is newer than what aiobotocore accepts, so it has an environment of its own. One for each content of its lock."""
    version = hashlib.sha256(MINISTACK_LOCK.read_bytes()).hexdigest()[:16]
    target = cache.root() / "ministack" / f"{version}-py{sys.version_info.major}.{sys.version_info.minor}"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log, failure = cache.root() / "logs" / "ministack.log", "ministack could not be installed"
    with cache.building(target, say, "dynamodb") as folder:
        if folder is not None:
            say("dynamodb", "installing ministack (once)")
            venv = folder / "venv"
            cache.run_logged([sys.executable, "-m", "venv", str(venv)], log, lambda _: None, failure)
            install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "-r", str(MINISTACK_LOCK)]
            cache.run_logged(install, log, lambda _: None, failure)
            venv.rename(target)
    return target / "bin" / "python"
