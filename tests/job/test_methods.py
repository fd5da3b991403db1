"""`apply_async()` and `submit()`, whose usual case runs in C: they behave like Python's methods."""

import copy
import inspect
import pickle
import sys
import types
import weakref
from unittest import mock

import pytest
import tasks
from gates import eventually

import cpool
from cpool import _core
from cpool.pool import Pool

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(scope="module")
def pool():
    with cpool.ThreadPool(1) as pool:
        pool.apply_async(tasks.square, (1,)).get()  # starts its threads: from now on in C
        yield pool


@pytest.fixture(scope="module")
def executor():
    with cpool.ThreadPoolExecutor(1) as executor:
        executor.submit(tasks.square, 1).result()
        yield executor


def collected(*args, **kwds):
    return args, kwds


@pytest.mark.parametrize(
    ("args", "kwds", "expected"),
    [
        ((collected,), {}, ((), {})),
        ((collected, (1, 2)), {}, ((1, 2), {})),
        ((collected, (1,), {"a": 2}), {}, ((1,), {"a": 2})),
        ((collected, [1, 2]), {}, ((1, 2), {})),
        ((collected, {1: 2}, {"a": 3}, None, None), {}, ((1,), {"a": 3})),
        ((collected,), {"args": (1,), "kwds": {"b": 2}}, ((1,), {"b": 2})),
        ((), {"func": collected, "args": (1,), "error_callback": None}, ((1,), {})),
        ((collected, tuple(range(1000))), {}, (tuple(range(1000)), {})),
        ((collected, (1,)), {"priority": 1}, ((1,), {})),  # an option: always in Python
    ],
)
def test_arguments_by_position_and_by_name(args, kwds, expected):
    with cpool.ThreadPool(1) as pool:
        for _ in range(3):  # the first time in Python
            assert pool.apply_async(*args, **kwds).get() == expected


def test_callbacks_by_position_and_by_name(pool):
    seen = []
    pool.apply_async(tasks.square, (3,), {}, seen.append).get()
    pool.apply_async(tasks.square, (4,), callback=seen.append).get()
    failed = pool.apply_async(int, ("x",), error_callback=seen.append)
    with pytest.raises(ValueError, match="invalid literal"):
        failed.get()
    assert seen[:2] == [9, 16]
    assert isinstance(seen[2], ValueError)


@pytest.mark.parametrize(
    ("args", "kwds"),
    [
        ((), {}),
        ((tasks.square, (), {}, None, None, None), {}),
        ((tasks.square,), {"func": tasks.square}),
        ((tasks.square,), {"unknown": 1}),
    ],
)
def test_wrong_arguments_raise_as_in_python(pool, args, kwds):
    with pytest.raises(TypeError, match="apply_async|unknown"):
        pool.apply_async(*args, **kwds)


def test_arguments_that_do_not_fit_are_the_tasks_failure(pool):
    with pytest.raises(TypeError, match="must be an iterable"):
        pool.apply_async(tasks.square, 5).get()
    with pytest.raises(TypeError, match="must be a mapping"):
        pool.apply_async(tasks.square, (5,), 6).get()


class Item:
    pass


def forget(item, other=None):
    return None


def test_arguments_live_no_longer_than_the_task(pool):
    for kwds in ({}, {"other": Item()}):
        item = Item()
        refs = [weakref.ref(item), *map(weakref.ref, kwds.values())]
        made = pool.apply_async(forget, (item,), kwds)
        del item
        kwds.clear()
        assert made.get() is None
        if not GIL:  # a thread's references are dropped by the thread that made the object
            eventually(lambda refs=refs: all(ref() is None for ref in refs))
        assert [ref() for ref in refs] == [None] * len(refs)


def test_a_subclass_may_replace_and_call_it():
    class Counting(cpool.ThreadPool):
        calls = 0

        def apply_async(self, *args, **options):
            self.calls += 1
            return super().apply_async(*args, **options)

    with Counting(1) as pool:
        assert pool.apply_async(tasks.square, (5,)).get() == 25
        assert pool.apply(tasks.square, (6,)) == 36
        assert pool.calls == 2


def test_it_can_be_replaced_on_the_class_and_on_a_pool(pool):
    with mock.patch.object(Pool, "apply_async", return_value="class"):
        assert pool.apply_async(tasks.square, (1,)) == "class"
    with mock.patch.object(pool, "apply_async", return_value="pool"):
        assert pool.apply_async(tasks.square, (1,)) == "pool"
    assert pool.apply_async(tasks.square, (2,)).get() == 4


@pytest.mark.parametrize("cls", [cpool.Pool, cpool.ThreadPool])
def test_it_looks_like_a_python_method(cls, pool):
    method = cls.apply_async
    assert list(inspect.signature(method).parameters) == [
        *["self", "func", "args", "kwds", "callback", "error_callback", "asked"]
    ]
    assert "self" not in inspect.signature(pool.apply_async).parameters
    assert method.__name__ == "apply_async"
    assert method.__qualname__ == "Pool.apply_async"
    assert method.__module__ == "cpool._engine.processes"
    assert method.__doc__.startswith("Have a worker call")
    assert inspect.isroutine(method)
    assert inspect.unwrap(method).__code__.co_name == "apply_async"
    assert "Pool.apply_async" in repr(method)
    with pytest.raises(AttributeError):
        method.unknown  # noqa: B018


METHODS = [
    cpool.Pool.apply_async,
    cpool.ProcessPoolExecutor.submit,
    cpool.ThreadPoolExecutor.submit,
]


@pytest.mark.parametrize("method", METHODS)
def test_it_is_taken_for_a_function(method):
    assert isinstance(method, types.FunctionType)
    assert type(method) is _core.Method
    assert inspect.getsourcefile(method) == inspect.getsourcefile(inspect.unwrap(method))
    assert pickle.loads(pickle.dumps(method)) is method
    assert copy.copy(method) is copy.deepcopy(method) is method


def test_its_bound_methods_can_be_referred_to_weakly(pool, executor):
    for method in pool.apply_async, executor.submit:
        assert weakref.WeakMethod(method)() == method


def test_mock_checks_arguments_and_passes_self(pool):
    with mock.patch.object(Pool, "apply_async", autospec=True) as fake:
        pool.apply_async(tasks.square, (1,))
        fake.assert_called_once_with(pool, tasks.square, (1,))
        with pytest.raises(TypeError):
            pool.apply_async()
    fake = mock.create_autospec(Pool, instance=True)
    with pytest.raises(TypeError):
        fake.apply_async()


def test_the_usual_case_does_not_call_the_python_method():
    def slow(*args):
        raise AssertionError("called")

    class Other(cpool.ThreadPool):
        apply_async = _core.Method("apply_async", slow, cpool.pool.ApplyResult)

    with Other(1) as pool:
        with pytest.raises(AssertionError, match="called"):
            pool.apply_async(tasks.square, (2,))  # its threads do not run yet
        assert pool.map(tasks.square, [3]) == [9]
        pool.map_async(tasks.square, [3]).get()

        def is_quick():
            try:
                return pool.apply_async(tasks.square, (4,)).get() == 16
            except AssertionError:
                return False

        eventually(is_quick)  # its helper may still be starting


def test_submit_passes_all_arguments_on(executor):
    assert executor.submit(collected).result() == ((), {})
    assert executor.submit(collected, 1, 2).result() == ((1, 2), {})
    expected = ((1,), {"self": 2, "fn": 3})
    assert executor.submit(collected, 1, self=2, fn=3).result() == expected
    with pytest.raises(TypeError, match="submit"):
        executor.submit()
    with pytest.raises(TypeError, match="submit"):
        executor.submit(fn=collected)
    assert list(inspect.signature(executor.submit).parameters) == ["fn", "args", "kwargs"]


def test_submit_after_shutdown_says_so():
    executor = cpool.ThreadPoolExecutor(1)
    executor.submit(tasks.square, 1).result()
    submit = executor.submit
    call = executor._call
    executor.shutdown()
    executor._call = call  # as for a thread that has looked at it before
    with pytest.raises(RuntimeError, match="after shutdown"):
        submit(tasks.square, 1)
    executor._call = None
    with pytest.raises(RuntimeError, match="after shutdown"):
        submit(tasks.square, 1)


def test_only_known_methods_can_be_made():
    with pytest.raises(ValueError, match="no fast method 'map'"):
        _core.Method("map", print, None)
