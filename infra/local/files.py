"""Files that are there whole or not at all, and locks that end with their holder."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TAIL_BYTES_MAX = 64 * 1024
"""How far back `last_lines` looks unless told."""


def write_private(path: Path, content: bytes) -> None:
    """Put `content` at `path` with mode 0600, replacing what was there. A crash leaves the old file or the new one."""
    new = _write_beside(path, content)
    new.replace(path)


def create_private(path: Path, content: bytes) -> bool:
    """Put `content` at `path` with mode 0600 unless a file is there already; tells whether it did. Of two callers at once one wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return False
    new = _write_beside(path, content)
    try:
        os.link(new, path)
    except FileExistsError:
        return False
    finally:
        new.unlink()
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; empty where there is no readable one."""
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Put the object at `path`, whole or not at all."""
    write_private(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def last_lines(path: Path, count: int, bytes_max: int = TAIL_BYTES_MAX) -> list[str]:
    """At most `count` last lines of a text file, looking back `bytes_max` bytes; none where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - bytes_max)
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    whole = lines[1:] if start else lines
    return whole[-count:] if count else []


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock on `path`; yields False where `wait` is off and another process holds it. The system frees it when the holder dies."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _write_beside(path: Path, content: bytes) -> Path:
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return new
