"""`daemon=False`: tasks that start processes and pools."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE, Pool
from gates import Diary, Gate, all_gone, eventually

pytestmark = pytest.mark.better

cpool = engine.errors

METHODS = [None, "spawn", "forkserver"]


def context_of(method: str | None) -> Any:
    return None if method is None else multiprocessing.get_context(method)


def deep(levels: int, method: str | None, x: int) -> tuple[int, list[int]]:
    """Nest pools: return the sum of the innermost level, and the pids on the way."""
    if levels == 0:
        return x * x, [os.getpid()]
    with Pool(2, daemon=False, context=context_of(method)) as pool:
        found = pool.starmap(deep, [(levels - 1, method, x), (levels - 1, method, x + 1)], 1)
    return sum(value for value, _ in found), [os.getpid(), *found[0][1]]


@pytest.mark.parametrize("method", METHODS)
def test_pools_in_pools(make_pool: Any, method: str | None) -> None:
    pool = make_pool(1, daemon=False, context=context_of(method))
    levels = 3 if method is None else 1
    value, pids = pool.apply(deep, (levels, method, 2))
    assert value == (4 + 3 * 9 + 3 * 16 + 25 if levels == 3 else 4 + 9)
    assert len(set(pids)) == levels + 1
    all_gone(pids[1:])


def hold_deep(gate: Gate, levels: int) -> None:
    if levels == 0:
        gate.hold()
        return
    gate.enter()
    with Pool(1, daemon=False) as pool:
        pool.apply(hold_deep, (gate, levels - 1))


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_each_level_ends_with_its_parent(make_pool: Any, gate: Gate, sig: int) -> None:
    pool = make_pool(1, daemon=False)
    result = pool.apply_async(hold_deep, (gate, 3))
    pids = gate.arrived(4)
    os.kill(pids[0], sig)
    with pytest.raises(cpool.WorkerLostError):
        result.get(DEADLINE)
    all_gone(pids)
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_worker_of_a_nested_pool_that_dies_fails_its_task(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1, daemon=False)
    result = pool.apply_async(hold_deep, (gate, 2))
    pids = gate.arrived(3)
    os.kill(pids[-1], signal.SIGKILL)
    with pytest.raises(cpool.WorkerLostError) as caught:
        result.get(DEADLINE)
    assert caught.value.pid == pids[-1]
    all_gone(pids[1:])


@pytest.mark.parametrize("how", ["terminate", "cancel"])
def test_all_levels_end_together(make_pool: Any, gate: Gate, how: str) -> None:
    pool = make_pool(1, daemon=False)
    result = pool.apply_async(hold_deep, (gate, 3))
    pids = gate.arrived(4)
    if how == "terminate":
        pool.terminate()
    else:
        assert result.cancel()
    with pytest.raises((cpool.PoolTerminated, cpool.TaskCancelledError)):
        result.get(DEADLINE)
    all_gone(pids)


def note_deep(diary: Diary, levels: int) -> None:
    diary.write(os.getpid())
    if levels == 0:
        time.sleep(1000)
    with Pool(1, daemon=False) as pool:
        pool.apply(note_deep, (diary, levels - 1))


def test_a_limit_ends_all_levels(make_pool: Any, diary: Diary) -> None:
    """However many of them have started by then."""
    with pytest.raises(cpool.TaskTimeoutError):
        make_pool(1, daemon=False).apply(note_deep, (diary, 3), task_timeout=1.0)
    pids = [int(line) for line in diary.lines()]
    assert pids
    all_gone(pids)


ORPHANS = """
import os, sys, time
from engine import Pool

def hold_deep(path, levels):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
    if levels == 0:
        os.kill(int(sys.argv[2]), 9)
        time.sleep(1000)
    with Pool(1, daemon=False) as pool:
        pool.apply(hold_deep, (path, levels - 1))

if __name__ == "__main__":
    sys.argv.append(str(os.getpid()))
    with Pool(1, daemon=False) as pool:
        pool.apply(hold_deep, (sys.argv[1], 3))
"""


def test_all_levels_end_with_a_program_that_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = scripts.start(scripts.write(tmp_path, ORPHANS), pids)
    program.communicate(timeout=DEADLINE)
    assert program.returncode == -signal.SIGKILL
    levels = [int(line) for line in pids.read_text().split()]
    assert len(levels) == 4
    all_gone(levels)


def run_a_process() -> int:
    queue: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=queue.put, args=(os.getpid(),))
    process.start()
    found: int = queue.get(timeout=DEADLINE)
    process.join()
    assert found == os.getpid()
    return process.exitcode or 0


def use_a_manager() -> list[int]:
    with multiprocessing.Manager() as manager:
        shared = manager.list([1, 2])
        process = multiprocessing.Process(target=shared.append, args=(3,))
        process.start()
        process.join()
        return list(shared)


def use_the_stdlibs_pool() -> list[int]:
    with multiprocessing.Pool(2) as pool:
        return pool.map(tasks.square, range(3))


def use_an_executor() -> list[int]:
    with cpool.ProcessPoolExecutor(2) as executor:
        return list(executor.map(tasks.square, range(3)))


@pytest.mark.parametrize("method", METHODS)
def test_tasks_have_processes(make_pool: Any, method: str | None) -> None:
    pool = make_pool(1, daemon=False, context=context_of(method))
    assert pool.apply(run_a_process) == 0
    assert pool.apply(use_a_manager) == [1, 2, 3]
    if method is None:
        assert pool.apply(use_the_stdlibs_pool) == [0, 1, 4]
        assert pool.apply(use_an_executor) == [0, 1, 4]


@pytest.mark.parametrize("call", [run_a_process, use_a_manager, use_the_stdlibs_pool])
def test_tasks_of_daemons_have_none(make_pool: Any, call: Any) -> None:
    with pytest.raises(AssertionError, match="daemonic processes are not allowed"):
        make_pool(1).apply(call)


def leave_processes(diary: Diary, gate: Gate) -> None:
    process = multiprocessing.Process(target=time.sleep, args=(1000,))
    process.start()
    diary.write(process.pid)
    diary.write(subprocess.Popen(["sleep", "1000"]).pid)
    gate.hold()


@pytest.mark.skipif(engine.PORTABLE, reason="needs /proc")
def test_terminate_ends_what_tasks_have_started(diary: Diary, gate: Gate) -> None:
    with Pool(1, daemon=False) as pool:
        pool.apply_async(leave_processes, (diary, gate))
        gate.arrived()
    pids = [int(line) for line in diary.lines()]
    assert len(pids) == 2
    all_gone(pids)


def start_and_leave(gate: Gate) -> Any:
    process = multiprocessing.Process(target=gate.hold)
    process.start()
    return process.pid


def test_join_waits_for_processes_as_the_stdlib_does(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1, daemon=False)
    pid = pool.apply(start_and_leave, (gate,))
    assert gate.arrived() == [pid]
    pool.close()
    with pytest.raises(multiprocessing.TimeoutError):
        pool.join(0.05)
    gate.open()
    pool.join(DEADLINE)
    all_gone([pid])


def test_workers_are_seen_by_the_program(make_pool: Any) -> None:
    pool = make_pool(1, daemon=False)
    [worker] = pool._pool
    assert not worker.daemon
    assert worker in multiprocessing.active_children()
    pool.terminate()
    eventually(lambda: worker not in multiprocessing.active_children())


LEFT = """
from engine import Pool

def nested(x):
    global kept
    kept = Pool(1, daemon=False)
    return kept.apply(pow, (x, 2))

if __name__ == "__main__":
    pool = Pool(2, daemon=False)
    print(pool.map(nested, [1, 2, 3], 1))
"""


def test_a_program_that_leaves_its_pools_ends(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, LEFT) == ["[1, 4, 9]"]
