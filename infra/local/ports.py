"""Which TCP ports a stack listens on: the configured one, else the one of the last start, else a free one.

Seconds go by until a server binds the port that was chosen for it. Until then, or until the process that chose ends, no other one of this user chooses it.
"""

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache as once
from pathlib import Path

from infra.local import cache
from infra.local.home import LocalError

HOST = "127.0.0.1"

FREE_FIRST, FREE_LAST = 20_000, 32_000
"""Where free ports are looked for: below the range from which systems take the ports of outgoing connections, so that a remembered one stays free."""

ATTEMPTS_MAX = 200
"""Tries to find a free port."""

_chosen: set[int] = set()
"""By this process: a lock says nothing to its own holder."""

_block: ContextVar[set[int] | None] = ContextVar("block", default=None)
"""What was chosen inside of `kept`, by this thread."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: connections that linger are no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@contextmanager
def kept() -> Iterator[None]:
    """What is chosen inside is kept from others until the block ends, instead of for ever: by then its servers have it."""
    inside: set[int] = set()
    token = _block.set(inside)
    try:
        yield
    finally:
        _block.reset(token)
        file = _reservations()
        for port in inside:
            _chosen.discard(port)
            if file is not None:
                with suppress(OSError):
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, port)


def configured(port: int, variable: str) -> int:
    """The port that the user asked for; raises LocalError where something else listens on it."""
    if not (is_free(port) and _reserved(port)):
        raise LocalError(f"Port {port} of {HOST} is taken by another program. Free it, or choose another port with {variable}=PORT.")
    return port


def choose(port: int, variable: str, remembered: object, taken: Iterable[int]) -> int:
    """The configured port if it is not 0, else the remembered one if it can be had, else a free one that is not in `taken`."""
    if port:
        return configured(port, variable)
    if isinstance(remembered, int) and remembered not in set(taken) and is_free(remembered) and _reserved(remembered):
        return remembered
    return free(taken)


def free(taken: Iterable[int] = ()) -> int:
    """A free port that is not in `taken`, and that this process has not chosen before."""
    avoid = _chosen.union(taken)
    for _ in range(ATTEMPTS_MAX):
        port = FREE_FIRST + secrets.randbelow(FREE_LAST - FREE_FIRST)
        if port not in avoid and is_free(port) and _reserved(port):
            return port
    raise LocalError(f"No free port found between {FREE_FIRST} and {FREE_LAST} in {ATTEMPTS_MAX} tries.")


def _reserved(port: int) -> bool:
    """Whether this process has it now, among all that choose here. The system frees it when the process ends."""
    file = _reservations()
    try:
        if file is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EAGAIN}:  # POSIX lets the system choose which of the two
            return False
    inside = _block.get()
    if inside is not None and port not in _chosen:
        inside.add(port)
    _chosen.add(port)
    return True


def _reservations() -> int | None:
    return _opened(cache.root() / "ports.lock")


@once
def _opened(file: Path) -> int | None:
    """Open for as long as the process lives: closing any descriptor of the file would free all of them. A port is the byte at its number.

    None where the folder cannot be written to: then ports are chosen without.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
