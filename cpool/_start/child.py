"""A worker's life, around the loop in C: what runs once a process."""

from __future__ import annotations

# Without the enums of `signal`, whose lookups cost more than all else here.
import _signal  # type: ignore[import-not-found]
import atexit
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing import util
from multiprocessing.process import BaseProcess

from .._base import failures
from .._base.stdlib import TYPE_CHECKING

try:
    import faulthandler  # here, before any fork: in a child it takes as long as all of main()
except ImportError:  # an interpreter that lets no such module in
    faulthandler = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from .._core import Worker

# Without the GIL gc.freeze() writes to each object, and a worker would copy all of the parent's.
_FREEZES = "t" not in sys.abiflags

# User handlers of atexit run in children from 3.13 on, by popen_fork's own hand.
_RUNS_ATEXIT = sys.version_info >= (3, 13)


def run_forked(process: BaseProcess, worker: Worker) -> NoReturn:
    """The child's part of starting a process by fork. Signals are blocked when it begins."""
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


def attach(ends: list[Any], budget: int) -> Worker:
    """In a process that was not forked, as its Process object is unpickled: its worker."""
    from .. import _core

    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGINT,))
    rx, tx, life, row, common, proc = (-1 if end is None else end.detach() for end in ends)
    return _core._attach(rx, tx, life, row, common, proc, budget)


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
    """One that came while the process started, and SIGINT was blocked, concerns nobody."""
    handler = _signal.getsignal(_signal.SIGINT)
    if handler is not None:  # None: not Python's own, leave it
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGINT, handler)


def _wait_for_no_thread() -> None:
    pass


def main(
    worker: Worker, initializer: Callable[..., object] | None, initargs: Iterable[Any]
) -> None:
    """The target of a worker process: initialise, then run tasks until told to end."""
    try:
        if faulthandler is not None and not faulthandler.is_enabled():
            faulthandler.enable()
    except Exception:  # no stderr to write to
        pass
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()  # as the stdlib does for `random`
    # What fork shared stays shared: no collection here touches what was there before.
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
        # It breaks off, and the parent learns from its end alone what that costs: no thread that a
        # task has left behind may hold it up.
        threading._shutdown = _wait_for_no_thread  # type: ignore[attr-defined]
        raise
    util.debug("worker exiting after %d tasks", tasks)
