"""The supervisor as a stack runs it: supervisord, but quicker to notice. Run as `python -m infra.local.supervisord CONFIG`.

Its main loop looks after its children between two waits of up to a second each, and starts one anew a wait after it found it dead. Here a wait is short:
what was killed is started anew a moment later.
"""

import sys

from supervisor.options import ServerOptions
from supervisor.poller import Poller
from supervisor.supervisord import go

WAIT_S_MAX = 0.1
"""Longest wait of the loop; ten rounds a second cost less than a hundredth of a core."""


class Prompt(Poller):  # type: ignore[misc] # supervisor has no types
    """Waits for descriptors, but never long."""

    def poll(self, timeout: float) -> tuple[list[int], list[int]]:
        """Descriptors to read and to write, after `timeout` or `WAIT_S_MAX` seconds at most."""
        found: tuple[list[int], list[int]] = super().poll(min(timeout, WAIT_S_MAX))
        return found


def main() -> None:
    """Supervise until told to stop."""
    options = ServerOptions()
    options.realize(["-c", sys.argv[1]])
    options.first, options.test = True, False
    options.poller = Prompt(options)
    go(options)
    options.close_httpservers()
    options.close_logger()


if __name__ == "__main__":
    main()
