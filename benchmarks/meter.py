"""CPU seconds and memory of this process and all its descendants, by Linux's own books."""

import os
import resource
import time
from collections.abc import Iterator


def children_of(pid: int) -> Iterator[int]:
    """Direct children, by whichever thread they were started."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                yield from map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return  # the process or its thread ended while it was being looked at


def descendants_of(pid: int) -> list[int]:
    found = list(children_of(pid))
    for child in found:  # the list grows while it is walked: grandchildren too
        found.extend(children_of(child))
    return found


def clock_of(pid: int) -> float:
    """CPU seconds of all threads of a process, in nanoseconds' detail, ended threads included.

    The kernel makes the number of a process's CPU clock from its pid (clock_getcpuclockid(3)).
    /proc/PID/stat has the same sum, but in ticks of 10 ms.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0  # it has been reaped meanwhile: RUSAGE_CHILDREN has it now


def cpu_of_descendants() -> float:
    """CPU seconds of all children so far, the living and the reaped.

    Those that live count by their clocks and the reaped ones are in RUSAGE_CHILDREN, so a worker
    need not end to be counted, and is not counted twice when it does.
    """
    reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
    return reaped.ru_utime + reaped.ru_stime + sum(map(clock_of, descendants_of(os.getpid())))


class CpuMeter:
    """CPU seconds between its making and stop(), of this process and its descendants."""

    def __init__(self) -> None:
        # Looking at the children costs this process time: its own clock is read last here, and
        # first in stop().
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
        return 0  # a helper process that ended while it was being looked at
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no line Pss")


def pss_of_parent() -> int:
    return pss_of(os.getpid())


def pss_of_workers() -> int:
    return sum(map(pss_of, descendants_of(os.getpid())))
