"""Log lines on their way out: together, in order, and none that tells of trouble late."""

import asyncio
import io
import threading

from infra.gathered import WAITING_MAX
from infra.log_lines import Event, Lines
from tests.waiting import eventually


class Out(io.BytesIO):
    """Counts writes."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.writes += 1
        return super().write(data)


def make(event: Event) -> bytes:
    """A line of an event, as it is when the line is made."""
    return str(event["event"]).encode()


async def test_lines_of_one_moment_are_written_together() -> None:
    """In their order, a line each, by one write, and without anybody asking for it."""
    out = Out()
    lines = Lines(out, make)
    for number in range(5):
        lines.info({"event": number})
    assert out.writes == 0
    await eventually(lambda: out.getvalue() == b"0\n1\n2\n3\n4\n", within_s=5)
    assert out.writes == 1


async def test_trouble_is_told_at_once_and_in_its_place() -> None:
    """A warning or an error is written when it is said, with what was said before it."""
    out = Out()
    lines = Lines(out, make)
    lines.info({"event": "before"})
    lines.warning({"event": "trouble"})
    assert out.getvalue() == b"before\ntrouble\n"
    lines.info({"event": "after"})
    lines.exception({"event": "more"})
    assert out.getvalue() == b"before\ntrouble\nafter\nmore\n"


async def test_waiting_lines_are_bounded() -> None:
    """Many of them are written before their time."""
    out = Out()
    lines = Lines(out, make)
    for _ in range(WAITING_MAX):
        lines.info({"event": "x"})
    assert out.getvalue() == b"x\n" * WAITING_MAX


async def test_a_line_says_what_was_so_when_it_was_said() -> None:
    """What may change is told before it does; the line has its place all the same."""
    out, waiting = io.BytesIO(), [1]
    lines = Lines(out, make)
    lines.info({"event": "before"})
    lines.info({"event": waiting})
    waiting.append(2)
    lines.flush()
    assert out.getvalue() == b"before\n[1]\n"


def test_without_an_event_loop_nothing_waits() -> None:
    """A thread's line, or one of a process that is beginning or ending, is written when it is said."""
    out = Out()
    lines = Lines(out, make)
    lines.info({"event": "main"})
    thread = threading.Thread(target=lines.info, args=({"event": "thread"},))
    thread.start()
    thread.join()
    assert out.getvalue() == b"main\nthread\n"


async def test_the_last_lines_are_not_lost() -> None:
    """`flush` writes what waits; again there is nothing more to write."""
    out = Out()
    lines = Lines(out, make)
    lines.info({"event": "last"})
    lines.flush()
    lines.flush()
    assert out.getvalue() == b"last\n"
    await asyncio.sleep(0)
    assert out.writes == 1
