"""What can be sent, how values arrive, and the errors for what cannot be sent."""

from __future__ import annotations

import copyreg
import functools
import math
import multiprocessing
import operator
import os
import pickle
import re
import socket
import threading
from collections import OrderedDict, deque, namedtuple
from collections.abc import Iterator
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import scripts
import tasks
from engine import DEADLINE, MaybeEncodingError

from cpool._base import pickling

FORK = multiprocessing.get_context("fork")
Pair = namedtuple("Pair", "left right")


# Values


class Text(str):
    pass


class Number(int):
    pass


class Row(tuple):  # type: ignore[type-arg]
    pass


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**31,
    -(2**63),
    2**64,
    -(10**400),
    0.0,
    -0.0,
    1e308,
    float("inf"),
    1 + 2j,
    "",
    "text",
    "\0 \xe9 \u20ac \U0001f600",
    "\udc80",
    b"",
    b"\0\xff",
    bytearray(b"abc"),
    (),
    (1,),
    (None, (True, ("x", b"y", 2.5))),
    ((((),),),),
    [1, [2]],
    {"a": {1, 2}},
    frozenset({1}),
    range(3),
    ...,
    NotImplemented,
    int,
    ValueError,
    Text("x"),
    Number(5),
    Row((1, 2)),
    Pair(1, [2]),
    (Text("x"), Number(5), True, 1),
    OrderedDict(b=1, a=2),
    deque([1, 2], maxlen=5),
    ValueError("x", 1),
    tasks.Point(1, 2),
    tasks.square,
    Path("/tmp"),
]


def same(one: Any, two: Any) -> bool:
    """Equal in value and in type, all the way down."""
    if type(one) is not type(two):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and same(list(one.values()), list(two.values()))
    if isinstance(one, float):
        return (math.copysign(1, one), one) == (math.copysign(1, two), two) or one != one != two
    if isinstance(one, BaseException):
        return same(one.args, two.args)
    return bool(one == two)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_a_value_arrives_as_it_was(pool: Any, value: Any) -> None:
    assert same(pool.apply(tasks.identity, (value,)), value)
    assert same(pool.map(tasks.identity, [value, value]), [value, value])
    kind, there = pool.apply(tasks.kind, (value,))
    assert kind == type(value).__name__
    assert same(there, value)


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=300)
)
nested = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=20,
)


@hypothesis.given(value=nested)
def test_any_plain_value_arrives_as_it_was(pool: Any, value: Any) -> None:
    expected = pickle.loads(pickle.dumps(value))
    found = pool.apply(tasks.identity, (value,))
    assert same(found, expected)


def test_values_do_not_share_the_parents_objects(pool: Any) -> None:
    mine = [[1]]
    [theirs] = pool.map(tasks.identity, [mine])
    assert theirs == mine
    assert theirs is not mine
    assert theirs[0] is not mine[0]


# Size


@pytest.mark.parametrize("size", [0, 1, 4096, 65535, 65536, 65537, 1 << 20, 12_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_large_values_both_ways(make_pool: Any, kind: Any, size: int) -> None:
    pool = make_pool(1)
    value = kind("x" * size, "ascii") if kind is not str else "x" * size
    found = pool.apply(tasks.identity, (value,))
    assert type(found) is kind
    assert found == value


def test_large_values_in_several_workers_at_once(make_pool: Any) -> None:
    """More than fits into the pipes of all workers, in both directions."""
    pool = make_pool(3)
    values = [bytes([i]) * 3_000_000 for i in range(12)]
    assert pool.map(tasks.identity, values, 1) == values
    assert pool.map(tasks.size, values, 4) == [3_000_000] * 12
    assert list(map(len, pool.imap(tasks.zeros, [5_000_000] * 4))) == [5_000_000] * 4
    results = [pool.apply_async(tasks.identity, (value,)) for value in values]
    assert [result.get(DEADLINE) for result in results] == values


def test_a_large_result_can_be_written_to(make_pool: Any) -> None:
    found = make_pool(1).apply(tasks.identity, (bytearray(2_000_000),))
    found[0] = 7
    found += b"more"
    assert (found[0], len(found)) == (7, 2_000_004)


def test_many_small_results_and_a_large_one(make_pool: Any) -> None:
    pool = make_pool(2)
    values: list[Any] = [bytes(10), bytes(1_000_000), bytes(10)] * 20
    assert pool.map(tasks.identity, values, 1) == values


# Objects within a chunk


def test_an_object_repeated_in_a_chunk_stays_one_object(make_pool: Any) -> None:
    pool = make_pool(1)
    shared: list[Any] = []
    assert pool.map(tasks.append, [shared] * 4, 4) == [[None] * 4] * 4
    assert pool.map(tasks.append, [shared] * 4, 2) == [[None] * 2] * 4
    assert pool.map(tasks.append, [shared] * 4, 1) == [[None]] * 4
    assert shared == []


def test_results_of_a_chunk_keep_shared_objects(make_pool: Any) -> None:
    pool = make_pool(1)
    [one, two] = pool.apply(tasks.same_twice, (0,))
    assert one is two
    shared: list[Any] = []
    one, two, three = pool.map(tasks.identity, [shared] * 3, 2)
    assert one is two
    assert two is not three


def test_arguments_keep_shared_objects(pool: Any) -> None:
    shared = [1]
    (one, two), named = pool.apply(tasks.arguments, (shared, shared), {"three": shared})
    assert one is two is named["three"]


# The callable


def test_a_callable_with_state_is_fresh_for_each_task(make_pool: Any) -> None:
    pool = make_pool(1)
    for counter in tasks.Counter(), tasks.Counter().count, functools.partial(tasks.Counter()):
        assert pool.map(counter, range(6), 1) == [1] * 6
        assert pool.map(counter, range(6), 3) == [1, 2, 3, 1, 2, 3]
        assert list(pool.imap(counter, range(3))) == [1] * 3
        assert [pool.apply(counter) for _ in range(3)] == [1] * 3


def test_a_global_function_is_the_same_object_in_each_task(make_pool: Any) -> None:
    pool = make_pool(1)
    assert pool.map(tasks.count_calls, range(4), 1) == [1, 2, 3, 4]
    assert pool.map(tasks.count_calls, range(4), 2) == [5, 6, 7, 8]
    assert pool.apply(tasks.count_calls) == 9


def test_the_callable_keeps_its_state_from_the_call(make_pool: Any) -> None:
    pool = make_pool(1)
    counter = tasks.Counter()
    assert pool.apply(counter) == 1
    counter.calls = 10
    assert pool.apply(counter) == 11
    assert counter.calls == 10


@pytest.mark.parametrize(
    ("func", "args", "result"),
    [
        (len, ("ab",), 2),
        ("x".join, ("ab",), "axb"),
        (str.upper, ("a",), "A"),
        (tasks.Point, (1, 2), tasks.Point(1, 2)),
        (tasks.Point.at, (5,), tasks.Point(5, 5)),
        (tasks.Point.norm, (3, 4), 25),
        (tasks.Point(1, 2).moved, (5,), tasks.Point(6, 2)),
        (functools.partial(tasks.add, b=3), (5,), 8),
        (operator.methodcaller("lower"), ("A",), "a"),
    ],
)
def test_every_kind_of_callable(pool: Any, func: Any, args: Any, result: Any) -> None:
    assert pool.starmap(func, [args] * 3, 1) == [result] * 3
    assert pool.starmap(func, [args] * 3, 3) == [result] * 3


@pytest.mark.better
def test_the_callable_is_pickled_once_per_job(make_pool: Any) -> None:
    pool = make_pool(2)
    func = tasks.CountsPickling()
    assert pool.map(func, range(20), 1) == [x * x for x in range(20)]
    assert func.times == 1
    assert list(pool.imap(func, range(20))) == [x * x for x in range(20)]
    assert func.times == 2
    assert pool.apply(func, (3,)) == 9
    assert func.times == 3


# Lambdas and closures

LAMBDAS = """
import sys
if sys.argv[1] == "without":
    sys.modules["cloudpickle"] = None
from engine import Pool

def outer(n):
    return lambda x: x + n

with Pool(2) as pool:
    try:
        print(pool.map(outer(5), [1, 2]), pool.apply(outer(1), (1,)))
        print(list(pool.imap(lambda x: x * 2, range(3))), pool.map(abs, [-1]))
    except Exception as error:
        print(type(error).__name__)
        print(error)
        print(*getattr(error, "__notes__", []))
    print(pool.map(abs, [-1, 2]))
"""


@pytest.mark.better
def test_lambdas_work_with_cloudpickle(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    lines = scripts.output(tmp_path, LAMBDAS, "with")
    assert lines == ["[6, 7] 2", "[0, 2, 4] [1]", "[1, 2]"]


def test_lambdas_without_cloudpickle_raise_pickles_error(tmp_path: Path) -> None:
    name, text, _, rest = scripts.output(tmp_path, LAMBDAS, "without")
    with pytest.raises((AttributeError, pickle.PicklingError)) as caught:
        pickle.dumps(outer(1))
    assert name == type(caught.value).__name__
    assert without_address(text) == without_address(str(caught.value))
    assert rest == "[1, 2]"


@pytest.mark.better
def test_a_note_says_that_cloudpickle_would_help(tmp_path: Path) -> None:
    assert "cloudpickle" in scripts.output(tmp_path, LAMBDAS, "without")[2]


def outer(n: int) -> Any:
    return lambda x: x + n


def without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


# What cannot be sent


def submissions(pool: Any, thing: Any) -> list[Any]:
    """Ways to send the object to a worker: as an argument, as an item, inside an item."""
    return [
        lambda: pool.apply(tasks.identity, (thing,)),
        lambda: pool.apply_async(tasks.identity, (), {"x": [thing]}).get(DEADLINE),
        lambda: pool.map(tasks.identity, [thing]),
        lambda: pool.starmap(tasks.identity, [(thing,)], 1),
        lambda: list(pool.imap(tasks.identity, [thing])),
        lambda: list(pool.imap_unordered(tasks.identity, [(1, thing)], 2)),
    ]


UNPICKLABLE: dict[str, Any] = {
    "own": tasks.Unpicklable,
    "generator": lambda: (x for x in "ab"),
    "thread lock": threading.Lock,
    "open file": lambda: open(os.devnull, "rb"),  # noqa: SIM115
    "view": lambda: memoryview(b"x"),
}


@pytest.mark.parametrize("name", UNPICKLABLE)
def test_an_unpicklable_object_raises_pickles_error(pool: Any, name: str) -> None:
    thing = UNPICKLABLE[name]()
    with pytest.raises(Exception) as here:
        ForkingPickler.dumps(thing)
    for submit in submissions(pool, thing):
        with pytest.raises(type(here.value)) as there:
            submit()
        assert type(there.value) is type(here.value)
        assert str(there.value) == str(here.value)
        assert there.value.__cause__ is None
    getattr(thing, "close", tasks.nothing)()
    assert pool.apply(tasks.square, (2,)) == 4


SHARED_BY_INHERITANCE: dict[str, tuple[Any, str]] = {
    "lock": (FORK.Lock, "Lock objects"),
    "rlock": (FORK.RLock, "RLock objects"),
    "semaphore": (FORK.Semaphore, "Semaphore objects"),
    "queue": (FORK.Queue, "Queue objects"),
    "simple queue": (FORK.SimpleQueue, "SimpleQueue objects"),
}


@pytest.mark.parametrize("name", SHARED_BY_INHERITANCE)
def test_objects_shared_by_inheritance_cannot_be_sent(pool: Any, name: str) -> None:
    make, what = SHARED_BY_INHERITANCE[name]
    thing = make()
    for submit in submissions(pool, thing):
        with pytest.raises(RuntimeError) as caught:
            submit()
        assert str(caught.value) == (
            f"{what} should only be shared between processes through inheritance"
        )
    if name == "queue":
        thing.close()
        thing.join_thread()


def test_a_lock_goes_to_the_initializer(make_pool: Any) -> None:
    lock = FORK.Lock()
    pool = make_pool(2, tasks.remember, (lock,))
    assert pool.map(tasks.use_lock, range(10), 1) == [True] * 10


def test_a_pool_cannot_be_sent(pool: Any) -> None:
    for submit in submissions(pool, pool):
        with pytest.raises(NotImplementedError) as caught:
            submit()
        assert str(caught.value) == "pool objects cannot be passed between processes or pickled"


# Results that cannot be sent back


@pytest.mark.parametrize("method", ["apply", "map", "imap"])
def test_a_result_that_cannot_be_pickled(pool: Any, method: str) -> None:
    for _ in range(5):
        with pytest.raises(MaybeEncodingError) as caught:
            if method == "apply":
                pool.apply(tasks.unpicklable)
            elif method == "map":
                pool.map(tasks.unpicklable, [1], 1)
            else:
                next(pool.imap(tasks.unpicklable, [1]))
        error = caught.value
        value = "[<Unpicklable>]" if method == "map" else "<Unpicklable>"
        assert error.exc == "RuntimeError('not for sending')"
        assert error.value == value
        assert str(error) == (
            f"Error sending result: '{value}'. Reason: 'RuntimeError('not for sending')'"
        )
        assert repr(error) == f"<MaybeEncodingError: {error}>"


@pytest.mark.parametrize("func", [tasks.raise_unpicklable, tasks.raise_local])
def test_an_exception_that_cannot_be_pickled(pool: Any, func: Any) -> None:
    with pytest.raises(MaybeEncodingError) as caught:
        pool.apply(func)
    assert re.fullmatch(
        r"<multiprocessing\.pool\.ExceptionWithTraceback object at 0x[0-9a-f]+>",
        caught.value.value,
    )
    assert caught.value.exc.startswith(("RuntimeError(", "AttributeError(", "PicklingError("))


def test_an_unpicklable_result_fails_only_its_chunk(make_pool: Any) -> None:
    pool = make_pool(1)
    workers = [worker.pid for worker in pool._pool]
    results = [pool.apply_async(tasks.unpicklable_if, (3, i)) for i in range(6)]
    results[3].wait(DEADLINE)
    assert [result.get(DEADLINE) for result in results if result is not results[3]] == [
        0,
        1,
        2,
        4,
        5,
    ]
    with pytest.raises(MaybeEncodingError):
        results[3].get()
    assert [worker.pid for worker in pool._pool] == workers


# Reducers registered by the program


class Registered:
    """A class that only the reducer registered for the class can pickle."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        raise AssertionError("the reducer was not used")


def reduce_registered(thing: Registered) -> tuple[Any, ...]:
    return Registered, (("reduced", thing.value),)


@pytest.fixture(params=["copyreg", "ForkingPickler"])
def reducer(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "copyreg":
        copyreg.pickle(Registered, reduce_registered)
        yield
        del copyreg.dispatch_table[Registered]
    else:
        ForkingPickler.register(Registered, reduce_registered)
        yield
        del ForkingPickler._extra_reducers[Registered]  # type: ignore[attr-defined]


def test_registered_reducers_are_used(make_pool: Any, reducer: None) -> None:
    """The parent uses reducers, and so do the workers that inherit them."""
    pool = make_pool(1)
    expected = ("reduced", ("reduced", 5))
    assert pool.apply(tasks.identity, (Registered(5),)).value == expected
    assert [found.value for found in pool.map(tasks.identity, [Registered(5)] * 3)] == [
        expected
    ] * 3
    assert [found.value for found in pool.imap(tasks.identity, [Registered(5)])] == [expected]


def test_reducers_may_be_registered_later(pool: Any, reducer: None) -> None:
    assert pool.apply(tasks.value_of, (Registered(5),)) == ("reduced", 5)


@pytest.fixture
def sharer() -> Iterator[None]:
    """multiprocessing sends descriptors in a thread, which ends with the test."""
    yield
    resource_sharer.stop(DEADLINE)


def test_a_socket_can_be_sent(make_pool: Any, sharer: None) -> None:
    pool = make_pool(1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert pool.apply(tasks.send_all, (theirs, b"hello")) == "socket"
        assert ours.recv(5) == b"hello"


def test_a_connection_can_be_sent(make_pool: Any, sharer: None) -> None:
    pool = make_pool(1)
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        assert pool.map(tasks.send_to, [theirs, theirs], 1) == ["Connection"] * 2
        assert [ours.recv(), ours.recv()] == ["hello", "hello"]


# Another pickler in place of multiprocessing's

REPLACED = """
import io, marshal, multiprocessing, pickle, sys, types, zlib
from multiprocessing import context, reduction
ForkingPickler = reduction.ForkingPickler
asked = []

def rebuild(code):
    return types.FunctionType(marshal.loads(code), globals())

def reduce_lambda(self, obj):
    if isinstance(obj, types.FunctionType) and obj.__name__ == "<lambda>":
        return rebuild, (marshal.dumps(obj.__code__),)
    return NotImplemented

class ByCode(ForkingPickler):
    reducer_override = reduce_lambda

def dumps(obj):
    asked.append(type(obj))
    file = io.BytesIO()
    ByCode(file).dump(obj)
    return zlib.compress(file.getvalue())

def loads(data):
    return pickle.loads(zlib.decompress(data))

class Other:
    dumps, loads = staticmethod(dumps), staticmethod(loads)

def replace():
    how = sys.argv[1]
    if how == "methods":
        ForkingPickler.dumps, ForkingPickler.loads = dumps, loads
    elif how == "class methods":
        ForkingPickler.dumps = classmethod(lambda cls, obj, protocol=None: dumps(obj))
        ForkingPickler.loads = staticmethod(loads)
    elif how == "reducer_override":
        ForkingPickler.reducer_override = reduce_lambda
    elif how == "constructor":
        def constructor(self, *args, before=ForkingPickler.__init__):
            before(self, *args)
            self.reducer_override = lambda obj: reduce_lambda(self, obj)
        ForkingPickler.__init__ = constructor
    elif how == "subclass":
        from multiprocessing import connection, queues
        connection._ForkingPickler = queues._ForkingPickler = ByCode
    elif how == "another class":
        from multiprocessing import connection, queues
        connection._ForkingPickler = queues._ForkingPickler = Other
    elif how == "queues":
        from multiprocessing import queues
        queues._ForkingPickler = ByCode
    elif how == "reduction":
        reduction.ForkingPickler = ByCode

if sys.argv[2] == "before":
    replace()
from engine import DEADLINE, Pool
if sys.argv[2] == "after":
    replace()

def bad(x):
    raise ValueError(lambda: 4)

def count():
    return len(asked)

def identity(x):
    return x

if __name__ == "__main__":
    pool = None
    if sys.argv[2] == "later":
        pool = Pool(1)
        print(pool.map(identity, [1, 2, 3], 1))
        pool.terminate()
        pool.join()
        replace()
    pool = Pool(2)
    print(pool.map(lambda x: x + 1, range(4), 1), pool.apply(lambda: 5))
    print(list(pool.imap(lambda x: x * 2, range(4), 2)), pool.starmap(lambda x: -x, [(1,)]))
    print([f() for f in pool.map(identity, [lambda: 1, lambda: 2])])
    print(pool.apply_async(identity, ([lambda: 3],)).get(DEADLINE)[0]())
    print(pool.map(identity, [None, 1, "a", [2]]), pool.apply(identity, ({"a": (1.5, b"c")},)))
    try:
        pool.apply(bad, (4,))
    except ValueError as error:
        print(error.args[0].__name__)
    before = len(asked)
    pool.map(identity, range(5))
    print(len(asked) > before, pool.apply(count) > 0)
    pool.terminate()
"""

HOW = [
    "methods",
    "class methods",
    "reducer_override",
    "constructor",
    "subclass",
    "another class",
    # Here the stdlib's pool uses one class for tasks and the other for results.
    pytest.param("queues", marks=pytest.mark.better),
    pytest.param("reduction", marks=pytest.mark.better),
]


@pytest.mark.parametrize("when", ["before", "after", "later"])
@pytest.mark.parametrize("how", HOW)
def test_a_pickler_that_a_program_has_replaced_is_used(tmp_path: Path, how: str, when: str) -> None:
    """As recipes for dill do: for callables, arguments, results, exceptions, and plain values."""
    if how == "reduction" and when == "later":
        return  # multiprocessing.queues has taken it
    found = scripts.output(tmp_path, REPLACED, how, when)
    if when == "later":
        assert found.pop(0) == "[1, 2, 3]"
    asked = how in ("methods", "class methods", "another class")
    assert found == [
        "[1, 2, 3, 4] 5",
        "[0, 2, 4, 6] [-1]",
        "[1, 2]",
        "3",
        "[None, 1, 'a', [2]] {'a': (1.5, b'c')}",
        "<lambda>",
        f"{asked} {asked}",
    ]


BROKEN = """
import multiprocessing.reduction as reduction
from engine import MaybeEncodingError, Pool

def refuse(obj):
    if "secret" in repr(obj):
        raise TypeError("not that")
    return plain(obj)

def keep(x):
    return "sec" + x

plain = reduction.ForkingPickler.dumps
reduction.ForkingPickler.dumps = refuse
with Pool(1) as pool:
    for call in (
        lambda: pool.apply(len, ("secret",)),
        lambda: pool.map(len, ["secret", "a"], 1),
        lambda: pool.apply(keep, ("ret",)),
    ):
        try:
            print(call())
        except (TypeError, MaybeEncodingError) as error:
            print(type(error).__name__, error)
    print(pool.map(len, ["a", "bc"], 1))
    reduction.ForkingPickler.dumps = plain
    print(pool.map(len, ["secret"]))
"""


@pytest.mark.better
def test_what_a_replaced_pickler_refuses(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, BROKEN) == [
        "TypeError not that",
        "TypeError not that",
        "MaybeEncodingError Error sending result: ''secret''. Reason: 'TypeError('not that')'",
        "[1, 2]",
        "[6]",
    ]


@pytest.mark.better
def test_the_stdlibs_pickler_is_not_taken_for_a_replaced_one() -> None:
    """Or everything would be slow."""
    assert not pickling.is_replaced()


class LacksMemory:
    pickled = 0

    def __call__(self, _: object) -> None: ...

    def __reduce__(self) -> str:
        LacksMemory.pickled += 1
        raise MemoryError


def test_without_memory_a_callable_is_not_pickled_by_value(pool: Any) -> None:
    LacksMemory.pickled = 0
    with pytest.raises(MemoryError):
        pool.map(LacksMemory(), [1])
    assert LacksMemory.pickled == 1


# Buffers


class Block(bytes):
    """Memory that is read-only, and pickles as numpy's read-only arrays do."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return memoryview, (pickle.PickleBuffer(self),)
        return bytearray, (bytes(self),)


class Writable(bytearray):
    """The same, of memory that may be written to."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return bytearray, (pickle.PickleBuffer(self) if protocol >= 5 else bytes(self),)


def write_to(block: Any) -> bool:
    try:
        block[0] = 1
    except TypeError:
        return False
    return True


def make_block(_: object) -> Block:
    return Block(b"abc")


@pytest.mark.parametrize("many", [1, 20_000])
@pytest.mark.parametrize("kind", [Block, Writable])
def test_memory_arrives_as_writable_as_in_the_stdlib(pool: Any, kind: Any, many: int) -> None:
    """In the stdlib read-only arrays arrive writable up to 3.13, since protocol 4 copies them."""
    block = kind(b"abc" * many)
    writable = not memoryview(ForkingPickler.loads(ForkingPickler.dumps(block))).readonly
    assert pool.map(write_to, [block, block], 1) == [writable, writable]
    assert pool.map(write_to, [block, block], 2) == [writable, writable]
    assert pool.apply(write_to, ([block][0],)) == writable
    assert pool.apply(write_to, (), {"block": block}) == writable
    assert list(pool.imap(write_to, [block])) == [writable]


def test_results_are_as_writable_as_in_the_stdlib(pool: Any) -> None:
    writable = not memoryview(ForkingPickler.loads(ForkingPickler.dumps(make_block(0)))).readonly
    for found in (pool.apply(make_block, (0,)), *pool.map(make_block, range(9), 3)):
        assert write_to(found) == writable
