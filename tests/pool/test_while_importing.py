"""A pool that is used while a module is imported, which Python makes other threads wait for."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts

pytestmark = pytest.mark.better  # the stdlib's pool hangs in all of these

# The classes and functions of tasks are in the module that is being imported.
MODULE = """
import os, threading
from engine import DEADLINE, Pool
from programs import say

class Item:
    pass

class Failure(Exception):
    pass

def give(item, *_):
    return item

def fail(item):
    raise Failure(item)

def tell(value):
    told.append(value)
    event.set()

def told_to(submit):
    submit()
    assert event.wait(DEADLINE)
    return told[0]

told = []
event = threading.Event()
items = [Item() for _ in range(8)]
pool = Pool(2{options})
found = {way}
say(type(found).__name__, {check})
pool.terminate()
"""
ONE = "type(found) is Item"
ALL = "len(found) == 8"
WAYS = [
    ("pool.apply(give, items[:1])", ONE),
    ("pool.map(give, items, 1)", ALL),
    ("pool.apply_async(give, items[:1]).get(DEADLINE)", ONE),
    ("pool.apply_async(give, items[:1], callback=say).get(DEADLINE)", ONE),
    ("told_to(lambda: pool.apply_async(give, items[:1], callback=tell))", ONE),
    ("told_to(lambda: pool.map_async(give, items, callback=tell))", ALL),
    (
        "told_to(lambda: pool.apply_async(fail, items[:1], error_callback=tell))",
        "type(found) is Failure and type(found.args[0]) is Item",
    ),
    ("list(pool.imap(give, items))", ALL),
    ("list(pool.imap(give, (item for item in items)))", ALL),
    ("list(pool.imap_unordered(give, (item for item in items), 3))", ALL),
    ("pool.starmap_async(give, ((item, 1) for item in items)).get(DEADLINE)", ALL),
    ("[pool.imap(give, (item for item in items)).next(DEADLINE)] * 8", ALL),
]


def check(tmp_path: Path, way: str, check: str, options: str = "") -> None:
    (tmp_path / "under_way.py").write_text(MODULE.format(way=way, check=check, options=options))
    lines = scripts.output(tmp_path, "import under_way")
    assert lines[-1].endswith(" True")


@pytest.mark.parametrize(("way", "right"), WAYS)
def test_a_pool_of_a_module_that_is_being_imported(tmp_path: Path, way: str, right: str) -> None:
    check(tmp_path, way, right)


@pytest.mark.parametrize(
    "way",
    [
        "pool.map(give, items, 1)",
        "told_to(lambda: pool.map_async(give, items, 1, callback=tell))",
        "list(pool.imap(give, (item for item in items)))",
    ],
)
def test_workers_are_replaced_meanwhile(tmp_path: Path, way: str) -> None:
    """They are forked by a thread of the pool, and have no thread that imports the module."""
    check(tmp_path, way, ALL, ", maxtasksperchild=1")


LATE = """
import sys, threading
from engine import DEADLINE, Pool
from programs import say

def make():
    sys.path.insert(0, {place!r})
    import late
    return late.Thing()

if __name__ == "__main__":
    sys.path.insert(0, {place!r})
    pool = Pool(1)  # the worker imports the module without these
    started, go = threading.Event(), threading.Event()
    sys.started, sys.go = started, go
    event = threading.Event()
    thread = threading.Thread(target=lambda: __import__("late"))
    thread.start()
    assert started.wait(DEADLINE)
    result = pool.apply_async(make, callback=lambda value: event.set())
    say(event.wait(0.2))
    go.set()
    say(event.wait(DEADLINE), type(result.get(DEADLINE)).__name__)
    thread.join()
    pool.terminate()
"""
THING = """
import sys
if hasattr(sys, "started"):
    sys.started.set()
    sys.go.wait()
class Thing:
    pass
"""


def test_what_a_module_does_not_have_yet_is_waited_for(tmp_path: Path) -> None:
    """Another thread imports the module, and waits for nothing of the pool."""
    (tmp_path / "late.py").write_text(THING)
    lines = scripts.output(tmp_path, LATE.format(place=str(tmp_path)))
    assert lines == ["False", "True Thing"]


# Threads of the program import a module when a worker is forked, which has none of these threads.
FORKED = """
import os, sys, threading
from cpool import WorkerLostError
from engine import DEADLINE, Pool
from programs import say

def die():
    os._exit(3)

def use():
    import slow
    return slow.value

def use_another():
    from slow_part import part
    return part

def wait_for_go():
    if os.getpid() == parent:
        started.set()
        assert go.wait(DEADLINE)

def lose_the_worker():  # and wait in no call, where the worker would be replaced
    lost = threading.Event()
    pool.apply_async(die, error_callback=lambda error: lost.set())
    assert lost.wait(DEADLINE)

if __name__ == "__main__":
    sys.path.insert(0, {place!r})
    parent = os.getpid()
    started, go = threading.Event(), threading.Event()
    sys.wait_for_go = wait_for_go
    {before}
    thread = threading.Thread(target=lambda: __import__("slow"))
    thread.start()
    assert started.wait(DEADLINE)
    {meanwhile}
    thread.join()
    pool.terminate()
"""
SLOW = "import slow_part\nvalue = slow_part.part + 1\n"
SLOW_PART = "import sys\nsys.wait_for_go()\npart = 1\n"
USE = "say(pool.apply_async(use).get(DEADLINE), pool.apply_async(use_another).get(DEADLINE))"


def run_forked(tmp_path: Path, before: str, *meanwhile: str) -> list[str]:
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "slow_part.py").write_text(SLOW_PART)
    lines = "\n    ".join(meanwhile)
    return scripts.output(
        tmp_path, FORKED.format(place=str(tmp_path), before=before, meanwhile=lines)
    )


def test_a_worker_imports_what_a_thread_was_importing_when_the_pool_was_made(
    tmp_path: Path,
) -> None:
    assert run_forked(tmp_path, "", "pool = Pool(1)", USE, "go.set()") == ["2 1"]


def test_a_replaced_worker_imports_what_a_thread_was_importing(tmp_path: Path) -> None:
    """The calling thread forks it, and does not wait for the import for long."""
    lines = run_forked(
        tmp_path,
        "pool = Pool(1)",
        "try:",
        "    pool.apply(die)",
        "except WorkerLostError:",
        "    pass",
        "say(pool.apply(use), pool.apply(use_another))",
        "go.set()",
    )
    assert lines == ["2 1"]


def test_a_thread_of_the_pool_forks_when_the_import_is_over(tmp_path: Path) -> None:
    lines = run_forked(
        tmp_path,
        "pool = Pool(1)",
        "lose_the_worker()",
        "done = threading.Event()",
        "result = pool.apply_async(use, callback=lambda value: done.set())",
        "say(done.wait(0.2))",
        "go.set()",
        "say(result.get(DEADLINE), pool.apply(use_another))",
    )
    assert lines == ["False", "2 1"]


USED = """
import sys
from cpool._engine import processes
from engine import DEADLINE, Pool
from programs import say

sys.path.insert(0, {place!r})
sys.deadline = DEADLINE
processes._IMPORT_S = 0.2
pool = sys.pool_of_the_program = Pool(1, maxtasksperchild=1)
import user
say(user.found)
pool.terminate()
"""


def test_an_import_that_waits_for_the_pool_holds_it_up_once(tmp_path: Path) -> None:
    """A module uses a pool that was made before it was imported, and workers are replaced."""
    (tmp_path / "user.py").write_text(
        "import sys\n"
        "pool = sys.pool_of_the_program\n"
        "found = [pool.apply_async(abs, [-i]).get(sys.deadline) for i in range(5)]\n"
    )
    assert scripts.output(tmp_path, USED.format(place=str(tmp_path))) == ["[0, 1, 2, 3, 4]"]
