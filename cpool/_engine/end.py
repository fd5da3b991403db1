"""Ending a pool: after terminate() or join(), at its collection, or at the program's exit."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import weakref
from collections.abc import Callable, Iterable
from multiprocessing import process as _process
from multiprocessing import util
from multiprocessing.process import BaseProcess

from .. import _core
from .thread import Thread

# terminate() waits so many seconds for idle workers to run their finalizers, then so many for busy
# workers to act on SIGTERM.
_GRACE_S = 0.5
LAST_GRACE_S = 0.2


def force(engine: _core.Engine, workers: list[BaseProcess]) -> None:
    """Wait until all workers of an ended pool have exited; kill those that take too long."""
    if not engine.wait_ended(_GRACE_S):
        engine.kill_trees()
        engine.signal(signal.SIGTERM)
        if not engine.wait_ended(LAST_GRACE_S):
            _kill(engine, workers)


def shut_down(
    engine: _core.Engine,
    workers: list[BaseProcess],
    threads: list[Thread],
    at_end: Iterable[Callable[[], object]] = (),
) -> None:
    """End the pool and all of its processes. Called once."""
    if util.is_exiting():
        _core._exiting()
    engine.end()
    try:
        force(engine, workers)
        clean_up(engine, workers, threads, at_end)
    except BaseException:  # Ctrl-C: end at once
        _kill(engine, workers)
        clean_up(engine, workers, threads, at_end)
        raise


def _kill(engine: _core.Engine, workers: list[BaseProcess]) -> None:
    engine.kill_trees()
    engine.signal(signal.SIGKILL)
    if not any(map(_is_out_of_reach, list(workers))):
        engine.wait_ended(None)
        return
    # Closing their pipes makes the kernel send SIGKILL to the workers, which needs no permission.
    engine.hang_up()
    if not engine.wait_ended(_GRACE_S):
        # Otherwise multiprocessing would wait for the workers when the program exits.
        _process._children.difference_update(workers)  # type: ignore[attr-defined]
        raise PermissionError(errno.EPERM, "this process may not kill the pool's workers")


def _is_out_of_reach(worker: BaseProcess) -> bool:
    """Does this process lack the permission to signal the worker? After a setuid() it may."""
    pid = worker.pid
    try:
        if pid is not None and worker._popen.returncode is None:  # type: ignore[attr-defined]
            os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def shut_down_threads(engine: _core.Engine, threads: list[Thread]) -> None:
    """End a pool of threads; they exit after their current tasks."""
    if util.is_exiting():
        _core._exiting()
    engine.end()
    _abandon(threads)


def _abandon(threads: list[Thread]) -> None:
    """Handle threads of an ended pool that still block, perhaps while reading from a file.

    When the program exits, the interpreter would close the file, and abort because the thread holds
    the lock of the file's buffer.
    """
    global _at_exit
    left = [thread for thread in list(threads) if thread.is_alive()]
    if left and (_at_exit is None or not _at_exit.still_active()):
        _at_exit = util.Finalize(None, _keep_files_of_threads_left, exitpriority=-1)
    _left.update(left)
    if util.is_exiting():
        _keep_files_of_threads_left()


_left: weakref.WeakSet[Thread] = weakref.WeakSet()
_at_exit: util.Finalize | None = None  # one in a process: a forked one drops those of its parent


def _keep_files_of_threads_left() -> None:
    """At the program's exit: keep input files open, as such a thread may be reading one."""
    left = [thread for thread in _left if thread.is_alive()]
    files = [obj for obj in gc.get_objects() if _is_input(obj)] if left else []
    for thread in left:
        thread.kept = files


def _is_input(obj: object) -> bool:
    if not issubclass(type(obj), io.IOBase):  # isinstance() would call the object's code
        return False
    try:
        return obj.readable() and not obj.writable()  # type: ignore[attr-defined]
    except Exception:  # a closed file, or one without a descriptor
        return False


def clean_up(
    engine: _core.Engine,
    workers: list[BaseProcess],
    threads: list[Thread],
    at_end: Iterable[Callable[[], object]] = (),
) -> None:
    """Join the processes and threads of a pool whose workers have ended.

    `at_end`: functions to call first, such as to read what the workers have sent.
    """
    engine.stop_standby()
    for call in at_end:
        call()
    for thread in list(threads):
        if not thread.is_current():
            # A thread may block forever in the program's iterable or callback: give up waiting for
            # it.
            thread.join(LAST_GRACE_S)
    _abandon(threads)
    engine.close_fds()
    for process in list(workers):
        if process._popen is not None:  # type: ignore[attr-defined]
            process.join()
            process._popen.close()  # type: ignore[attr-defined]
