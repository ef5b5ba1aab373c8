"""`cnop up | down | status | logs`: the local system, as its user sees it."""

import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from infra.local.logs import Line
    from infra.local.machines import Addresses
    from infra.local.stack import Stack
    from infra.local.supervision import ProcessState

DEMO_USERNAME = "demo_trader"
DEMO_EMAIL = "demo_trader@example.com"
REGISTER_S = 10.0
"""Bound of registering the demo user."""

LOG_LINES = 50
KEEPER_LOOK_S = 1.0
"""How often an attached `up` looks whether the stack still runs."""

PLAIN_PAUSE_S = 5.0
"""Time between two plain lines of the same kind."""

CPU_SAMPLE_S = 0.5
"""The span over which `status` measures the use of the CPU."""

CREATED, UNAUTHORIZED, CONFLICT = 201, 401, 409

Home = Annotated[Path | None, typer.Option("--home", metavar="DIR", help="Folder of data, logs, keys and state. [default: $CNOP_HOME or .local]")]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def up(
    home: Home = None,
    services_only: Annotated[bool, typer.Option("--services-only", help="Start Kafka, the DynamoDB engine and Valkey alone.")] = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay attached with the merged logs; Ctrl-C stops everything.")] = False,
) -> None:
    """Start the whole system on this machine and return when all of it is ready."""
    with _errors_told(), _progress() as say:
        stack = _stack(home, services_only=services_only, say=say)
        was_running = stack.running()
        addresses = stack.up(hold=foreground)
        demo = _register_demo(stack, addresses) if addresses.origin_url else ""
    if was_running:
        out.print("It is running already.")
    _screen(stack, addresses, demo)
    if foreground:
        _stay(stack)


def down(home: Home = None) -> None:
    """Stop the whole system; its data stay."""
    with _errors_told():
        stack = _stack(home)
        stopped = stack.down()
    out.print(f"Stopped: {', '.join(stopped)}. Nothing is left running." if stopped else f"Nothing was running on {stack.home.path}.")


def status(home: Home = None) -> None:
    """Show each process: state, uptime, memory, CPU, port, and whether it is ready. Exit status 3 where the system does not run."""
    from infra.local.stack import states  # noqa: PLC0415

    with _errors_told():
        stack = _stack(home)
        if not stack.running():
            out.print(f"Nothing is running on {stack.home.path}.")
            raise typer.Exit(3)
        out.print(_status_table(stack, states(stack)))


def logs(
    name: Annotated[str | None, typer.Argument(help="One process or machine. [default: all, merged]")] = None,
    home: Home = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written from now on.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="Last lines.")] = LOG_LINES,
    request: Annotated[str, typer.Option("--request", metavar="ID", help="Only JSON lines of this request id.")] = "",
) -> None:
    """Show the logs, merged in the order of time."""
    from infra.local import logs as local_logs  # noqa: PLC0415

    with _errors_told():
        stack = _stack(home)
        files = _log_files(stack, name)
        if name and not files():
            raise typer.BadParameter(f"There is no log of {name!r} in {stack.home.logs}.")
        for line in local_logs.tail(files(), lines, request):
            _print_line(line, merged=name is None)
        if follow:
            for line in local_logs.follow(files, request, lambda: True):
                _print_line(line, merged=name is None)


def _stack(home: Path | None, *, services_only: bool = False, say: Callable[[str, str], None] = lambda _part, _text: None) -> "Stack":
    from infra.local.config import LocalSettings  # noqa: PLC0415
    from infra.local.home import PROCESSES  # noqa: PLC0415
    from infra.local.stack import Stack  # noqa: PLC0415

    return Stack(home or LocalSettings().home, processes=() if services_only else PROCESSES, say=say)


@contextmanager
def _errors_told() -> Iterator[None]:
    """Ends the program with the message of what a user can act on; a signal to end is an interruption like Ctrl-C."""
    from pydantic import ValidationError  # noqa: PLC0415

    from infra.local.home import LocalError  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except LocalError as error:
        err.print(f"[bold red]Error:[/] {_plain(str(error))}")
        raise typer.Exit(1) from error
    except ValidationError as error:
        wrong = "\n".join(f"CNOP_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        err.print(f"[bold red]Error:[/] {_plain(wrong)}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        err.print("Interrupted; everything that this command started is stopped.")
        os._exit(130)  # threads that still download need not be waited for: what they run ends with this process


@contextmanager
def _progress() -> Iterator[Callable[[str, str], None]]:
    """What is being done, part by part: live on a terminal, else plain lines, of a kind that repeats (downloading, compiling) one now and then."""
    if not out.is_terminal:
        told: dict[tuple[str, str], float] = {}

        def tell(part: str, text: str) -> None:
            kind = part, text.split(maxsplit=1)[0]
            if time.monotonic() - told.get(kind, -PLAIN_PAUSE_S) >= PLAIN_PAUSE_S:
                told[kind] = time.monotonic()
                with suppress(BrokenPipeError):  # nobody listens any more: no reason to stop
                    sys.stdout.write(f"{part:<10} {text}\n")  # one write: several threads tell
                    sys.stdout.flush()

        yield tell
        return
    from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.fields[part]:<10}"), TextColumn("{task.description}"), TimeElapsedColumn()
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=out) as progress:

        def say(part: str, text: str) -> None:
            if part not in tasks:
                tasks[part] = progress.add_task("", total=1, part=part)
            progress.update(tasks[part], description=_plain(text), completed=1 if text in {"ready", "done"} else 0)

        yield say


def _register_demo(stack: "Stack", addresses: "Addresses") -> str:
    """Make sure that the demo user exists; returns its password, empty where somebody else chose it."""
    import httpx  # noqa: PLC0415

    from infra.local.files import create_private  # noqa: PLC0415
    from infra.local.home import LocalError  # noqa: PLC0415

    file = stack.home.keys / "demo_password"
    new = create_private(file, f"{secrets.token_urlsafe(18)}aA1!".encode())
    password = file.read_text()
    body = {"username": DEMO_USERNAME, "email": DEMO_EMAIL, "password": password, "first_name": "Demo", "last_name": "Trader"}
    try:
        with httpx.Client(base_url=addresses.origin_url, timeout=REGISTER_S, trust_env=False) as client:
            answer = client.post("/api/v1/auth/register", json=body)
            login = {"username": DEMO_USERNAME, "password": password}  # another `up` may have registered the user with our password
            is_foreign = answer.status_code == CONFLICT and client.post("/api/v1/auth/login", json=login).status_code == UNAUTHORIZED
    except httpx.HTTPError as error:
        raise LocalError(f"The demo user could not be registered: {error!r}") from error
    if answer.status_code not in {CREATED, CONFLICT}:
        raise LocalError(f"The demo user could not be registered: {answer.status_code} {answer.text[:500]}")
    if is_foreign and new:
        file.unlink()
    return "" if is_foreign else password


def _screen(stack: "Stack", addresses: "Addresses", demo_password: str) -> None:
    """Where everything is, and the first three requests."""
    from infra.local import dynamodb  # noqa: PLC0415

    rows = {
        "API": f"{addresses.origin_url}/api/v1" if addresses.origin_url else "",
        "Docs": f"{addresses.origin_url}/docs" if addresses.origin_url else "",
        "Kafka": addresses.kafka,
        "DynamoDB": f"{addresses.dynamodb_url}  ({addresses.engine})",
        "Valkey": addresses.redis_url,
        "Logs": str(stack.home.logs),
    }
    out.print()
    for name, value in rows.items():
        if value:
            out.print(f"  [bold]{name:<9}[/] {_plain(value)}")
    if addresses.engine == "ministack":
        out.print(f"\n  [bold yellow]{dynamodb.MEMORY_ONLY}[/]")
    if not addresses.origin_url:
        return
    login = f"{DEMO_USERNAME} / {demo_password}" if demo_password else f"{DEMO_USERNAME} exists already, with a password that is not known here"
    out.print(f"  [bold]{'Demo':<9}[/] {_plain(login)}\n")
    for line in _curl_lines(addresses.origin_url, demo_password or "PASSWORD"):
        print(line)  # as is: to be copied


def _curl_lines(origin_url: str, password: str) -> list[str]:
    api = f"{origin_url}/api/v1"
    login = json.dumps({"username": DEMO_USERNAME, "password": password}, separators=(",", ":"))
    order = json.dumps({"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.01"}, separators=(",", ":"))
    sends_json = "-H 'Content-Type: application/json'"
    authorized = f'-H "Authorization: Bearer $TOKEN" {sends_json}'
    token = f"""{sys.executable if " " not in sys.executable else "python3"} -c 'import json,sys; print(json.load(sys.stdin)["access_token"])'"""
    return [
        f"TOKEN=$(curl -s {api}/auth/login {sends_json} -d '{login}' | {token})",
        f"""curl -s {api}/balance/deposit {authorized} -d '{{"amount":"5000.00"}}'""",
        f"curl -s {api}/orders {authorized} -d '{order}'",
    ]


def _stay(stack: "Stack") -> None:
    """Show the logs until Ctrl-C, then stop everything; exit status 1 where the stack ended by itself."""
    from infra.local import logs as local_logs  # noqa: PLC0415

    print(flush=True)
    looked, alive = time.monotonic(), True

    def go_on() -> bool:
        nonlocal looked, alive
        if time.monotonic() - looked > KEEPER_LOOK_S:
            looked, alive = time.monotonic(), stack.running()
        return alive

    try:
        for line in local_logs.follow(_log_files(stack, None), "", go_on):
            _print_line(line, merged=True)
    except KeyboardInterrupt:
        err.print("Stopping …")
        with _errors_told():
            stopped = stack.down()
        err.print(f"Stopped: {', '.join(stopped)}.")
        return
    err.print(f"[bold red]The system ended by itself.[/] See {stack.home.logs}/keeper.log")
    raise typer.Exit(1)


def _log_files(stack: "Stack", name: str | None) -> Callable[[], list[Path]]:
    return lambda: sorted(file for file in stack.home.logs.glob("*.log") if name is None or file.stem == name)


def _print_line(line: "Line", *, merged: bool) -> None:
    try:
        print(f"{line.name:<11}| {line.text}" if merged else line.text, flush=True)
    except BrokenPipeError:  # `cnop logs | head`
        os._exit(0)


def _status_table(stack: "Stack", states: "list[ProcessState]") -> "Table":
    from rich.table import Table  # noqa: PLC0415

    addresses = stack.addresses
    usage = _usage([state.pid for state in states if state.running])
    table = Table("process", "pid", "state", "uptime", "memory", "cpu", "port", "ready", box=None, pad_edge=False)
    for state in states:
        memory, cpu = usage.get(state.pid, ("", ""))
        uptime = _duration(int(time.time()) - state.started) if state.running else ""
        ready = "yes" if state.running and stack.is_ready(state.name) else "[red]no[/]"
        table.add_row(state.name, str(state.pid or ""), state.state.lower(), uptime, memory, cpu, str(addresses.port(state.name) or ""), ready)
    return table


def _usage(pids: list[int]) -> dict[int, tuple[str, str]]:
    """Resident memory and CPU (of one core, over a moment) by process id."""
    import psutil  # noqa: PLC0415

    processes = []
    for pid in pids:
        with suppress(psutil.Error):
            processes.append(psutil.Process(pid))
            processes[-1].cpu_percent()
    time.sleep(CPU_SAMPLE_S)
    usage = {}
    for process in processes:
        with suppress(psutil.Error):
            usage[process.pid] = f"{process.memory_info().rss / 2**20:.0f} MiB", f"{process.cpu_percent():.1f} %"
    return usage


def _duration(seconds: int) -> str:
    hours, rest = divmod(max(0, seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _plain(text: str) -> str:
    """Text in which square brackets mean nothing."""
    from rich.markup import escape  # noqa: PLC0415

    return escape(text)
