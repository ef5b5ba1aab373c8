"""`cnop load FILE`: sends the requests of a file as their users' own, once each however often it is run.

Requests of one user go in the order of the file, one after another; users side by side. A user's line that ends without an outcome holds
back the later ones of this user until the next run: they must not overtake it.
"""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ops.client import DECIDED, RETRY_S, Client, ClientError, LoginRefused, NewUser, Outcome, Session, Unanswered
from ops.journal import Finished, Journal, JournalInvalid
from ops.load_file import BadLine, Line, LoadFileInvalid, format_of, open_text, read_lines
from ops.load_users import UsersInvalid, read_users
from ops.progress import Bar
from ops.target import HomeDir, NoTarget, Url, find

CONCURRENCY: Final = 16
CONCURRENCY_MAX: Final = 256
FAULTS_SHOWN: Final = 20
STOP_S: Final = 5.0
"""After Ctrl-C a request under way may take this long to be answered."""
IN_A_ROW_MAX: Final = 20
"""So many requests without an outcome, one after another, end the load: the system is away, and every further one would wait in vain."""
PROOFS_MAX: Final = 3
"""So many users are tried whether the system knows what the journal tells of theirs."""
INVALID, INCOMPLETE, INTERRUPTED = 2, 1, 130

err = Console(stderr=True, highlight=False)


class OnError(StrEnum):
    """What bad lines do."""

    STOP = "stop"
    SKIP = "skip"


class FileFormat(StrEnum):
    """What a file can be."""

    CSV = "csv"
    NDJSON = "ndjson"


def load(
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV (with a header) or NDJSON, by its suffix; - for NDJSON on standard input.")],
    *,
    users: Annotated[Path | None, typer.Option("--users", metavar="CSV", help="Passwords: a CSV with the columns username and password.")] = None,
    register: Annotated[bool, typer.Option("--register", help="Register users of the users file that do not exist.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check the lines; send nothing.")] = False,
    on_error: Annotated[OnError, typer.Option("--on-error", help="Bad lines: stop before anything is sent, or skip them.")] = OnError.STOP,
    file_format: Annotated[FileFormat | None, typer.Option("--format", help="Where the suffix does not tell it.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=CONCURRENCY_MAX, help="Users at once.")] = CONCURRENCY,
    progress: Annotated[Path | None, typer.Option("--progress", metavar="FILE", help="Journal of what is finished. Default: FILE.progress.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the journal and send every line again; what has happened does not happen twice.")] = False,
    retry_s: Annotated[float, typer.Option("--retry", min=0, metavar="SECONDS", help="How long a request is tried again while the system is away.")] = RETRY_S,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    url: Url = "",
    home: HomeDir = None,
) -> None:
    """Send the requests of a file, each once; run it again after an interruption and it goes on.

    Columns: key, username, kind (deposit, withdraw, cancel, or the type of an order such as market_buy), amount, asset_id, quantity,
    client_order_id, price, time_in_force, expires_at; which line needs which: docs/load.md. A key names its request for ever: the same
    key of the same user is the same request, in whatever file it stands. Exit status: 0 every line has its outcome, 1 some have none,
    2 the file is not valid, 130 interrupted.
    """
    try:
        lines, bad = _read(file, file_format)
        _tell_bad(bad, [], on_error)
        if check:
            print(f"{len(lines)} lines are valid, {len(bad)} are not.")
            raise typer.Exit(INVALID if bad else 0)
        known = read_users(users) if users else {}
        lines, unknown = _with_password(lines, known)
        _tell_bad(unknown, bad, on_error)
        target = find(url, home)
        path = progress or (None if file == "-" else Path(f"{file}.progress"))
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(path, target.origin_url, anew=restart)) if path else None
            todo = _unfinished(lines, journal)
            client = Client(target.origin_url, connections_max=concurrency, retry_s=retry_s)
            proof = Proof.of(lines, journal, known) if journal else None
            summary = asyncio.run(_run(Loading(todo, known, journal, register=register), client, concurrency, proof))
    except (LoadFileInvalid, UsersInvalid, OSError) as error:
        raise _stopped(error, INVALID) from None
    except (JournalInvalid, NoTarget) as error:
        raise _stopped(error, INCOMPLETE) from None
    except Unanswered as error:
        raise _stopped(f"The system does not answer ({error}). Nothing was sent; run the same command again", INCOMPLETE) from None
    summary.lines, summary.bad, summary.finished_before = len(lines) + len(bad) + len(unknown), len(bad) + len(unknown), len(lines) - len(todo)
    _report(summary, path, as_json=as_json)
    raise typer.Exit(0 if summary.is_complete else INTERRUPTED if summary.interrupted else INCOMPLETE)


@dataclass(slots=True)
class Summary:
    """What became of the lines. `unsolved` are those without an outcome: (line, outcome)."""

    lines: int = 0
    bad: int = 0
    finished_before: int = 0
    settled: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unsolved: list[tuple[Line, Outcome]] = field(default_factory=list)
    not_sent: int = 0
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every valid line has its outcome."""
        return not (self.unsolved or self.not_sent)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        states = Counter(outcome.state for _, outcome in self.unsolved)
        done = self.settled + self.refused.total()
        return {
            "lines": self.lines,
            "bad": self.bad,
            "finished_before": self.finished_before,
            "settled": self.settled,
            "refused": self.refused.total(),
            "refused_by_code": dict(self.refused.most_common()),
            "unknown": states["unknown"],
            "failed": states["failed"],
            "not_sent": self.not_sent,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "per_second": round(done / self.seconds, 1) if self.seconds else 0.0,
        }


class Loading:
    """One run over the lines that are not finished. `stop` ends it: what is under way may still be answered, nothing else is sent."""

    def __init__(self, lines: Sequence[Line], users: Mapping[str, NewUser], journal: Journal | None, *, register: bool) -> None:
        self.stop = asyncio.Event()
        self.summary = Summary(not_sent=len(lines))
        self._users = users
        self._journal = journal
        self._register = register
        self._in_a_row = 0
        self._lanes = _by_user(lines)

    async def run(self, client: Client, concurrency: int, bar: Bar) -> Summary:
        """Send everything; returns when each lane is at its end or stopped. Takes at most `STOP_S` more after a stop."""
        started = time.perf_counter()
        lanes = iter(self._lanes.values())
        workers = [asyncio.create_task(self._work(client, lanes, bar)) for _ in range(min(concurrency, len(self._lanes)))]
        stopping = asyncio.create_task(self.stop.wait())
        try:
            while workers and not all(worker.done() for worker in workers) and not self.stop.is_set():
                await asyncio.wait([*(worker for worker in workers if not worker.done()), stopping], return_when=asyncio.FIRST_COMPLETED)
            if workers:
                await asyncio.wait(workers, timeout=STOP_S)
        finally:
            for task in (*workers, stopping):
                task.cancel()
        for told in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(told, Exception):
                raise told
        self.summary.seconds = time.perf_counter() - started
        return self.summary

    async def _work(self, client: Client, lanes: Iterator[list[Line]], bar: Bar) -> None:
        for lane in lanes:
            if self.stop.is_set():
                return
            await self._lane(client, lane, bar)

    async def _lane(self, client: Client, lane: list[Line], bar: Bar) -> None:
        user = self._users[lane[0].username]
        session = Session(user.username, user.password)
        refused = await self._signed_in(client, session, user)
        for line in lane:
            if self.stop.is_set():
                return
            outcome = refused or await self._sent(client, session, line)
            self._note(line, outcome)
            if not outcome.is_final:
                return
            bar.step(f"{self.summary.refused.total()} refused")

    async def _sent(self, client: Client, session: Session, line: Line) -> Outcome:
        try:
            return await client.write(session, line.path, line.body, line.idempotency_key)
        except asyncio.CancelledError:
            self._note(line, Outcome("unknown", 0.0, "interrupted", "was under way"))
            raise

    async def _signed_in(self, client: Client, session: Session, user: NewUser) -> Outcome | None:
        """Logged in, registered before where that is wanted and needed; the outcome of all of this user's lines where that fails."""
        try:
            try:
                await client.log_in(session)
            except LoginRefused:
                if not (self._register and await client.register(user)):
                    raise
                await client.log_in(session)
        except ClientError as error:
            return Outcome("failed", 0.0, "login-failed", str(error))
        return None

    def _note(self, line: Line, outcome: Outcome) -> None:
        self.summary.not_sent -= 1
        if not outcome.is_final:
            self.summary.unsolved.append((line, outcome))
            self._in_a_row += outcome.code != "login-failed"
            if self._in_a_row >= IN_A_ROW_MAX:
                self.stop.set()
            return
        self._in_a_row = 0
        if outcome.state == "settled":
            self.summary.settled += 1
        else:
            self.summary.refused[outcome.code] += 1
        if self._journal:
            self._journal.add(line.key, Finished(outcome.state, outcome.code, line.digest, outcome.command_id), line=line.number)


@dataclass(frozen=True, slots=True)
class Proof:
    """Lines that the journal tells of as finished, to be confirmed by the system before any is left out: each user's last one, the latest first.

    One is enough: a system that has lost something, since it was made anew or put back from a copy, has lost what came last.
    """

    journal: Path
    lines: Sequence[tuple[Line, Finished, NewUser]]

    @classmethod
    def of(cls, lines: Iterable[Line], journal: Journal, users: Mapping[str, NewUser]) -> "Proof":
        """Of the lines of this file."""
        by_key = {line.key: line for line in lines}
        found: dict[str, tuple[Line, Finished, NewUser]] = {}
        for key, finished in reversed(journal.finished.items()):
            line = by_key.get(key)
            if line and finished.command_id and len(found) < PROOFS_MAX:
                found.setdefault(line.username, (line, finished, users[line.username]))
        return cls(journal.path, tuple(found.values()))

    async def ask(self, client: Client) -> None:
        """JournalInvalid where the system does not confirm one, Unanswered where it is away. Who cannot log in proves nothing, unless nobody can."""
        why = ""
        for line, finished, user in self.lines:
            place = f"line {line.number}, key {line.key}"
            try:
                why = await _denied(client, finished, user)
            except LoginRefused as error:
                why = str(error)
                continue
            break
        if why:
            raise JournalInvalid(
                f"{self.journal} tells that {place}, is finished, which the system does not confirm: {why}. "
                "If it was made anew, put back from a copy, or is another one, move the journal away or use --restart"
            )


async def _denied(client: Client, finished: Finished, user: NewUser) -> str:
    """Why a command is not as the journal tells; empty where it is."""
    try:
        command = await client.read(f"/commands/{finished.command_id}", Session(user.username, user.password))
    except (Unanswered, LoginRefused):
        raise
    except ClientError as error:
        return str(error)
    return "" if command["state"] in DECIDED else f"there it is {command['state']}"


async def _unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Until it is done, or `stop` is set."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _run(loading: Loading, client: Client, concurrency: int, proof: Proof | None) -> Summary:
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        loading.summary.interrupted = True
        loading.stop.set()
        if signals > 1:
            for task in asyncio.all_tasks():
                task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    with Bar("loading", loading.summary.not_sent, console=err) as bar:
        async with client:
            with suppress(asyncio.CancelledError):
                if proof:
                    await _unless_stopped(loading.stop, proof.ask(client))
                await loading.run(client, concurrency, bar)
    return loading.summary


def _read(name: str, file_format: FileFormat | None) -> tuple[list[Line], list[BadLine]]:
    with open_text(name) as source:
        rows = list(read_lines(source, format_of(name, file_format or "")))
    return [row for row in rows if isinstance(row, Line)], [row for row in rows if isinstance(row, BadLine)]


def _with_password(lines: Sequence[Line], users: Mapping[str, NewUser]) -> tuple[list[Line], list[BadLine]]:
    """Lines of users that are in the users file, and the others."""
    bad = [BadLine(line.number, (f"username: {line.username} is not in the users file (--users)",)) for line in lines if line.username not in users]
    return [line for line in lines if line.username in users], bad


def _unfinished(lines: Sequence[Line], journal: Journal | None) -> list[Line]:
    """Those that the journal does not tell of. LoadFileInvalid where a finished line has been changed since."""
    finished = journal.finished if journal else {}
    for line in lines:
        if line.key in finished and finished[line.key].digest != line.digest:
            raise LoadFileInvalid(
                f"line {line.number}, key: {line.key} was finished with other content. A key names its request for ever: give the changed line a new key"
            )
    return [line for line in lines if line.key not in finished]


def _by_user(lines: Iterable[Line]) -> dict[str, list[Line]]:
    lanes: dict[str, list[Line]] = {}
    for line in lines:
        lanes.setdefault(line.username, []).append(line)
    return lanes


def _tell_bad(bad: Sequence[BadLine], before: Sequence[BadLine], on_error: OnError) -> None:
    """Name the bad lines; leave where they stop the load."""
    for line in bad[:FAULTS_SHOWN]:
        err.print(str(line), markup=False, soft_wrap=True)
    if len(bad) > FAULTS_SHOWN:
        err.print(f"… and {len(bad) - FAULTS_SHOWN} more bad lines.")
    if bad and on_error is OnError.STOP:
        raise _stopped(f"{len(bad) + len(before)} bad lines; nothing was sent. Mend them, or leave them out with --on-error skip.", INVALID)


def _stopped(error: object, status: int) -> typer.Exit:
    err.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
    return typer.Exit(status)


def _report(summary: Summary, journal: Path | None, *, as_json: bool) -> None:
    told = summary.as_dict()
    if as_json:
        print(json.dumps(told))
    else:
        _table(told)
    for line, outcome in summary.unsolved[:FAULTS_SHOWN]:
        err.print(f"line {line.number}, key {line.key}: {outcome.state}: {outcome.code} {outcome.detail}", markup=False, soft_wrap=True)
    if not summary.is_complete:
        how = f"Run the same command again to go on; {journal} tells what is finished." if journal else "Run it again: what has happened does not happen twice."
        err.print(f"{'Interrupted' if summary.interrupted else 'Not everything has an outcome'}. {how}", markup=False, soft_wrap=True)


def _table(told: Mapping[str, Any]) -> None:
    table = Table("outcome", "lines", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name in ("settled", "refused", "unknown", "failed", "not_sent", "finished_before", "bad"):
        if told[name] or name == "settled":
            table.add_row(name.replace("_", " "), str(told[name]))
        if name == "refused":
            for code, count in told["refused_by_code"].items():
                table.add_row(f"  {code}", str(count), style="dim")
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    console.print(f"{told['settled'] + told['refused']} of {told['lines']} lines in {told['seconds']} s, {told['per_second']}/s")
