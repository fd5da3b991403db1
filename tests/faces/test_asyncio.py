"""Awaiting results, asynchronous iteration, `async with`, and executors in an event loop."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import Gate, eventually

import cpool
from cpool._engine import loops
from cpool._start import popen

pytestmark = pytest.mark.better

POOLS = [cpool.Pool, cpool.ThreadPool]
both = pytest.mark.parametrize("kind", POOLS)


LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]


@pytest.fixture(autouse=True, scope="module")
def warm_uvloop() -> None:
    """Make a first uvloop, which opens a pipe that the process keeps."""
    if "uvloop" in LOOPS:
        import uvloop

        uvloop.run(asyncio.sleep(0))


@pytest.fixture(autouse=True, params=LOOPS)
def event_loop_policy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test runs in asyncio's own loop, and in uvloop's where it is installed."""
    if request.param == "uvloop":
        import uvloop

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # policies, from 3.14 on
            before = asyncio.get_event_loop_policy()
            asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        yield
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(before)
    else:
        yield


def run(body: Any) -> Any:
    return asyncio.run(asyncio.wait_for(body, 2 * DEADLINE))


@both
def test_results_can_be_awaited(kind: Any) -> None:
    async def body() -> None:
        async with kind(2) as pool:
            assert await pool.apply_async(tasks.square, (3,)) == 9
            assert await pool.map_async(tasks.square, range(10)) == [i * i for i in range(10)]
            assert await pool.starmap_async(tasks.add, [(1, 2)]) == [3]
            with pytest.raises(ValueError):
                await pool.apply_async(tasks.make_and_raise, (ValueError, "no"))
            done = pool.apply_async(tasks.square, (4,))
            done.wait(DEADLINE)
            assert [await done, await done] == [16, 16]

    run(body())


@both
def test_many_awaits_at_once(kind: Any) -> None:
    async def one(pool: Any, x: int) -> Any:
        return await pool.apply_async(tasks.square, (x,))

    async def body() -> None:
        async with kind(2) as pool:
            threads = threading.active_count()
            calls = [asyncio.ensure_future(one(pool, x)) for x in range(2000)]
            await asyncio.sleep(0)
            assert threading.active_count() <= threads + 2  # no thread for each
            assert await asyncio.gather(*calls) == [x * x for x in range(2000)]

    run(body())


@both
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterators_are_asynchronous_too(kind: Any, method: str) -> None:
    async def body() -> None:
        async with kind(2) as pool:
            found = [x async for x in getattr(pool, method)(tasks.square, range(200))]
            assert sorted(found) == [i * i for i in range(200)]
            items = pool.imap(tasks.fail_on_pair, [(1, 0), (1, 1), (1, 2)])
            assert await anext(items) == 0
            with pytest.raises(ValueError):
                await anext(items)
            assert await anext(items) == 2
            with pytest.raises(StopAsyncIteration):
                await anext(items)

    run(body())


def test_several_tasks_await_one_result(gate: Gate) -> None:
    async def body() -> None:
        async with cpool.Pool(1) as pool:
            result = pool.apply_async(tasks.held, (gate, 5))

            async def wait() -> Any:
                return await result

            waiting = [asyncio.ensure_future(wait()) for _ in range(3)]
            await asyncio.sleep(0)
            gate.open()
            assert await asyncio.gather(*waiting) == [5, 5, 5]

    run(body())


def test_cancelling_the_task_cancels_the_job(gate: Gate) -> None:
    async def body() -> None:
        async with cpool.Pool(1) as pool:
            held = pool.apply_async(tasks.held, (gate, 1))
            queued = pool.apply_async(tasks.square, (3,))

            async def wait() -> Any:
                return await queued

            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert queued.cancelled()
            with pytest.raises(cpool.errors.TaskCancelledError):
                await queued
            gate.open()
            assert await held == 1

    run(body())


def test_a_task_whose_time_is_over_gives_its_worker_back() -> None:
    async def body() -> None:
        async with cpool.Pool(1) as pool:
            result = pool.apply_async(time.sleep, (10 * DEADLINE,))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(_await(result), 0.05)
            assert result.cancelled()
            assert await pool.apply_async(tasks.square, (3,)) == 9

    run(body())


@both
def test_cancelling_the_reader_of_an_iterator_closes_it(kind: Any, gate: Gate) -> None:
    async def body() -> None:
        async with kind(1) as pool:
            items = pool.imap(tasks.first_then_hold, [(gate, i) for i in range(5)])
            assert await anext(items) == 0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(items), 0.05)
            with pytest.raises(StopAsyncIteration):
                await anext(items)
            gate.open()
            assert await pool.apply_async(tasks.square, (3,)) == 9

    run(body())


def test_a_dead_worker(kind: Any = cpool.Pool) -> None:
    async def body() -> None:
        async with kind(2) as pool:
            with pytest.raises(cpool.WorkerLostError):
                await pool.apply_async(tasks.die)
            assert await pool.apply_async(tasks.square, (3,)) == 9

    run(body())


def test_the_pool_ends_while_a_task_awaits(gate: Gate) -> None:
    async def body() -> None:
        async with cpool.Pool(1) as pool:
            result = pool.apply_async(tasks.held, (gate, 1))

            async def wait() -> Any:
                return await result

            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
        with pytest.raises(cpool.PoolTerminated):
            await task

    run(body())


def test_a_loop_resumes_no_more_tasks_at_a_time_than_take_some_milliseconds() -> None:
    resumed = [0]  # how many tasks each iteration of the loop has resumed

    async def one(future: asyncio.Future[None]) -> None:
        await future
        resumed[-1] += 1
        time.sleep(0.001)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        bridge = loops._bridge(loop)
        futures: list[asyncio.Future[None]] = [loop.create_future() for _ in range(150)]
        waiting = [asyncio.ensure_future(one(future)) for future in futures]
        await asyncio.sleep(0)

        def tell() -> None:
            for future in futures:
                bridge.tell(future)

        teller = threading.Thread(target=tell)
        teller.start()
        teller.join()
        while not all(task.done() for task in waiting):
            await asyncio.sleep(0)
            resumed.append(0)
        assert bridge.portion == loops._LEAST

    run(body())
    assert sum(resumed) == 150
    assert max(resumed) <= 50
    assert [n for n in resumed if n][-2] == loops._LEAST


class Watched(cpool.Pool):
    """Notes the threads that start its threads."""

    by: list[int]

    def _start_threads(self, calls: bool = False) -> None:
        self.by.append(threading.get_ident())
        super()._start_threads(calls)


def test_a_pool_that_is_entered_has_its_threads_already() -> None:
    async def body() -> None:
        pool = await asyncio.get_running_loop().run_in_executor(None, Watched, 1)
        pool.by = []
        async with pool:
            assert await pool.apply_async(tasks.square, (3,)) == 9
        assert len(pool.by) == 1 and pool.by[0] != threading.get_ident()
        async with cpool.Pool(1) as entered, entered:  # entering twice starts nothing
            assert await entered.apply_async(tasks.square, (4,)) == 16

    run(body())


def test_workers_that_are_started_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's thread forks nothing, and the workers outlive the thread that has forked them."""
    forked_by: list[int] = []

    fork_ahead = popen.fork_ahead

    def noted(*args: Any) -> Any:
        forked_by.append(threading.get_ident())
        return fork_ahead(*args)

    monkeypatch.setattr(popen, "fork_ahead", noted)

    async def body() -> None:
        made: list[Any] = []
        thread = threading.Thread(target=lambda: made.append(cpool.Pool(2)))
        thread.start()
        thread.join()
        async with made.pop() as pool:
            assert await pool.map_async(tasks.square, range(9)) == [x * x for x in range(9)]
        async with await asyncio.to_thread(cpool.Pool, 2) as pool:
            assert await pool.apply_async(tasks.square, (3,)) == 9
        executor = cpool.ProcessPoolExecutor(2)
        first = await asyncio.to_thread(executor.submit, tasks.square, 4)
        assert await asyncio.wrap_future(first) == 16
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, tasks.square, 5) == 25
        await asyncio.to_thread(executor.shutdown)

    run(body())
    assert len(forked_by) == 3 and threading.get_ident() not in forked_by


def test_a_thread_gives_way_between_the_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a loop in another thread would wait for all of them."""
    slept: list[int] = []
    monkeypatch.setattr(popen, "sleep", lambda _: slept.append(threading.get_ident()))
    monkeypatch.setattr(popen, "_HOLD_S", 0)  # as if each fork took long

    async def body() -> None:
        async with await asyncio.to_thread(cpool.Pool, 3) as pool:
            assert await pool.apply_async(tasks.square, (3,)) == 9
        async with cpool.Pool(3) as pool:
            assert await pool.apply_async(tasks.square, (4,)) == 16

    run(body())
    assert len(slept) == 2 and threading.get_ident() not in slept


ENTERING = """
import asyncio, sys
import cpool

async def main():
    pool = cpool.Pool(1)
    there = []

    async def look():
        there.append("cpool._engine.loops" in sys.modules)

    looking = asyncio.ensure_future(look())
    async with pool:
        await looking
        print(there, await pool.apply_async(abs, (-3,)))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_the_loop_goes_on_before_a_pool_is_entered(tmp_path: Path) -> None:
    """Before more is imported: making the pool has taken long enough."""
    assert scripts.output(tmp_path, ENTERING) == ["[False] 3"]


def test_a_pool_ends_when_its_entering_is_cancelled() -> None:
    async def body() -> None:
        pool = cpool.Pool(1)

        async def use() -> None:
            async with pool:
                raise AssertionError("it was entered")

        task = asyncio.ensure_future(use())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ValueError, match="not running"):
            pool.apply_async(tasks.square, (3,))

    run(body())


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the loop's own thread does what takes some milliseconds."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def body() -> None:
        pool = cpool.Pool(1)
        async with pool:
            assert await pool.apply_async(tasks.square, (3,)) == 9
            monkeypatch.setattr(threading.Thread, "start", refuse)
        monkeypatch.undo()
        assert pool._state == "TERMINATE"

    run(body())


def test_loops_in_several_threads_share_a_pool(in_threads: Callable[..., list[Any]]) -> None:
    with cpool.Pool(2) as pool:

        async def sum_of(first: int) -> int:
            results = [pool.apply_async(tasks.square, (x,)) for x in range(first, first + 50)]
            return sum([await result for result in results])

        found = in_threads(lambda first: run(sum_of(first)), [0, 50, 100, 150])
    assert found == [sum(x * x for x in range(n, n + 50)) for n in (0, 50, 100, 150)]


@pytest.mark.parametrize("kind", [cpool.ProcessPoolExecutor, cpool.ThreadPoolExecutor])
def test_run_in_executor(kind: Any) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with kind(2) as executor:
            assert await loop.run_in_executor(executor, tasks.square, 3) == 9
            calls = [loop.run_in_executor(executor, tasks.square, x) for x in range(500)]
            assert await asyncio.gather(*calls) == [x * x for x in range(500)]
            with pytest.raises(KeyError):
                await loop.run_in_executor(executor, tasks.make_and_raise, KeyError, 1)

    run(body())


def test_a_loop_hands_results_over_to_itself() -> None:
    """Only callbacks that asyncio.wrap_future() has added to a future are run at once."""

    async def body() -> None:
        bridge = loops._bridge(asyncio.get_running_loop())
        future: Future[int] = Future()
        first, second = asyncio.wrap_future(future), asyncio.wrap_future(future)
        future._state, future._result = "FINISHED", 3  # type: ignore[attr-defined]
        assert bridge.hand_over(future)
        assert (first.result(), second.result()) == (3, 3)
        mixed: Future[int] = Future()
        third = asyncio.wrap_future(mixed)
        mixed.add_done_callback(lambda _: None)
        mixed._state, mixed._result = "FINISHED", 3  # type: ignore[attr-defined]
        assert not bridge.hand_over(mixed) and not third.done()
        third.cancel()

    run(body())


def test_what_may_take_long_is_not_done_in_the_loop(gate: Gate, tmp_path: Path) -> None:
    """The helper thread runs callbacks of the program and rebuilds results."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        ran: list[int] = []
        with cpool.ProcessPoolExecutor(1) as executor:
            held = loop.run_in_executor(executor, tasks.held, gate, 3)
            futures = [executor.submit(tasks.square, x) for x in range(20)]
            for future in futures:
                future.add_done_callback(lambda _: ran.append(threading.get_ident()))
            wrapped = [asyncio.wrap_future(future) for future in futures]
            rebuilt = [loop.run_in_executor(executor, tasks.RebuiltBy) for _ in range(20)]
            gate.open()
            assert await held == 3
            assert await asyncio.gather(*wrapped) == [x * x for x in range(20)]
            ran += [each.thread for each in await asyncio.gather(*rebuilt)]
            for i in range(10):  # the loop polls for these results
                (tmp_path / str(i)).mkdir()
                first = Gate(tmp_path / str(i))
                before = loop.run_in_executor(executor, tasks.held, first, 3)
                alone = loop.run_in_executor(executor, tasks.RebuiltBy)
                first.open()
                assert await before == 3
                ran.append((await alone).thread)
                first.close()
        assert len(ran) == 50 and threading.get_ident() not in ran

    run(body())


def test_cancelling_what_runs_in_an_executor(gate: Gate) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        with cpool.ProcessPoolExecutor(1) as executor:
            held = loop.run_in_executor(executor, tasks.held, gate, 1)
            await asyncio.sleep(0.05)
            queued = loop.run_in_executor(executor, tasks.square, 3)
            queued.cancel()
            gate.open()
            assert await held == 1
            with pytest.raises(asyncio.CancelledError):
                await queued

    run(body())


def test_the_loop_goes_on_while_a_pool_works_and_ends(gate: Gate) -> None:
    """Measured by how late a task of the loop runs, which includes other load on the machine."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.monotonic() + 0.002
            await asyncio.sleep(0.002)
            late.append(time.monotonic() - due)

    async def body() -> None:
        pool = cpool.Pool(2)
        ticking = asyncio.ensure_future(tick())
        async with pool:
            await asyncio.gather(
                *(_await(pool.apply_async(tasks.square, (x,))) for x in range(300))
            )
            with pytest.raises(cpool.WorkerLostError):
                await pool.apply_async(tasks.die)
            pool.apply_async(tasks.held, (gate,))
            await asyncio.sleep(0.01)
        ticking.cancel()
        assert sorted(late)[len(late) // 2] < 0.5

    run(body())


async def _await(result: Any) -> Any:
    return await result


def test_a_loop_that_does_not_run_is_told_later(gate: Gate) -> None:
    with cpool.Pool(1) as pool:
        result = pool.apply_async(tasks.held, (gate, 3))

        loop = asyncio.new_event_loop()
        waiting = loop.create_task(_await(result))
        loop.run_until_complete(asyncio.sleep(0))
        gate.open()
        assert result.get(DEADLINE) == 3
        eventually(lambda: not result._listeners.waiting)
        loop.run_until_complete(waiting)
        loop.close()
