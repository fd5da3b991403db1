"""The worker process around the task loop in C: everything that runs once a process."""

from __future__ import annotations

# Not `signal`: the lookups in its enums cost more than everything else here.
import _signal  # type: ignore[import-not-found]
import atexit
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import util
from multiprocessing.process import BaseProcess, parent_process

from .._base import failures
from .._base.stdlib import TYPE_CHECKING

try:
    import faulthandler  # before any fork: an import in each child takes as long as main()
except ImportError:  # a subinterpreter, or a build without the module
    faulthandler = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .._core import Worker

# Without the GIL gc.freeze() writes to every object, and the worker would copy all shared pages.
_FREEZES = "t" not in sys.abiflags

# From 3.13 on popen_fork runs atexit handlers in children.
_RUNS_ATEXIT = sys.version_info >= (3, 13)


def run_forked(process: BaseProcess, worker: Worker) -> NoReturn:
    """The child's part of a start by fork; signals are blocked when the child begins."""
    code = 1
    try:
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.set_wakeup_fd(-1)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, (_signal.SIGINT,))
        if _RUNS_ATEXIT:
            atexit._clear()
            atexit.register(util._exit_function)  # type: ignore[attr-defined]
        code = process._bootstrap(  # type: ignore[attr-defined]
            parent_sentinel=worker.parent_sentinel
        )
    finally:
        if _RUNS_ATEXIT:
            atexit._run_exitfuncs()
        os._exit(code)


def attach(ends: list[Any], budget: int, unblocks_sigpipe: bool) -> Worker:
    """The Worker of a launched process, made while the Process object is unpickled."""
    from .. import _core

    if unblocks_sigpipe:
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGPIPE,))
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    rx, tx, life, row, common = (end.detach() for end in ends)
    return _core._attach(rx, tx, life, row, common, budget)


def _initialize(
    worker: Worker, initializer: Callable[..., object], initargs: Iterable[Any]
) -> None:
    try:
        initializer(*initargs)
    except BaseException as exc:
        worker.report_init_error(failures.pack_error(exc, None))
        if not isinstance(exc, KeyboardInterrupt) and worker.is_first_failure():
            sys.stderr.write("cpool: the initializer raised in a worker:\n")
            traceback.print_exc()
        raise SystemExit(1) from None


def _forget_interrupt() -> None:
    """Drop a SIGINT that arrived while the process started with SIGINT blocked."""
    handler = _signal.getsignal(_signal.SIGINT)
    if handler is not None:  # None: not installed by Python, left alone
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGINT, handler)


def _skip_shutdown() -> None:
    pass


def main(
    worker: Worker, initializer: Callable[..., object] | None, initargs: Iterable[Any]
) -> None:
    """The target of a worker process: run the initializer, then tasks until the pool ends."""
    parent = parent_process()
    if parent is not None:  # the launcher's own pipe is closed
        parent._sentinel = worker.parent_sentinel  # type: ignore[attr-defined]
    try:
        if faulthandler is not None and not faulthandler.is_enabled():
            faulthandler.enable()
    except Exception:  # no stderr to write to
        pass
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()  # as the stdlib does for `random`
    # Keeps pages shared with the parent: no collection writes to objects from before the fork.
    if _FREEZES:
        gc.freeze()

    def work() -> int:
        if initializer is not None:
            _initialize(worker, initializer, initargs)
        return worker.serve()

    _forget_interrupt()
    try:
        tasks = worker.interruptible(work)
    except Exception:
        # The worker exits early, and the parent reads the cost from the exit: threads that a task
        # left behind must not delay the exit.
        threading._shutdown = _skip_shutdown  # type: ignore[attr-defined]
        raise
    util.debug("worker exiting after %d tasks", tasks)
