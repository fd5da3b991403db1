"""`cpu_ids=`, `inner_max_num_threads=`, and what pools refuse."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import threading
import types
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, WORKER_THREADS, Pool
from gates import Gate, eventually

from cpool._start.libraries import limit_threads

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool
OURS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
chooses = pytest.mark.skipif(not OURS, reason="processes cannot choose their CPUs")

METHODS = [None, "spawn", "forkserver"]


def context_of(method: str | None) -> Any:
    return None if method is None else multiprocessing.get_context(method)


def cpus(gate: Gate) -> tuple[int, list[int]]:
    gate.hold()
    return cpool.current_worker().index, sorted(os.sched_getaffinity(0))


def cpus_by_worker(pool: Any, gate: Gate, number: int) -> dict[int, list[int]]:
    results = [pool.apply_async(cpus, (gate,)) for _ in range(number)]
    gate.arrived(number)
    gate.open()
    return dict(result.get(DEADLINE) for result in results)


@chooses
@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_workers_run_where_they_should(make_pool: Any, gate: Gate, cls: Any) -> None:
    pool = make_pool(3, cls=cls, cpu_ids=[OURS[-1], OURS])
    assert cpus_by_worker(pool, gate, 3) == {0: OURS[-1:], 1: OURS, 2: OURS[-1:]}
    assert sorted(os.sched_getaffinity(0)) == OURS


@chooses
@pytest.mark.parametrize("method", METHODS)
def test_each_worker_has_a_cpu(make_pool: Any, gate: Gate, method: str | None) -> None:
    pool = make_pool(2, cpu_ids="auto", context=context_of(method))
    expected = {0: OURS[:1], 1: [OURS[1 % len(OURS)]]}
    assert cpus_by_worker(pool, gate, 2) == expected


@chooses
def test_a_replacement_worker_runs_on_the_same_cpu(make_pool: Any) -> None:
    pool = make_pool(1, cpu_ids=[OURS[-1]])
    with pytest.raises(cpool.WorkerLostError):
        pool.apply(tasks.die)
    assert pool.apply(os.sched_getaffinity, (0,)) == {OURS[-1]}


@chooses
@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ([], "must have at least one CPU for each worker"),
        ([[]], "must have at least one CPU for each worker"),
        ("all", 'must be a list of CPUs or "auto"'),
        ([10**6], "is not among the CPUs of this process"),
        ([[-1]], "is not among the CPUs of this process"),
    ],
)
def test_bad_cpus(bad: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Pool(1, cpu_ids=bad)
    with pytest.raises(TypeError):
        Pool(1, cpu_ids=[1.5])


def variables() -> list[str | None]:
    return [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "OPENBLAS", "MKL")]


@pytest.mark.parametrize("method", METHODS)
def test_variables_limit_the_threads_of_libraries(make_pool: Any, method: str | None) -> None:
    before = variables()
    pool = make_pool(1, inner_max_num_threads=3, context=context_of(method))
    assert pool.apply(variables) == ["3"] * 3
    assert variables() == before


SEEN = "import os; seen = os.environ.get('OMP_NUM_THREADS')"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_variables_are_set_before_libraries_are_imported(tmp_path: Any, method: str) -> None:
    import scripts

    program = f"""
import multiprocessing, os
from engine import Pool

seen = os.environ.get("OMP_NUM_THREADS")  # as a library that is imported would

def tell():
    return seen

if __name__ == "__main__":
    with Pool(1, context=multiprocessing.get_context("{method}"), inner_max_num_threads=3) as pool:
        print(pool.apply(tell))
"""
    assert scripts.output(tmp_path, program) == ["3"]


class Library:
    """As a controller of threadpoolctl. Notes what is asked of the library."""

    def __init__(self, internal_api: str, threading_layer: str, exports: bool = True) -> None:
        self.internal_api = internal_api
        self.threading_layer = threading_layer
        self.asked: list[object] = []
        self.dynlib = types.SimpleNamespace()
        if exports:
            self.dynlib.blas_thread_shutdown_ = lambda: self.asked.append("end")

    def set_num_threads(self, threads: int) -> None:
        self.asked.append(threads)


def use(monkeypatch: pytest.MonkeyPatch, *libraries: Any) -> None:
    """Have threadpoolctl find these libraries."""
    fake: Any = types.ModuleType("threadpoolctl")
    fake.ThreadpoolController = lambda: types.SimpleNamespace(lib_controllers=libraries)
    monkeypatch.setitem(sys.modules, "threadpoolctl", fake)


def asked_for() -> list[list[object]]:
    found: Any = sys.modules["threadpoolctl"].ThreadpoolController()
    return [library.asked for library in found.lib_controllers]


def libraries() -> list[Library]:
    return [
        Library("openblas", "pthreads"),
        Library("openblas", "openmp"),
        Library("openblas", "pthreads", exports=False),
        Library("openmp", "unknown"),
    ]


def test_libraries_that_are_loaded_are_limited(make_pool: Any, monkeypatch: Any) -> None:
    use(monkeypatch, *libraries())
    assert make_pool(1, inner_max_num_threads=2).apply(asked_for) == [[2]] * 4
    assert asked_for() == [[]] * 4


def test_threads_that_a_limit_of_one_has_started_end(make_pool: Any, monkeypatch: Any) -> None:
    use(monkeypatch, *libraries())
    pool = make_pool(1, inner_max_num_threads=1)
    assert pool.apply(asked_for) == [[1, "end"], [1], [1], [1]]


def test_threads_that_may_be_in_use_stay() -> None:
    library = Library("openblas", "pthreads")
    end = threading.Event()
    other = threading.Thread(target=end.wait)
    other.start()
    limit_threads(types.SimpleNamespace(lib_controllers=[library]), 1)
    end.set()
    other.join()
    assert library.asked == [1]


class OpenBLAS:
    """As the controller of threadpoolctl for the library that numpy has loaded."""

    internal_api = "openblas"
    threading_layer = "pthreads"
    name = "openblas_set_num_threads"

    def __init__(self, path: str) -> None:
        self.dynlib = ctypes.CDLL(path)

    def set_num_threads(self, threads: int) -> None:
        names = [f"{a}{self.name}{b}" for a in ("", "scipy_") for b in ("", "64_")]
        next(getattr(self.dynlib, name) for name in names if hasattr(self.dynlib, name))(threads)


def product_in_one_thread() -> int:
    import numpy

    ones = numpy.ones((200, 200))
    total = int((ones @ ones).sum())
    # The kernel lists a thread for another moment after it was joined.
    eventually(lambda: len(os.listdir("/proc/self/task")) == WORKER_THREADS)
    return total


def test_openblas_leaves_no_thread_that_waits_in_a_loop(make_pool: Any, monkeypatch: Any) -> None:
    pytest.importorskip("numpy")
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = {line.split()[-1] for line in file if "openblas" in line}
    use(monkeypatch, *map(OpenBLAS, paths))
    pool = make_pool(2, inner_max_num_threads=1)
    assert pool.starmap(product_in_one_thread, [()] * 6, 1) == [200**3] * 6


@pytest.mark.parametrize("bad", [0, -1])
def test_bad_numbers_of_threads(bad: int) -> None:
    with pytest.raises(ValueError, match="inner_max_num_threads must be a number from 1"):
        Pool(1, inner_max_num_threads=bad)


OPTIONS = [
    {"daemon": False},
    {"memory_limit": 10**9},
    {"min_processes": 1},
    {"idle_timeout": 1.0},
    {"inner_max_num_threads": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_what_needs_processes(options: Any) -> None:
    [name] = options
    with pytest.raises(ValueError, match=f"{name} needs worker processes"):
        ThreadPool(1, **options)


@pytest.mark.parametrize("base", [Pool, ThreadPool])
@pytest.mark.parametrize(
    "options", [*OPTIONS, {"cpu_ids": "auto"}], ids=lambda options: next(iter(options))
)
def test_the_stdlibs_engine_refuses_options_of_workers(base: Any, options: Any) -> None:
    class Own(base):  # type: ignore[misc]
        def _get_sentinels(self) -> Any:
            return super()._get_sentinels()

    [name] = options
    with pytest.raises(ValueError, match=f"{name} needs a pool that runs on cpool's engine"):
        Own(1, **options)
