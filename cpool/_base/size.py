"""The default number of workers."""

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


# Not with pathlib, whose import would take a tenth of cpool's own.
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
    """The CPU quotas, in CPUs: of this process's cgroup (v2) and each parent group, then of v1."""
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

    That is the number of CPUs in this process's affinity mask, limited by the cgroup's CPU quota
    (rounded up), and at least 1. `PYTHON_CPU_COUNT` and `-X cpu_count` count where the interpreter
    has them (3.13).
    """
    process_cpu_count = getattr(os, "process_cpu_count", None)
    count = (process_cpu_count() or 1) if process_cpu_count is not None else _allowed_cpus()
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas())]))
