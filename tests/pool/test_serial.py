"""`serial=True` and CPOOL_SERIAL: each task runs in the thread that submits it."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import pdb
import sys
import threading
import traceback
import warnings
from multiprocessing import TimeoutError
from typing import Any

import engine
import pytest
import scripts
import tasks

pytestmark = pytest.mark.better

cpool = engine.errors
Pool, ThreadPool = cpool.Pool, cpool.ThreadPool


@pytest.fixture(params=[Pool, ThreadPool], ids=["processes", "threads"])
def serial(request: pytest.FixtureRequest, make_pool: Any) -> Any:
    return make_pool(2, cls=request.param, serial=True)


def where(_: Any = None) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


HERE = where()


def test_every_method_runs_its_tasks_here(serial: Any) -> None:
    assert serial.apply(where) == HERE
    assert serial.apply_async(where).get(0) == HERE
    assert serial.map(where, range(3)) == [HERE] * 3
    assert serial.map(where, [], 2) == []
    assert serial.map_async(where, range(5), 2).get(0) == [HERE] * 5
    assert serial.starmap(where, [(1,), (2,)]) == [HERE] * 2
    assert serial.starmap_async(where, iter([(1,)])).get(0) == [HERE]
    for chunksize in (1, 3):
        assert list(serial.imap(where, range(7), chunksize)) == [HERE] * 7
        assert list(serial.imap_unordered(where, iter(range(7)), chunksize)) == [HERE] * 7
        assert list(serial.istarmap(where, [(1,)] * 7, chunksize)) == [HERE] * 7
    assert serial.options(return_exceptions=True).map(where, range(2)) == [HERE] * 2


def test_a_result_is_ready_when_the_call_returns(serial: Any) -> None:
    seen: list[Any] = []
    result = serial.apply_async(seen.append, (1,), callback=lambda _: seen.append(where()))
    assert seen == [1, HERE]
    assert result.ready()
    assert result.successful()
    assert isinstance(result, cpool.AsyncResult)
    result = serial.map_async(tasks.fail, [1], error_callback=seen.append)
    assert isinstance(seen[2], ValueError)
    assert list(cpool.as_completed([result], 0)) == [result]
    assert not result.cancel()


def test_a_callback_may_submit(serial: Any) -> None:
    seen: list[int] = []

    def again(value: int) -> None:
        seen.append(value)
        if value < 20:
            serial.apply_async(tasks.identity, (value + 1,), callback=again)

    serial.apply_async(tasks.identity, (0,), callback=again)
    assert seen == list(range(21))


def test_the_traceback_is_one(serial: Any) -> None:
    with pytest.raises(ValueError) as caught:
        serial.apply(tasks.fail)
    assert caught.value.__cause__ is None
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fail"
    assert "test_the_traceback_is_one" in names


def raises_later() -> Any:
    yield 1
    raise ValueError("later")


def test_so_is_that_of_a_generator(serial: Any) -> None:
    values = serial.stream(raises_later)
    assert next(values) == 1
    with pytest.raises(ValueError, match="later") as caught:
        next(values)
    assert caught.value.__cause__ is caught.value.__context__ is None
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_so_is_that_of_a_generator", "next", "raises_later"]


def stops_in_pdb(commands: str, out: io.StringIO, x: int) -> int:
    debugger = pdb.Pdb(stdin=io.StringIO(commands), stdout=out, nosigint=True, readrc=False)
    debugger.set_trace()
    return x + 1


def test_pdb_stops_in_a_task(serial: Any) -> None:
    """It can read and change the task's variables, and sees the frames of the caller."""
    out = io.StringIO()
    mine = "the caller's"
    before = sys.gettrace()
    try:
        assert serial.apply(stops_in_pdb, ("p x\nwhere\n!x = 10\nc\n", out, 3)) == 11
    finally:
        sys.settrace(before)
    assert "3\n" in out.getvalue()
    assert "test_pdb_stops_in_a_task()" in out.getvalue()
    with pytest.raises(ValueError) as caught:
        serial.apply(tasks.fail)
    out = io.StringIO()
    after = pdb.Pdb(stdin=io.StringIO("where\nup 99\np mine\nq\n"), stdout=out, readrc=False)
    after.reset()
    after.interaction(None, caught.value.__traceback__)
    assert mine in out.getvalue()
    assert "fail()" in out.getvalue()


def test_tracers_see_tasks(serial: Any) -> None:
    """As debuggers and coverage do."""
    seen: set[str] = set()
    before = sys.gettrace()
    sys.settrace(lambda frame, event, arg: seen.add(frame.f_code.co_name))  # type: ignore[func-returns-value]
    try:
        serial.map(tasks.square, range(2))
    finally:
        sys.settrace(before)
    assert "square" in seen


def test_imap_runs_what_is_asked_for(serial: Any) -> None:
    done: list[int] = []
    items = serial.imap(lambda x: done.append(x) or x, itertools.count())
    assert done == []
    assert [next(items) for _ in range(3)] == done == [0, 1, 2]
    items.close()
    assert list(items) == []


def test_an_iterable_that_raises(serial: Any) -> None:
    def items() -> Any:
        yield 1
        raise KeyError("no more")

    found = serial.imap(tasks.square, items())
    assert next(found) == 1
    with pytest.raises(KeyError):
        next(found)
    with pytest.raises(StopIteration):
        next(found)
    with pytest.raises(KeyError):
        serial.map(tasks.square, items())


def test_fail_fast(serial: Any) -> None:
    done: list[int] = []

    def work(x: int) -> None:
        done.append(x)
        raise ValueError(x)

    with pytest.raises(ValueError, match="0"):
        serial.map(work, range(9), 1, fail_fast=True)
    assert done == [0]


def test_tasks_may_use_the_pool(serial: Any) -> None:
    def nested(depth: int) -> int:
        return depth if depth == 0 else 1 + serial.apply(nested, (depth - 1,))

    assert serial.map(nested, [0, 5, 9], 1) == [0, 5, 9]
    # Nothing else is begun within: the items of a map do not nest.
    depths = serial.map(lambda _: serial.apply(tasks.identity, (len(_stack()),)), range(50), 1)
    assert max(depths) - min(depths) < 5


def _stack() -> list[Any]:
    return traceback.extract_stack()


def test_dump_names_it(serial: Any) -> None:
    out = io.StringIO()
    serial.dump(out)
    assert out.getvalue() == "cpool: serial pool, 0 calls under way, 0 tasks queued\n"


def test_what_cannot_be_iterated_raises_when_it_is_read(serial: Any) -> None:
    values = serial.flatmap(tasks.square, 5)
    with pytest.raises(TypeError, match="not iterable"):
        next(values)
    assert list(values) == []


def test_asyncio(serial: Any) -> None:
    async def main() -> tuple[Any, list[Any]]:
        return await serial.apply_async(where), [x async for x in serial.imap(where, range(2))]

    assert asyncio.run(main()) == (HERE, [HERE, HERE])


def test_ctrl_c_leaves_the_call(serial: Any) -> None:
    def interrupt(_: Any = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serial.apply_async(interrupt)
    with pytest.raises(KeyboardInterrupt):
        serial.map(interrupt, range(3))
    assert serial.apply(tasks.square, (3,)) == 9


def test_the_worker_is_the_submitting_thread(serial: Any) -> None:
    def tell() -> tuple[Any, ...]:
        worker = cpool.current_worker()
        worker.state["seen"] = worker.state.get("seen", 0) + 1
        return worker.index, worker.pid, worker.tasks_done, worker.state["seen"]

    assert serial.apply(tell) == (0, os.getpid(), 0, 1)
    assert serial.apply(tell) == (0, os.getpid(), 1, 2)
    assert cpool.current_worker() is None


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_initializer_and_finalizer_run_here(make_pool: Any, cls: Any) -> None:
    seen: list[Any] = []
    pool = make_pool(
        2, seen.append, ("begin",), finalizer=seen.append, finalargs=("end",), cls=cls, serial=True
    )
    assert seen == ["begin"]
    pool.map(tasks.square, range(3))
    pool.close()
    pool.join()
    pool.terminate()
    assert seen == ["begin", "end"]


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_an_initializer_that_raises(make_pool: Any, cls: Any) -> None:
    pool = make_pool(1, tasks.fail, cls=cls, serial=True)
    with pytest.raises(cpool.InitializerError) as caught:
        pool.apply(tasks.square, (1,))
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(cpool.InitializerError):
        pool.map(tasks.square, range(3))


def test_join_runs_what_was_not_read(serial: Any) -> None:
    done: list[int] = []
    unread = serial.imap(lambda x: done.append(x) or x, range(4))
    bounded = serial.imap(tasks.identity, itertools.count(), buffersize=3)
    dropped = serial.imap(lambda x: done.append(-x) or x, range(4))
    del dropped
    serial.close()
    with pytest.raises(TimeoutError):
        serial.join(0.01)
    with pytest.raises(ValueError, match="timeout must be a number of seconds, not nan"):
        serial.join(float("nan"))
    serial.join()
    assert done == list(unread) == [0, 1, 2, 3]
    assert list(bounded) == []
    with pytest.raises(ValueError, match="not running"):
        serial.apply(tasks.square, (1,))


def test_a_task_cannot_join(serial: Any) -> None:
    def join() -> None:
        serial.close()
        serial.join()

    with pytest.raises(RuntimeError, match="cannot join"):
        serial.apply(join)
    serial.join()


def test_terminating_in_a_task(serial: Any) -> None:
    with pytest.raises(cpool.PoolTerminated):
        serial.apply(serial.terminate)
    serial.join()


def test_two_threads(serial: Any) -> None:
    """Each may run the other's tasks; none is lost or run twice."""
    done: list[int] = []
    sums: list[int] = []

    def submit(first: int) -> None:
        sums.append(sum(serial.map(lambda x: done.append(x) or x, range(first, first + 300), 1)))

    threads = [threading.Thread(target=submit, args=(first,)) for first in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(engine.DEADLINE)
    wanted = [sum(range(first, first + 300)) for first in (0, 1000, 2000)]
    assert sorted(sums) == sorted(wanted)
    assert len(done) == len(set(done)) == 900


def test_resize_and_restart_workers_change_nothing(make_pool: Any) -> None:
    pool = make_pool(2, serial=True)
    pool.resize(5)
    pool.restart_workers()
    assert pool._pool == []
    assert pool.map(where, range(3)) == [HERE] * 3


@pytest.mark.parametrize("asked", [{"task_timeout": 1}, {"retries": 2}, {"grace": 1}])
def test_what_needs_processes_is_refused(serial: Any, asked: Any) -> None:
    with pytest.raises(ValueError, match="a serial pool does not have"):
        serial.apply(where, **asked)
    with pytest.raises(ValueError, match="a serial pool does not have"):
        serial.imap(where, range(3), **asked)


# CPOOL_SERIAL


@pytest.mark.parametrize("value", ["1", "0", ""])
@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_the_environment_variable_makes_pools_serial(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, cls: Any, value: str
) -> None:
    monkeypatch.setenv("CPOOL_SERIAL", value)
    assert (make_pool(1, cls=cls).apply(where) == HERE) == (value == "1")
    assert make_pool(1, cls=cls, serial=False).apply(where) != HERE


def test_with_the_variable_options_that_need_processes_are_ignored(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPOOL_SERIAL", "1")
    pool = make_pool(1, maxtasksperchild=1)
    with pytest.warns(RuntimeWarning, match="CPOOL_SERIAL is set: task_timeout is ignored"):
        assert pool.map(where, range(2), task_timeout=1, return_exceptions=True) == [HERE] * 2
    with cpool.ProcessPoolExecutor(1) as executor:  # an executor keeps its workers
        assert executor.submit(os.getpid).result(engine.DEADLINE) != os.getpid()


@pytest.mark.parametrize("cls", [Pool, ThreadPool])
def test_each_is_told_once_with_the_line_of_the_program(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, cls: Any
) -> None:
    monkeypatch.setenv("CPOOL_SERIAL", "1")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pool = cls(2, memory_limit="1GiB")
        for call in (pool.map, pool.imap, pool.stream, pool.map_async):
            call(list, [[1]], task_timeout=1, retries=2)
        configured = pool.options(task_timeout=1, grace=2)
        configured.apply(where)
        configured.apply(where)
        pool.terminate()
    told = [each for each in told if issubclass(each.category, RuntimeWarning)]
    names = [str(each.message).split()[3] for each in told]
    assert names == ["memory_limit", "retries", "task_timeout", "grace"]
    assert {each.filename for each in told} == {__file__}


PROGRAM = """
import os, sys
from multiprocessing import Pool

def work(x):
    return os.getpid()

if __name__ == "__main__":
    with Pool(2) as pool:
        print(set(pool.imap_unordered(work, range(5))) == {os.getpid()})
"""


def test_a_program_without_an_edit(tmp_path: Any) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    done = scripts.run("-m", "cpool", script, env={"CPOOL_SERIAL": "1"})
    assert (done.stdout, done.stderr) == ("True\n", "")
