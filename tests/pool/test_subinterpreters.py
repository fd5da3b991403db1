"""Subinterpreters: importing cpool in one, and pools of the main interpreter beside them.

Each case is a program of its own: with a subinterpreter no process can fork, nor can the tests.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import scripts

pytestmark = pytest.mark.better

PREFIX = """
import os, signal, sys, threading
from engine import DEADLINE, Pool
from gates import kill_all
from interpreters import Interpreter
from programs import told
import cpool, tasks

def started(isolated=True):
    interpreter = Interpreter(isolated)
    interpreter.run(f"import sys; sys.path[:] = {sys.path}")
    return interpreter
"""

IMPORTS = """
for isolated in [True, False, True]:
    interpreter = started(isolated)
    interpreter.run('''
import cpool.pool
from cpool import _core
value = [1, "a", (2.5, b"b")]
assert _core._decode(_core._encode(value)) == value
''')
    interpreter.close()
first, second = started(), started()
for interpreter in [first, second]:
    interpreter.run("import cpool")
first.run("cpool.Pool = cpool.errors = None")
second.run("assert isinstance(cpool.Pool, type)")
first.close()
second.run("from cpool import _core; assert _core._decode(_core._encode(7)) == 7")
second.close()
with Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
"""


def test_cpool_can_be_imported_in_each_interpreter(tmp_path: Path) -> None:
    """Also in interpreters with their own GIL. Each interpreter has its own module."""
    assert scripts.output(tmp_path, PREFIX + IMPORTS) == ["[1, 2]"]


AT_ONCE = """
def work(isolated):
    for _ in range(2):
        interpreter = started(isolated)
        interpreter.run('''
from cpool import _core
for n in range(1, 50):
    value = [(i, str(i), float(i)) for i in range(n)]
    assert _core._decode(_core._encode(value)) == value
''')
        interpreter.close()
    done.append(isolated)

done = []
threads = [threading.Thread(target=work, args=(isolated,)) for isolated in (True, True, False)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(done))
"""


def test_several_interpreters_work_at_once(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, PREFIX + AT_ONCE) == ["3"]


MADE_IN_ONE = """
for isolated in [True, False]:
    interpreter = started(isolated)
    interpreter.run('''
import multiprocessing, cpool
for method in [None, "fork", "spawn", "forkserver"]:
    try:
        cpool.Pool(1, context=method and multiprocessing.get_context(method))
    except RuntimeError as error:
        assert "make it in the main interpreter" in str(error), error
    else:
        raise AssertionError("a pool was made")
assert multiprocessing.active_children() == []
''')
    interpreter.close()
"""


def test_a_subinterpreter_cannot_make_a_pool(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, PREFIX + MADE_IN_ONE) == []


BESIDE_A_POOL = """
with Pool(2) as pool:
    result = pool.map_async(tasks.square, range(2000), 1)
    interpreters = [started(), started(False)]
    for interpreter in interpreters:
        interpreter.run("import cpool")
    print(result.get(DEADLINE) == [x * x for x in range(2000)])
    result = pool.imap(tasks.square, range(2000))
    for interpreter in interpreters:
        interpreter.close()
    print(list(result) == [x * x for x in range(2000)])
    pool.close()
    pool.join()
"""


def test_a_pool_of_the_main_interpreter_is_not_affected(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, PREFIX + BESIDE_A_POOL) == ["True", "True"]


NO_FORK = """
import multiprocessing
interpreter = started()
print(told(Pool, 2))
print(multiprocessing.active_children())
interpreter.close()
with Pool(2) as pool:
    print(pool.map(abs, [-1, -2]))
"""


def test_no_worker_is_forked_while_subinterpreters_exist(tmp_path: Path) -> None:
    """The child of a fork hangs in CPython 3.11 and 3.12, and later versions kill it."""
    refused, *rest = scripts.output(tmp_path, PREFIX + NO_FORK)
    assert refused.startswith("RuntimeError: cpool cannot fork a worker while there are subinterp")
    assert 'get_context("spawn")' in refused
    assert rest == ["[]", "[1, 2]"]


SPAWNED = """
import multiprocessing
if __name__ == "__main__":
    interpreter = started()
    for method in ["spawn", "forkserver"]:
        with Pool(1, context=multiprocessing.get_context(method)) as pool:
            print(pool.map(abs, [-1, -2]))
    interpreter.close()
"""


def test_spawned_workers_can_start_while_subinterpreters_exist(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, PREFIX + SPAWNED) == ["[1, 2]", "[1, 2]"]


REPLACED = """
with Pool(2) as pool:
    interpreter = started()
    kill_all(pool)
    result = pool.apply_async(abs, (-3,))
    print(told(result.get, 0.02))
    interpreter.close()
    print(result.get(DEADLINE))
    interpreter = started()
    kill_all(pool)
    print(told(pool.apply, abs, (-1,)))
    interpreter.close()
"""


def test_a_pool_that_cannot_replace_workers_waits_and_then_breaks(tmp_path: Path) -> None:
    waited, answer, gave_up = scripts.output(tmp_path, PREFIX + REPLACED)
    assert waited.startswith("TimeoutError")
    assert answer == "3"
    assert gave_up.startswith("PoolError: no worker can be started")
    assert "subinterpreters" in gave_up


PUBLIC = """
from concurrent import interpreters
interpreter = interpreters.create()
interpreter.prepare_main(path=tuple(sys.path))
interpreter.exec("import sys; sys.path[:] = path; import cpool")
interpreter.exec('''
try:
    cpool.Pool(1)
except RuntimeError as error:
    print(error)
''')
interpreter.close()
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters is new in 3.14")
def test_interpreters_of_the_standard_library(tmp_path: Path) -> None:
    [said] = scripts.output(tmp_path, PREFIX + PUBLIC)
    assert said.startswith("a cpool.Pool cannot be made in a subinterpreter")
