"""Many threads that share one pool, one iterator, one result; with the GIL and without."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import engine
import pytest
import scripts
import tasks
from engine import DEADLINE
from gates import eventually

pytestmark = pytest.mark.timeout(4 * DEADLINE, method="signal")

THREADS = 8
FUNCTIONS: list[Callable[[Any], Any]] = [tasks.square, tasks.identity, tasks.add, abs]


@pytest.mark.better
def test_importing_leaves_the_gil_as_it_is() -> None:
    script = (
        "import sys; is_on = getattr(sys, '_is_gil_enabled', lambda: True); before = is_on(); "
        "import cpool; assert cpool.Pool(1).apply(abs, (-1,)) == 1; assert is_on() == before"
    )
    done = scripts.run("-c", script)
    assert (done.returncode, done.stderr) == (0, "")


class Crowd:
    """What each thread does with the shared pool. All results come from one function."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.told: list[Any] = []

    def work(self, number: int) -> None:
        func = FUNCTIONS[number % len(FUNCTIONS)]
        for turn in range(3):
            start = 1000 * number + 100 * turn
            items = range(start, start + 40)
            right = [func(item) for item in items]
            ways = [self.map, self.imap, self.imap_unordered, self.starmap, self.calls, self.apply]
            for way in ways[number % 6 :] + ways[: number % 6]:
                assert way(func, items) == right, way

    def map(self, func: Any, items: range) -> list[Any]:
        done: list[Any] = self.pool.map(func, items, 3)
        return done

    def imap(self, func: Any, items: range) -> list[Any]:
        return list(self.pool.imap(func, iter(items)))

    def imap_unordered(self, func: Any, items: range) -> list[Any]:
        return sorted(self.pool.imap_unordered(func, iter(items), 7))

    def starmap(self, func: Any, items: range) -> list[Any]:
        pairs = [(item,) for item in items]
        done: list[Any] = self.pool.starmap_async(func, pairs).get(DEADLINE)
        return done

    def calls(self, func: Any, items: range) -> list[Any]:
        told = self.told
        results = [
            self.pool.apply_async(func, (item,), {}, lambda _, item=item: told.append(item))
            for item in items
        ]
        return [result.get(DEADLINE) for result in results]

    def apply(self, func: Any, items: range) -> list[Any]:
        return [self.pool.apply(func, (item,)) for item in items]


def test_many_threads_share_a_pool(pool: Any, in_threads: Callable[..., list[Any]]) -> None:
    crowd = Crowd(pool)
    in_threads(crowd.work, range(THREADS))
    called = [
        1000 * number + 100 * turn + item
        for number, turn, item in itertools.product(range(THREADS), range(3), range(40))
    ]
    assert sorted(crowd.told) == called, "a callback too many, or too few"


@pytest.mark.better
@pytest.mark.parametrize("ordered", [True, False])
def test_many_threads_share_an_iterator(
    pool: Any, in_threads: Callable[..., list[Any]], ordered: bool
) -> None:
    """Each item goes to one thread, and every thread reaches the end."""
    results = (pool.imap if ordered else pool.imap_unordered)(tasks.identity, iter(range(2000)))

    def take(_: int) -> list[Any]:
        return list(iter(lambda: next(results, None), None))

    parts = in_threads(take, range(THREADS))
    assert sorted(itertools.chain(*parts)) == list(range(2000))
    if ordered:
        assert all(part == sorted(part) for part in parts)


def test_many_threads_share_a_result(pool: Any, in_threads: Callable[..., list[Any]]) -> None:
    for _ in range(50):
        result = pool.map_async(tasks.square, range(20), 1)
        values = in_threads(lambda _, result=result: result.get(DEADLINE), range(THREADS))
        assert values[0] == [x * x for x in range(20)]
        assert all(value is values[0] for value in values)


def test_many_threads_share_a_failure(pool: Any, in_threads: Callable[..., list[Any]]) -> None:
    for _ in range(50):
        result = pool.apply_async(tasks.fail)

        def failure(_: int, result: Any = result) -> BaseException:
            with pytest.raises(ValueError) as caught:
                result.get(DEADLINE)
            return caught.value

        failures = in_threads(failure, range(THREADS))
        assert all(found is failures[0] for found in failures)


@pytest.mark.better
def test_attributes_of_a_result_are_read_while_it_arrives(
    pool: Any, in_threads: Callable[..., list[Any]]
) -> None:
    """Programs read the private attributes while they wait."""
    results = [pool.map_async(tasks.square, range(30), 1) for _ in range(20)]

    def look(number: int) -> None:
        for result in results[number:] + results[:number]:
            while not result.ready():
                assert all(value in (None, i * i) for i, value in enumerate(result._value))
                assert result._pool in (pool, None)
                assert 0 <= result._number_left <= 30
                assert result._job is not None
            assert result.get() == [x * x for x in range(30)]

    in_threads(look, range(THREADS))


@pytest.mark.better
def test_many_threads_make_the_first_asynchronous_call(
    make_pool: Callable[..., Any], in_threads: Callable[..., list[Any]]
) -> None:
    """One thread becomes the helper that all calls need; others that were started exit."""
    pool = make_pool(2)
    told: list[int] = []
    in_threads(
        lambda item: pool.apply_async(abs, (item,), callback=told.append).get(DEADLINE),
        range(THREADS),
    )
    assert sorted(told) == list(range(THREADS))
    helpers = [thread for thread in pool._threads if thread.name == "cpool-helper"]
    eventually(lambda: sum(thread.is_alive() for thread in helpers) == 1)


def test_pools_of_many_threads(in_threads: Callable[..., list[Any]]) -> None:
    """Pools are made, used and ended at the same time, in different ways."""

    def come_and_go(number: int) -> None:
        for turn in range(2):
            pool = engine.Pool(2)
            assert pool.map(tasks.square, range(10), 1) == [x * x for x in range(10)]
            assert pool.apply_async(tasks.add, (number, turn)).get(DEADLINE) == number + turn
            pool.terminate() if turn else pool.close()
            pool.join()

    in_threads(come_and_go, range(4))


@pytest.mark.better
def test_a_map_is_fed_by_the_calling_thread(pool: Any) -> None:
    """Other threads that find its result only wait, and leave the iterable alone."""
    outcome: list[Any] = []

    def find_and_wait() -> None:
        [result] = pool._cache.values()
        waiting.set()
        outcome.append(result.get(DEADLINE))

    def items() -> Iterator[int]:
        for item in range(300):
            pullers.add(threading.get_ident())
            if item == 3:
                other.start()
                assert waiting.wait(DEADLINE)
            yield item

    class Items(tasks.Sized):
        def __init__(self) -> None:
            super().__init__([], length=300)

        def __iter__(self) -> Iterator[int]:
            return items()

    waiting = threading.Event()
    other = threading.Thread(target=find_and_wait)
    pullers: set[int] = set()
    eventually(lambda: not pool._cache)  # of the jobs of other tests
    assert pool.map(tasks.square, Items(), 1) == [x * x for x in range(300)]
    other.join(DEADLINE)
    assert outcome == [[x * x for x in range(300)]]
    assert pullers == {threading.get_ident()}


# A value that takes as long to arrive as a test likes

HOME = os.getpid()
arrives, may_arrive = threading.Event(), threading.Event()


def arrive() -> str:
    if os.getpid() == HOME:
        arrives.set()
        assert may_arrive.wait(DEADLINE)
    return "here"


class Slow:
    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, ()


def make_slow() -> Slow:
    return Slow()


@pytest.fixture
def slow() -> Iterator[None]:
    arrives.clear()
    may_arrive.clear()
    yield
    may_arrive.set()


@pytest.mark.better
def test_terminate_while_the_helper_decodes(make_pool: Callable[..., Any], slow: None) -> None:
    """A waiting thread gets the same outcome as the callback."""
    pool = make_pool(1)
    told: list[Any] = []
    got: list[Any] = []
    result = pool.apply_async(make_slow, callback=told.append, error_callback=told.append)
    assert arrives.wait(DEADLINE)
    pool.terminate()
    getter = threading.Thread(target=lambda: got.append(result.get(DEADLINE)), daemon=True)
    getter.start()
    may_arrive.set()
    getter.join(DEADLINE)
    eventually(lambda: told, "the callback was not called")  # nobody waits for the helper
    assert (got, told) == (["here"], ["here"])


@pytest.mark.better
def test_terminate_while_another_thread_decodes(make_pool: Callable[..., Any], slow: None) -> None:
    """The callback waits for the value, which is decoded once."""
    pool = make_pool(1)
    begun, go_on, gone_on = threading.Event(), threading.Event(), threading.Event()
    told: list[Any] = []
    got: list[Any] = []

    def hold_up(_: object) -> None:
        begun.set()
        assert go_on.wait(DEADLINE)
        gone_on.set()

    pool.apply_async(tasks.nothing, callback=hold_up)
    result = pool.apply_async(make_slow, callback=told.append, error_callback=told.append)
    assert begun.wait(DEADLINE)
    pool.apply(tasks.nothing)  # queued behind it on the only worker: the value has arrived
    pool.terminate()
    getter = threading.Thread(target=lambda: got.append(result.get(DEADLINE)), daemon=True)
    getter.start()
    assert arrives.wait(DEADLINE)
    go_on.set()
    assert gone_on.wait(DEADLINE)  # and the helper goes on to the second value
    may_arrive.set()
    getter.join(DEADLINE)
    eventually(lambda: told, "the callback was not called")  # nobody waits for the helper
    assert (got, told) == (["here"], ["here"])


# Containers that other threads change while they are sent


@pytest.fixture
def changing() -> Iterator[Callable[[Callable[[], None]], None]]:
    """changing(step): another thread calls step again and again until the test ends."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def begin(step: Callable[[], None]) -> None:
        def run() -> None:
            while not stop.is_set():
                step()

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield begin
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)


@pytest.mark.better
@pytest.mark.parametrize("count", [1, 4])
def test_a_list_that_changes(pool: Any, changing: Callable[..., None], count: int) -> None:
    """The list arrives as it was at some moment. Items of one type, or a column of several."""
    items: list[str] = []

    def step() -> None:
        if len(items) < 20:
            items.append(str(len(items)))
        else:
            items.clear()

    changing(step)
    for _ in range(300):
        sent = pool.apply(tasks.identity, ([items, [0], ["a"], [1, 2]][:count],))[0]
        assert sent == [str(i) for i in range(len(sent))]
        for sent in pool.map(tasks.identity, [(items,), (items,)], 1):
            assert sent[0] == [str(i) for i in range(len(sent[0]))]


@pytest.mark.better
@pytest.mark.parametrize("count", [1, 4])
def test_a_dict_that_changes(pool: Any, changing: Callable[..., None], count: int) -> None:
    items: dict[str, str] = {}

    def step() -> None:
        if len(items) < 20:
            items[str(len(items))] = str(len(items))
        else:
            items.clear()

    changing(step)
    for _ in range(300):
        sent = pool.apply(tasks.identity, ([items, {"0": 0}, {"0": 1}, {"b": 2}][:count],))[0]
        assert sent == {str(i): str(i) for i in range(len(sent))}
