"""`current_worker()`, `finalizer=` and `on_exit=`."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import engine
import pytest
import tasks
from engine import DEADLINE, Pool
from gates import Diary, Gate, eventually

pytestmark = pytest.mark.better

cpool = engine.errors
ThreadPool = engine.pool_module.ThreadPool


def whoami(_: Any = None) -> tuple[int, int, int]:
    worker = cpool.current_worker()
    return worker.index, worker.pid, worker.tasks_done


def remember(key: str, value: Any) -> Any:
    return cpool.current_worker().state.setdefault(key, value)


# current_worker


def test_there_is_no_worker_outside() -> None:
    assert cpool.current_worker() is None


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_workers_have_indexes(make_pool: Any, gate: Gate, cls: Any) -> None:
    pool = make_pool(3, cls=cls)
    results = [pool.apply_async(enter_and_tell, (gate,)) for _ in range(3)]
    gate.arrived(3)
    gate.open()
    assert sorted(result.get(DEADLINE)[0] for result in results) == [0, 1, 2]
    assert cpool.current_worker() is None


def enter_and_tell(gate: Gate) -> tuple[int, int, int]:
    gate.hold()
    return whoami()


def test_the_index_passes_to_the_worker_that_takes_the_place(make_pool: Any) -> None:
    pool = make_pool(2)
    for _ in range(3):
        with pytest.raises(cpool.WorkerLostError):
            pool.apply(tasks.die)
        found = pool.map(whoami, range(20), 1)
        assert {index for index, _, _ in found} <= {0, 1}
    eventually(lambda: sorted(w._popen.index for w in pool._pool) == [0, 1])


def test_tasks_are_counted_and_state_is_kept(make_pool: Any) -> None:
    pool = make_pool(1)
    assert [pool.apply(whoami)[2] for _ in range(3)] == [0, 1, 2]
    assert pool.apply(remember, ("model", 1)) == pool.apply(remember, ("model", 2)) == 1


def test_threads_count_for_themselves(make_pool: Any) -> None:
    pool = make_pool(1, cls=ThreadPool)
    assert [pool.apply(whoami)[2] for _ in range(3)] == [0, 1, 2]
    assert pool.apply(remember, ("model", 1)) == pool.apply(remember, ("model", 2)) == 1


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_start_afresh(make_pool: Any, method: str) -> None:
    pool = make_pool(1, context=multiprocessing.get_context(method))
    index, pid, done = pool.apply(whoami)
    assert (index, done) == (0, 0)
    assert [worker.pid for worker in pool._pool] == [pid]


def test_a_process_that_a_task_forks_is_no_worker(make_pool: Any) -> None:
    assert make_pool(1).apply(forked_worker) == b"None"


def forked_worker() -> bytes:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, repr(cpool.current_worker()).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    return os.read(read, 100)


def test_a_thread_pool_within_a_worker(make_pool: Any) -> None:
    assert make_pool(2).apply(index_in_threads) == ([0], True)


def index_in_threads() -> tuple[list[int], bool]:
    outer = cpool.current_worker()
    with ThreadPool(1) as pool:
        inner = pool.map(whoami, [1])
    return [index for index, _, _ in inner], cpool.current_worker() is outer


# finalizer


def note(diary: Diary, text: str) -> None:
    worker = cpool.current_worker()
    diary.write(f"{text} {worker.index}")


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_a_finalizer_runs_in_each_worker(diary: Diary, cls: Any) -> None:
    with cls(2, finalizer=note, finalargs=(diary, "over"), on_exit="join") as pool:
        pool.map(tasks.square, range(10))
        assert diary.lines() == []
    assert sorted(diary.lines()) == ["over 0", "over 1"]


def test_a_finalizer_runs_after_the_last_task(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1, maxtasksperchild=1, finalizer=note, finalargs=(diary, "over"))
    assert pool.map(tasks.square, range(3), 1) == [0, 1, 4]
    eventually(lambda: len(diary.lines()) >= 2)


def test_a_finalizer_runs_after_an_exit_of_a_task(make_pool: Any, diary: Diary) -> None:
    pool = make_pool(1, finalizer=note, finalargs=(diary, "over"))
    with pytest.raises(SystemExit):
        pool.apply(tasks.exit_with)
    eventually(diary.lines)


def test_a_finalizer_runs_in_idle_workers_that_are_terminated(
    diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpool._engine.end._GRACE_S", DEADLINE)  # a busy machine needs more
    with Pool(2, finalizer=note, finalargs=(diary, "over")) as pool:
        pool.apply_async(tasks.nothing).get(DEADLINE)  # now a thread reads what workers say
        eventually(lambda: pool._engine.counts()[2] == 2, "the workers are not ready")
    assert sorted(diary.lines()) == ["over 0", "over 1"]


def test_a_finalizer_that_raises(capfd: Any) -> None:
    with Pool(1, finalizer=tasks.fail, finalargs=("end",), on_exit="join") as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    text = capfd.readouterr().err
    assert "cpool: the finalizer raised in a worker:\n" in text
    assert "ValueError: no end" in text


def test_a_copy_of_a_worker_runs_no_finalizer(diary: Diary) -> None:
    with Pool(1, finalizer=note, finalargs=(diary, "over"), on_exit="join") as pool:
        assert pool.apply(fork_and_return) is None
    assert diary.lines() == ["over 0"]


def fork_and_return() -> None:
    pid = os.fork()
    if pid != 0:
        os.waitpid(pid, 0)


def test_a_finalizer_must_be_callable() -> None:
    with pytest.raises(TypeError, match="finalizer"):
        Pool(1, finalizer=1)


# on_exit


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_leaving_a_with_block_may_join(tmp_path: Path, cls: Any) -> None:
    with cls(2, on_exit="join") as pool:
        results = [pool.apply_async(tasks.square, (x,)) for x in range(200)]
    assert [result.get(0) for result in results] == [x * x for x in range(200)]


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_a_block_that_raises_terminates(cls: Any, gate: Gate) -> None:
    with pytest.raises(KeyError), cls(1, on_exit="join") as pool:
        result = pool.apply_async(gate.hold)
        gate.arrived()
        raise KeyError
    with pytest.raises(cpool.PoolTerminated):
        result.get(0)
    gate.open()
    pool.join()


def test_on_exit_is_checked() -> None:
    with pytest.raises(ValueError, match="on_exit"):
        Pool(1, on_exit="wait")


def test_the_stdlibs_engine_joins_but_has_no_finalizer() -> None:
    class Own(Pool):  # type: ignore[misc]
        def _handle_workers(*_: Any) -> None: ...

    with pytest.raises(ValueError, match="finalizer needs a pool that runs on cpool's engine"):
        Own(1, finalizer=print)


def test_threads_left_by_on_exit() -> None:
    before = threading.active_count()
    with ThreadPool(2, on_exit="join") as pool:
        pool.map(tasks.square, range(10))
    eventually(lambda: threading.active_count() <= before)
