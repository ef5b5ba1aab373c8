"""CPU time of processes: on a machine that others use as well it says more than the time on the wall."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil

Cpu = dict[str, float]
"""Seconds of CPU, by process name."""

Look = dict[tuple[str, int], float]
"""Seconds of CPU since its start, by the name and id of a process: what takes a dead one's place has its name."""


def cpu_s(pids: Mapping[str, int]) -> Look:
    """CPU seconds that each process has used since it started; one that is gone is left out."""
    used = {}
    for name, pid in pids.items():
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            used[name, pid] = times.user + times.system
    return used


def spent(before: Look, after: Look) -> Cpu:
    """CPU seconds between two looks, by process; one that started between them counts from its start."""
    return {process[0]: used - before.get(process, 0.0) for process, used in after.items()}


def per_thousand(cpu: Cpu, requests: int) -> dict[str, float]:
    """CPU seconds for a thousand requests."""
    return {name: round(used * 1000 / requests, 3) for name, used in cpu.items()}


def total(cpu: Mapping[Any, float]) -> float:
    """All processes together."""
    return sum(cpu.values())
