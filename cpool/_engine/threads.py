"""`cpool.pool.ThreadPool`: a pool whose workers are threads of this process."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import TimeoutError, util

from .. import _core
from .._base import failures
from .._base.current import CurrentWorker, set_thread
from .._base.size import default_processes
from .._base.stdlib import TYPE_CHECKING, replaces_parts
from .._base.stdlib import ThreadPool as _StdlibThreadPool
from . import end, known
from . import serial as _serial
from .options import CallOptions, Checked, check_thread_options
from .processes import _NEEDS_ENGINE, CLOSE, RUN, Pool
from .queue import TaskQueue
from .results import Cache
from .thread import check_can_start, start
from .workers import WorkerOptions

if TYPE_CHECKING:
    from contextvars import ContextVar
    from typing import Any

    from .workers import CpuIds
else:
    Any = CpuIds = object
    ContextVar = {Any: object}

_FAILED = "cpool: the initializer raised in a worker thread:\n"


def leave(ticket: list[Callable[[], None]]) -> None:
    """Deregister a worker thread, once: called by the thread itself and by a failed start."""
    try:
        leave = ticket.pop()
    except IndexError:
        return
    leave()  # needs no memory: otherwise join() might wait forever when memory is out


def worker(
    engine: _core.Engine,
    ticket: list[Callable[[], None]],
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
    to_tell: list[bool],
    index: int,
    finalizer: Callable[..., object] | None,
    finalargs: Iterable[Any],
    cpus: tuple[int, ...] | None,
    pool_of: Callable[[], ThreadPool | None],
) -> None:
    """The target of a worker thread: run the initializer, then tasks until the pool ends."""
    if cpus is not None:
        with contextlib.suppress(OSError):  # the CPU is gone meanwhile: any will do
            os.sched_setaffinity(0, cpus)  # applies to this thread only
    set_thread(CurrentWorker(index, engine.tasks_done))
    retired = False
    try:
        if initializer is not None:
            initializer(*initargs)
    except BaseException as exc:
        engine.break_pool(exc)
        with contextlib.suppress(IndexError):
            to_tell.pop()  # only the first failure is printed
            if sys.stderr is not None:
                sys.stderr.write(_FAILED + failures.traceback_of(exc))
    else:
        tasks, retired = engine.work(index)
        util.debug("worker exiting after %d tasks", tasks)
        if finalizer is not None:
            _finalize(finalizer, finalargs)
    finally:
        leave(ticket)
    if retired:
        this: Any = threading.current_thread()
        this.index = -1  # another thread may get the index
        pool = pool_of()
        if pool is not None:
            pool._fill_up()
        del pool  # the traceback of a task's exception may keep this frame alive


def _finalize(finalizer: Callable[..., object], finalargs: Iterable[Any]) -> None:
    try:
        finalizer(*finalargs)
    except BaseException as exc:
        if sys.stderr is not None:
            text = failures.traceback_of(exc)
            sys.stderr.write(f"cpool: the finalizer raised in a worker thread:\n{text}")


class ThreadPool(Pool, _StdlibThreadPool):
    """A pool of worker threads, with the interface of `Pool`; nothing is pickled.

    `processes` is the number of threads, by default `default_processes()`. Each thread calls
    `initializer(*initargs)` when it starts. Arguments, results and exceptions are passed by
    reference: `get()` returns or raises the very object that the task returned or raised. Raises
    `ValueError` for less than one thread, `TypeError` for an initializer that cannot be called,
    and `RuntimeError` if a thread cannot be started; no thread is left behind then.

    Without a `chunksize`, `map` and its variants cut a worker's share of the items into 64 chunks
    or more (4 in the standard library), so that slow items next to each other are spread over the
    threads. Unlike in `Pool.map`, chunk sizes do not adapt to the measured time of items.

    A task may raise any exception, even `SystemExit`: `get()` raises it, and the thread continues.
    If the initializer raises, every call fails with `InitializerError`. `terminate()` returns at
    once, and pending calls fail with `PoolTerminated`; running tasks continue, and `join()` waits
    for them. The program's exit does not wait for them.

    `finalizer`, `finalargs`, `on_exit`, `cpu_ids`, `serial` and `max_pending` work as in `Pool`.
    `daemon=False`, `memory_limit`, `min_processes`, `idle_timeout` and `inner_max_num_threads` need
    processes and raise `ValueError`. With `propagate_context` a task runs in a copy of the context
    in which it was submitted.
    """

    __module__ = "cpool.pool"

    _has_threads = True

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        finalizer: Callable[..., object] | None = None,
        finalargs: Iterable[Any] = (),
        on_exit: str = "terminate",
        daemon: bool = True,
        memory_limit: int | str | None = None,
        min_processes: int | None = None,
        idle_timeout: float | None = None,
        cpu_ids: CpuIds = None,
        inner_max_num_threads: int | None = None,
        serial: bool | None = None,
        max_pending: int | None = None,
        propagate_context: bool | ContextVar[Any] | Iterable[ContextVar[Any]] = False,
    ) -> None:
        if _serial.is_wanted(serial) or self._fits(None):
            Pool.__init__(
                self,
                processes,
                initializer,
                initargs,
                finalizer=finalizer,
                finalargs=finalargs,
                on_exit=on_exit,
                daemon=daemon,
                memory_limit=memory_limit,
                min_processes=min_processes,
                idle_timeout=idle_timeout,
                cpu_ids=cpu_ids,
                inner_max_num_threads=inner_max_num_threads,
                serial=serial,
                max_pending=max_pending,
                propagate_context=propagate_context,
            )
            return
        self._set_end(finalizer, finalargs, on_exit)
        self._refuse_own(
            finalizer=finalizer,
            max_pending=max_pending,
            propagate_context=propagate_context or None,
        )
        self._workers = []
        if processes is None:
            processes = default_processes()
        self._asked = WorkerOptions(
            processes,
            daemon,
            memory_limit,
            min_processes,
            idle_timeout,
            cpu_ids,
            inner_max_num_threads,
        )
        self._asked.refuse(_NEEDS_ENGINE)
        _StdlibThreadPool.__init__(self, processes, initializer, initargs)

    @property
    def _shares_objects(self) -> bool:
        return True

    def _fits(self, context: Any) -> bool:
        return not replaces_parts(type(self), ThreadPool)

    def _start(self) -> None:
        self._asked.refuse("needs worker processes: threads share one process", "cpu_ids")
        self._cache = Cache()
        self._engine = _core.Engine(self._processes, weakref.ref(self), self._cache, threads=True)
        self._cache.engine = self._engine
        self._threads = []
        self._starters = set()
        self._to_tell = [True]  # print the first failure of the initializer only
        self._taskqueue = TaskQueue(weakref.proxy(self))
        try:
            self._repopulate_pool()
        except BaseException:
            self._engine.end()
            for thread in self._workers:
                thread.join(end.LAST_GRACE_S)  # the initializer may block forever
            raise
        self._terminate = util.Finalize(
            self, end.shut_down_threads, args=(self._engine, self._threads), exitpriority=15
        )
        self._state = RUN
        known.add(self)

    def _check_options(self, asked: CallOptions) -> Checked:
        if self._serial:
            return super()._check_options(asked)
        return check_thread_options(asked)

    # ---- workers ----

    @property
    def _pool(self) -> list[Any]:
        """The live list of worker threads."""
        return self._workers

    @_pool.setter
    def _pool(self, workers: list[Any]) -> None:
        self._workers = workers

    def _target(self) -> Callable[..., object]:
        return worker

    def _add_worker(self, index: int) -> None:
        assert self._engine is not None
        check_can_start()
        ticket: list[Callable[[], None]] = [partial(self._engine.leave, index)]
        thread = self._new_worker(
            self._target(),
            self._engine,
            ticket,
            self._initializer,
            self._initargs,
            self._to_tell,
            index,
            self._finalizer,
            self._finalargs,
            self._asked.cpus_of(index),
            weakref.ref(self),
        )
        thread.index = index
        self._engine.enter(index)
        try:
            start(thread, thread.start)
        except BaseException:
            leave(ticket)
            raise
        self._workers.append(thread)
        util.debug("added worker")

    def _repopulate_pool(self) -> None:
        """Start the missing threads."""
        if self._engine is None:
            _StdlibThreadPool._repopulate_pool(self)
            return
        if self._serial:
            return
        with self._lock:
            self._join_exited_workers()
            workers: list[Any] = self._workers
            used = {thread.index for thread in workers}
            lacking = self._engine.set_target(self._processes)
            free = [index for index in range(self._processes) if index not in used]
            for index in free[:lacking]:  # a leaving thread still has its index
                self._add_worker(index)

    def _fill_up(self) -> None:
        """Called by a leaving thread: resize() may need its index again."""
        engine = self._engine
        # No thread can be started, since the program exits, or the pool was ended meanwhile.
        with contextlib.suppress(RuntimeError, ValueError):
            if engine is not None and engine.is_ours and self._state == RUN:
                self._repopulate_pool()

    def resize(self, processes: int) -> None:
        """Change the number of threads (at least 1). Surplus threads end after their tasks."""
        number = self._check_resize(processes)
        with self._lock:
            self._processes = number
            if self._engine is not None and not self._serial:
                self._engine.set_indexes(number)
            self._repopulate_pool()

    def restart_workers(self) -> None:
        """Raise `ValueError`: threads always see the current globals."""
        raise ValueError("restart_workers() needs worker processes")

    def _join_exited_workers(self, workers: Any = None) -> bool:
        """Remove threads that have ended from the list; True if there were any."""
        gone = [thread for thread in self._workers if thread.exitcode is not None]
        for thread in gone:
            thread.join()
            self._workers.remove(thread)
        return bool(gone)

    # ---- the end ----

    def join(self, timeout: float | None = None) -> None:
        """Wait for the threads to end; `close()` or `terminate()` comes first.

        Waits for running tasks, after `terminate()` too. Raises `ValueError` if the pool is still
        running, `RuntimeError` in a task or callback of the pool, which would wait for itself, and
        `multiprocessing.TimeoutError` if the threads have not ended after `timeout` seconds (a
        float; None: no limit). After a timeout `join()` can be called again.
        """
        if self._engine is None:
            _StdlibThreadPool.join(self)
            return
        self._check_ending(self._engine)
        current = threading.current_thread()
        workers: list[Any] = list(self._workers)
        is_worker = current in workers
        if is_worker and self._state == CLOSE and not self._has_pending(self._engine):
            # Called between tasks, as in a `__del__`: wait for the other threads; this one ends
            # after join().
            workers.remove(current)
            self._end_threads(self._engine, workers)
            return
        if is_worker or (timeout is None and self._waits_for_this_thread(self._engine)):
            raise RuntimeError("a task or callback cannot join the pool that waits for it")
        if timeout is None:
            self._engine.finish_calls()
        # Not with Thread.join(): after a Ctrl-C it may take a running thread for an ended one.
        if not self._engine.wait_ended(timeout):
            raise TimeoutError
        self._end_threads(self._engine, workers)

    def _end_threads(self, engine: _core.Engine, workers: list[Any]) -> None:
        engine.end()  # no tasks are left: this ends the helper thread
        for thread in [*workers, *(t for t in self._threads if not t.is_current())]:
            # A thread may block in the user's iterable or callback for ever; abandon it then.
            thread.join(end.LAST_GRACE_S)
