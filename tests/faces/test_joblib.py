"""cpool.joblib: the backend under joblib's Parallel."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
import tasks
from engine import DEADLINE
from gates import Gate

joblib = pytest.importorskip("joblib")

import cpool  # noqa: E402
from cpool import joblib as backend  # noqa: E402

pytestmark = pytest.mark.better


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    backend.register()
    with joblib.parallel_config(backend="cpool"):
        yield
    for executor in backend._executors.values():
        executor.shutdown()
    backend._executors.clear()
    backend._made_with.clear()


def square(x: Any) -> Any:
    return x * x


def parallel(**parameters: Any) -> Any:
    return joblib.Parallel(n_jobs=2, **parameters)


def calls(func: Any, items: Any) -> Iterator[Any]:
    return (joblib.delayed(func)(item) for item in items)


def test_results_are_in_order() -> None:
    assert parallel()(calls(square, range(50))) == [i * i for i in range(50)]
    assert parallel(batch_size=7)(calls(square, range(50))) == [i * i for i in range(50)]
    assert parallel(pre_dispatch="all")(calls(square, range(9))) == [i * i for i in range(9)]


def test_lambdas_and_closures() -> None:
    one = 1
    assert parallel()(calls(lambda x: x + one, range(5))) == [1, 2, 3, 4, 5]


def test_work_is_done_in_workers_that_stay() -> None:
    pids = set(parallel(batch_size=1)(joblib.delayed(os.getpid)() for _ in range(20)))
    assert os.getpid() not in pids
    assert set(parallel()(joblib.delayed(os.getpid)() for _ in range(20))) <= pids | set(
        backend._executors[2, 1, "fork"]._processes or ()
    )
    assert len(backend._executors) == 1


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call waits for all of its results at once, however long that takes on this machine."""
    monkeypatch.setattr(backend, "_POLL_S", 10 * DEADLINE)


class Sleepless:
    """The module `time` for joblib, without sleep()."""

    @staticmethod
    def sleep(_: float) -> None:
        raise AssertionError("the call slept")

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def test_a_short_call_does_not_sleep(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    parallel()(calls(square, range(2)))
    monkeypatch.setattr(joblib.parallel, "time", Sleepless())
    assert parallel()(calls(square, range(2))) == [0, 1]
    assert parallel(batch_size=1)(calls(square, range(30))) == [i * i for i in range(30)]
    with pytest.raises(ZeroDivisionError):
        parallel()(calls(lambda x: 1 / x, [0]))
    with joblib.Parallel(n_jobs=2) as several:
        for n in range(3):
            assert several(calls(square, range(n))) == [i * i for i in range(n)]


def test_a_generator_waits_for_its_next_result_only(patient: None, gate: Gate) -> None:
    items = iter(
        parallel(batch_size=1, return_as="generator")(
            joblib.delayed(tasks.held)(gate, i) if i else joblib.delayed(square)(i)
            for i in range(2)
        )
    )
    assert next(items) == 0  # or it would wait for the gate
    gate.open()
    assert list(items) == [1]


def test_a_call_that_cannot_be_submitted_is_not_waited_for(
    patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = backend.CpoolBackend()
    made.configure(2, parallel())

    class Broken:
        def submit(self, *_: Any) -> None:
            raise BrokenProcessPool("no")

    monkeypatch.setattr(made, "_executor", Broken())
    with pytest.raises(BrokenProcessPool):
        made.submit(int)
    assert made._unanswered.n == 0
    with made.retrieval_context():
        pass


@pytest.mark.parametrize("kind", ["generator", "generator_unordered"])
def test_generators(kind: str) -> None:
    found = list(parallel(return_as=kind)(calls(square, range(20))))
    assert sorted(found) == [i * i for i in range(20)]


def test_what_a_call_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        parallel()(calls(lambda x: 1 // x, [1, 0, 2]))
    assert parallel()(calls(square, range(3))) == [0, 1, 4]


def test_a_dead_worker() -> None:
    with pytest.raises(BrokenProcessPool):
        parallel(batch_size=1)(calls(os._exit, [3, 3]))
    assert parallel()(calls(square, range(3))) == [0, 1, 4]


def test_timeout() -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        parallel(timeout=0.05, batch_size=1)(calls(time.sleep, [1, 1]))


def test_nested_calls() -> None:
    def outer(x: int) -> Any:
        return sum(joblib.Parallel(n_jobs=2)(calls(square, range(x))))

    assert parallel()(calls(outer, [2, 3])) == [1, 5]


def test_many_threads_share_the_workers(in_threads: Callable[..., list[Any]]) -> None:
    def work(n: int) -> Any:
        with joblib.parallel_config(backend="cpool"):
            return parallel()(calls(square, range(n, n + 20)))

    found = in_threads(work, [0, 100, 200, 300])
    assert found == [[i * i for i in range(n, n + 20)] for n in (0, 100, 200, 300)]
    assert len(backend._executors) == 1


def test_inner_threads_are_limited() -> None:
    name = "OMP_NUM_THREADS"
    with joblib.parallel_config(backend="cpool", inner_max_num_threads=3):
        assert set(parallel()(calls(os.getenv, [name] * 4))) == {"3"}


def test_variables_that_the_program_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert set(parallel()(calls(os.getenv, ["OMP_NUM_THREADS"] * 4))) == {"4"}


def remember(value: str) -> None:
    os.environ["CPOOL_TEST_REMEMBERED"] = value


def test_each_initializer_has_workers_of_its_own() -> None:
    for value in "one", "two":
        found = parallel(initializer=remember, initargs=(value,))(
            calls(os.getenv, ["CPOOL_TEST_REMEMBERED"] * 4)
        )
        assert set(found) == {value}


def nested() -> Any:
    with joblib.parallel_config(backend="cpool"):
        return parallel()(calls(square, range(3)))


def test_a_daemonic_process_runs_its_jobs_itself() -> None:
    with cpool.Pool(1) as pool:
        assert pool.apply(nested) == [0, 1, 4]


def test_large_arrays_are_mapped_once() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(400_000, dtype=float)

    def look(a: Any, i: int) -> Any:
        return type(a).__name__, a.flags.writeable, float(a[i])

    found = parallel(max_nbytes="1M")(joblib.delayed(look)(array, i) for i in range(8))
    assert found == [("memmap", False, float(i)) for i in range(8)]
    small = parallel()(joblib.delayed(look)(array[:10], i) for i in range(3))
    assert [kind for kind, _, _ in small] == ["ndarray"] * 3
    assert not [name for name in os.listdir("/dev/shm") if name.startswith("cpool-joblib")]


def test_one_job_runs_here() -> None:
    assert (
        joblib.Parallel(n_jobs=1)(joblib.delayed(os.getpid)() for _ in range(2))
        == [os.getpid()] * 2
    )
