"""Which TCP ports a stack listens on: the configured one, else the one of the last start, else a free one."""

import secrets
import socket
from collections.abc import Iterable

from infra.local.home import LocalError

HOST = "127.0.0.1"

FREE_FIRST, FREE_LAST = 20_000, 32_000
"""Where free ports are looked for: below the range from which systems take the ports of outgoing connections, so that a remembered one stays free."""

ATTEMPTS_MAX = 200
"""Tries to find a free port."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: connections that linger are no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def configured(port: int, variable: str) -> int:
    """The port that the user asked for; raises LocalError where something else listens on it."""
    if not is_free(port):
        raise LocalError(f"Port {port} of {HOST} is taken by another program. Free it, or choose another port with {variable}=PORT.")
    return port


def choose(port: int, variable: str, remembered: object, taken: Iterable[int]) -> int:
    """The configured port if it is not 0, else the remembered one if it is free, else a free one that is not in `taken`."""
    if port:
        return configured(port, variable)
    if isinstance(remembered, int) and remembered not in set(taken) and is_free(remembered):
        return remembered
    return free(taken)


def free(taken: Iterable[int]) -> int:
    """A free port that is not in `taken`."""
    avoid = set(taken)
    for _ in range(ATTEMPTS_MAX):
        port = FREE_FIRST + secrets.randbelow(FREE_LAST - FREE_FIRST)
        if port not in avoid and is_free(port):
            return port
    raise LocalError(f"No free port found between {FREE_FIRST} and {FREE_LAST} in {ATTEMPTS_MAX} tries.")
