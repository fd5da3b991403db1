"""The pools that are compared, each used as its documentation recommends.

A peer is imported only in the process that measures it. If a peer does not support a call, its
class has no such method, and the table says so. A peer without a default chunk size gets the
standard library's.
"""

import importlib
import multiprocessing
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.cases import Work
from benchmarks.interface import (
    Peer,
    Results,
    StartedItems,
    Unsupported,
    compute_until_ready,
    only_fork,
)

SUBJECT = "cpool"
REFERENCE = "multiprocessing"


class StdlibPool(Peer):
    """multiprocessing.Pool, and the base class of pools with the same interface."""

    module = "multiprocessing"
    about = "multiprocessing.Pool, fork"
    pool: Any

    def __init__(self, workers: int, start: str) -> None:
        module: Any = importlib.import_module(self.module)
        if start == "threads":
            self.pool = importlib.import_module(f"{self.module}.pool").ThreadPool(workers)
        else:
            self.pool = self.make(module, workers, start)

    def make(self, module: Any, workers: int, start: str) -> Any:
        return module.get_context(start).Pool(workers)

    def apply(self, work: Work) -> Results:
        return [self.pool.apply(work.function, (item,)) for item in work.items]

    def map(self, work: Work) -> Results:
        return list(self.pool.map(work.function, work.items, work.chunksize))

    def starmap(self, work: Work) -> Results:
        return list(self.pool.starmap(work.function, work.items, work.chunksize))

    def starmap_async(self, work: Work) -> Results:
        return list(self.pool.starmap_async(work.function, work.items, work.chunksize).get())

    def imap(self, work: Work) -> Results:
        return list(self.pool.imap(work.function, work.items, work.chunksize or 1))

    def imap_unordered(self, work: Work) -> Results:
        return list(self.pool.imap_unordered(work.function, work.items, work.chunksize or 1))

    def burst(self, work: Work) -> Results:
        results = [self.pool.apply_async(work.function, (item,)) for item in work.items]
        return [result.get() for result in results]

    def busy_main(self, work: Work) -> Results:
        return compute_until_ready(self.pool.map_async(work.function, work.items, work.chunksize))

    def program(self, work: Work) -> Results:
        return list(work.function(self.pool))

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Cpool(StdlibPool):
    module = "cpool"
    about = "cpool.Pool"

    def __init__(self, workers: int, start: str) -> None:
        super().__init__(workers, start)
        if hasattr(self.pool, "_task_handler"):
            raise RuntimeError("the pool runs on the inherited engine, not on cpool's own")

    def make(self, module: Any, workers: int, start: str) -> Any:
        return module.Pool(workers, context=multiprocessing.get_context(start))


class PipesOnly(Cpool):
    """What cpool costs without shared memory."""

    about = "cpool.Pool(shared_memory_limit=0)"
    by_default = False

    def make(self, module: Any, workers: int, start: str) -> Any:
        context = multiprocessing.get_context(start)
        return module.Pool(workers, context=context, shared_memory_limit=0)


class Billiard(StdlibPool):
    module = "billiard"
    about = "billiard.Pool, fork"

    def make(self, module: Any, workers: int, start: str) -> Any:
        only_fork(start)
        return super().make(module, workers, start)


class Multiprocess(StdlibPool):
    module = "multiprocess"
    about = "multiprocess.Pool, fork"


class Executor(Peer):
    """concurrent.futures, and the base class of pools with futures."""

    module = "concurrent.futures"
    about = "concurrent.futures.ProcessPoolExecutor, fork"

    def __init__(self, workers: int, start: str) -> None:
        self.workers = workers
        self.futures: Any = importlib.import_module("concurrent.futures")
        self.pool: Any = self.make(workers, start)

    def make(self, workers: int, start: str) -> Any:
        if start == "threads":
            return self.futures.ThreadPoolExecutor(workers)
        context = multiprocessing.get_context(start)
        return self.futures.ProcessPoolExecutor(workers, mp_context=context)

    def submit_item(self, work: Work, item: Any) -> Any:
        return self.pool.submit(work.function, item)

    def submit(self, work: Work) -> list[Any]:
        return [self.submit_item(work, item) for item in work.items]

    def chunksize_for(self, work: Work) -> int:
        return work.chunksize or -(-len(work.items) // (4 * self.workers))

    def iterate(self, work: Work, columns: Iterable[Any]) -> Iterator[Any]:
        chunksize = self.chunksize_for(work)
        return iter(self.pool.map(work.function, *columns, chunksize=chunksize))

    def apply(self, work: Work) -> Results:
        return [self.submit_item(work, item).result() for item in work.items]

    def map(self, work: Work) -> Results:
        return list(self.iterate(work, [work.items]))

    def starmap(self, work: Work) -> Results:
        return list(self.iterate(work, zip(*work.items, strict=True)))

    # Here map() submits everything at once and returns a lazy iterator.
    starmap_async = starmap
    imap = map

    def imap_unordered(self, work: Work) -> Results:
        return [future.result() for future in self.futures.as_completed(self.submit(work))]

    def burst(self, work: Work) -> Results:
        return [future.result() for future in self.submit(work)]

    def busy_main(self, work: Work) -> Results:
        calls = self.submit(work)
        return compute_until_ready(StartedItems([c.done for c in calls], [c.result for c in calls]))

    def close(self) -> None:
        self.pool.shutdown(wait=True)


class Pebble(Executor):
    module = "pebble"
    about = "pebble.ProcessPool, fork"

    def make(self, workers: int, start: str) -> Any:
        only_fork(start)
        pebble: Any = importlib.import_module("pebble")
        context = multiprocessing.get_context(start)
        return pebble.ProcessPool(max_workers=workers, context=context)

    def submit_item(self, work: Work, item: Any) -> Any:
        return self.pool.schedule(work.function, args=(item,))

    def iterate(self, work: Work, columns: Iterable[Any]) -> Iterator[Any]:
        results = self.pool.map(work.function, *columns, chunksize=self.chunksize_for(work))
        return iter(results.result())

    def close(self) -> None:
        self.pool.close()
        self.pool.join()


class Joblib(Peer):
    module = "joblib"
    about = "joblib.Parallel, loky"

    def __init__(self, workers: int, start: str) -> None:
        only_fork(start)
        if workers == 1:
            raise Unsupported("one job runs in the calling process")
        self.workers = workers
        self.joblib: Any = importlib.import_module("joblib")

    def parallel(self, calls: Iterator[Any], chunksize: int | None, kind: str = "list") -> Results:
        # loky reuses its workers for every Parallel of the same size: they start only once.
        run = self.joblib.Parallel(
            n_jobs=self.workers, backend="loky", batch_size=chunksize or "auto", return_as=kind
        )
        return list(run(calls))

    def calls(self, work: Work) -> Iterator[Any]:
        call = self.joblib.delayed(work.function)
        if work.star:
            return (call(*item) for item in work.items)
        return (call(item) for item in work.items)

    def apply(self, work: Work) -> Results:
        return [self.parallel(iter([call]), 1)[0] for call in self.calls(work)]

    def map(self, work: Work) -> Results:
        return self.parallel(self.calls(work), work.chunksize)

    starmap = map

    def imap(self, work: Work) -> Results:
        return self.parallel(self.calls(work), 1, "generator")

    def imap_unordered(self, work: Work) -> Results:
        return self.parallel(self.calls(work), 1, "generator_unordered")

    def close(self) -> None:
        loky: Any = importlib.import_module("joblib.externals.loky")
        loky.get_reusable_executor().shutdown(wait=True)


class JoblibProcesses(Joblib):
    """The backend that maps large arrays read-only from files."""

    about = "joblib.Parallel, multiprocessing"
    by_default = False

    def __init__(self, workers: int, start: str) -> None:
        super().__init__(workers, start)
        self.run_calls: Any = self.joblib.Parallel(n_jobs=workers, backend="multiprocessing")
        self.run_calls.__enter__()

    def parallel(self, calls: Iterator[Any], chunksize: int | None, kind: str = "list") -> Results:
        if kind != "list":
            raise Unsupported("this backend returns no generator")
        self.run_calls.batch_size = chunksize or "auto"
        return list(self.run_calls(calls))

    def imap(self, work: Work) -> Results:
        return self.parallel(self.calls(work), 1)

    def close(self) -> None:
        self.run_calls.__exit__(None, None, None)


class Interpreters(Executor):
    """From Python 3.14 on. Modules such as numpy cannot be imported there."""

    about = "concurrent.futures.InterpreterPoolExecutor"
    by_default = False

    @classmethod
    def version(cls) -> str:
        importlib.import_module("concurrent.futures").InterpreterPoolExecutor  # noqa: B018
        return super().version()

    def make(self, workers: int, start: str) -> Any:
        only_fork(start)
        return self.futures.InterpreterPoolExecutor(workers)


class Torch(StdlibPool):
    """Its pool shares tensors only: arrays of numpy are pickled."""

    module = "torch.multiprocessing"
    about = "torch.multiprocessing.Pool, fork"
    by_default = False

    @classmethod
    def version(cls) -> str:
        return str(importlib.import_module("torch").__version__)


class Ray(Peer):
    """Tasks of ray on this machine. Its arrays arrive read-only."""

    module = "ray"
    about = "ray.remote, on this machine"
    by_default = False

    def __init__(self, workers: int, start: str) -> None:
        only_fork(start)
        self.ray: Any = importlib.import_module("ray")
        self.ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)

    def submit(self, work: Work) -> list[Any]:
        function = self.ray.remote(run_once).remote
        if work.star:
            return [function(work.function, *item) for item in work.items]
        return [function(work.function, item) for item in work.items]

    def apply(self, work: Work) -> Results:
        function = self.ray.remote(run_once).remote
        return [self.ray.get(function(work.function, item)) for item in work.items]

    def map(self, work: Work) -> Results:
        return list(self.ray.get(self.submit(work)))

    starmap = map
    imap = map
    burst = map

    def close(self) -> None:
        self.ray.shutdown()


def run_once(function: Any, *arguments: Any) -> Any:
    """ray.remote() takes plain functions only."""
    return function(*arguments)


class Mpire(Peer):
    """mpire. Its map() unpacks tuples into arguments, and dicts into keyword arguments."""

    module = "mpire"
    about = "mpire.WorkerPool, fork, keep_alive"

    def __init__(self, workers: int, start: str) -> None:
        only_fork(start)
        mpire: Any = importlib.import_module("mpire")
        self.pool: Any = mpire.WorkerPool(n_jobs=workers, start_method="fork", keep_alive=True)

    def submit(self, work: Work) -> list[Any]:
        return [self.pool.apply_async(work.function, (item,)) for item in work.items]

    def apply(self, work: Work) -> Results:
        return [self.pool.apply(work.function, (item,)) for item in work.items]

    def map(self, work: Work) -> Results:
        items = work.items
        if isinstance(items[0], dict):
            items = [(item,) for item in items]
        # Otherwise it joins arrays that tasks return into one.
        options: dict[str, Any] = {"concatenate_numpy_output": False}
        return list(self.pool.map(work.function, items, chunk_size=work.chunksize, **options))

    starmap = map

    def imap(self, work: Work) -> Results:
        return list(self.pool.imap(work.function, work.items, chunk_size=1))

    def imap_unordered(self, work: Work) -> Results:
        return list(self.pool.imap_unordered(work.function, work.items, chunk_size=1))

    def burst(self, work: Work) -> Results:
        return [result.get() for result in self.submit(work)]

    def busy_main(self, work: Work) -> Results:
        calls = self.submit(work)
        return compute_until_ready(StartedItems([c.ready for c in calls], [c.get for c in calls]))

    def close(self) -> None:
        self.pool.stop_and_join()


PEERS: dict[str, type[Peer]] = {
    SUBJECT: Cpool,
    REFERENCE: StdlibPool,
    "cpool-pipes": PipesOnly,
    "executor": Executor,
    "joblib": Joblib,
    "joblib-mp": JoblibProcesses,
    "mpire": Mpire,
    "pebble": Pebble,
    "billiard": Billiard,
    "multiprocess": Multiprocess,
    "interpreters": Interpreters,
    "torch": Torch,
    "ray": Ray,
}
