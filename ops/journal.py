"""What a load has finished: a file beside the load file, one JSON line for each finished key, only ever appended to.

It saves a re-run the questions; it is not what keeps a request from happening twice (that is its key, in the ledger).
"""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

VERSION: Final = 1


class JournalInvalid(RuntimeError):
    """The journal belongs to something else, is damaged, or is in use. The text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The outcome of one key: `state` settled or refused, with the refusal's code. `digest` is that of the line.

    `command_id` is empty where the API gave none, as for a request that it refused at its door.
    """

    state: str
    code: str
    digest: str
    command_id: str = ""


class Journal:
    """Open for one load at a time, as a context manager. `url` is the system that is loaded: another one's journal is refused."""

    def __init__(self, path: Path, url: str, *, anew: bool = False) -> None:
        self.path = path
        self.finished: dict[str, Finished] = {}
        self._url = url
        self._anew = anew
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("a+b")
        try:
            self._open(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file:
            self._file.close()

    def add(self, key: str, finished: Finished, **more: Any) -> None:
        """Remember. When this returns the operating system has it: a kill of this process loses nothing."""
        self.finished[key] = finished
        self._write({"key": key, "state": finished.state, "code": finished.code, "digest": finished.digest, **more, "command_id": finished.command_id})

    def _open(self, file: IO[bytes]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalInvalid(f"{self.path} is in use: another load of this file is running") from None
        if self._anew:
            file.truncate(0)
        file.seek(0)
        lines, whole = [], 0
        for line in file:
            if line.endswith(b"\n"):
                whole += len(line)
                lines.append(line)
        file.truncate(whole)  # a last line without its end was torn by a crash, and its request is asked for again
        file.seek(0, os.SEEK_END)
        self._read(lines)
        if not lines:
            self._write({"journal": VERSION, "url": self._url})

    def _read(self, lines: list[bytes]) -> None:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                if number == 1:
                    self._check(row)
                else:
                    self.finished[row["key"]] = Finished(row["state"], row["code"], row["digest"], row["command_id"])
            except (ValueError, KeyError, TypeError):
                raise JournalInvalid(f"{self.path}, line {number}: is not a line of a load's journal. Move it away, or use --restart") from None

    def _check(self, row: Mapping[str, Any]) -> None:
        if row["journal"] != VERSION:
            raise JournalInvalid(f"{self.path} is of another release. Move it away, or use --restart")
        if row["url"] != self._url:
            raise JournalInvalid(f"{self.path} tells of a load into {row['url']}, not into {self._url}. Move it away, or use --restart")

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is None:
            raise RuntimeError("the journal is not open")
        self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
