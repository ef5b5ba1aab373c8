"""The log files of a stack, read as one stream: last lines merged by time, then what is appended, over rotations."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from infra.local.files import last_lines

FOLLOW_POLL_S = 0.2
"""Time between two looks at the files while following."""

SCAN_LINES_MAX = 200_000
"""Lines of one file that are looked through for a request."""

FILTER_BYTES_MAX = 64 * 1024 * 1024

ERROR_LINES = 15
"""Last lines of a log that are shown with a failure."""

READ_BYTES_MAX = 1024 * 1024
"""Taken from one file at one look."""

BRIEF_WITHOUT = {"timestamp", "level", "service_name", "message", "exception"}
"""What a brief line does not name."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?")


@dataclass(frozen=True)
class Line:
    """One line of a log, with the process that wrote it and the time that it carries (empty where none has been seen)."""

    name: str
    text: str
    time: str


def tail(files: Sequence[Path], count: int, request_id: str = "") -> list[Line]:
    """The last `count` lines of all files together in the order of time; of one request only, where its id is given (then the rotated files are read too)."""
    lines = [line for file in files for line in _read(file, count, request_id)]
    lines.sort(key=lambda line: line.time)  # stable: within a file the order stays
    return lines[-count:] if count else []


def follow(files: Callable[[], Sequence[Path]], request_id: str, go_on: Callable[[], bool]) -> Iterator[Line]:
    """Lines that are appended from now on, for as long as `go_on` says so; at its end what was still unread."""
    followed = {file: _Followed(file, _end(file)) for file in files()}
    try:
        while True:
            last = not go_on()
            for file in files():
                followed.setdefault(file, _Followed(file, 0))
            lines = [line for one in followed.values() for line in one.read() if _wanted(line.text, request_id)]
            yield from sorted(lines, key=lambda line: line.time)
            if last:
                return
            if not lines:
                time.sleep(FOLLOW_POLL_S)
    finally:
        for one in followed.values():
            one.close()


def with_last_lines(failure: str, log: Path) -> str:
    """The failure, and under it what the log says at its end."""
    return "\n".join([failure, *(f"  {brief(line)}" for line in last_lines(log, ERROR_LINES))])


def brief(line: str) -> str:
    """A line of one of our own processes for a person who looks for what went wrong: time, level, message, and what else it tells. Any other as it is.

    An exception is told without its frames, and not at all where the line has a reason.
    """
    try:
        record = json.loads(line)
        said = [record["timestamp"], record["level"], record["message"]]
        errors = "; ".join(f"{error['type']}: {error['text']}" for error in record.get("exception", ()))
    except (ValueError, KeyError, TypeError, AttributeError):
        return line
    more = {name: value for name, value in record.items() if name not in BRIEF_WITHOUT and value not in (None, "")}
    if errors and "reason" not in more:
        more["exception"] = errors
    return " ".join(map(str, said + [f"{name}={value}" for name, value in more.items()]))


@dataclass
class _Followed:
    file: Path
    start: int
    opened: BinaryIO | None = None
    rest: bytes = b""
    seen: str = ""

    def read(self) -> list[Line]:
        """Whole lines since the last look. A file that was renamed meanwhile is read to its end before its successor is begun."""
        try:
            got = self._read()
        except OSError:
            return []
        *whole, self.rest = (self.rest + got).split(b"\n")
        lines = _lines(self.file.stem, [line.decode(errors="replace") for line in whole], self.seen)
        self.seen = lines[-1].time if lines else self.seen
        return lines

    def close(self) -> None:
        if self.opened:
            self.opened.close()
            self.opened = None

    def _read(self) -> bytes:
        if self.opened is None:
            self.opened = self.file.open("rb")
            self.opened.seek(min(self.start, os.fstat(self.opened.fileno()).st_size))
        named, held = self.file.stat(), os.fstat(self.opened.fileno())  # before the reading: what was renamed by now is whole
        got = self.opened.read(READ_BYTES_MAX)
        if got or (named.st_ino == held.st_ino and named.st_size >= self.opened.tell()):
            return got
        self.close()
        self.start = 0
        if named.st_ino == held.st_ino:
            self.rest = b""  # cut off; a line that a rotation has divided goes on in the successor
        return self._read()


def _read(file: Path, count: int, request_id: str) -> list[Line]:
    if not request_id:
        return _lines(file.stem, last_lines(file, count))
    rotated = sorted(file.parent.glob(f"{file.name}.*"), key=lambda path: path.suffix, reverse=True)
    texts = [text for path in [*rotated, file] for text in last_lines(path, SCAN_LINES_MAX, FILTER_BYTES_MAX) if _wanted(text, request_id)]
    return _lines(file.stem, texts)


def _lines(name: str, texts: Sequence[str], seen: str = "") -> list[Line]:
    lines = []
    for text in texts:
        found = _TIME.search(text[:200])
        if found:
            seen = found.group().replace(" ", "T").replace(",", ".")
        lines.append(Line(name, text, seen))
    return lines


def _wanted(text: str, request_id: str) -> bool:
    """Whether a line belongs to the request: its own line, or one of a batch with it."""
    if not request_id:
        return True
    if request_id not in text:
        return False
    try:
        fields = json.loads(text)
    except ValueError:
        return False
    return isinstance(fields, dict) and (fields.get("request_id") == request_id or request_id in (fields.get("request_ids") or ()))


def _end(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
