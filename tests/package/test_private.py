"""Private names that programs in the wild use, and the recipes that are built on them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import multiprocessing.pool
import multiprocessing.queues
import os
import signal
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import tasks
from engine import DEADLINE, Pool, pool_module
from gates import Gate, eventually

FORK = multiprocessing.get_context("fork")


# Attributes that are read


def test_pool_is_the_list_of_the_live_workers(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(3)
    assert type(pool._pool) is list
    assert len(pool._pool) == 3
    assert all(worker.is_alive() and worker.exitcode is None for worker in pool._pool)
    pool.map_async(gate.hold, range(3), 1)
    assert set(gate.arrived(3)) == {worker.pid for worker in pool._pool}


def test_watching_the_pids_shows_a_dead_worker(make_pool: Any, gate: Gate) -> None:
    """Programs poll {worker.pid for worker in pool._pool} to notice a dead worker."""
    pool = make_pool(2)
    held = pool.map_async(gate.hold, range(2), 1, error_callback=tasks.identity)
    gate.arrived(2)
    before = {worker.pid for worker in pool._pool}
    victim = pool._pool[0]
    victim.kill()
    eventually(lambda: victim.pid not in {worker.pid for worker in pool._pool})
    eventually(lambda: len(pool._pool) == 2)
    assert victim.exitcode == -signal.SIGKILL
    assert len({worker.pid for worker in pool._pool} & before) == 1
    assert not held.ready()


def test_pending_jobs_are_in_the_cache(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    assert len(pool._cache) == 0
    assert not pool._cache
    first = pool.apply_async(gate.hold)
    second = pool.map_async(tasks.square, [1, 2])
    third = pool.imap(tasks.square, [1, 2])
    gate.arrived()
    assert len(pool._cache) == 3
    assert [pool._cache[result._job] for result in (first, second, third)] == [first, second, third]
    assert set(pool._cache) == {first._job, second._job, third._job}
    gate.open()
    first.wait(DEADLINE)
    second.wait(DEADLINE)
    eventually(lambda: len(pool._cache) == 0, "finished jobs stay")
    assert list(third) == [1, 4]


def test_queued_tasks_can_be_counted(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool._taskqueue.qsize() == 0
    pool.map(tasks.square, range(100), 1)
    assert pool._taskqueue.qsize() == 0


def test_states_are_strings(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool._state == pool_module.RUN == "RUN"
    assert pool._state != 0  # some programs compare the state with 0
    pool._check_running()
    pool.close()
    assert pool._state == pool_module.CLOSE == "CLOSE"
    with pytest.raises(ValueError, match="^Pool not running$"):
        pool._check_running()


def test_the_state_can_be_set(make_pool: Any) -> None:
    pool = make_pool(1)
    pool._state = pool_module.CLOSE
    with pytest.raises(ValueError, match="^Pool not running$"):
        pool.map(tasks.square, [1])
    pool._state = pool_module.RUN
    assert pool.map(tasks.square, [1]) == [1]


def test_the_initializer_can_be_called_by_hand(make_pool: Any) -> None:
    seen: list[Any] = []
    pool = make_pool(1, seen.append, (5,))
    pool._initializer(*pool._initargs)
    assert seen == [5]


def test_the_context_can_be_used(make_pool: Any) -> None:
    pool = make_pool(1, context=FORK)
    assert pool._ctx is FORK
    process = make_pool(1)._ctx.Process(target=tasks.nothing)
    process.start()
    process.join(DEADLINE)
    assert process.exitcode == 0


def test_repopulate_tops_up(make_pool: Any) -> None:
    pool = make_pool(2)
    before = list(pool._pool)
    pool._repopulate_pool()
    assert pool._pool == before
    pool._processes = 4
    pool._repopulate_pool()
    assert pool._pool[:2] == before
    assert len(pool._pool) == 4


def test_a_pool_that_was_enlarged_uses_all_its_workers(make_pool: Any, gate: Gate) -> None:
    pool = make_pool(1)
    pool._processes = 3
    pool._repopulate_pool()
    result = pool.map_async(tasks.held_pid, [gate] * 3, 1)
    assert set(gate.arrived(3)) == {worker.pid for worker in pool._pool}
    gate.open()
    assert len(set(result.get(DEADLINE))) == 3


NOT_THERE = [
    "_inqueue",
    "_outqueue",
    "_quick_put",
    "_quick_get",
    "_change_notifier",
    "_worker_handler",
    "_task_handler",
    "_result_handler",
]


@pytest.mark.better
@pytest.mark.parametrize("name", NOT_THERE)
def test_missing_private_names_raise_attribute_error(make_pool: Any, name: str) -> None:
    """cpool has no such queue or thread. An error is better than a misleading imitation."""
    with pytest.raises(AttributeError, match=name):
        getattr(make_pool(1), name)


# The istarmap recipe: a new method built on the internals


def istarmap(module: Any, check: str) -> Any:
    """An imap for starmap, in the two forms that circulate."""

    def method(self: Any, func: Any, iterable: Any, chunksize: int = 1) -> Any:
        if check == "method":
            self._check_running()
        elif self._state != module.RUN:
            raise ValueError("Pool not running")
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        batches = module.Pool._get_tasks(func, iterable, chunksize)
        result = module.IMapIterator(self)
        generated = self._guarded_task_generation(result._job, module.starmapstar, batches)
        self._taskqueue.put((generated, result._set_length))
        return (item for chunk in result for item in chunk)

    return method


@pytest.mark.parametrize("check", ["method", "state"])
@pytest.mark.parametrize("patched", ["own", "stdlib"])
@pytest.mark.parametrize("chunksize", [1, 4])
def test_istarmap(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, check: str, patched: str, chunksize: int
) -> None:
    """Set on the pool's own class, or earlier on the class of multiprocessing.pool."""
    module = pool_module if patched == "own" else multiprocessing.pool
    monkeypatch.setattr(module.Pool, "istarmap", istarmap(module, check), raising=False)
    pool = make_pool(2)
    pairs = [(i, i + 1) for i in range(30)]
    expected = [a + b for a, b in pairs]
    assert list(pool.istarmap(tasks.add, pairs, chunksize)) == expected
    assert list(pool.istarmap(tasks.add, iter(pairs), chunksize=chunksize)) == expected
    assert list(pool.istarmap(tasks.add, [])) == []
    assert pool.starmap(tasks.add, pairs) == expected
    eventually(lambda: not pool._cache)
    pool.close()
    with pytest.raises(ValueError, match="^Pool not running$"):
        pool.istarmap(tasks.add, pairs)


@pytest.mark.parametrize("patched", ["own", "stdlib"])
def test_istarmap_raises_failures(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch, patched: str
) -> None:
    module = pool_module if patched == "own" else multiprocessing.pool
    monkeypatch.setattr(module.Pool, "istarmap", istarmap(module, "method"), raising=False)
    pool = make_pool(1)
    results = pool.istarmap(tasks.fail_on, [(2, i) for i in range(5)])
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="^no 2$"):
        next(results)
    items = tasks.then_raise([(1, 2)], LookupError("half-way"))
    results = pool.istarmap(tasks.add, items)
    assert next(results) == 3
    with pytest.raises(LookupError, match="^half-way$"):
        next(results)
    assert list(pool.istarmap(tasks.add, [(1, 2)])) == [3]


def test_a_replaced_next_of_the_iterator_is_used(
    make_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs did so to make a wait without a timeout interruptible."""
    cls = pool_module.IMapIterator
    original = cls.next
    timeouts: list[Any] = []

    def patient(self: Any, timeout: float | None = None) -> Any:
        timeouts.append(timeout)
        return original(self, timeout or 3600)

    monkeypatch.setattr(cls, "next", patient)
    monkeypatch.setattr(cls, "__next__", patient)
    pool = make_pool(1)
    assert list(pool.imap(tasks.square, [1, 2])) == [1, 4]
    assert pool.imap(tasks.square, [3]).next(7) == 9
    assert timeouts == [None, None, None, 7]
    assert list(pool.imap(tasks.square, range(4), 2)) == [0, 1, 4, 9]


# Processes of another kind


class NoDaemonProcess(FORK.Process):  # type: ignore[name-defined, misc]
    """Never a daemon, so that the worker may have children."""

    @property
    def daemon(self) -> bool:
        return False

    @daemon.setter
    def daemon(self, value: bool) -> None:
        pass


class NoDaemonContext(type(FORK)):  # type: ignore[misc]
    Process = NoDaemonProcess


class NestablePool(Pool):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwds: Any) -> None:
        super().__init__(*args, **{**kwds, "context": NoDaemonContext()})


def inner_pool(count: int) -> list[int]:
    with Pool(2) as pool:
        found: list[int] = pool.map(tasks.square, range(count))
        pool.close()
        pool.join()
    return found


def test_workers_that_are_not_daemons_may_have_pools(make_pool: Any) -> None:
    pool = make_pool(2, cls=NestablePool)
    assert pool.map(inner_pool, [2, 3, 4], 1) == [[0, 1], [0, 1, 4], [0, 1, 4, 9]]
    for worker in pool._pool:
        assert type(worker) is NoDaemonProcess
        assert worker.daemon is False
        assert worker.name.startswith("NoDaemonPoolWorker-")
    pool.close()
    pool.join()
    assert [worker.exitcode for worker in pool._pool] == [0, 0]


def test_the_constructor_takes_the_context_as_well(make_pool: Any) -> None:
    pool = make_pool(1, context=NoDaemonContext())
    assert pool.apply(inner_pool, (3,)) == [0, 1, 4]


def test_a_class_in_the_place_of_the_process_method_is_refused() -> None:
    """The form used before Python 3.8. The stdlib refuses it in the same way."""

    class Old(Pool):  # type: ignore[misc]
        Process = NoDaemonProcess

    with pytest.raises(AssertionError, match="^group argument must be None for now$"):
        Old(1)


def test_the_process_method_is_asked_for_every_worker(make_pool: Any) -> None:
    made: list[Any] = []

    class Own(Pool):  # type: ignore[misc]
        @staticmethod
        def Process(ctx: Any, *args: Any, **kwds: Any) -> Any:
            made.append((ctx, args, sorted(kwds)))
            process = ctx.Process(*args, **kwds)
            process.label = len(made)
            return process

    pool = make_pool(2, context=FORK, maxtasksperchild=1, cls=Own)
    assert made == [(FORK, (), ["args", "target"])] * 2
    assert [worker.label for worker in pool._pool] == [1, 2]
    assert pool.map(tasks.square, range(4), 1) == [0, 1, 4, 9]
    eventually(lambda: len(made) >= 4)


# Public methods that subclasses override


class LoggingPool(Pool):  # type: ignore[misc]
    """The recipe that logs errors of tasks overrides only apply_async."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        self.log: list[str] = []
        super().__init__(*args, **kwds)

    def apply_async(
        self,
        func: Any,
        args: Any = (),
        kwds: Any = {},  # noqa: B006
        callback: Any = None,
        error_callback: Any = None,
    ) -> Any:
        self.log.append(f"{func.__name__}{args}")
        return Pool.apply_async(self, func, args, kwds, callback, error_callback)


def test_apply_goes_through_apply_async(make_pool: Any) -> None:
    pool = make_pool(1, cls=LoggingPool)
    assert pool.apply(tasks.square, (2,)) == 4
    assert pool.apply_async(tasks.square, args=(3,)).get(DEADLINE) == 9
    assert pool.log == ["square(2,)", "square(3,)"]
    assert pool.map(tasks.square, [4]) == [16]
    assert len(pool.log) == 2


def test_map_does_not_go_through_map_async(make_pool: Any) -> None:
    class Own(Pool):  # type: ignore[misc]
        def map_async(self, *args: Any, **kwds: Any) -> Any:
            raise AssertionError

        starmap_async = map_async

    pool = make_pool(1, cls=Own)
    assert pool.map(tasks.square, [1, 2]) == [1, 4]
    assert pool.starmap(tasks.add, [(1, 2)]) == [3]


def test_the_map_family_goes_through_one_method(make_pool: Any) -> None:
    calls: list[Any] = []

    class Own(Pool):  # type: ignore[misc]
        def _map_async(self, func: Any, iterable: Any, mapper: Any, *rest: Any) -> Any:
            calls.append((mapper.__name__, list(rest)))
            return super()._map_async(func, iterable, mapper, *rest)

    pool = make_pool(1, cls=Own)
    back = calls.append
    assert pool.map(tasks.square, [2], 1) == [4]
    assert pool.starmap(tasks.add, [(1, 2)], 1) == [3]
    assert [(name, rest[0]) for name, rest in calls] == [("mapstar", 1), ("starmapstar", 1)]
    calls.clear()
    pool.map_async(tasks.square, [2], 1, None, back).get(DEADLINE)
    pool.starmap_async(tasks.add, [(1, 2)], 1, None, back).get(DEADLINE)
    assert calls == [("mapstar", [1, None, back]), ("starmapstar", [1, None, back])]


def test_methods_called_on_the_class(make_pool: Any) -> None:
    pool = make_pool(1)
    assert Pool.apply(pool, tasks.square, (2,)) == 4
    assert Pool.apply_async(pool, tasks.square, (2,)).get(DEADLINE) == 4
    assert Pool.map(pool, tasks.square, [2]) == [4]
    assert list(Pool.imap(pool, tasks.square, [2])) == [4]
    Pool.close(pool)
    Pool.join(pool)


def test_overridden_ends_are_called(diary: Any) -> None:
    class Own(Pool):  # type: ignore[misc]
        def terminate(self) -> None:
            diary.write("terminate")
            super().terminate()

        def close(self) -> None:
            diary.write("close")
            super().close()

    with Own(1) as pool:
        pool.close()
    pool.join()
    assert diary.lines() == ["close", "terminate"]


# Private methods that subclasses override: such a pool runs on the stdlib's own engine


class PicklingQueue:
    """A custom queue: a pipe, a lock on each side, and its own pickling."""

    def __init__(self, context: Any) -> None:
        self._reader, self._writer = context.Pipe(duplex=False)
        self._rlock, self._wlock = context.Lock(), context.Lock()

    def get(self) -> Any:
        with self._rlock:
            data = self._reader.recv_bytes()
        return ForkingPickler.loads(data)

    def put(self, thing: Any) -> None:
        data = ForkingPickler.dumps(thing)
        with self._wlock:
            self._writer.send_bytes(data)


class OwnQueues(Pool):  # type: ignore[misc]
    def _setup_queues(self) -> None:
        self._inqueue = PicklingQueue(self._ctx)
        self._outqueue = PicklingQueue(self._ctx)
        self._quick_put = self._inqueue.put
        self._quick_get = self._outqueue.get


class OwnRepopulation(Pool):  # type: ignore[misc]
    """Its processes run another target, which cleans up after the stdlib's worker function."""

    def _repopulate_pool(self) -> None:
        for _ in range(self._processes - len(self._pool)):
            args = (self._inqueue, self._outqueue, self._initializer, self._initargs, None)
            worker = self.Process(self._ctx, target=tidy_worker, args=args)
            self._pool.append(worker)
            worker.name = worker.name.replace("Process", "OwnWorker")
            worker.daemon = True
            worker.start()


def tidy_worker(*args: Any) -> None:
    pool_module.worker(*args)


class OwnReaping(Pool):  # type: ignore[misc]
    @staticmethod
    def _join_exited_workers(pool: Any) -> bool:
        return bool(Pool._join_exited_workers(pool))


class InheritedQueues(OwnQueues):
    """The override may be in any class between this class and Pool."""


@pytest.mark.parametrize("cls", [OwnQueues, InheritedQueues, OwnRepopulation, OwnReaping])
def test_a_pool_with_overridden_private_methods_works(make_pool: Any, cls: Any) -> None:
    pool = make_pool(2, tasks.remember, (5,), cls=cls)
    assert issubclass(cls, multiprocessing.pool.Pool)
    assert pool.apply(tasks.remembered) == (5,)
    assert pool.apply(tasks.add, (1,), {"b": 2}) == 3
    assert pool.map(tasks.square, range(20)) == [x * x for x in range(20)]
    assert pool.starmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
    assert list(pool.imap(tasks.square, range(9), 2)) == [x * x for x in range(9)]
    assert sorted(pool.imap_unordered(tasks.square, range(9))) == [x * x for x in range(9)]
    seen: list[Any] = []
    pool.map_async(tasks.square, [3], callback=seen.append).wait(DEADLINE)
    with pytest.raises(ValueError, match="^no 1$"):
        pool.apply_async(tasks.fail, (1,), error_callback=seen.append).get(DEADLINE)
    assert seen[0] == [9]
    assert str(seen[1]) == "no 1"
    assert repr(pool).endswith(f".{cls.__name__} state=RUN pool_size=2>")
    pool.close()
    pool.join()
    assert [worker.exitcode for worker in pool._pool] == [0, 0]
    with pytest.raises(ValueError, match="^Pool not running$"):
        pool.map(tasks.square, [1])


def test_the_overrides_run(make_pool: Any) -> None:
    queues = make_pool(1, cls=OwnQueues)
    assert type(queues._inqueue) is type(queues._outqueue) is PicklingQueue
    assert queues.apply(tasks.square, (3,)) == 9
    own = make_pool(1, cls=OwnRepopulation)
    assert own._pool[0].name.startswith("ForkOwnWorker-")
    assert own.apply(os.getpid) == own._pool[0].pid


def test_a_pool_with_overrides_is_made_and_ended_in_any_way(make_pool: Any) -> None:
    with pytest.raises(ValueError, match="^Number of processes must be at least 1$"):
        OwnQueues(0)
    with OwnQueues(1) as pool:
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
    assert pool._state == "TERMINATE"
    pool.join()
    assert make_pool(1, cls=OwnQueues, maxtasksperchild=1).map(tasks.square, [2]) == [4]


@pytest.mark.better
def test_other_subclasses_stay_on_cpools_engine(make_pool: Any) -> None:
    for cls in LoggingPool, NestablePool:
        with pytest.raises(AttributeError):
            make_pool(1, cls=cls)._inqueue  # noqa: B018
