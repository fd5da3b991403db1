"""What a process has at a moment: processes, threads, descriptors. Tests compare two moments.
And objects: they go, or they are kept."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import time
from collections.abc import Callable
from typing import Any

from gates import eventually


def open_files() -> set[str]:
    """Descriptors with what they lead to, but for those that multiprocessing keeps for good."""
    kept = {
        multiprocessing.resource_tracker._resource_tracker._fd,  # type: ignore[attr-defined]
        multiprocessing.forkserver._forkserver._forkserver_alive_fd,  # type: ignore[attr-defined]
    }
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the one that listed them
        if int(fd) not in kept:
            found.add(f"{fd} -> {target}")
    return found


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def children() -> set[Any]:
    return set(multiprocessing.active_children())


def settled(look: Callable[[], set[Any]], before: set[Any], seconds: float = 2.0) -> set[Any]:
    """What is there beyond what was before, once it has had its time to go."""
    end = time.monotonic() + seconds
    while (extra := look() - before) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)
    return extra


def all_freed(refs: list[Any]) -> None:
    """Wait until no weak reference leads to anything any more."""

    def freed() -> bool:
        gc.collect()
        return all(ref() is None for ref in refs)

    eventually(freed, "an object is kept")
