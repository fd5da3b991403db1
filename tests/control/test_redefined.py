"""Functions of the main module that were defined, or changed, after the workers had started."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import scripts

pytestmark = pytest.mark.better

PROGRAM = """
import multiprocessing, sys, functools
from engine import Pool

def func(x):
    return "old", x

def helper(x):
    return x + 1

def caller(x, n=1):
    return helper(x) * n

def same(x):
    return x

first = same

print = functools.partial(print, flush=True)  # workers are forked meanwhile

if __name__ == "__main__":
    with Pool(2, maxtasksperchild=int(sys.argv[1]) or None) as pool:
        print(pool.map(func, [1, 2]))

        def func(x):
            return "new", x
        print(pool.map(func, [1, 2]), pool.apply(func, (3,)))
        print(pool.apply_async(functools.partial(func, 4)).get(), list(pool.imap(func, [5], 2)))
        print(pool.apply(func, (6,), retries=1, retry_on=KeyError))

        def late(x):
            return func(x), helper(x)
        print(pool.starmap(late, [(1,)]), pool.map(late, range(3), 3))

        def func(x):
            return "newest", x
        print(pool.map(func, [1]), pool.map(late, [1]))

        def caller(x, n=2):
            return helper(x) * n
        print(pool.apply(caller, (1,)))

        def caller(x, n=[3]):
            return helper(x) * n[0]
        print(pool.apply(caller, (1,)))
        print(pool.map(lambda x: func(x), [1]))
"""

EXPECTED = """
[('old', 1), ('old', 2)]
[('new', 1), ('new', 2)] ('new', 3)
('new', 4) [('new', 5)]
('new', 6)
[(('new', 1), 2)] [(('new', 0), 1), (('new', 1), 2), (('new', 2), 3)]
[('newest', 1)] [(('newest', 1), 2)]
4
6
[('newest', 1)]
""".split("\n")[1:-1]


@pytest.mark.parametrize("maxtasks", ["0", "2"])
def test_a_redefined_function_is_the_new_one(tmp_path: Path, maxtasks: str) -> None:
    pytest.importorskip("cloudpickle")
    assert scripts.output(tmp_path, PROGRAM, maxtasks) == EXPECTED


UNCHANGED = """
import sys
from engine import Pool

def func(x):
    return x

def text(n, default=(1, "a", None)):
    return "def again(x, default=" + repr(default) + "): return x"

exec(compile(text(1), "cell 1", "exec"))

if __name__ == "__main__":
    with Pool(1) as pool:
        exec(compile(text(1), "cell 2", "exec"))
        print(pool.map(func, [1]), pool.map(again, [2]))
        print("cloudpickle" in sys.modules)
"""


def test_what_is_the_same_goes_by_name(tmp_path: Path) -> None:
    """A cell that is run again defines the same functions; cloudpickle is not imported."""
    assert scripts.output(tmp_path, UNCHANGED) == ["[1] [2]", "False"]


IN_NO_FILE = """
import multiprocessing
from engine import Pool

def func(x):
    return "seen", x

with Pool(1, context=multiprocessing.get_context("METHOD")) as pool:
    print(pool.map(func, [1]))
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_program_that_is_in_no_file(method: str) -> None:
    """As in a notebook: workers that are not forked have none of its functions."""
    pytest.importorskip("cloudpickle")
    program = IN_NO_FILE.replace("METHOD", method)
    done = scripts.run("-c", program, seconds=2 * scripts.engine.DEADLINE)
    assert (done.stdout, done.stderr) == ("[('seen', 1)]\n", "")


STATE = """
from engine import Pool

if __name__ == "__main__":
    with Pool(1) as pool:
        def func(x, seen=[]):
            seen.append(x)
            return len(seen)
        print(pool.map(func, [1, 2, 3], 1), pool.map(func, [1]))
        def func(x):
            raise ValueError(x)
        try:
            pool.apply(func, (5,))
        except ValueError as error:
            print(error, "Pool.apply(func)" in str(error.__cause__))
"""


def test_it_is_rebuilt_once_in_each_worker(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    assert scripts.output(tmp_path, STATE) == ["[1, 2, 3] [1]", "5 True"]


COUNTED = """
import os, sys
from functools import partial
from engine import Pool
from cpool import ProcessPoolExecutor
from cpool._base.by_value import Sender

dumped = 0

def counting(self, func, pickle=Sender._pickle):
    global dumped
    dumped += 1
    return pickle(self, func)

Sender._pickle = counting

def count(call):
    global dumped
    before, dumped = dumped, 0
    found = call()
    before, dumped = dumped, before
    return before, found

"""

ONCE = """
def check(found):
    for pid in {pid for pid, _ in found}:
        numbers = [n for p, n in found if p == pid]
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), numbers

def everything(func, pool):
    found = pool.map(func, range(20), 1)
    found += pool.imap(func, (x for x in range(20)))
    found += [pool.apply(func, (1,)) for _ in range(10)]
    found += [r.get() for r in [pool.apply_async(func, (x,)) for x in range(10)]]
    pool.apply(also, (1,))
    return found

if __name__ == "__main__":
    with Pool(2) as pool, ProcessPoolExecutor(2) as executor:
        executor.submit(os.getpid).result()  # it starts its workers now

        # A name of its globals that only it has: it counts how often it runs in each copy.
        def late(x, *rest):
            global seen
            seen = globals().get("seen", 0) + 1
            return os.getpid(), seen

        def also(x):
            return x

        def closure():
            seen = 0
            def within(x):
                nonlocal seen
                return os.getpid(), 1
            return within

        assert count(lambda: pool.apply(also, (1,)))[0] == 1
        for func in late, partial(late, 1):
            dumps, found = count(lambda: everything(func, pool))
            check(found)
            print(dumps, len(found))
        for func in (lambda x: late(x)), closure():
            print(count(lambda: everything(func, pool))[0])
        print(count(lambda: [pool.apply(late, (1,), retries=1, retry_on=KeyError)
                             for _ in range(20)])[0])
        dumps, found = count(lambda: [executor.submit(late, 1) for _ in range(20)])
        check([future.result() for future in found])
        print(dumps)
    with Pool(1, maxtasksperchild=3) as pool:
        def late(x, *rest):
            global seen
            seen = globals().get("seen", 0) + 1
            return os.getpid(), seen

        dumps, found = count(lambda: [pool.apply(late, (1,)) for _ in range(10)])
        check(found)
        print(dumps, len({pid for pid, _ in found}))
        before = found[-1]
        pool._pool[0].kill()
        found = []
        while not found or found[-1] == before:
            found += [pool.apply(late, (1,), retries=1)]
        check(found[-1:])
"""


def test_by_value_once_for_each_version(tmp_path: Path) -> None:
    """Not once for each item or call; and each worker loads it once, even one that starts later."""
    pytest.importorskip("cloudpickle")
    assert scripts.output(tmp_path, COUNTED + ONCE) == [
        "1 60",
        "1 60",
        "1",
        "1",
        "1",
        "1",
        "1 4",
    ]


VERSIONS = """
factor, table, steps = 2, [1], (len, max)

def helper(x):
    return x

if __name__ == "__main__":
    with Pool(1) as pool:
        def run(func=None):
            dumps, found = count(lambda: [pool.apply(func or late, (3,)) for _ in range(3)])
            assert len(set(found)) == 1, found
            print(dumps, found[0])

        class Base:
            more = 0

        class Late(Base):
            kind = "first"
            @property
            def size(self):
                return factor + self.more
            @staticmethod
            def static():
                return steps[-1]((1, 2))

        def late(x, n=1, *, m=1):
            return x * factor * n * m, late2(x), Late.kind, Late().size, Late.static()

        def late2(x):
            return helper(x)

        run()
        factor = 5
        run()
        late.__defaults__ = (2,)
        run()
        late.__kwdefaults__["m"] = 10
        run()
        def late2(x):
            return "new"
        run()
        late2.__code__ = (lambda x: "newer").__code__
        run()
        Late.kind = "second"
        run()
        Late.static = staticmethod(lambda: "static")
        run()
        Base.more = 100
        run()
        late.attribute = 1
        run()
        def max(values):
            return "mine"
        steps = (max,)
        Late.static = staticmethod(lambda: steps[-1]((1, 2)))
        run()

        # What changes without notice is looked at for each call, and not for each item.
        def late(x):
            return len(table), x
        run()
        table.append(2)
        run()
        print(count(lambda: list(pool.imap(late, (x for x in range(20)))))[0])

        def maker():
            value = 1
            def get(x):
                return value
            def set():
                nonlocal value
                value += 1
            return get, set
        get, set_ = maker()
        run(get)
        set_()
        run(get)
        funcs = [get, lambda x: x] * 20
        print(count(lambda: [pool.apply(func, (1,)) for func in funcs])[0])
        # More of them than are kept; and one that is too long.
        print(count(lambda: [pool.apply(lambda x, n=n: x + n, (1,)) for n in range(100)])[0])
        text = "x" * 20_000
        run(lambda x: text[:2])
"""


def test_a_version_is_all_that_it_is_made_of(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    assert scripts.output(tmp_path, COUNTED + VERSIONS) == [
        "1 (6, 3, 'first', 2, 2)",
        "1 (15, 3, 'first', 5, 2)",
        "1 (30, 3, 'first', 5, 2)",
        "1 (300, 3, 'first', 5, 2)",
        "1 (300, 'new', 'first', 5, 2)",
        "1 (300, 'newer', 'first', 5, 2)",
        "1 (300, 'newer', 'second', 5, 2)",
        "1 (300, 'newer', 'second', 5, 'static')",
        "1 (300, 'newer', 'second', 105, 'static')",
        "1 (300, 'newer', 'second', 105, 'static')",
        "1 (300, 'newer', 'second', 105, 'mine')",
        "3 (1, 3)",
        "3 (2, 3)",
        "1",
        "1 1",
        "1 2",
        "1",
        "100",
        "3 xx",
    ]


CLASSES = """
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from engine import Pool

class Known:
    def __init__(self, x):
        self.x = x

variable = ContextVar("variable", default=1)

def run(pool, func, items):
    [found] = pool.map(func, items)
    return found

if __name__ == "__main__":
    with Pool(1, propagate_context=sys.argv[1] == "context") as pool:
        def late(x):
            return Known(x)
        print(type(run(pool, late, [1])) is Known)
        def late(x):
            return isinstance(x, Known), x.x
        print(run(pool, late, [Known(1)]))

        @dataclass
        class Late:
            x: int
            def next(self):
                return Late(self.x + 1)

        class LateError(Exception):
            pass

        found = run(pool, Late, [1])  # a class as the function
        print(type(found) is Late, found)
        def late(x):
            return isinstance(x, Late), x.next()
        print(run(pool, late, [Late(1)]))
        print(run(pool, lambda x: x.next().next(), [Late(1)]))
        def late(x):
            raise LateError(x)
        try:
            run(pool, late, [3])
        except LateError as error:
            print(repr(error))

        @dataclass
        class Late:
            x: int
            y: int = 5
        print(run(pool, Late, [1]), run(pool, lambda x: (type(x) is Late, x.y), [Late(2, 3)]))

        class Known:  # one that workers had, too
            def __init__(self, x):
                self.x = x, "new"
        print(run(pool, Known, [1]).x, run(pool, lambda x: (type(x) is Known, x.x), [Known(2)]))

        variable.set(2)
        def late(x):
            return variable.get()
        print(run(pool, late, [1]))
"""


@pytest.mark.parametrize("how", ["plain", "context"])
def test_classes_defined_late(tmp_path: Path, how: str) -> None:
    pytest.importorskip("cloudpickle")
    assert scripts.output(tmp_path, CLASSES, how) == [
        "True",
        "(True, 1)",
        "True Late(x=1)",
        "(True, Late(x=2))",
        "Late(x=3)",
        "LateError(3)",
        "Late(x=1, y=5) (True, 3)",
        "(1, 'new') (True, (2, 'new'))",
        "2" if how == "context" else "1",
    ]
