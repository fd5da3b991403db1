"""The default number of workers, and how much memory there is for them."""

from __future__ import annotations

import contextlib
import functools
import math
import os

__all__ = ["default_processes", "usable_memory"]


def _allowed_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


# Without pathlib, whose import would add a tenth to the time of cpool's.
def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _own_cgroup() -> str:
    for line in _read("/proc/self/cgroup").splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            return path
    return "/"


_CGROUPS = "/sys/fs/cgroup"


def _in_groups(name: str) -> list[str]:
    """The contents of the file `name` of this process's cgroup (v2), and of each parent group."""
    texts = []
    with contextlib.suppress(OSError, ValueError):
        folder = _CGROUPS + _own_cgroup().rstrip("/")
        while folder.startswith(_CGROUPS):
            with contextlib.suppress(OSError):
                texts.append(_read(f"{folder}/{name}"))
            folder = os.path.dirname(folder)
    return texts


def _quotas() -> list[float]:
    """The CPU quotas, in CPUs: of this process's cgroup (v2) and each parent group, then of v1."""
    quotas = []
    for text in _in_groups("cpu.max"):
        with contextlib.suppress(ValueError):
            quota, period = text.split()
            if quota != "max":
                quotas.append(int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):
        micros = int(_read(f"{_CGROUPS}/cpu/cpu.cfs_quota_us"))
        if micros > 0:
            quotas.append(micros / int(_read(f"{_CGROUPS}/cpu/cpu.cfs_period_us")))
    return quotas


def default_processes() -> int:
    """Return the number of workers (an int) that `Pool()` starts.

    That is the number of CPUs in this process's affinity mask, limited by the cgroup's CPU quota
    (rounded up), and at least 1. From Python 3.13 on, `PYTHON_CPU_COUNT` and `-X cpu_count` replace
    the number of CPUs.
    """
    process_cpu_count = getattr(os, "process_cpu_count", None)
    count = (process_cpu_count() or 1) if process_cpu_count is not None else _allowed_cpus()
    return max(1, min([count, *(math.ceil(quota) for quota in _quotas())]))


@functools.cache
def usable_memory() -> int:
    """How many bytes of memory this process may use: the machine's memory or its cgroups' limit.

    Read once; later calls return the same value.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    texts = _in_groups("memory.max")
    with contextlib.suppress(OSError):
        texts.append(_read(f"{_CGROUPS}/memory/memory.limit_in_bytes"))
    for text in texts:
        with contextlib.suppress(ValueError):  # "max"
            limits.append(int(text))
    return max(0, min(limits))
