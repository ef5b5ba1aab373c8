"""Whether the Python that runs this can run the system, and whether it was built with optimisation.

As a program (also for Pythons that are too old) it ends with 0 where both is so, with 10 where it can, and with 11 where it cannot.
"""

import importlib.util
import sys
import sysconfig

OLDEST = (3, 11)
UNOPTIMISED = 10
UNABLE = 11


def is_able() -> bool:
    """Whether it is new enough and can make environments."""
    return sys.version_info >= OLDEST and all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))


def is_optimised() -> bool:
    """Whether it was built with a profile. Distributions do so in their own way, and do not note it among the arguments of `configure`."""
    return "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")) or sys.base_prefix == "/usr"


if __name__ == "__main__":
    sys.exit(0 if is_able() and is_optimised() else UNOPTIMISED if is_able() else UNABLE)
