"""`cpool.pool.Pool`: the code that runs once for a pool; the extension runs the tasks.

The class has those private attributes of the stdlib's class that programs are known to use. A pool
whose context is not one of multiprocessing's, or whose class overrides private hooks of the
stdlib's pool, runs on the stdlib's engine, which it inherits.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
import weakref
from collections.abc import (
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
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

# Before a fork, how long to wait for modules that other threads import: on a thread of the pool,
# and on a thread of the program.
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


class _NextIteration:
    """Awaiting it lets the event loop go on first, as `asyncio.sleep(0)` does."""

    def __await__(self) -> Generator[None, None, None]:
        yield


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
    """The parameter shared_memory_limit in bytes; 0: send all data through pipes."""
    if limit is None:
        return usable_memory() // 4
    return 0 if limit == 0 else bytes_of("shared_memory_limit", limit)


def _receive_logs(runs_filters: bool) -> LogReceiver:
    from .logs import LogReceiver  # few programs need it, and importing it takes time

    return LogReceiver(runs_filters)


class Pool(_StdlibPool):
    """A pool of worker processes, with the interface of `multiprocessing.Pool`.

    `processes` (an int) is the number of workers, by default `default_processes()`. Each worker
    calls `initializer(*initargs)` when it starts, and is replaced after `maxtasksperchild` tasks
    (an int; None: never). `context` is a multiprocessing context. Raises `ValueError` for less than
    one process or a `maxtasksperchild` that is not a positive int, `TypeError` for an initializer
    that is not callable, and `OSError` if a process cannot be started. No process is left behind
    after an error.

    Parameters that multiprocessing does not have: each worker calls `finalizer(*finalargs)` before
    a normal exit: after its last task, when the pool is closed, and when it is idle and the pool is
    terminated (then it has half a second). An exception of the finalizer is printed. `on_exit` is
    what leaving a `with` block does: "terminate", or "join", which closes and joins the pool, but
    terminates it if the block raised.

    With `forward_logs=True` the handlers of this process handle the `logging` records of workers:
    each record once, those of one worker in order, with the worker's `processName`. In a worker,
    loggers have the levels that they had here when the worker started. A record arrives with its
    message formatted, its exception as text, and other attributes that are not plain values as
    their `repr()`. Handlers run on a thread of the pool, so a record may be handled a moment after
    the result of its task has arrived. `join()` and `terminate()` wait until all records are
    handled, at most 5 seconds.

    `memory_limit` (an int of bytes, or a str like "2GiB") limits the memory that each worker has
    allocated itself; memory that it shares with this process since a fork does not count, nor does
    shared memory (below), except the pages of shared objects that it writes to. A worker that
    exceeds the limit between two tasks is replaced. If it exceeds the limit while an item runs, and
    the item itself has added an eighth of the limit or more, the worker is killed, and that item
    fails with `MemoryLimitError`; an item that adds less runs on. The memory of busy workers is
    checked every 20 ms. Raises `ValueError` on systems without /proc.

    With `min_processes` or `idle_timeout` the pool is elastic. It starts with `min_processes`
    workers (an int, default: `processes`), and adds workers one by one, up to `processes`, while
    all are busy and tasks wait, or when a call asks for a worker that is not there. A worker that
    was idle for `idle_timeout` seconds (a float, default None: never) ends, as long as
    `min_processes` (or one) are left.

    `cpu_ids` pins workers to CPUs: a list with, for each worker, a CPU number or a list of CPU
    numbers; with more workers than entries it starts over. "auto" gives each worker one of this
    process's CPUs. `inner_max_num_threads` (an int) is the number of threads that OpenMP, OpenBLAS,
    MKL and the like may use in each worker. It is set by environment variables for libraries that
    are loaded later, and by `threadpoolctl`, if that is installed, for libraries that were loaded
    before a fork.

    With `daemon=False` tasks may start processes: `Process` objects, managers, and pools. A pool
    that a task makes ends with the process that made it, however that process ends. `terminate()`
    then kills busy workers together with all processes that they have started.

    On Linux, large data (numpy arrays, bytes and strings of 128 KiB or more each) are sent through
    memory that the pool shares with its workers; on other systems through pipes.
    `shared_memory_limit` is the most shared memory to use: an int of bytes, or a str such as
    "512MiB" or "4GiB"; 0: none; by default a quarter of the memory that this process may use. Data
    that do not fit are sent through pipes. An invalid limit raises `ValueError`. With "spawn" and
    "forkserver" large `initargs` are written there once, when the pool is made. See
    docs/large-data.md.

    With `serial=True` the pool has no workers: each task runs in the thread that submits it, before
    the call returns; tasks of `imap` and its variants run when `next` needs them. This is for
    debuggers, profilers and coverage. Results, errors, callbacks and `current_worker()` work as in
    any pool; as in a `ThreadPool`, nothing is pickled. `maxtasksperchild` and `context` have no
    effect. Options that need processes (`task_timeout`, `grace`, `retries`) raise `ValueError`.
    With `serial=None` the environment variable CPOOL_SERIAL decides when the pool is made ("1":
    serial); then such options are ignored, with a `RuntimeWarning`.

    `max_pending` (an int; None: no limit) is backpressure: a method that submits blocks while that
    many calls are queued of which no worker has been given a task yet. Calls from callbacks,
    iterables and tasks of the pool do not block, since the pool may depend on them; nor do calls in
    a coroutine, where the `await` waits instead. If the pool is closed meanwhile, the method raises
    `ValueError`.

    `propagate_context` (True, a `ContextVar` or an iterable of them): a task runs in its own
    context, with the values that these variables have where the call is submitted. True is all
    variables that have a value, except numpy's. A variable must be a global of a module, so that
    workers find it (otherwise `ValueError`), and its value must be picklable (otherwise
    `TypeError`).

    `env` has environment variables for the workers: a dict of str, or a function that takes a
    worker's index and returns such a dict; a value of None deletes the variable. They are set
    before the initializer, and with spawn and forkserver before the main module is imported, unless
    a fork server that runs already has imported it (from Python 3.13.8 and 3.14.1 on a server does
    so if the first pool or process that needed it had no `env`). `preload` (a str or an iterable of
    str) has names of modules to import once: before the fork, or in the fork server unless it runs
    already; spawned workers import them before the initializer. With forkserver a worker has the
    environment, `sys.path` and working directory of this process at the time when the worker
    starts, not those of the server.

    Every call ends: with its results, with what a task raised, with `WorkerLostError` if a worker
    died, with `InitializerError` if the initializer raised, or with `PoolTerminated`.
    """

    __module__ = "cpool.pool"

    _engine: _core.Engine | None = None
    _workers: list[BaseProcess]
    _start_error: BaseException | None = None  # of the last failed start
    _forks: bool
    _around: Surroundings
    _was_ready = False  # was any worker ever ready?
    _imports_main = True  # do workers by spawn and forkserver import the main module?
    _on_exit = "terminate"
    _asked: WorkerOptions
    _has_helper = False
    _serial = False
    _keys: Keys | None = None
    _env: Any = None
    _preload: tuple[str, ...] = ()
    _logs: LogReceiver | None = None
    _at_end: Sequence[Callable[[], object]] = ()  # functions to call after the workers have ended
    _threads: list[Thread]
    _has_threads = False  # are the workers threads?
    _starters: set[int]  # ids of threads that are just starting a thread of the pool
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
        self._serial = _serial.is_wanted(serial)
        if self._serial:
            self._refuse_serial = _serial.Refusal(is_asked=serial is not None)
            self._refuse_serial(self._asked.names("daemon"))

    def _set_start(self, env: Any, preload: str | Iterable[str]) -> None:
        if self._serial:
            self._refuse_serial(["env"] if env is not None else [])
            self._preload = import_first(preload, get_context("fork"))
            return
        self._env = env
        check_environment(env, 0)  # raise errors here, not when a worker starts
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
        self._has_helper = True  # a serial pool needs none
        self._terminate = util.Finalize(self, _serial.shut_down, args=(engine,), exitpriority=15)
        self._has_threads = True
        self._state = RUN
        known.add(self)

    def _step(self, stream: Any) -> bool:
        """Called by the engine of a serial pool when an iterator is read."""
        engine: Any = self._engine
        found: bool = engine.step(stream)
        return found

    @property
    def _shares_objects(self) -> bool:
        """Do tasks get the caller's own objects instead of copies?"""
        return self._serial

    @staticmethod
    def _refuse_own(**parameters: Any) -> None:
        """Raise `ValueError` for parameters that the standard library's engine does not have."""
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
        self._awaited: set[str] = set()  # modules that the program has waited for
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
        self._begin: Any = self._initializer, self._initargs
        if self._initializer is not None and not self._forks:
            self._write_begin()
        if self._forwards_logs:
            self._logs = _receive_logs(not self._forks)
            self._at_end = (*self._at_end, self._logs.end)
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
                self._start_threads()  # these end workers that are idle
            except BaseException:
                self.terminate()
                raise
        known.add(self)

    def _write_begin(self) -> None:
        """Write large initargs to memory that all workers share, for workers that start anew."""
        from .._start.written import write_once  # lazily, as the launchers

        assert self._engine is not None
        written = write_once(self._engine, self._begin)
        if written is not None:
            self._begin = written
            self._at_end = (written.share.close,)

    def _known_names(self) -> dict[str, Any] | None:
        """What workers have in their main module. None: what the module's file defines.

        The first workers are forked right after this call; later workers have at least these names.
        Workers that are not forked import the main module, if it has a file (in a notebook it has
        none).
        """
        if self._forks:
            return by_value.names_of_main()
        main = sys.modules.get("__main__")
        has_file = getattr(main, "__spec__", None) or getattr(main, "__file__", None)
        return None if has_file and self._imports_main else {}

    # ---- seeing ----

    def statistics(self) -> PoolStatistics:
        """Return a `cpool.PoolStatistics` of what the pool has done so far; its `str()` is a table.

        Reads counters that the pool always keeps, without asking the workers, and looks up how much
        shared memory there is. Works after the pool has ended too. Raises `ValueError` if the pool
        runs on the standard library's engine, or was made before a fork.
        """
        if self._engine is None:
            raise ValueError("statistics() needs a pool that runs on cpool's engine")
        from .statistics import statistics_of

        return statistics_of(self._engine, self._has_threads)

    def dump(self, file: Any = None) -> None:
        """Print what each worker is doing: its item, for how long, and its Python stack.

        `file` is an object with `write(str)`; None: `sys.stderr`. The stack is that of the thread
        that runs tasks, most recent call first, even while it is in C code, waits for a lock or is
        stopped. A worker that does not report its stack within half a second is shown without one.
        Raises `ValueError` if the pool runs on the standard library's engine, or was made before a
        fork.
        """
        if self._engine is None:
            raise ValueError("dump() needs a pool that runs on cpool's engine")
        from .dump import dump_pool

        dump_pool(self, sys.stderr if file is None else file)

    # ---- sharing ----

    def share(self, obj: T) -> SharedObject[T]:
        """Write `obj` once to memory that all workers share; return a `SharedObject`, its handle.

        Pass the handle to a task of this pool, inside anything (arguments, a `partial`, another
        shared object): the task gets the object itself. A worker maps the object at the first use,
        and keeps it as long as the handle exists or tasks with it are queued. Arrays and other
        large parts are not copied: workers share one copy, and each gets its own copy of the pages
        that it writes to.

            with pool.share(table) as handle:
                pool.starmap(look_up, [(handle, key) for key in keys])

        Parts of the object that a task returns are copied back. Workers do not see later changes to
        `obj`. Raises what pickling `obj` raises, `MemoryError` if the pool's `shared_memory_limit`
        is too small for it, and `ValueError` if the pool is not running. A task that is given a
        handle of another pool, or one that was closed before, fails with `ValueError`. In thread
        pools and serial pools tasks get `obj` itself, if the handle is an argument or is in lists,
        tuples or dicts of the arguments.
        """
        if self._engine is None:
            raise ValueError("share() needs a pool that runs on cpool's engine")
        self._check_running()
        from .shared import Resolver, SharedObject

        if not self._shares_objects:
            return SharedObject(self._engine.share_object(obj))
        with self._lock:
            engine: Any = fronts.find_shared(self._engine, self)
            self._engine = engine
        owner = engine.handle_owner
        return SharedObject(None, Resolver(owner)(obj), owner)

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
        """Return this pool with these options as defaults for its calls: see `CallOptions`.

        For code that gets a pool passed and does not know these options. The returned object has
        all methods and attributes of the pool, is an instance of the pool's class, and is the same
        pool: closing one closes the other. Options that are passed to a call override these.
        """
        if self._engine is None:
            refuse_options(asked)
        self._check_options(asked)
        return ConfiguredPool(self, asked)

    def _place(self, checked: Checked) -> None:
        if not checked.has_place:
            return
        if self._serial:  # there is no choice of worker, but invalid values raise as in any pool
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
            return check_serial_options(asked, self._refuse_serial)
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
        """Call `func(*args, **kwds)` in a worker; return its value or raise its exception.

        For `asked`, here and in all methods that submit, see `CallOptions`. Raises `ValueError` if
        the pool is not running, as all of these methods do.
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

        `callback(value)` or `error_callback(exception)` runs on a thread of the pool before the
        result is ready. If the callback raises, the result is that exception.
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

    if not TYPE_CHECKING:
        apply_async = _core.Method("apply_async", apply_async, ApplyResult)

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

        Returns a list with one result for each worker. Each worker runs the call as soon as it is
        free. Waits for all, then raises the first exception that arrived, if any. A worker that
        starts later does not run it: use `initializer` for that. In an elastic pool the workers run
        it that exist at the time of the call, or their replacements. In a serial pool, which has
        one worker, the list has one result.
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
        """`broadcast` that returns a `MapResult` at once; callbacks as in `apply_async`."""
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
        """Return the list `[func(x) for x in iterable]`, computed by the workers, in order.

        Items are sent in chunks of `chunksize` (an int). By default chunk sizes adapt to the
        measured time of items. They do not adapt, and a chunk is about a fourth of a worker's
        share, with `maxtasksperchild`, with a `func` that keeps state, and once items or results
        were seen that may share objects. Waits for all items, then raises the first exception that
        arrived, if any.
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
        """`map` that returns a `MapResult` at once; callbacks as in `apply_async`.

        By default a worker's share of the items is cut into 64 chunks or more. Chunk sizes do not
        adapt to measured times as in `map`, since that needs a thread that waits for the result.
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
        """Return the list `[func(*x) for x in iterable]`; otherwise like `map`."""
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
        """`starmap` that returns a `MapResult` at once; callbacks as in `apply_async`."""
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

        Tasks run whether or not `next` is called, and the pool pulls the iterable as fast as the
        workers take items. It pulls one item at a time from all iterables of the pool together, so
        that iterables may share a source; only while a pull takes longer than a second, others go
        ahead. `buffersize` (an int; None: no limit) is the largest number of chunks that are in
        flight or unread, after `close()` too. With a `buffersize`, `join()` ends the input if
        nobody reads, and the last `next` raises `PoolError`; dropping the iterator also ends the
        input, and items that were pulled still run. Raises `ValueError` for a `chunksize` or
        `buffersize` below 1, and `TypeError` if the one is not a number or the other not an int.
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
        """`imap` with results in the order in which they arrive."""
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
        """`istarmap` with results in the order in which they arrive."""
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
        """Call `func(*args, **kwds)` in a worker; return an iterator over what it yields.

        Each value can be read as soon as it was yielded. `func` is a generator function, or returns
        any iterable; an asynchronous generator is run by an event loop in the worker. The generator
        is at most `buffersize` values ahead of the reader, then it waits; but if all workers wait
        for readers and other tasks need a worker, it goes on. An exception of the generator, or
        `WorkerLostError`, comes after the values that were yielded before it. Values are pickled
        one by one. Read all values before `join()`: it closes generators that nobody reads, and
        then the last `next` raises `PoolError`. Raises `ValueError` for a `buffersize` below 1, and
        `TypeError` if it is not an int.
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

        `func(x)` yields values as in `stream`. Each generator is at most `buffersize` values (an
        int; None: 64) ahead of the reader. At most `buffersize` inputs, or twice the number of
        workers if that is more, are queued, running or not completely read. An exception of one
        generator is raised after its values; the values of the next generators follow.
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
        """`flatmap` with values as they arrive; the values of one input stay in order."""
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
        """The engine's mode. Default chunk sizes may change, unless `maxtasksperchild` counts
        tasks."""
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
            chunksize = 1  # 1.0 is accepted, as in the stdlib
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
        """Start turning items into tasks; a thread pulls the items that are not pulled at once."""
        assert self._engine is not None
        try:
            if not self._has_helper:
                self._start_threads(calls)
            if self._engine.feed(result, func, iterable, chunksize, mode, length, limit):
                self._start_feeder(result)
        except BaseException:
            self._engine.cancel(result)  # otherwise the job would never end
            raise

    # ---- threads ----

    def _start_threads(self, calls: bool = False) -> None:
        """Start the threads that run the pool while no thread waits for a result.

        Called before the first asynchronous call, and before a blocking call runs code of the
        program (its iterable, or methods that pickle values), so that the pool does not wait for
        that code. `calls`: the call has callbacks.
        """
        assert self._engine is not None
        self._engine.start_standby()
        if not calls and threading.get_ident() in self._starters:
            return  # in a signal handler: the code that it interrupted will start the threads
        # If this runs twice, the first thread of each kind stays and the others end.
        self._start_thread(_STARTER, self._engine.keep_workers)
        self._start_thread(_HELPER, self._engine.help)
        self._has_helper = True  # set last: a signal handler may need the helper before it runs

    def _start_caller(self) -> None:
        """Start the thread that encodes queued calls. Called by the engine."""
        assert self._engine is not None
        self._start_thread(_CALLER, self._engine.feed_calls)

    def _start_feeder(self, result: Any) -> None:
        assert self._engine is not None
        self._start_thread(_FEEDER, self._engine.feed_rest, [result])
        self._engine.end_call(result)  # the thread may not have done this yet

    def _start_thread(self, name: str, target: Callable[..., object], *args: Any) -> None:
        caller = threading.get_ident()
        if caller in self._starters:
            raise RuntimeError(
                "a signal handler that interrupted the start of a pool's thread cannot make a call "
                "that starts another thread; map() and apply() start none"
            )
        thread = Thread(target=importing.run, args=(target, *args), name=name, daemon=True)
        with self._lock:
            # Changed in place: the finalizer has the same list.
            self._threads[:] = [t for t in self._threads if not t.is_over()]
            self._threads.append(thread)  # before the start, for join() on the new thread
        try:
            # Without the lock: a signal handler that interrupts the start may wait for another
            # thread. In the handler no thread may be started, since that would wait for a lock of
            # `threading`.
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
                self._join_exited_workers()  # join workers that were replaced before they exited
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
        """The indexes that no worker has, without counting leaving workers. First those that calls
        wait for."""
        used = {_index_of(process) for process in self._workers if not _is_leaving(process)}
        if self._asked.is_elastic:
            assert self._engine is not None
            for index in self._engine.unplaced():
                if index not in used:
                    used.add(index)
                    yield index
        yield from (index for index in count() if index not in used)

    def _working_indexes(self) -> list[int]:
        """The indexes of the current workers of an elastic pool, in order."""
        with self._lock:
            found = {_index_of(process) for process in self._workers if not _is_leaving(process)}
        return sorted(found) or [0]  # all have just died: the first replacement

    def _make_worker(self, index: int) -> tuple[BaseProcess, _core.Worker]:
        assert self._engine is not None
        worker = self._engine.worker(self._maxtasksperchild, index)
        place = (self._asked.cpus_of(index), self._asked.threads)
        setup = child.Setup(
            index,
            self._begin,
            self._finalizer,
            self._finalargs,
            place,
            environment := check_environment(self._env, index),
            self._preload,
            None if self._logs is None else self._logs.for_worker(self._forks),
        )
        process = self._new_worker(child.main, worker, setup)
        # On the instance, since the class may be the program's own.
        method = self._ctx.get_start_method()
        process._Popen = popen_factory(
            worker,
            method,
            self._around,
            not self._was_ready,
            place,
            environment,
            self._imports_main,
        )
        return process, worker

    def _start_workers(
        self,
        made: list[tuple[BaseProcess, _core.Worker]],
        start: Callable[[BaseProcess], None],
        fork: child.Fork | None,
    ) -> None:
        """Start a batch. After an error those that were forked are workers of the pool too.

        `fork`: None for workers that are not forked.
        """
        processes = [process for process, _ in made]
        workers = [worker for _, worker in made]
        count = len(made)
        is_new = self._state == INIT
        try:
            if is_new:  # as multiprocessing does; later starts wait for no reader
                util._flush_std_streams()  # type: ignore[attr-defined]
            forked, error = count, None
            if fork is not None:
                forked, error = popen.fork_ahead(processes, workers, fork, is_new)
            for process in processes[:forked] if error is not None else processes:
                self._start_worker(process, start)
        except BaseException:
            # A signal handler has raised, perhaps before it was told how many were forked. Those
            # run already, and the engine counts them.
            for process, worker in zip(processes, workers, strict=True):
                if self._forks and worker.pid > 0 and process not in self._workers:
                    with contextlib.suppress(BaseException):  # a second one: the first is raised
                        if process.pid is None:
                            self._start_worker(process, start)
                        else:  # the handler ran when the process was started
                            process.__dict__.pop("_Popen", None)
                            self._workers.append(process)
            process = worker = None  # type: ignore[assignment]
            raise
        finally:
            # Closes pipes now; a traceback would keep them open.
            processes.clear()
            workers.clear()
        if error is not None:
            raise error
        if self._forks:
            for _ in range(count):
                # Replacing a worker must not fail because the warning is an error.
                with contextlib.suppress(*(() if self._state == INIT else (Warning,))):
                    popen.warn_of_threads(self._count_own_threads())

    def _start_worker(self, process: BaseProcess, start: Callable[[BaseProcess], None]) -> None:
        try:
            start(process)
        finally:
            if process.pid is not None:  # even if a signal handler raised after the fork
                process.__dict__.pop("_Popen", None)
                self._workers.append(process)
        util.debug("added worker")

    def _count_own_threads(self) -> int:
        """The number of the pool's threads, with the standby, which is not a Python thread."""
        return sum(thread.is_alive() for thread in list(self._threads)) + self._has_helper

    def _repopulate_pool(self) -> None:
        """Start the missing workers."""
        if self._engine is None:
            super()._repopulate_pool()
            return
        if self._serial:
            return
        with self._lock:
            wanted = self._processes
            if self._asked.is_elastic:
                wanted = self._engine.target  # the engine changes it
            else:
                self._engine.set_target(wanted)
            leaving = sum(map(_is_leaving, self._workers))
            missing = wanted - len(self._workers) + leaving
            indexes = self._free_indexes()
            if missing <= 0:
                return
            forks = popen.forks(self._around) if self._forks else contextlib.nullcontext()
            with popen.started_together() as start, forks as fork:
                while missing > 0:
                    batch = [self._make_worker(next(indexes)) for _ in range(min(missing, _BATCH))]
                    missing -= len(batch)
                    try:
                        self._start_workers(batch, start, fork)
                    finally:
                        batch.clear()  # closes pipes now; a traceback would keep them open

    def resize(self, processes: int) -> None:
        """Change the number of workers (at least 1); in an elastic pool, the largest number.

        New workers start at once, in an elastic pool when there is work for them. If there are too
        many workers, those with the highest indexes end, after the tasks that they run. Raises
        `ValueError` if the pool is not running.
        """
        number = self._check_resize(processes)
        with self._lock:
            engine = self._engine_of_processes()
            self._processes = number
            self._asked.resize(engine, number)
            engine.set_indexes(number)
            if engine.target > number:
                engine.set_target(number)
            # Also in an elastic pool with few workers, whose indexes may be too high.
            engine.retire(len(self._workers), number)
            self._repopulate_pool()

    def restart_workers(self) -> None:
        """Replace all workers with new ones, which start at once and see the current globals.

        Old workers get no more tasks, and end after the tasks that they run. Raises `ValueError` if
        the pool is not running.
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
        """Called by the engine, on a waiting thread or a thread of the pool, after workers
        ended."""
        assert self._engine is not None
        before = being_handled()
        if self._forks:  # without the lock, so that terminate() need not wait
            self._await_imports()
        with self._lock:
            if not self._has_workers():
                return
            self._join_exited_workers()
            try:
                self._check_starts()
                self._repopulate_pool()
            except PoolTerminated:
                pass  # the pool ended in the meantime
            except PoolError as exc:
                self._engine.break_pool(failures.pack_error(exc, None))
            except Exception as exc:
                if is_from_handler(exc, before):
                    raise
                self._start_error = exc.with_traceback(None)
                self._engine.not_started()

    def _await_imports(self) -> None:
        """Wait until other threads have finished their imports, so that a forked worker has
        complete modules. On a thread of the program only briefly, as calls have time limits."""
        kept = self._around.kept
        if importing.is_thread_of_a_pool():
            # An import that takes so long most likely waits for the pool.
            kept.update(importing.await_others(kept, _IMPORT_S, self._has_workers))
        else:
            known = kept | self._awaited
            self._awaited |= set(importing.await_others(known, _BRIEFLY_S, self._has_workers))

    def _has_workers(self) -> bool:
        return self._state in (RUN, CLOSE)

    def _check_starts(self) -> None:
        """Raise `PoolError` if starts have failed for a long time and no worker is ready."""
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
        """Accept no more calls. The workers end when all submitted calls are done."""
        if self._engine is None:
            super().close()
            return
        util.debug("closing pool")
        if self._state in (RUN, CLOSE) and self._engine.is_ours:
            # Even if it is closed: this may be a signal handler that interrupted close() at this
            # point.
            self._state = CLOSE
            self._engine.close()

    def terminate(self) -> None:
        """End the pool now. Idle workers exit; busy ones get SIGTERM, and soon after that SIGKILL.

        Pending calls fail with `PoolTerminated`, also in threads that are waiting for them.
        """
        if self._engine is None:
            super().terminate()
            return
        util.debug("terminating pool")
        self._state = TERMINATE
        if self._engine.is_ours:
            # This comes first, so that a later join() returns even if the rest is interrupted.
            self._engine.end()
        self._terminate()

    async def __aenter__(self) -> Self:
        self._check_running()
        if self._engine is None or self._has_helper:
            return self
        try:
            await _NextIteration()  # the start of the workers has taken some milliseconds
            from .loops import enter  # takes another one

            await enter(self)
        except BaseException:  # such as a cancelled task: there will be no __aexit__()
            await Pool.__aexit__(self)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        from .loops import leave

        await leave(self)

    def _check_ending(self, engine: _core.Engine) -> None:
        """Raise `ValueError` unless the pool was closed or terminated."""
        util.debug("joining pool")
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if self._state not in (CLOSE, TERMINATE):
            raise ValueError("In unknown state")
        if not engine.is_ours:
            failures.raise_foreign()
        if self._state == TERMINATE:
            engine.end()  # this may be a signal handler that interrupted terminate()

    def _waits_for_this_thread(self, engine: _core.Engine) -> bool:
        """Is this a thread of the pool on which a pending job may depend?

        Once all jobs are done such a thread may join the pool, for instance in a `__del__` of an
        object to which it drops the last reference.
        """
        is_ours = any(map(Thread.is_current, list(self._threads)))
        return is_ours and self._has_pending(engine)

    @staticmethod
    def _has_pending(engine: _core.Engine) -> bool:
        pending, _, _, _ = engine.counts()
        return pending > 0

    def join(self, timeout: float | None = None) -> None:
        """Wait for the workers to end; call `close()` or `terminate()` first.

        Without a `timeout`, ends the input of each `imap` whose buffer (`buffersize`) is full of
        unread results. Raises `ValueError` if the pool is still running, `RuntimeError` in a
        callback or iterable on which the pool waits, and `multiprocessing.TimeoutError` if the
        workers have not ended after `timeout` seconds (a float; None: no limit). After a timeout
        `join()` can be called again.
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
