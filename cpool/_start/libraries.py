"""The threads of BLAS, OpenMP and the like, by threadpoolctl where it is installed."""

from __future__ import annotations

import contextlib
import os

from .._base.stdlib import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


def find_libraries() -> Any:
    """threadpoolctl's controller of the libraries that are loaded now; None without threadpoolctl.

    Reads the list of loaded files: this takes milliseconds in a large process.
    """
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    return ThreadpoolController()


def limit_threads(libraries: Any, threads: int) -> None:
    """Limit the threads of the libraries that `find_libraries()` has found, in a worker."""
    if libraries is None:
        return
    was_alone = threads == 1 and _is_only_thread()
    for library in libraries.lib_controllers:
        library.set_num_threads(threads)
        if was_alone:
            _end_threads(library)


def _is_only_thread() -> bool:
    """Has this process no other thread, but that which watches for the end of the parent where the
    kernel does not? False if that is unknown."""
    try:
        others = len(os.listdir("/proc/self/task")) - 1
        return others == 0 or (others == 1 and _has_watcher())
    except OSError:
        return False


def _has_watcher() -> bool:
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/comm", encoding="utf-8") as file:
            if file.read() == "cpool-life\n":
                return True
    return False


def _end_threads(library: Any) -> None:
    """End the threads that OpenBLAS has just started in order to be told that it may use one.

    It ends its threads before a fork, and starts them again in the child when it is used or
    limited. They would wait for work in a busy loop, for a tenth of a second of CPU time in each
    worker. With one thread they are never used. Calls what OpenBLAS itself calls before a fork.
    """
    if library.internal_api != "openblas" or library.threading_layer != "pthreads":
        return
    with contextlib.suppress(AttributeError):  # a build that does not export it
        library.dynlib.blas_thread_shutdown_()
