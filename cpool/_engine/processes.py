"""`cpool.pool.Pool`: the part of a pool that runs once a pool; the extension runs the tasks.

The class keeps those private attributes of the stdlib's class that programs are known to use. A
pool whose context is none of multiprocessing's, or whose class overrides private hooks of the
stdlib's pool, runs on the inherited engine of the stdlib.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from multiprocessing import TimeoutError, get_context, util
from multiprocessing import context as _context
from multiprocessing.process import BaseProcess

from .. import _core
from .._base import by_value, failures, importing
from .._base.amounts import bytes_of
from .._base.handlers import being_handled, is_from_handler
from .._base.size import default_processes, usable_memory
from .._base.stdlib import TYPE_CHECKING, T, overload, replaces_parts
from .._base.stdlib import Pool as _StdlibPool
from .._base.stdlib import pool as _stdlib
from .._start import child, popen
from .._start.method import default_context, popen_factory
from .._start.surroundings import Surroundings, check_environment, import_first
from ..errors import PoolError, PoolTerminated
from . import end, fronts, known
from . import serial as _serial
from .configured import ConfiguredPool
from .options import (
    CallOptions,
    Checked,
    OtherOptions,
    Unpack,
    check_options,
    check_serial_options,
    refuse_options,
)
from .places import Keys
from .progress import show
from .queue import TaskQueue
from .results import (
    ApplyResult,
    AsyncResult,
    Cache,
    IMapIterator,
    IMapUnorderedIterator,
    ItemIterator,
    MapResult,
    ValueIterator,
)
from .thread import Thread
from .workers import WorkerOptions

if TYPE_CHECKING:
    from contextvars import ContextVar
    from typing import Any, Literal, Self, TypeVar

    from .logs import LogReceiver
    from .shared import SharedObject
    from .statistics import PoolStatistics
    from .workers import CpuIds

    S = TypeVar("S")
else:
    Any = CpuIds = S = object
    Literal = {False: object}
    ContextVar = {Any: object}

INIT = _stdlib.INIT
RUN = _stdlib.RUN
CLOSE = _stdlib.CLOSE
TERMINATE = _stdlib.TERMINATE

mapstar = _stdlib.mapstar
starmapstar = _stdlib.starmapstar

# The pool gives up after this many failed starts in a row, times its size. The engine waits longer
# before each retry, so this takes more than a second.
_MAX_FAILED_STARTS = 8

# The number of workers that are prepared before the first of them is forked: each page that the
# parent writes to between two forks is copied once more.
_BATCH = 8

# How long a thread of the pool waits with a fork for modules that other threads import, and how
# long a thread of the program does.
_IMPORT_S = 5.0
_BRIEFLY_S = 0.1

# The engine's modes for chunks, and for chunks of one item.
_MODES = {
    mapstar: (_core.MAP | _core.LISTED, _core.MAP_ONE | _core.LISTED),
    starmapstar: (_core.STAR | _core.LISTED, _core.STAR_ONE | _core.LISTED),
}

_NEEDS_ENGINE = "needs a pool that runs on cpool's engine"

_HELPER = "cpool-helper"
_STARTER = "cpool-starter"
_FEEDER = "cpool-feeder"
_CALLER = "cpool-caller"


def _is_leaving(process: BaseProcess) -> bool:
    leaving: bool = process._popen.is_leaving  # type: ignore[attr-defined]
    return leaving


def _index_of(process: BaseProcess) -> int:
    index: int = process._popen.index  # type: ignore[attr-defined]
    return index


def _call_with(func: Callable[..., Any], args: Iterable[Any]) -> Any:
    return func(*args)


def _check_ahead(buffersize: Any) -> int:
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer")
    if not 0 < buffersize <= sys.maxsize // 2:
        raise ValueError("buffersize must be > 0")
    return buffersize


def _length_of(iterable: Iterable[Any]) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return None


def _shared_limit(limit: int | str | None) -> int:
    """The parameter shared_memory_limit in bytes; 0: all data take the pipes."""
    if limit is None:
        return usable_memory() // 4
    return 0 if limit == 0 else bytes_of("shared_memory_limit", limit)


def _receive_logs(runs_filters: bool) -> LogReceiver:
    from .logs import LogReceiver  # few programs need it, and it takes time to import

    return LogReceiver(runs_filters)


class Pool(_StdlibPool):
    """A pool of worker processes, with the interface of `multiprocessing.Pool`.

    `processes` is the number of workers, by default `default_processes()`. Each worker calls
    `initializer(*initargs)` when it starts, and is replaced after `maxtasksperchild` tasks.
    `context` is a multiprocessing context. Raises `ValueError` for less than one process or a
    `maxtasksperchild` that is no positive int, `TypeError` for an initializer that cannot be
    called, and `OSError` if no process can be started; no process is left behind then.

    Beyond multiprocessing: each worker calls `finalizer(*finalargs)` before it ends in an orderly
    way: after its last task, when the pool is closed, and when it is idle and the pool is
    terminated (it has half a second then). What it raises is printed. `on_exit` says what leaving a
    `with` block does: "terminate", or "join", which closes and joins the pool, but terminates it
    if the block raised.

    With `forward_logs=True` the handlers of this process handle what workers log through `logging`,
    each record once, those of a worker in order, with the worker's `processName`. Loggers have the
    levels in workers that they had here when the worker started. A record arrives with its message
    complete, its exception as text, and other attributes that are no plain values as their
    `repr()`. Handlers run on a thread of the pool: a record may be handled a moment after the
    result of its task has arrived. `join()` and `terminate()` wait until all are handled, at most
    5 seconds.

    `memory_limit` (an int of bytes, or a str like "2GiB") is for the memory that a worker has
    allocated itself; what it has in common with this process since a fork does not count. A worker
    with more than that between two tasks is replaced. One that passes the limit while an item runs
    is killed, and that item fails with `MemoryLimitError`, if the item itself has added an eighth
    of the limit or more; one that finds a full worker and adds little goes on. The memory of
    workers with tasks is looked at each 20 ms. `ValueError` where there is no /proc.

    With `min_processes` or `idle_timeout` the pool is elastic. It starts with `min_processes`
    workers (an int, default: `processes`), and adds one after the other, up to `processes`, while
    all are busy and work waits, or a call is for a worker that is not there. A worker that was idle
    for `idle_timeout` seconds (a float, default None: never) ends, down to `min_processes` (or
    one).

    `cpu_ids` says where workers run: a list with a CPU number, or a list of them, for each worker,
    which is used again from its begin if there are more workers; or "auto": one CPU of this process
    each. `inner_max_num_threads` (int) is the number of threads that OpenMP, OpenBLAS, MKL and the
    like may use in each worker: set by environment variables for libraries that are loaded later,
    and by `threadpoolctl`, where it is installed, for those that a fork has copied.

    With `daemon=False` tasks may start processes: `Process` objects, managers, and pools. Pools
    within pools end with the process that made them, however it ends. `terminate()` then kills
    busy workers with all processes that they have started.

    Large data (arrays of numpy, bytes, strings: of 128 KiB and more each) go through memory that
    the pool shares with its workers, on Linux; elsewhere through pipes. `shared_memory_limit` says
    how much of it there may be: an int of bytes, or a str such as "512MiB" or "4GiB"; 0: none; by
    default a fourth of the memory that the process may use. Data for which there is no room take
    the pipes. Raises `ValueError` for anything else. See docs/large-data.md.

    `serial=True`: no worker at all, each task runs in the thread that submits it, before the call
    returns, and those of `imap` and its kin when `next` asks for them: for debuggers, profilers and
    coverage. Results, errors, callbacks and `current_worker()` are those of any pool; as in a
    `ThreadPool` nothing is pickled. `maxtasksperchild` and `context` change nothing. What only
    processes can do (`task_timeout`, `grace`, `retries`) is refused with `ValueError`. None: as the
    environment variable CPOOL_SERIAL says when the pool is made ("1": serial); what cannot be done
    is ignored then, with a `RuntimeWarning`.

    `max_pending` (int): a call that submits waits while so many calls wait, of which no worker has
    been given a task yet. Calls from callbacks, iterables and tasks of the pool do not wait, since
    the pool may depend on them; nor do those in a coroutine, whose awaiting task waits instead. A
    pool that is closed meanwhile: `ValueError`.

    `propagate_context`: True, or `ContextVar`s: a task runs with the values that these have where
    it is submitted, in a context of its own. True takes all variables that have a value (but
    numpy's). A variable has to be a global of a module, where workers find it, and its value is
    pickled: otherwise `ValueError` and `TypeError` name it.

    `env`: environment variables of the workers, a dict, or a function that returns one for a
    worker's index (None deletes a variable). They are set before the initializer, and under spawn
    and forkserver before the main module is imported. `preload`: names of modules that are imported
    once: before the fork, or in the fork server unless that runs already; spawned workers import
    them before the initializer. Under forkserver a worker has the environment, the `sys.path` and
    the working directory that this process has when the worker starts, and nothing that the
    server's had before.

    Every job ends: with its results, with what a task raised, with `WorkerLostError` if a worker
    died, with `InitializerError` if the initializer raised, or with `PoolTerminated`.
    """

    __module__ = "cpool.pool"

    _engine: _core.Engine | None = None
    _workers: list[BaseProcess]
    _start_error: BaseException | None = None  # of the last failed start
    _forks: bool
    _around: Surroundings
    _was_ready = False  # has a worker ever been ready?
    _on_exit = "terminate"
    _asked: WorkerOptions
    _has_helper = False
    _serial = False
    _keys: Keys | None = None
    _env: Any = None
    _preload: tuple[str, ...] = ()
    _logs: LogReceiver | None = None
    _at_end: Sequence[Callable[[], object]] = ()  # called when the workers have ended
    _threads: list[Thread]
    _has_threads = False  # as workers
    _starters: set[int]  # threads that start a thread of the pool just now
    _state = INIT

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
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
        shared_memory_limit: int | str | None = None,
        serial: bool | None = None,
        max_pending: int | None = None,
        propagate_context: bool | ContextVar[Any] | Iterable[ContextVar[Any]] = False,
        env: Mapping[str, str | None] | Callable[[int], Mapping[str, str | None]] | None = None,
        preload: str | Iterable[str] = (),
        forward_logs: bool = False,
    ) -> None:
        self._workers = []
        self._lock = threading.RLock()
        self._state = INIT
        context = context or default_context()
        if processes is None:
            processes = default_processes()
        self._set_end(finalizer, finalargs, on_exit)
        self._asked = WorkerOptions(
            processes,
            daemon,
            memory_limit,
            min_processes,
            idle_timeout,
            cpu_ids,
            inner_max_num_threads,
        )
        self._shared_limit = _shared_limit(shared_memory_limit)
        self._set_serial(serial)
        propagate, limit = fronts.check(propagate_context, max_pending)
        if not self._serial and not self._fits(context):
            self._refuse_own(
                finalizer=finalizer,
                max_pending=max_pending,
                propagate_context=propagate or None,
                env=env,
                preload=preload or None,
                shared_memory_limit=shared_memory_limit,
                forward_logs=forward_logs or None,
            )
            self._asked.refuse(_NEEDS_ENGINE)
            super().__init__(processes, initializer, initargs, maxtasksperchild, context)
            return
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._ctx = context
        self._processes = operator.index(processes)
        self._maxtasksperchild = maxtasksperchild
        self._initializer = initializer
        self._initargs = initargs
        self._set_start(env, preload)
        self._forwards_logs = bool(forward_logs)
        if self._serial:
            self._start_serial()
        else:
            self._start()
        self._engine = fronts.stand_before(self._engine, self, propagate, limit)

    def _set_end(
        self, finalizer: Callable[..., object] | None, finalargs: Iterable[Any], on_exit: str
    ) -> None:
        if finalizer is not None and not callable(finalizer):
            raise TypeError("finalizer must be a callable")
        if on_exit not in ("terminate", "join"):
            raise ValueError(f'on_exit must be "terminate" or "join", not {on_exit!r}')
        self._finalizer = finalizer
        self._finalargs = tuple(finalargs)
        self._on_exit = on_exit

    def _set_serial(self, serial: bool | None) -> None:
        self._is_serial_asked = serial is not None
        self._serial = _serial.is_wanted(serial)
        if self._serial:
            _serial.refuse(self._asked.names("daemon"), self._is_serial_asked)

    def _set_start(self, env: Any, preload: str | Iterable[str]) -> None:
        if self._serial:
            _serial.refuse(["env"] if env is not None else [], self._is_serial_asked)
            self._preload = import_first(preload, get_context("fork"))
            return
        self._env = env
        check_environment(env, 0)  # what is wrong is raised here, and not when a worker starts
        self._preload = import_first(preload, self._ctx)

    def _start_serial(self) -> None:
        self._cache = Cache()
        self._threads = []
        self._starters = set()
        self._taskqueue = TaskQueue(weakref.proxy(self))
        engine = _serial.start(
            self, self._initializer, self._initargs, self._finalizer, self._finalargs
        )
        self._engine = self._cache.engine = engine
        self._has_helper = True  # nobody needs one
        self._terminate = util.Finalize(self, _serial.shut_down, args=(engine,), exitpriority=15)
        self._has_threads = True
        self._state = RUN
        known.add(self)

    def _step(self, stream: Any) -> bool:
        """Called by the engine of a serial pool, for a reader of an iterator."""
        engine: Any = self._engine
        found: bool = engine.step(stream)
        return found

    @property
    def _shares_objects(self) -> bool:
        """Do tasks get the caller's own objects, and not copies?"""
        return self._serial

    @staticmethod
    def _refuse_own(**parameters: Any) -> None:
        """Raise for parameters that the standard library's engine does not have."""
        for name, value in parameters.items():
            if value is not None:
                raise ValueError(f"{name} {_NEEDS_ENGINE}")

    def _fits(self, context: Any) -> bool:
        """Can the extension run this pool?"""
        return (
            isinstance(context, _context.BaseContext)
            and context.get_start_method() in ("fork", "spawn", "forkserver")
            and not replaces_parts(type(self), Pool)
        )

    def _start(self) -> None:
        self._forks = self._ctx.get_start_method() == "fork"
        self._around = Surroundings()
        self._awaited: set[str] = set()  # modules that threads of the program have waited for
        self._cache = Cache()
        self._engine = _core.Engine(self._asked.first, weakref.ref(self), self._cache)
        self._asked.prepare(self._engine, self._processes, self._forks)
        if not self._forks:
            self._engine.share()
        if self._shared_limit > 0:
            self._engine.open_memory(self._shared_limit)
        self._engine.set_sender(by_value.Sender(self._known_names()))
        self._cache.engine = self._engine
        self._threads = []
        self._starters = set()
        self._taskqueue = TaskQueue(weakref.proxy(self))
        if self._forwards_logs:
            self._logs = _receive_logs(not self._forks)
            self._at_end = (self._logs.end,)
        parts = (self._engine, self._workers, self._threads, self._at_end)
        try:
            self._repopulate_pool()
            if self._logs is not None:  # after the forks
                self._logs.start(self._start_thread)
        except BaseException:
            end.shut_down(*parts)
            raise
        self._terminate = util.Finalize(self, end.shut_down, args=parts, exitpriority=15)
        self._state = RUN
        if self._asked.is_elastic:
            try:
                self._start_threads()  # somebody has to see that workers are idle
            except BaseException:
                self.terminate()
                raise
        known.add(self)

    def _known_names(self) -> dict[str, Any] | None:
        """What workers have in their main module; None: what is in its file.

        The first workers are forked right after this; later ones have at least these. Workers that
        start afresh import the main module, where it has a file (a notebook has none).
        """
        if self._forks:
            return by_value.names_of_main()
        main = sys.modules.get("__main__")
        has_file = getattr(main, "__spec__", None) or getattr(main, "__file__", None)
        return None if has_file else {}

    # ---- seeing ----

    def statistics(self) -> PoolStatistics:
        """What the pool has done until now, a `cpool.PoolStatistics`; `str()` of it is a table.

        Read from counters that the pool keeps anyway: no worker is asked. Also of a pool that has
        ended. `ValueError` for one that runs on the standard library's engine, or that was made
        before a fork.
        """
        if self._engine is None:
            raise ValueError("statistics() needs a pool that runs on cpool's engine")
        from .statistics import statistics_of

        return statistics_of(self._engine, self._has_threads)

    def dump(self, file: Any = None) -> None:
        """Print what each worker does: its item, since when, and its Python stack.

        To `file`, which has a `write(str)`; None: `sys.stderr`. The stack is that of the thread
        that runs tasks, also while that is in C code, waits for a lock or is stopped, most recent
        call first. A worker that cannot tell its stack within half a second is shown without one.
        `ValueError` for a pool that runs on the standard library's engine, or that was made before
        a fork.
        """
        if self._engine is None:
            raise ValueError("dump() needs a pool that runs on cpool's engine")
        from .dump import dump_pool

        dump_pool(self, sys.stderr if file is None else file)

    # ---- sharing ----

    def share(self, obj: T) -> SharedObject[T]:
        """Write `obj` to memory that all workers share, once; return a handle for tasks.

        The handle, given to a task of this pool within anything (arguments, a `partial`, another
        shared object), is the object there. A worker maps it when it meets it first, and keeps it
        as long as the handle lives and tasks with it wait. Arrays and other large parts are not
        copied: workers share one copy, and each has its own copy of the pages that it writes to.

            with pool.share(table) as handle:
                pool.starmap(look_up, [(handle, key) for key in keys])

        What a task returns of it is copied back. Later changes to `obj` are not seen. Raises what
        pickling `obj` raises, `MemoryError` where the pool's `shared_memory_limit` does not
        suffice, and `ValueError` for a pool that is not running. Threads and serial pools get
        `obj` itself, where the handle is an argument or within lists, tuples and dicts of it.
        """
        if self._engine is None:
            raise ValueError("share() needs a pool that runs on cpool's engine")
        self._check_running()
        from .shared import SharedObject

        if not self._shares_objects:
            return SharedObject(self._engine.share_object(obj))
        with self._lock:
            engine: Any = fronts.find_shared(self._engine, self)
            self._engine = engine
        return SharedObject(None, obj)

    # ---- submitting ----

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError("Pool not running")
        if self._engine is not None and not self._engine.is_ours:
            failures.raise_foreign()

    @overload
    def options(
        self, *, return_exceptions: Literal[False] = False, **asked: Unpack[OtherOptions]
    ) -> Self: ...

    @overload
    def options(self, *, return_exceptions: bool, **asked: Unpack[OtherOptions]) -> Any: ...

    def options(self, **asked: Unpack[CallOptions]) -> Any:
        """This pool, with these options as defaults of its calls.

        For code that is handed a pool and knows nothing of them. What it returns has all methods
        and attributes of the pool, is an instance of the pool's class, and is the same pool:
        closing the one closes the other. A call's own options come first.
        """
        if self._engine is None:
            refuse_options(asked)
        self._check_options(asked)
        return ConfiguredPool(self, asked)

    def _place(self, checked: Checked) -> None:
        if not checked.has_place:
            return
        if self._serial:  # all is run here, but what is wrong elsewhere is here too
            checked.check_place(self._processes)
            return
        if self._keys is None:
            with self._lock:
                self._keys = self._keys or Keys()
        checked.place(self._processes, self._keys)

    def _check_many(self, asked: CallOptions, method: str) -> Checked:
        checked = self._check_options(asked)
        checked.refuse_place(method)
        return checked

    def _check_options(self, asked: CallOptions) -> Checked:
        if self._serial:
            return check_serial_options(asked, self._is_serial_asked)
        return check_options(asked)

    @overload
    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> T: ...

    @overload
    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> T | BaseException: ...

    def apply(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **asked: Unpack[CallOptions],
    ) -> T:
        """Return `func(*args, **kwds)`, called in a worker; raise what it raises.

        For `asked`, here and in all methods that submit, see `CallOptions`.
        """
        if self._engine is None or type(self).apply_async is not Pool.apply_async:
            options: Any = asked
            result_of: AsyncResult[T] = self.apply_async(func, args, kwds, **options)
            return result_of.get()
        if asked:
            self._check_running()
            checked = self._check_options(asked)
            self._place(checked)
            if checked.progress is not None:
                quiet: Any = {**asked, "progress": None}
                made = self.apply_async(func, args, kwds, **quiet)
                with show(made, checked.progress, 1):
                    value_shown: T = made.get()
                return value_shown
            func = checked.wrap(func)
            result: T = self._engine.apply(ApplyResult, self, func, args, kwds, checked.engine)
            return result
        value: T = self._engine.apply(ApplyResult, self, func, args, kwds)
        return value

    @overload
    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> AsyncResult[T]: ...

    @overload
    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T | BaseException], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> AsyncResult[T | BaseException]: ...

    def apply_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **asked: Unpack[CallOptions],
    ) -> AsyncResult[T]:
        """Have a worker call `func(*args, **kwds)`; return an `AsyncResult` at once.

        `callback(value)` or `error_callback(exception)` runs on a thread of the pool, before the
        result is ready; an exception of the callback becomes the result.
        """
        if self._engine is None:
            refuse_options(asked)
            theirs: Any = super().apply_async(func, args, kwds, callback, error_callback)
            result: AsyncResult[T] = theirs
            return result
        if self._has_helper and not asked:
            # The usual case. The engine checks that the pool is running.
            return self._engine.submit(
                ApplyResult, self, func, args, kwds, callback, error_callback
            )
        self._check_running()
        checked = self._check_options(asked)
        self._place(checked)
        if not self._has_helper:
            self._start_threads(callback is not None or error_callback is not None)
        made = self._engine.submit(
            ApplyResult,
            self,
            checked.wrap(func),
            args,
            kwds,
            callback,
            error_callback,
            checked.engine,
        )
        if checked.progress is not None:
            show(made, checked.progress, 1)
        return made

    @overload
    def broadcast(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> list[T]: ...

    @overload
    def broadcast(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> list[T | BaseException]: ...

    def broadcast(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        **asked: Unpack[CallOptions],
    ) -> list[T]:
        """Call `func(*args, **kwds)` once in each worker; return the results by worker index.

        Each worker runs it as soon as it is free. Waits for all, then raises the first exception
        that arrived. A worker that starts later does not run it: that is what `initializer` is for.
        In an elastic pool those run it that there are now, or that take their places meanwhile. In
        a serial pool, which has one worker, a list of one.
        """
        options: Any = asked
        results: list[T] = self.broadcast_async(func, args, kwds, **options).get()
        return results

    @overload
    def broadcast_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> MapResult[T]: ...

    @overload
    def broadcast_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[list[T | BaseException]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> MapResult[T | BaseException]: ...

    def broadcast_async(
        self,
        func: Callable[..., T],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **asked: Unpack[CallOptions],
    ) -> MapResult[T]:
        """`broadcast` that returns a `MapResult` at once; callbacks as those of `apply_async`."""
        if self._engine is None:
            raise ValueError("broadcast() needs a pool that runs on cpool's engine")
        self._check_running()
        checked = self._check_options(asked)
        checked.refuse_place("broadcast")
        indexes: Sequence[int] = range(1 if self._serial else self._processes)
        if not self._serial:
            checked.spread()
            if self._asked.is_elastic:
                indexes = self._working_indexes()
        number = len(indexes)
        result: MapResult[Any] = MapResult(self, 1, number, callback, error_callback)
        if checked.progress is not None:
            show(result, checked.progress, number)
        result._set_options(checked.engine)
        if self._asked.is_elastic:
            result._set_workers(indexes)
        func = checked.wrap(partial(func, **kwds) if kwds else func)
        mode = _core.STAR_ONE | _core.LISTED
        calls = callback is not None or error_callback is not None
        self._feed(result, func, [tuple(args)] * number, 1, mode, number, calls=calls)
        return result

    @overload
    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> list[T]: ...

    @overload
    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> list[T | BaseException]: ...

    def map(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> list[T]:
        """Return `[func(x) for x in iterable]`, computed by the workers, in order.

        Items are sent in chunks of `chunksize`. By default chunk sizes follow the measured time of
        items; but a chunk is about a fourth of a worker's share with `maxtasksperchild`, a `func`
        that keeps a state, and from the first items or results on that may share objects. Waits
        for all items, then raises the first exception that arrived.
        """
        results: list[T] = self._map(func, iterable, mapstar, chunksize, asked)
        return results

    @overload
    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> MapResult[T]: ...

    @overload
    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T | BaseException]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> MapResult[T | BaseException]: ...

    def map_async(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **asked: Unpack[CallOptions],
    ) -> MapResult[T]:
        """`map` that returns a `MapResult` at once; the callbacks are those of `apply_async`.

        By default a worker's share is cut in 64 chunks or more: only a thread that waits, as in
        `map`, can adapt chunk sizes to measured times.
        """
        result: MapResult[T] = self._map_async(
            func, iterable, mapstar, chunksize, callback, error_callback, **asked
        )
        return result

    @overload
    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> list[T]: ...

    @overload
    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> list[T | BaseException]: ...

    def starmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> list[T]:
        """Return `[func(*x) for x in iterable]`, as `map` does."""
        results: list[T] = self._map(func, iterable, starmapstar, chunksize, asked)
        return results

    @overload
    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> MapResult[T]: ...

    @overload
    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T | BaseException]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> MapResult[T | BaseException]: ...

    def starmap_async(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **asked: Unpack[CallOptions],
    ) -> MapResult[T]:
        """`starmap` that returns a `MapResult` at once; callbacks as those of `apply_async`."""
        result: MapResult[T] = self._map_async(
            func, iterable, starmapstar, chunksize, callback, error_callback, **asked
        )
        return result

    # typeshed lets chunksize be None, which fails.
    @overload  # type: ignore[override]
    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T]: ...

    @overload
    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T | BaseException]: ...

    def imap(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """Return an iterator over `func(x) for x in iterable`, in order.

        The pool works whether or not `next` is called, and pulls the iterable as fast as the
        workers take items. Iterables of one pool are pulled one item at a time, so that they may
        share a source; a pull that lasts for a second is overtaken. `buffersize` bounds the chunks
        that are in flight or unread, after `close()` too; `join()` then ends the input if nobody
        reads, and the last `next` raises `PoolError`. It also ends the input when the iterator is
        dropped; what was pulled still runs. `ValueError` for a `chunksize` or `buffersize` below 1,
        `TypeError` for one that is no number, or no int.
        """
        items: IMapIterator[T] = self._imap(
            IMapIterator, func, iterable, chunksize, buffersize, "{0:n}", asked
        )
        return items

    # typeshed lets chunksize be None, which fails.
    @overload  # type: ignore[override]
    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T]: ...

    @overload
    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T | BaseException]: ...

    def imap_unordered(
        self,
        func: Callable[[S], T],
        iterable: Iterable[S],
        chunksize: int = 1,
        buffersize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """`imap` with results in the order of their arrival."""
        items: IMapIterator[T] = self._imap(
            IMapUnorderedIterator, func, iterable, chunksize, buffersize, "{0!r}", asked
        )
        return items

    @overload
    def istarmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T]: ...

    @overload
    def istarmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T | BaseException]: ...

    def istarmap(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """`imap` for `starmap`: an iterator over `func(*x) for x in iterable`, in order."""
        items: IMapIterator[T] = self._imap(
            IMapIterator, func, iterable, chunksize, buffersize, "{0!r}", asked, star=True
        )
        return items

    @overload
    def istarmap_unordered(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T]: ...

    @overload
    def istarmap_unordered(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        *,
        return_exceptions: bool,
        **asked: Unpack[OtherOptions],
    ) -> IMapIterator[T | BaseException]: ...

    def istarmap_unordered(
        self,
        func: Callable[..., T],
        iterable: Iterable[Iterable[Any]],
        chunksize: int = 1,
        buffersize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> IMapIterator[T]:
        """`istarmap` with results in the order of their arrival."""
        items: IMapIterator[T] = self._imap(
            IMapUnorderedIterator, func, iterable, chunksize, buffersize, "{0!r}", asked, star=True
        )
        return items

    def stream(
        self,
        func: Callable[..., Iterable[T] | AsyncIterable[T]],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        *,
        buffersize: int = 64,
        **asked: Unpack[CallOptions],
    ) -> ValueIterator[T]:
        """Return an iterator over what `func(*args, **kwds)` yields, in a worker, as it is yielded.

        `func` is a generator function, or returns any iterable. An asynchronous generator is run to
        its end by an event loop of the worker's. The generator is at most `buffersize` values ahead
        of the reader, then it waits; it goes on for others that wait for a worker while all workers
        wait for readers. An exception comes after the values before it, as does `WorkerLostError`.
        Values are pickled one by one. A closed pool can be joined when all is read: `join()` closes
        generators that nobody reads, and the last `next` raises `PoolError`. `ValueError` for a
        `buffersize` below 1, `TypeError` for one that is no int.
        """
        self._check_running()
        ahead = _check_ahead(buffersize)
        checked = self._check_values(asked)
        self._place(checked)
        if kwds:
            func = partial(func, **kwds)
        mode = _core.STAR_ONE
        values: ValueIterator[T] = self._values(checked, func, [tuple(args)], mode, True, ahead, 1)
        return values

    def flatmap(
        self,
        func: Callable[[S], Iterable[T] | AsyncIterable[T]],
        iterable: Iterable[S],
        *,
        buffersize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> ValueIterator[T]:
        """Return an iterator over all values of `func(x) for x in iterable`, in order.

        `func` is as that of `stream`. Each generator is at most `buffersize` values (None: 64)
        ahead of the reader; and of the inputs no more than `buffersize`, or twice the number of
        workers if that is more, are waiting, running or not read to their ends. The failure of one
        generator comes in its place, and the values of the next ones follow.
        """
        return self._flatmap(func, iterable, True, buffersize, asked)

    def flatmap_unordered(
        self,
        func: Callable[[S], Iterable[T] | AsyncIterable[T]],
        iterable: Iterable[S],
        *,
        buffersize: int | None = None,
        **asked: Unpack[CallOptions],
    ) -> ValueIterator[T]:
        """`flatmap` with values in the order of their arrival; those of one input are in order."""
        return self._flatmap(func, iterable, False, buffersize, asked)

    def _flatmap(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        ordered: bool,
        buffersize: int | None,
        asked: CallOptions,
    ) -> ValueIterator[Any]:
        self._check_running()
        ahead = _check_ahead(64 if buffersize is None else buffersize)
        checked = self._check_values(asked)
        checked.refuse_place("flatmap")
        limit = max(ahead, 2 * self._processes)
        mode = _core.MAP_ONE
        values: ValueIterator[Any] = self._values(
            checked, func, iterable, mode, ordered, ahead, limit
        )
        return values

    def _check_values(self, asked: CallOptions) -> Checked:
        if self._engine is None:
            raise ValueError("stream() and flatmap() need a pool that runs on cpool's engine")
        return self._check_options(asked)

    def _values(
        self,
        checked: Checked,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mode: int,
        ordered: bool,
        ahead: int,
        limit: int,
    ) -> Any:
        total = _length_of(iterable) if checked.progress is not None else None
        if self._serial:
            here = _serial.values(self, func, iterable, mode == _core.STAR_ONE)
            here.returns_exceptions, here.fails_fast = (
                checked.returns_exceptions,
                checked.fails_fast,
            )
            if checked.progress is not None:
                show(here, checked.progress, total, False)
            return here
        result: ValueIterator[Any] = ValueIterator(self, ordered, ahead)
        result._set_options(checked.engine)
        if checked.progress is not None:
            show(result, checked.progress, total, False)
        self._feed(result, checked.wrap(func), iterable, 1, mode, -1, limit)
        return result

    def _map(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Any,
        chunksize: int | None,
        asked: CallOptions,
    ) -> Any:
        if (
            self._engine is None
            or type(self)._map_async is not Pool._map_async
            or mapper not in _MODES
        ):
            return self._map_async(func, iterable, mapper, chunksize, **asked).get()
        self._check_running()
        checked = self._check_many(asked, "map") if asked else None
        if checked is not None and chunksize is None and checked.wants_single_items:
            chunksize = 1
        iterable, length, size = self._measure(iterable, chunksize)
        result: MapResult[Any] = MapResult(self, size, length, None, None)
        shown: contextlib.AbstractContextManager[Any] | None = None
        if checked is not None:
            func = checked.wrap(func)
            if checked.progress is not None:
                shown = show(result, checked.progress, length)
        if size == 0:
            run: Callable[[], Any] = result.get
        else:
            if checked is not None:
                result._set_options(checked.engine)
            mode = self._mode(mapper, chunksize, size)
            if shown is None:
                return self._engine.run(result, func, iterable, size, mode, length)
            run = partial(self._engine.run, result, func, iterable, size, mode, length)
        with shown or contextlib.nullcontext():
            return run()

    def _map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        mapper: Any,
        chunksize: int | None = None,
        callback: Callable[[list[Any]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **asked: Unpack[CallOptions],
    ) -> Any:
        if self._engine is None:
            refuse_options(asked)
            return super()._map_async(func, iterable, mapper, chunksize, callback, error_callback)
        self._check_running()
        checked = self._check_many(asked, "map_async") if asked else None
        if checked is not None and chunksize is None and checked.wants_single_items:
            chunksize = 1
        iterable, length, size = self._measure(iterable, chunksize)
        result: MapResult[Any] = MapResult(self, size, length, callback, error_callback)
        if checked is not None and checked.progress is not None:
            show(result, checked.progress, length)
        if size == 0:
            return result
        if checked is not None:
            func = checked.wrap(func)
            result._set_options(checked.engine)
        calls = callback is not None or error_callback is not None
        if mapper in _MODES:
            mode = self._mode(mapper, chunksize, size)
            self._feed(result, func, iterable, size, mode, length, calls=calls)
            return result
        tasks = self._guarded_task_generation(
            result._job, mapper, self._get_tasks(func, iterable, size)
        )
        self._feed(result, None, tasks, 1, _core.MAP_ONE | _core.TASKS, -1, calls=calls)
        return result

    def _measure(
        self, iterable: Iterable[Any], chunksize: int | None
    ) -> tuple[Iterable[Any], int, int]:
        """The iterable (a list if it has no length), its length, and the chunk size (0: empty)."""
        if not hasattr(iterable, "__len__"):
            assert self._engine is not None
            iterable = self._engine.pull_all(iterable)
        length = len(iterable)  # type: ignore[arg-type]
        if chunksize is None:
            chunksize, extra = divmod(length, self._processes * 4)
            if extra:
                chunksize += 1
        if length == 0 or chunksize <= 0:
            chunksize = 0
        return iterable, length, operator.index(chunksize)

    def _mode(self, mapper: Any, asked: int | None, size: int) -> int:
        """The engine's mode. Default chunks may be cut anew, unless the pool counts tasks."""
        mode = _MODES[mapper][size == 1]
        return mode | _core.FIT if asked is None and self._maxtasksperchild is None else mode

    def _imap(
        self,
        kind: type[IMapIterator[Any]],
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int,
        buffersize: int | None,
        shown: str,
        asked: CallOptions,
        star: bool = False,
    ) -> Any:
        self._check_running()
        if self._engine is None:
            refuse_options(asked)
        checked = self._check_many(asked, "imap") if asked else None
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {shown.format(chunksize)}")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        limit = buffersize or 0
        if self._engine is None:
            if limit:
                raise ValueError("buffersize needs a pool that runs on cpool's engine")
            method = super().imap if kind is IMapIterator else super().imap_unordered
            return method(partial(_call_with, func) if star else func, iterable, chunksize)
        if chunksize == 1:
            chunksize = 1  # 1.0 is fine, as in the stdlib
            mode = _core.STAR_ONE if star else _core.MAP_ONE
        else:
            mode = _core.STAR if star else _core.MAP
            chunksize = operator.index(chunksize)
        result = kind(self)
        if checked is not None:
            func = checked.wrap(func)
            result._set_options(checked.engine)
            if checked.progress is not None:
                show(result, checked.progress, _length_of(iterable), not limit)
        self._feed(result, func, iterable, chunksize, mode, -1, limit)
        return result if chunksize == 1 else ItemIterator(result)

    def _feed(
        self,
        result: Any,
        func: Callable[..., Any] | None,
        iterable: Iterable[Any],
        chunksize: int,
        mode: int,
        length: int,
        limit: int = 0,
        calls: bool = False,
    ) -> None:
        """Start to turn items into tasks; a thread pulls the items that are not pulled now."""
        assert self._engine is not None
        try:
            if not self._has_helper:
                self._start_threads(calls)
            if self._engine.feed(result, func, iterable, chunksize, mode, length, limit):
                self._start_feeder(result)
        except BaseException:
            self._engine.cancel(result)  # or the job would never end
            raise

    # ---- threads ----

    def _start_threads(self, calls: bool = False) -> None:
        """Start the threads that work while nobody waits.

        Called before the first asynchronous job, and before a blocking call runs the program's
        code: its iterable, or what pickles its values. Nothing of the pool waits for that.
        `calls`: the job has callbacks.
        """
        assert self._engine is not None
        self._engine.start_standby()
        if not calls and threading.get_ident() in self._starters:
            return  # in a signal handler: what it has interrupted will start the threads
        # Of each kind the first thread stays, and others end.
        self._start_thread(_STARTER, self._engine.keep_workers)
        self._start_thread(_HELPER, self._engine.help)
        self._has_helper = True  # last: a signal handler may need the helper before it runs

    def _start_caller(self) -> None:
        """Called by the engine, which keeps calls that are not encoded yet."""
        assert self._engine is not None
        self._start_thread(_CALLER, self._engine.feed_calls)

    def _start_feeder(self, result: Any) -> None:
        assert self._engine is not None
        self._start_thread(_FEEDER, self._engine.feed_rest, [result])
        self._engine.end_call(result)  # the thread may not have come to that yet

    def _start_thread(self, name: str, target: Callable[..., object], *args: Any) -> None:
        caller = threading.get_ident()
        if caller in self._starters:
            raise RuntimeError(
                "a signal handler cannot make a call that needs a thread of the pool, while it "
                "interrupts the start of another thread; map() and apply() need none"
            )
        thread = Thread(target=importing.run, args=(target, *args), name=name, daemon=True)
        with self._lock:
            # In place: the finalizer holds the same list.
            self._threads[:] = [t for t in self._threads if not t.is_over()]
            self._threads.append(thread)  # before the start, for join() on the new thread
        try:
            # Without the lock: a handler that interrupts the start may wait for another thread. A
            # thread that the handler starts would wait for a lock of `threading`.
            self._starters.add(caller)
            thread.start()
            known.note_thread(thread)
        except BaseException:
            if not thread.is_started():
                with self._lock:
                    self._threads.remove(thread)
            raise
        finally:
            self._starters.discard(caller)

    # ---- workers ----

    @property
    def _pool(self) -> list[BaseProcess]:
        """The live list of worker processes."""
        if self._engine is not None and self._state == RUN and self._engine.is_ours:
            self._engine.wait_ended(0)  # replaces dead workers
            if any(map(_is_leaving, list(self._workers))):
                self._join_exited_workers()  # workers that were replaced before they exited
        return self._workers

    @_pool.setter
    def _pool(self, workers: list[BaseProcess]) -> None:
        self._workers = workers

    def _new_worker(self, target: Callable[..., object], *args: Any) -> Any:
        """The Process or thread of a new worker, not started."""
        process = self.Process(self._ctx, target=target, args=args)
        process.name = process.name.replace("Process", "PoolWorker")
        process.daemon = self._asked.daemon
        return process

    def _free_indexes(self) -> Iterator[int]:
        """The indexes that no worker has; one that is leaving has handed its own on. First those
        that calls wait for."""
        used = {_index_of(process) for process in self._workers if not _is_leaving(process)}
        if self._asked.is_elastic:
            assert self._engine is not None
            for index in self._engine.unplaced():
                if index not in used:
                    used.add(index)
                    yield index
        yield from (index for index in count() if index not in used)

    def _working_indexes(self) -> list[int]:
        """The indexes of the workers that there are now; of an elastic pool, in order."""
        with self._lock:
            found = {_index_of(process) for process in self._workers if not _is_leaving(process)}
        return sorted(found) or [0]  # all have just died: the first one that takes a place

    def _make_worker(self, index: int) -> BaseProcess:
        assert self._engine is not None
        worker = self._engine.worker(self._maxtasksperchild, index)
        place = (self._asked.cpus_of(index), self._asked.threads)
        setup = child.Setup(
            index,
            self._initializer,
            self._initargs,
            self._finalizer,
            self._finalargs,
            place,
            environment := check_environment(self._env, index),
            self._preload,
            None if self._logs is None else self._logs.for_worker(self._forks),
        )
        process = self._new_worker(child.main, worker, setup)
        # On the instance: the class may be the program's own.
        method = self._ctx.get_start_method()
        process._Popen = popen_factory(
            worker, method, self._around, not self._was_ready, place, environment
        )
        made: BaseProcess = process
        return made

    def _start_worker(self, process: BaseProcess, start: Callable[[BaseProcess], None]) -> None:
        try:
            start(process)
        finally:
            process.__dict__.pop("_Popen", None)
            if process.pid is not None:  # also if a signal handler raised after the fork
                self._workers.append(process)
        util.debug("added worker")
        if self._forks:
            # The replacement of a worker must not fail where the warning is an error.
            with contextlib.suppress(*(() if self._state == INIT else (Warning,))):
                popen.warn_of_threads(self._count_own_threads())

    def _count_own_threads(self) -> int:
        """The helper and feeders, and the standby, which is no thread of Python's."""
        return sum(thread.is_alive() for thread in list(self._threads)) + self._has_helper

    def _repopulate_pool(self) -> None:
        """Start workers until there are as many as there should be."""
        if self._engine is None:
            super()._repopulate_pool()
            return
        if self._serial:
            return
        with self._lock:
            wanted = self._processes
            if self._asked.is_elastic:
                wanted = self._engine.target  # which the engine changes itself
            else:
                self._engine.set_target(wanted)
            leaving = sum(map(_is_leaving, self._workers))
            missing = wanted - len(self._workers) + leaving
            indexes = self._free_indexes()
            with popen.started_together() as start:
                while missing > 0:
                    batch = [self._make_worker(next(indexes)) for _ in range(min(missing, _BATCH))]
                    missing -= len(batch)
                    try:
                        for process in batch:
                            self._start_worker(process, start)
                    finally:
                        batch.clear()  # closes pipes now; a traceback would keep them open

    def resize(self, processes: int) -> None:
        """Have so many workers from now on, at least 1; in an elastic pool so many at most.

        New ones start at once, in an elastic pool when there is work for them. Of too many, those
        with the highest indexes end; none that runs a task is ended before the task is.
        `ValueError` for a pool that is not running.
        """
        number = self._check_resize(processes)
        with self._lock:
            engine = self._engine_of_processes()
            self._processes = number
            self._asked.resize(engine, number)
            engine.set_indexes(number)
            if engine.target > number:
                engine.set_target(number)
            # Also those of an elastic pool that has few: each has an index below the number.
            engine.retire(len(self._workers), number)
            self._repopulate_pool()

    def restart_workers(self) -> None:
        """Replace all workers by new ones, which start at once and see today's globals.

        The old ones take no more tasks, and end after those that they run.
        """
        self._check_running()
        with self._lock:
            self._engine_of_processes().retire(len(self._workers), 0)
            self._repopulate_pool()

    def _check_resize(self, processes: int) -> int:
        self._check_running()
        number = operator.index(processes)
        if number < 1:
            raise ValueError("Number of processes must be at least 1")
        if self._engine is None:
            raise ValueError("resize() needs a pool that runs on cpool's engine")
        return number

    def _engine_of_processes(self) -> _core.Engine:
        if self._engine is None:
            raise ValueError("restart_workers() needs a pool that runs on cpool's engine")
        return self._engine

    def _join_exited_workers(self, workers: list[BaseProcess] | None = None) -> bool:
        """Join workers that have exited; True if there were any."""
        with self._lock:
            gone = [process for process in self._workers if process.exitcode is not None]
            for process in gone:
                process.join()
                process._popen.close()  # type: ignore[attr-defined]
                self._workers.remove(process)
        return bool(gone)

    def _replace_workers(self) -> None:
        """Called by the engine, on a thread that waits or on the helper, after workers ended."""
        assert self._engine is not None
        before = being_handled()
        if self._forks:  # without the lock: terminate() does not wait
            self._await_imports()
        with self._lock:
            if not self._has_workers():
                return
            self._join_exited_workers()
            try:
                self._check_starts()
                self._repopulate_pool()
            except PoolTerminated:
                pass  # the pool has ended meanwhile
            except PoolError as exc:
                self._engine.break_pool(failures.pack_error(exc, None))
            except Exception as exc:
                if is_from_handler(exc, before):
                    raise
                self._start_error = exc.with_traceback(None)
                self._engine.not_started()

    def _await_imports(self) -> None:
        """Wait until other threads have imported their modules, so that a worker is forked with
        complete ones. Not for long on a thread of the program, as calls have time limits."""
        kept = self._around.kept
        if importing.is_thread_of_a_pool():
            # What has waited for so long has most likely waited for the pool.
            kept.update(importing.await_others(kept, _IMPORT_S, self._has_workers))
        else:
            known = kept | self._awaited
            self._awaited |= set(importing.await_others(known, _BRIEFLY_S, self._has_workers))

    def _has_workers(self) -> bool:
        return self._state in (RUN, CLOSE)

    def _check_starts(self) -> None:
        """Raise `PoolError` if starts have failed for long and no worker is ready."""
        assert self._engine is not None
        _, _, ready, failed = self._engine.counts()
        self._was_ready = self._was_ready or ready > 0 or failed == 0
        if ready == 0 and failed > _MAX_FAILED_STARTS * self._processes:
            why = "" if self._start_error is None else f", the last error: {self._start_error}"
            error = PoolError(f"no worker can be started: {failed} in a row were never ready{why}")
            raise error from self._start_error

    # ---- the end ----

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if self._on_exit == "join" and kind is None:
            self.close()
            self.join()
        else:
            self.terminate()

    def close(self) -> None:
        """Accept no more jobs. The workers end when all submitted jobs are done."""
        if self._engine is None:
            super().close()
            return
        util.debug("closing pool")
        if self._state in (RUN, CLOSE) and self._engine.is_ours:
            # Also if it is closed: this may be a handler that has interrupted close() here.
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End now. Idle workers exit by themselves, busy ones by SIGTERM, and soon by SIGKILL.

        Pending jobs fail with `PoolTerminated`, also in threads that already wait for them.
        """
        if self._engine is None:
            super().terminate()
            return
        util.debug("terminating pool")
        self._state = TERMINATE
        if self._engine.is_ours:
            # First, so that a later join() returns even if the rest is interrupted.
            self._engine.end()
        self._terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        from .loops import leave

        await leave(self)

    def _check_ending(self, engine: _core.Engine) -> None:
        """Raise unless the pool can be joined."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if not engine.is_ours:
            failures.raise_foreign()
        if self._state == TERMINATE:
            engine.end()  # this may be a handler that has interrupted terminate()

    def _waits_for_this_thread(self, engine: _core.Engine) -> bool:
        """Is this a thread of the pool, and may a job depend on it?

        Once all jobs are done, such a thread may join, as in a `__del__` where it drops the last
        reference to something.
        """
        is_ours = any(map(Thread.is_current, list(self._threads)))
        return is_ours and self._has_pending(engine)

    @staticmethod
    def _has_pending(engine: _core.Engine) -> bool:
        pending, _, _, _ = engine.counts()
        return pending > 0

    def join(self, timeout: float | None = None) -> None:
        """Wait for the workers to end; `close()` or `terminate()` comes first.

        An `imap` whose `buffersize` is full of unread results takes no more input then. Raises
        `ValueError` for a pool that is running, and `multiprocessing.TimeoutError` after `timeout`
        seconds; `join()` can be called again.
        """
        if self._engine is None:
            super().join()
            return
        self._check_ending(self._engine)
        if timeout is None and self._state == CLOSE and self._waits_for_this_thread(self._engine):
            raise RuntimeError("a callback or an iterable cannot join the pool that waits for it")
        if timeout is None:
            self._engine.finish_calls()
        if self._state == TERMINATE and timeout is None:
            end.force(self._engine, self._workers)  # a handler may have interrupted terminate()
        elif not self._engine.wait_ended(timeout):
            raise TimeoutError
        end.clean_up(self._engine, self._workers, self._threads, self._at_end)
