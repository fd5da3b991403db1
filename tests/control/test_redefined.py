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
    """As in a notebook, workers that start afresh have none of its functions."""
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
