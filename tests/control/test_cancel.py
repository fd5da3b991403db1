"""Cancelling: `cancel()`, `fail_fast=`, and closing an iterator."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import Diary, Gate, all_gone, eventually, gone

pytestmark = pytest.mark.better

errors = engine.errors


def check_cancelled(result: Any) -> None:
    assert result.ready()
    assert result.cancelled()
    assert not result.successful()
    with pytest.raises(errors.TaskCancelledError, match="cancelled"):
        result.get(DEADLINE)


def nothing_pending(pool: Any) -> bool:
    if hasattr(pool, "_keeper"):  # on a cluster
        return not pool._keeper.jobs
    return bool(pool._engine.counts()[0] == 0)


# cancel()


def test_the_class_of_the_error() -> None:
    error = errors.TaskCancelledError
    assert issubclass(error, (errors.PoolError, concurrent.futures.CancelledError))
    assert issubclass(error, errors.PoolError)
    assert error is errors.errors.TaskCancelledError
    again = pickle.loads(pickle.dumps(error("why")))
    assert (type(again), again.args) == (error, ("why",))
    with pytest.raises(AttributeError):
        errors.NoSuchError  # noqa: B018


def test_importing_cpool_does_not_import_concurrent_futures() -> None:
    done = scripts.run("-c", "import sys, cpool; print('concurrent.futures' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_what_runs_is_killed(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    result = pool.apply_async(gate.hold)
    [pid] = gate.arrived()
    assert result.cancel() is True
    check_cancelled(result)
    all_gone([pid])
    assert result.cancel() is False
    assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]


def write_first(diary: Diary, x: int) -> None:
    if x == 0:
        diary.write(os.getpid())


def test_a_chunk_of_quick_items_is_killed(make_pool: Any, diary: Diary) -> None:
    """Even if the worker runs another item by the time that it is killed."""
    n = 5_000_000
    options: dict[str, Any] = {"chunksize": n, "task_timeout": 10 * DEADLINE}
    result = make_pool(1).map_async(partial(write_first, diary), range(n), **options)
    [pid] = eventually(diary.lines)
    assert result.cancel()
    all_gone([int(pid)])


def test_what_has_not_begun_is_withdrawn(either: Any, gate: Gate, diary: Diary) -> None:
    blockers = [either.apply_async(gate.hold) for _ in range(2)]
    gate.arrived(2)
    result = either.map_async(diary.write, range(100), 1)
    assert result.cancel()
    check_cancelled(result)
    gate.open()
    for blocker in blockers:
        blocker.get(DEADLINE)
    either.map(tasks.square, range(10), 1)
    assert diary.lines() == []


def hold_and_write(gate: Gate, diary: Diary) -> None:
    gate.hold()
    diary.write("through")


def test_what_runs_may_end(either: Any, gate: Gate, diary: Diary) -> None:
    result = either.apply_async(hold_and_write, (gate, diary))
    gate.arrived()
    assert result.cancel(kill=False)
    check_cancelled(result)
    gate.open()
    eventually(diary.lines)


def hold_zero(item: tuple[Gate, int]) -> None:
    gate, x = item
    if x == 0:
        gate.hold()


def test_calls_of_others_lose_nothing(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(2)
    mine = pool.map_async(hold_zero, [(gate, x) for x in range(200)], 1)
    gate.arrived()
    others = [pool.map_async(tasks.square, range(100), 1) for _ in range(5)]
    mine.cancel()
    check_cancelled(mine)
    for other in others:
        assert other.get(DEADLINE) == [x * x for x in range(100)]


def test_cancel_of_a_call_that_has_ended_returns_false(either: Any) -> None:
    result = either.apply_async(tasks.square, (3,))
    result.wait(DEADLINE)
    assert (result.cancel(), result.cancelled(), result.get()) == (False, False, 9)
    failed = either.apply_async(tasks.fail)
    failed.wait(DEADLINE)
    assert (failed.cancel(), failed.cancelled()) == (False, False)
    with pytest.raises(ValueError):
        failed.get()
    assert either.map_async(tasks.square, []).cancel() is False


def test_the_arguments_of_cancel(either: Any, gate: Gate) -> None:
    result = either.apply_async(gate.hold)
    gate.arrived()
    for args, kwargs in [((True, True), {}), ((), {"now": True}), ((True,), {"kill": True})]:
        with pytest.raises(TypeError):
            result.cancel(*args, **kwargs)
    assert not result.cancelled()
    assert result.cancel(False)
    gate.open()
    assert either.apply_async(tasks.square, (3,)).get(DEADLINE) == 9
    assert result.cancel(kill=False) is False


def test_callbacks_hear_of_it(either: Any, gate: Gate) -> None:
    seen: list[Any] = []
    result = either.apply_async(gate.hold, callback=print, error_callback=seen.append)
    gate.arrived()
    assert result.cancel()
    result.wait(DEADLINE)
    check_cancelled(result)
    assert [type(each) for each in seen] == [errors.TaskCancelledError]


def test_cancel_wakes_a_waiting_thread(either: Any, gate: Gate) -> None:
    result = either.apply_async(gate.hold)
    gate.arrived()
    canceller = threading.Timer(0.01, result.cancel)
    canceller.start()
    with pytest.raises(errors.TaskCancelledError):
        result.get(DEADLINE)
    canceller.join()


def test_a_cancelled_call_is_no_failure_to_report(either: Any, gate: Gate) -> None:
    seen: list[Any] = []
    gc.collect()  # what other tests have left is not reported here
    before, sys.unraisablehook = sys.unraisablehook, seen.append
    try:
        result = either.apply_async(gate.hold)
        gate.arrived()
        assert result.cancel()
        del result
        gate.open()
        either.apply(tasks.nothing)
    finally:
        sys.unraisablehook = before
    assert seen == []


def start_children(diary: Diary, gate: Gate) -> None:
    """Start a child process, which starts a child of its own."""
    code = (
        "import subprocess; p = subprocess.Popen(['sleep', '1000']);"
        "print(p.pid, flush=True); p.wait()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    diary.write(f"{child.pid} {child.stdout.readline()}")
    gate.hold()


@pytest.mark.skipif(engine.PORTABLE, reason="needs /proc")
def test_the_processes_of_a_task_end_with_it(make_pool: Any, gate: Gate, diary: Diary) -> None:
    result = make_pool(1).apply_async(start_children, (diary, gate))
    gate.arrived()
    pids = [int(word) for word in diary.lines()[0].split()]
    assert len(pids) == 2
    assert not any(map(gone, pids))
    result.cancel()
    all_gone(pids)


def test_one_outcome_each(make_pool: Any) -> None:
    """Each call is cancelled while it may be ending."""
    pool = make_pool(2)
    outcomes = {"value": 0, "cancelled": 0}
    for number in range(1000):
        result = pool.apply_async(tasks.square, (number,))
        if number % 3:
            # Some calls end before: a busy machine takes longer than these waits.
            result.wait(DEADLINE if number % 100 == 1 else number % 7 * 1e-5)
        stopped = result.cancel(kill=number % 50 == 0)
        try:
            assert result.get(DEADLINE) == number * number
            assert not stopped
            outcomes["value"] += 1
        except errors.TaskCancelledError:
            assert stopped
            outcomes["cancelled"] += 1
    assert all(outcomes.values()), outcomes


def test_many_queued_calls_are_cancelled(either: Any, gate: Gate) -> None:
    blockers = [either.apply_async(gate.hold) for _ in range(2)]
    gate.arrived(2)
    results = [either.apply_async(tasks.square, (x,)) for x in range(5_000)]
    results.append(either.map_async(tasks.square, range(50_000), 1))
    began = time.thread_time()  # other load on the machine does not count
    assert all(result.cancel() for result in results)
    assert time.thread_time() - began < 1
    gate.open()
    assert [blocker.get(DEADLINE) for blocker in blockers] == [None, None]


def test_a_copy_of_the_process_cancels_nothing(make_pool: Any, gate: Gate) -> None:
    result = make_pool(1).apply_async(gate.hold, (5,))
    gate.arrived()
    pid = os.fork()
    if pid == 0:
        try:
            result.cancel()
        except ValueError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    gate.open()
    assert result.get(DEADLINE) == 5


# fail_fast


def act_on(item: tuple[str, Any]) -> None:
    what, thing = item
    if what == "hold":
        gate, diary = thing
        diary.write("held")
        gate.hold()
    elif what == "fail":
        eventually(thing.lines)  # another worker is held up by now
        raise ValueError("no item")
    else:
        thing.write("ran")


@pytest.mark.parametrize("method", ["map", "map_async", "imap", "imap_unordered"])
def test_the_first_failure_ends_the_call(
    either: Any, gate: Gate, diary: Diary, method: str
) -> None:
    """One worker is blocked: the failure of the other one does not wait for it."""
    items: list[Any] = [("hold", (gate, diary)), ("fail", diary)] + [("note", diary)] * 200
    with pytest.raises(ValueError, match="no item"):
        result = getattr(either, method)(act_on, items, 1, fail_fast=True)
        result.get(DEADLINE) if method == "map_async" else list(result)
    assert len(diary.lines()) <= 3
    gate.open()
    assert either.apply(tasks.square, (3,)) == 9


def test_an_iterator_ends_with_the_failure(either: Any) -> None:
    results = either.imap(tasks.reciprocal, [4, 2, 0, 1], fail_fast=True)
    found = []
    with pytest.raises(ZeroDivisionError):
        for value in results:
            found.append(value)
    assert found in ([0.25, 0.5], [0.25], [])
    assert list(results) == []


def test_fail_fast_without_a_failure_returns_all_results(either: Any) -> None:
    expected = [x * x for x in range(100)]
    assert either.map(tasks.square, range(100), fail_fast=True) == expected
    assert list(either.imap(tasks.square, range(100), fail_fast=True)) == expected


def test_an_item_that_cannot_be_pickled_ends_the_call(make_pool: Any) -> None:
    pool = make_pool(2)
    with pytest.raises(Exception, match="pickle"):
        pool.map(tasks.identity, [threading.Lock()] + [1] * 1000, 1, fail_fast=True)
    assert pool.apply(tasks.square, (3,)) == 9


def test_options_that_exclude_each_other(either: Any) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        either.map(tasks.square, [1], fail_fast=True, return_exceptions=True)


# close() of an iterator


def test_closing_an_iterator_withdraws_the_rest(either: Any, gate: Gate, diary: Diary) -> None:
    blockers = [either.apply_async(gate.hold) for _ in range(2)]
    gate.arrived(2)
    results = either.imap(diary.write, range(60))
    results.close()
    gate.open()
    for blocker in blockers:
        blocker.get(DEADLINE)
    assert list(results) == []
    results.close()
    either.map(tasks.square, range(10), 1)
    assert diary.lines() == []


def test_a_closed_iterator_ends_for_other_threads(either: Any, gate: Gate) -> None:
    results = either.imap(gate.hold, [1])
    gate.arrived()
    closer = threading.Timer(0.01, results.close)
    closer.start()
    with pytest.raises(StopIteration):
        results.next(DEADLINE)
    closer.join()


@pytest.mark.parametrize("options", [{}, {"buffersize": 3}, {"chunksize": 5}])
def test_closing_ends_an_endless_input(either: Any, options: Any) -> None:
    results = either.imap(tasks.square, itertools.count(), **options)
    assert [next(results), next(results)] == [0, 1]
    results.close()
    eventually(lambda: nothing_pending(either))
    assert list(results) == []


def test_an_iterator_over_chunks_that_is_dropped_ends_its_input(either: Any) -> None:
    results = either.imap(tasks.square, itertools.count(), 5)
    assert next(results) == 0
    del results
    eventually(lambda: nothing_pending(either))


def test_items_of_chunks_are_withdrawn(either: Any, gate: Gate, diary: Diary) -> None:
    """By close() before anything was read, and by dropping a partly read iterator."""
    read = either.imap(diary.write, range(2), 2)
    assert next(read) is None
    blockers = [either.apply_async(gate.hold) for _ in range(2)]
    gate.arrived(2)
    closed = either.imap(diary.write, range(100, 160), 3)
    closed.close()
    closed.close()
    dropped = either.imap(tasks.square, [7], 2)
    del read
    gate.open()
    for blocker in blockers:
        blocker.get(DEADLINE)
    assert list(closed) == []
    assert list(dropped) == [49]
    assert diary.lines() == ["0", "1"]


SLOW_IMPORT = """
import os, sys, threading
from importlib.machinery import PathFinder
from engine import DEADLINE, Pool
from gates import eventually

class Finder:
    def find_spec(self, name, path, target=None):
        if name != "concurrent.futures._base":
            return None
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def wait_and_load(module):
            entered.set()
            assert leave.wait(2 * DEADLINE)
            load(module)

        spec.loader.exec_module = wait_and_load
        return spec

entered, leave = threading.Event(), threading.Event()

if __name__ == "__main__":
    with Pool(1) as pool:
        result = pool.apply_async(os.getpid)
        result.get(DEADLINE)
        blocker = pool.apply_async(eventually, (lambda: False,))
        assert not any(name.startswith("concurrent.futures") for name in sys.modules)
        sys.meta_path.insert(0, Finder())
        thread = threading.Thread(target=blocker.cancel)
        thread.start()
        assert entered.wait(DEADLINE)
        [worker] = pool._workers
        worker.kill()
        print(pool.apply_async(pow, (3, 2)).get(DEADLINE))
        leave.set()
        thread.join()
        print(type(pool.apply_async(os.getpid).get(DEADLINE)).__name__)
"""


def test_an_import_for_the_error_holds_up_no_worker(tmp_path: Path) -> None:
    """The import waits for code of the program, and a worker is started meanwhile."""
    assert scripts.output(tmp_path, SLOW_IMPORT) == ["9", "int"]
