"""A joblib backend on cpool's executor: `register()`, then `parallel_config(backend="cpool")`.

    import cpool.joblib
    from joblib import Parallel, delayed, parallel_config

    cpool.joblib.register()
    with parallel_config(backend="cpool"):
        Parallel(n_jobs=4)(delayed(abs)(x) for x in range(-3, 3))

scikit-learn's `n_jobs` then uses it too. The backend starts workers once for each number of jobs,
and keeps them for later calls from all threads; a call with another `initializer` starts new ones.
Functions of the main module, lambdas and closures are pickled by value, as by the loky backend. A
numpy array of `max_nbytes` bytes or more (1 MB by default) is written to shared memory once for
each call of `Parallel`, and the workers map it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import current_process, get_context

from joblib import register_parallel_backend
from joblib._parallel_backends import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
)
from joblib.disk import memstr_to_bytes
from joblib.externals.loky.backend.reduction import dumps

from ._base.size import default_processes
from ._base.stdlib import TYPE_CHECKING
from ._engine.executors import ProcessPoolExecutor
from ._start.libraries import find_libraries, limit_threads

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

__all__ = ["CpoolBackend", "register"]

_SHARED = "/dev/shm"
_POLL_S = 0.01  # how long a call of `Parallel` sleeps while a result is missing

# The executors of this process, by number of jobs, number of inner threads, and start method; and
# the environment, the initializer and its arguments that each was made with.
_executors: dict[tuple[int, int, str], ProcessPoolExecutor] = {}
_made_with: dict[tuple[int, int, str], tuple[dict[str, str], Any, Any]] = {}
_lock = threading.Lock()


def _forget() -> None:
    """In a forked child: forget the executors, which belong to the parent."""
    _executors.clear()
    _made_with.clear()
    _lock._at_fork_reinit()  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_forget)


def register(*, make_default: bool = False) -> None:
    """Register the backend with joblib under the name "cpool".

    `make_default` (a bool): calls of `Parallel` that name no backend use it too.
    """
    register_parallel_backend("cpool", CpoolBackend, make_default=make_default)


# ---- in the workers ----


_libraries: Any = None  # those of the parent, which forked workers inherit


def _find_libraries() -> None:
    """Called before the fork, not in each worker, as it takes milliseconds."""
    global _libraries
    _libraries = find_libraries()


def _initialize(
    threads: int, variables: dict[str, str], initializer: Any, initargs: tuple[Any, ...]
) -> None:
    """Limit the threads of BLAS, OpenMP and the like; then call the program's own initializer.

    Libraries that a worker loads later read the environment variables.
    """
    os.environ.update(variables)
    if _libraries is None:  # this worker was not forked
        _find_libraries()
    limit_threads(_libraries, threads)
    if initializer is not None:
        initializer(*initargs)


def _run(payload: bytes) -> Any:
    return pickle.loads(payload)()


_mapped: dict[str, Any] = {}  # weak references to the arrays that this process has mapped


def _map_array(path: str, mode: Any) -> Any:
    import numpy

    found = _mapped.get(path)
    array = None if found is None else found()
    if array is None:
        array = numpy.load(path, mmap_mode=mode, allow_pickle=False)
        _mapped[path] = weakref.ref(array, lambda _: _mapped.pop(path, None))
    return array


# ---- in the caller ----


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # such as the comparison of arrays among the arguments
        return False


class _Arrays:
    """The large arrays of one call of `Parallel`, each written to shared memory once."""

    def __init__(self, max_nbytes: int | None, mode: str | None, folder: str | None) -> None:
        self.max_nbytes = max_nbytes if mode is not None else None
        self.mode = mode
        self.root = folder
        self.folder: str | None = None
        self.paths: dict[int, tuple[Any, str]] = {}  # by id(); the array is kept with its path
        self.lock = threading.Lock()

    def reducers(self) -> dict[type, Any]:
        if self.max_nbytes is None:
            return {}
        try:
            import numpy
        except ImportError:
            return {}
        return {numpy.ndarray: self.reduce}

    def reduce(self, array: Any) -> Any:
        if array.dtype.hasobject or array.nbytes < (self.max_nbytes or 0):
            return array.__reduce_ex__(5)
        return _map_array, (self.path_of(array), self.mode)

    def path_of(self, array: Any) -> str:
        import numpy

        with self.lock:
            known = self.paths.get(id(array))
            if known is not None and known[0] is array:
                return known[1]
            if self.folder is None:
                root = self.root
                if root is None and os.access(_SHARED, os.W_OK):
                    root = _SHARED
                self.folder = tempfile.mkdtemp(prefix="cpool-joblib-", dir=root)
            path = os.path.join(self.folder, f"{len(self.paths)}.npy")
            numpy.save(path, array, allow_pickle=False)
            self.paths[id(array)] = (array, path)
            return path

    def close(self) -> None:
        """Remove the files; workers keep what they have mapped."""
        with self.lock:
            folder, self.folder = self.folder, None
            self.paths.clear()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class _Unanswered:
    """Counts the batches of one call of `Parallel` whose callbacks have not been called."""

    def __init__(self) -> None:
        self.n = 0
        self.changed = threading.Condition()

    def add(self, n: int) -> None:
        with self.changed:
            self.n += n
            if self.n == 0:
                self.changed.notify_all()

    def wait(self, timeout: float) -> None:
        """Wait until there are none, for at most `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.n == 0, timeout)


class CpoolBackend(AutoBatchingMixin, ParallelBackendBase):
    """joblib's interface to a `cpool.ProcessPoolExecutor`.

    `start_method` (a str, by default "fork" on Linux) is how the workers start. A forked worker
    uses one inner thread unless `inner_max_num_threads` says otherwise: GNU OpenMP hangs in a
    forked process if the parent has used several threads. If a worker dies, its batch fails with
    `WorkerLostError`; the other batches run on.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = 1

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._executor: ProcessPoolExecutor | None = None
        self._arrays = _Arrays(None, None, None)
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._unanswered = _Unanswered()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """The number of jobs that run at once. -1 is the number of CPUs, -2 one less, and so on.

        1 for None, and in a daemonic process, which may have no child processes. Raises
        `ValueError` for 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or current_process().daemon:
            return 1
        return n_jobs if n_jobs > 0 else max(default_processes() + 1 + n_jobs, 1)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: Any = None,
        require: Any = None,
        start_method: str | None = None,
        max_nbytes: Any = "1M",
        mmap_mode: str | None = "r",
        temp_folder: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **others: Any,
    ) -> int:
        """Begin a call of `Parallel`; return the number of jobs that run at once (an int)."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        method = start_method or self.backend_kwargs.get("start_method")
        if initializer is None:
            initializer = self.backend_kwargs.get("initializer")
            initargs = self.backend_kwargs.get("initargs", ())
        self._executor = self._executor_for(n_jobs, method, initializer, initargs)
        limit = memstr_to_bytes(max_nbytes) if isinstance(max_nbytes, str) else max_nbytes
        mode = "c" if mmap_mode == "w+" else mmap_mode
        self._arrays = _Arrays(limit, mode, temp_folder)
        self._unanswered = _Unanswered()
        return n_jobs

    def _executor_for(
        self, n_jobs: int, method: str | None, initializer: Any, initargs: Any
    ) -> ProcessPoolExecutor:
        context = None if method is None else get_context(method)
        asked = self.inner_max_num_threads
        probe = ProcessPoolExecutor(1, context)
        method = str(probe._mp_context.get_start_method())  # type: ignore[union-attr]
        if asked is not None:
            threads = int(asked)
        else:
            threads = 1 if method == "fork" else max(default_processes() // n_jobs, 1)
        key = n_jobs, threads, method
        variables = {  # as joblib does: a variable that is set stays, unless a number is asked for
            name: str(threads) if asked is not None else os.environ.get(name, str(threads))
            for name in self.MAX_NUM_THREADS_VARS
        }
        with _lock:
            found = _executors.get(key)
            made_with = variables, initializer, initargs
            if found is None or found._broken or not _is_same(_made_with.get(key), made_with):
                if method == "fork":
                    _find_libraries()
                # The executor that this replaces ends with the last call of Parallel that uses it.
                found = _executors[key] = ProcessPoolExecutor(
                    n_jobs, context, _initialize, (threads, *made_with)
                )
                _made_with[key] = made_with
            return found

    def submit(
        self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None
    ) -> Future[Any]:
        """Have a worker call `func()`, a batch of calls; return a future, which `callback` gets."""
        assert self._executor is not None
        payload = bytes(dumps(func, reducers=self._arrays.reducers(), protocol=5))
        unanswered = self._unanswered

        def answer(future: Future[Any]) -> None:
            try:
                if callback is not None:
                    callback(future)
            finally:
                unanswered.add(-1)

        unanswered.add(1)
        try:
            future = self._executor.submit(_run, payload)
        except BaseException:
            unanswered.add(-1)
            raise
        self._futures.add(future)
        future.add_done_callback(answer)
        return future

    @contextlib.contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """Entered when a call of `Parallel` begins to wait for its results.

        `Parallel` looks every 10 ms whether results have arrived. If it needs all of them, wait for
        them here first, as long as its first sleep would be: a short call ends at once.
        """
        if not self.parallel.return_generator:
            self._unanswered.wait(_POLL_S)
        with super().retrieval_context():
            yield

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch (a list), or raise what one of its calls raised."""
        return out.result()

    def terminate(self) -> None:
        """End a call of `Parallel`: free its shared memory. The workers stay for later calls."""
        self._arrays.close()
        self._executor = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the batches that no worker has begun. Workers stay, as other calls share them."""
        for future in list(self._futures):
            future.cancel()
        if ensure_ready:
            self.configure(
                n_jobs=self.parallel.n_jobs, parallel=self.parallel, **self.parallel._backend_kwargs
            )
        else:
            self.terminate()
