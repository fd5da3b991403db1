"""How many workers a pool gets where nobody says."""

from __future__ import annotations

import contextlib
import math
import os

__all__ = ["default_processes"]


def _allowed_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


# Without pathlib, which is a tenth of the time that importing cpool takes.
def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _own_cgroup() -> str:
    for line in _read("/proc/self/cgroup").splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return path
    return "/"


def _quotas() -> list[float]:
    """The CPU quotas of cgroup v2 from this process's group up, then that of v1, in CPUs."""
    quotas = []
    root = "/sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        folder = root + _own_cgroup().rstrip("/")
        while folder.startswith(root):
            with contextlib.suppress(OSError):
                quota, period = _read(f"{folder}/cpu.max").split()
                if quota != "max":
                    quotas.append(int(quota) / int(period))
            folder = os.path.dirname(folder)
    with contextlib.suppress(OSError, ValueError):
        micros = int(_read(f"{root}/cpu/cpu.cfs_quota_us"))
        if micros > 0:
            quotas.append(micros / int(_read(f"{root}/cpu/cpu.cfs_period_us")))
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
