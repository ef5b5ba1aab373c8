"""A progress bar on standard error: live on a terminal, else a plain line now and then."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_PAUSE_S: Final = 10.0
RATE_WINDOW_S: Final = 10.0


class Rate(ProgressColumn):
    """Steps a second, over the last moments."""

    def render(self, task: Task) -> Text:
        """As in `312/s`."""
        return Text(f"{task.finished_speed or task.speed or 0:.0f}/s", style="progress.data.speed")


class Bar:
    """One bar, as a context manager."""

    def __init__(self, what: str, total: int, *, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._what, self._total, self._done, self._note = what, total, 0, ""
        self._started = self._told_at = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        self._progress = Progress(*columns, console=self._console, speed_estimate_period=RATE_WINDOW_S, disable=not self._console.is_terminal)
        self._task = self._progress.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        if not self._console.is_terminal:
            self._tell()

    def step(self, note: str = "", *, by: int = 1) -> None:
        """So many more are done. The note stands behind the bar."""
        self._done += by
        self._note = note or self._note
        self._progress.update(self._task, advance=by, note=self._note)
        if not self._console.is_terminal and time.monotonic() - self._told_at >= PLAIN_PAUSE_S:
            self._tell()

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        rate = self._done / max(self._told_at - self._started, 1e-3)
        left = f", {(self._total - self._done) / rate:.0f} s left" if rate and self._done < self._total else ""
        self._console.print(f"{self._what} {self._done}/{self._total}, {rate:.0f}/s{left}{', ' if self._note else ''}{self._note}", markup=False)
