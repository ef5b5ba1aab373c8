"""CPU time of processes: on a machine that others use as well it says more than the time on the wall."""

from collections.abc import Mapping
from contextlib import suppress

import psutil

Cpu = dict[str, float]
"""Seconds of CPU, by process name."""


def cpu_s(pids: Mapping[str, int]) -> Cpu:
    """CPU seconds that each process has used since it started; one that is gone is left out."""
    used = {}
    for name, pid in pids.items():
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            used[name] = times.user + times.system
    return used


def spent(before: Cpu, after: Cpu) -> Cpu:
    """CPU seconds between two looks, by process; one that started between them counts from its start."""
    return {name: used - before.get(name, 0.0) for name, used in after.items()}


def per_thousand(cpu: Cpu, requests: int) -> dict[str, float]:
    """CPU seconds for a thousand requests."""
    return {name: round(used * 1000 / requests, 3) for name, used in cpu.items()}


def total(cpu: Cpu) -> float:
    """All processes together."""
    return sum(cpu.values())
