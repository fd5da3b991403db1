"""CPU seconds and memory of this process and all its descendants, from /proc and rusage."""

import contextlib
import os
import resource
import time
from collections.abc import Iterator


def children_of(pid: int) -> Iterator[int]:
    """The direct children, of all threads."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                yield from map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return  # the process or thread exited in the meantime


def descendants_of(pid: int) -> list[int]:
    found = list(children_of(pid))
    for child in found:  # the list grows during the loop: grandchildren too
        found.extend(children_of(child))
    return found


def clock_of(pid: int) -> float:
    """CPU seconds of a process, with nanosecond resolution and including exited threads.

    The id of a process's CPU clock is computed from its pid (clock_getcpuclockid(3)).
    /proc/PID/stat has the same sum, but in ticks of 10 ms.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0  # reaped in the meantime: RUSAGE_CHILDREN includes it now


def cpu_of_descendants() -> float:
    """CPU seconds of all descendants so far, both living and reaped.

    Living processes count by their CPU clocks, reaped ones are in RUSAGE_CHILDREN: a worker counts
    before it exits, and is not counted twice after it has.
    """
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    return reaped.ru_utime + reaped.ru_stime + sum(map(clock_of, descendants_of(os.getpid())))


class CpuMeter:
    """CPU seconds of this process and its descendants, from construction to stop()."""

    def __init__(self) -> None:
        # Reading the children's clocks costs CPU time of this process: read its own clock last
        # here, and first in stop().
        self._descendants = cpu_of_descendants()
        self._own = time.process_time()

    def stop(self) -> float:
        own = time.process_time() - self._own
        return own + cpu_of_descendants() - self._descendants


def pss_of(pid: int) -> int:
    """Proportional set size in bytes: a page that n processes share counts for one n-th in each."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0  # a helper process that exited in the meantime
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no line Pss")


def pss_of_parent() -> int:
    return pss_of(os.getpid())


def pss_of_workers() -> int:
    return sum(map(pss_of, descendants_of(os.getpid())))


def pss_of_all() -> int:
    return pss_of_parent() + pss_of_workers()


def forget_peaks() -> None:
    """From now on the peaks of this process and its descendants are counted."""
    for pid in [os.getpid(), *descendants_of(os.getpid())]:
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file,
        ):
            file.write("5")


def peak_of(pid: int) -> int:
    """The most memory that the process had, in bytes; memory that it shares counts as well."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0  # it has exited


def peaks() -> int:
    return sum(map(peak_of, [os.getpid(), *descendants_of(os.getpid())]))
