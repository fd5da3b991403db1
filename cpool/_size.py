"""How many workers a pool gets where nobody says."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

__all__ = ["default_processes"]


def _allowed_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def _own_cgroup() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return path
    return "/"


def _quotas() -> list[float]:
    """The CPU quotas of cgroup v2 from this process's group up, then that of v1, in CPUs."""
    quotas = []
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        group = root / _own_cgroup().lstrip("/")
        for folder in [group, *group.parents]:
            if root != folder and root not in folder.parents:
                break
            with contextlib.suppress(OSError):
                quota, period = (folder / "cpu.max").read_text().split()
                if quota != "max":
                    quotas.append(int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):
        v1 = root / "cpu"
        micros = int((v1 / "cpu.cfs_quota_us").read_text())
        if micros > 0:
            quotas.append(micros / int((v1 / "cpu.cfs_period_us").read_text()))
    return quotas


def default_processes() -> int:
    """The number of workers of `Pool()`.

    Returns the CPUs of this process's affinity mask, but no more than the cgroup's CPU quota,
    rounded up, and never less than 1. `PYTHON_CPU_COUNT` and `-X cpu_count` are obeyed where the
    interpreter knows them (3.13).
    """
    process_cpu_count = getattr(os, "process_cpu_count", None)
    count = (process_cpu_count() or 1) if process_cpu_count is not None else _allowed_cpus()
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas())]))
