"""Code of the program that forks in a worker and returns in both processes.

The copy is no worker: it takes no task, sends nothing and prints nothing. Tasks that fork in the
function itself are in test_misbehaving_tasks.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts
from engine import DEADLINE

pytestmark = pytest.mark.better

PROGRAM = """
import multiprocessing, os, signal, sys, threading
from engine import DEADLINE, Pool
from gates import Diary, all_gone
import tasks

METHOD, PATH = sys.argv[1:3]
diary = Diary(PATH)

def fork():
    child = os.fork()
    if child:
        diary.write(child)

class Forks:
    "Forks where it is pickled in a worker."
    def __reduce__(self):
        if multiprocessing.parent_process() is not None:
            fork()
        return int, (1,)

class Raises(Exception):
    def __reduce__(self):
        fork()
        return ValueError, (1,)

class Refuses:
    def __reduce__(self):
        fork()
        raise LookupError

class Unpickled:
    "Forks where it is unpickled in a worker."
    def __init__(self, x):
        self.x = x
    def __getstate__(self):
        return self.x
    def __setstate__(self, x):
        self.x = x
        fork()

class Callable(Unpickled):
    def __call__(self, _):
        return run()

class Dropped:
    "Forks where a worker drops the argument."
    def __init__(self, x):
        self.x, self.home = x, os.getpid()
    def __getstate__(self):
        return self.x, 0
    def __setstate__(self, state):
        self.x, self.home = state
    def __del__(self):
        if not self.home:
            fork()

def run(_=None):
    "The copy must not run a task: a second process that runs one writes a line more."
    Diary(PATH + ".runs").write("run")
    return 1

def returns(x): run(); return Forks()
def raises(x): run(); raise Raises
def refuses(x): run(); return Refuses()

def forks_and_runs(x):
    fork()
    return run()

def interrupted(x):
    signal.signal(signal.SIGUSR1, lambda *_: fork())
    return os.getpid()

def kinds(results):
    def kind(result):
        try:
            return result.get(DEADLINE)
        except Exception as error:
            return type(error).__name__
    return {kind(result) for result in results}

def initialize(raises):
    fork()
    if raises:
        raise LookupError

def report(found, n_runs):
    all_gone(map(int, diary.lines()))
    runs = len(Diary(PATH + ".runs").lines())
    print(found, "runs" if runs == n_runs else f"{runs} runs", "forked" if diary.lines() else "")

def main():
    pool = multiprocessing_pool()
    %s
    pool.close()
    pool.join(timeout=DEADLINE)

def multiprocessing_pool(*args):
    return Pool(2, *args, context=multiprocessing.get_context(METHOD))

if __name__ == "__main__":
    main()
"""

METHODS = ["fork", "spawn", "forkserver"]

CALLS = {
    "result": ("{1}", "report(set(pool.map(returns, range(20), 1)), 20)"),
    "results": ("{1}", "report(set(pool.map(returns, range(6), 2)), 6)"),
    "imap": ("{1}", "report(set(pool.imap_unordered(returns, range(20))), 20)"),
    "exception": (
        "{'ValueError'}",
        "report(kinds([pool.apply_async(raises, (1,)) for _ in range(20)]), 20)",
    ),
    "refused result": (
        "{'MaybeEncodingError'}",
        "report(kinds([pool.apply_async(refuses, (1,)) for _ in range(20)]), 20)",
    ),
    "argument": ("{1}", "report(set(pool.map(run, map(Unpickled, range(20)), 1)), 20)"),
    "arguments": ("{1}", "report(set(pool.map(run, map(Unpickled, range(6)), 2)), 6)"),
    "callable": ("{1}", "report(set(pool.map(Callable(1), range(20), 1)), 20)"),
    "dropped": ("{1}", "report(set(pool.map(run, map(Dropped, range(20)), 1)), 20)"),
    "chunk": ("{1}", "report(set(pool.map(forks_and_runs, range(20), 5)), 20 + 20)"),
}


def output(tmp_path: Path, source: str, method: str) -> list[str]:
    return scripts.output(
        tmp_path, PROGRAM % source, method, str(tmp_path / "diary"), seconds=2 * DEADLINE
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("call", CALLS)
def test_a_copy_takes_no_task(tmp_path: Path, call: str, method: str) -> None:
    """In the stdlib's pool the copy is a second worker on the same pipes.

    A function that forks itself returns in the copy as well, which then runs no other item.
    """
    values, source = CALLS[call]
    assert output(tmp_path, source, method) == [f"{values} runs forked"]


INITIALIZED = """
    pool.terminate()
    pool = multiprocessing_pool(initialize, (False,))
    report(set(pool.map(run, range(20), 1)), 20)
"""


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_that_forks(tmp_path: Path, method: str) -> None:
    assert output(tmp_path, INITIALIZED, method) == ["{1} runs forked"]


BROKEN = """
    pool.terminate()
    pool = multiprocessing_pool(initialize, (True,))
    report(kinds([pool.apply_async(run)]), 0)
"""


@pytest.mark.parametrize("method", METHODS)
def test_an_initializer_that_forks_and_raises(tmp_path: Path, method: str) -> None:
    """One process of all prints the traceback, and no copy is that one."""
    done = scripts.run_source(tmp_path, PROGRAM % BROKEN, method, str(tmp_path / "diary"))
    assert done.stdout.split() == ["{'InitializerError'}", "runs", "forked"]
    assert done.stderr.count("Traceback") == 1


IMPORTED = """
import multiprocessing, os
from engine import DEADLINE, Pool
import tasks

if multiprocessing.parent_process() is not None:
    os.fork()

if __name__ == "__main__":
    pool = Pool(2, context=multiprocessing.get_context("spawn"))
    print(pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)])
    pool.close()
    pool.join(timeout=DEADLINE)
"""


def test_a_main_module_that_forks(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, IMPORTED) == ["True"]


HOOKED = """
import os
from engine import DEADLINE, Pool
import tasks

def hook():
    global is_nested
    if not is_nested:
        is_nested = True
        os.fork()
        is_nested = False

is_nested = False
os.register_at_fork(after_in_child=hook)
pool = Pool(2, maxtasksperchild=5)
print(pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)])
pool.close()
pool.join(timeout=DEADLINE)
"""


def test_a_hook_of_the_fork_that_forks(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, HOOKED) == ["True"]


HANDLED = """
    pids = set(pool.map(interrupted, range(20), 1))
    for _ in range(10):
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        assert set(pool.map(run, range(20), 1)) == {1}
    report({1}, 200)
"""


def test_a_signal_handler_that_forks(tmp_path: Path) -> None:
    assert output(tmp_path, HANDLED, "fork") == ["{1} runs forked"]
