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
