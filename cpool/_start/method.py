"""Start methods: the context of a pool that is given none, and what starts a worker.

Linux forks where nobody has chosen a start method, whatever the interpreter's own default. From
3.14 on that is another one, and anything that asks multiprocessing for its default settles it, such
as a Queue or a ThreadPool: after that its state is the same as if somebody had chosen that method.
The difference is whether `set_start_method()` has run.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from multiprocessing import context
from multiprocessing.process import BaseProcess
from types import CodeType

from .._base.stdlib import TYPE_CHECKING
from .popen import ForkPopen, Popen

if TYPE_CHECKING:
    from typing import Any

    from .._core import Worker


def default_context() -> Any:
    """The context of a pool that is given none: fork on Linux, unless another was chosen."""
    if sys.platform == "linux" and not _is_chosen():
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context()


def _is_chosen() -> bool:
    """Has the program chosen a method? A child process goes on with the one that made it."""
    method = multiprocessing.get_start_method(allow_none=True)
    if method is None:
        return False
    return (
        method != multiprocessing.get_all_start_methods()[0]
        or multiprocessing.parent_process() is not None
        or _may_have_run(context.DefaultContext.set_start_method)
    )


def _may_have_run(function: Any) -> bool:
    """False where it is certain that the function has not run in this process.

    CPython from 3.13 on puts another instruction in the place of a function's first one when that
    runs for the first time, under a tracer too. Where it does not, as this function itself shows,
    or not for all threads, nothing is certain.
    """
    code = getattr(function, "__code__", None)
    if code is None or "t" in sys.abiflags:
        return True
    return _is_new(_may_have_run.__code__) or not _is_new(code)


def _is_new(code: CodeType) -> bool:
    """Is the first instruction still as it was compiled?"""
    now: bytes = getattr(code, "_co_code_adaptive", code.co_code)
    return now[0] == code.co_code[0]


def popen_factory(worker: Worker, method: str) -> Callable[[BaseProcess], Popen]:
    """To be set as `_Popen` of the worker's Process object, which calls it to start."""
    kind: type[Popen] = ForkPopen
    if method != "fork":
        from .launchers import POPENS  # lazily: few programs need the launchers

        kind = POPENS[method]

    def start(process: BaseProcess) -> Popen:
        return kind(process, worker)

    return start


_FORK_WARNING = (
    "This process (pid={}) is multi-threaded, use of fork() may lead to deadlocks in the child."
)


def warn_of_threads(stacklevel: int) -> None:
    """As os.fork() does from 3.12 on."""
    if sys.version_info >= (3, 12) and _has_threads():
        text = _FORK_WARNING.format(os.getpid())
        warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


def _has_threads() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return threading.active_count() > 1
