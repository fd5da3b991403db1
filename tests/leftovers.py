"""Snapshots of a process's children, threads and descriptors, for tests to compare. And checks that
objects are freed."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from engine import DEADLINE
from gates import eventually


def open_files() -> set[str]:
    """Descriptors and their targets, except descriptors that multiprocessing keeps for good."""
    kept = {
        multiprocessing.resource_tracker._resource_tracker._fd,  # type: ignore[attr-defined]
        multiprocessing.forkserver._forkserver._forkserver_alive_fd,  # type: ignore[attr-defined]
    }
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if int(fd) not in kept:
            found.add(f"{fd} -> {target}")
    return found


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def native_threads() -> dict[int | None, str]:
    """The threads that Python knows, by the number that threads() has for them."""
    return {thread.native_id: thread.name for thread in threading.enumerate()}


def children() -> set[Any]:
    return set(multiprocessing.active_children())


def collect() -> None:
    """Collect garbage, and clear the interpreter's cache of types, which keeps names alive."""
    gc.collect()
    if sys.version_info >= (3, 13):
        sys._clear_internal_caches()
    else:
        sys._clear_type_cache()


def resources() -> dict[str, int]:
    """Numbers that grow if something leaks repeatedly."""
    collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        pages = int(statm.read().split()[1])
    return {
        "processes": len(multiprocessing.active_children()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "blocks": sys.getallocatedblocks(),
        "kilobytes": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
    }


def alone() -> dict[str, int]:
    """`resources()`, once no other thread is left: a joined thread may still be exiting."""
    eventually(lambda: len(threads()) == 1, "a thread is left")
    return resources()


def growth(
    work: Callable[[int], object],
    times: int,
    first: int = 30,
    look: Callable[[], dict[str, int]] = resources,
) -> dict[str, int]:
    """The growth of the resources over that many calls of work(number), after some first calls."""
    for number in range(first):
        work(number)
    before = look()
    for number in range(times):
        work(number)
    after = look()
    return {name: after[name] - before[name] for name in before}


def settled(look: Callable[[], set[Any]], before: set[Any], seconds: float = DEADLINE) -> set[Any]:
    """What is new compared with before, after a wait for it to disappear."""
    end = time.monotonic() + seconds
    while (extra := look() - before) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)
    return extra


def all_freed(refs: list[Any]) -> None:
    """Wait until all the weak references are dead."""

    def freed() -> bool:
        gc.collect()
        return all(ref() is None for ref in refs)

    eventually(freed, "an object is kept")
