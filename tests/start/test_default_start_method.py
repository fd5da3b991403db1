"""The default start method of a pool: fork, unless the program chose another.

From 3.14 on the interpreter has another default. Any code that asks for the default fixes it for
the whole process, which then looks like a choice. Each script prints what its pool used.
"""

from __future__ import annotations

from pathlib import Path

import engine
import pytest
import scripts

pytestmark = pytest.mark.skipif(engine.STDLIB, reason="what cpool decides")

SCRIPT = """
import concurrent.futures, multiprocessing, sys, threading
import multiprocessing.pool

def asked():
    return multiprocessing.get_start_method()

def do_nothing():
    pass

def told_by_a_child(queue):
    from cpool import Pool
    with Pool(1) as pool:
        queue.put(pool._ctx.get_start_method())

def main():
{before}
    from cpool import Pool
{after}
    with Pool(1) as pool:
        print(pool._ctx.get_start_method(), pool.apply(asked))

if __name__ == "__main__":
    main()
"""

ASKING = {
    "context": "multiprocessing.get_context()",
    "name": "multiprocessing.get_start_method()",
    "queue": "multiprocessing.Queue()",
    "lock": "multiprocessing.Lock()",
    "threads": "multiprocessing.pool.ThreadPool(1).terminate()",
    "process": "p = multiprocessing.Process(target=do_nothing); p.start(); p.join()",
    "executor": "concurrent.futures.ProcessPoolExecutor(1).shutdown()",
    "pool": "multiprocessing.Pool(1).terminate()",
    "list": "multiprocessing.get_all_start_methods()",
}
CHOOSING = {
    "plain": "multiprocessing.set_start_method({!r})",
    "from a list": "{!r} in multiprocessing.get_all_start_methods() and "
    "multiprocessing.set_start_method({!r})",
    "by force": "multiprocessing.Queue(); multiprocessing.set_start_method({!r}, force=True)",
    "in a thread": "t = threading.Thread(target=multiprocessing.set_start_method, args=({!r},)); "
    "t.start(); t.join()",
    "traced": "sys.settrace(lambda *args: None); multiprocessing.set_start_method({!r}); "
    "sys.settrace(None)",
}


def script(before: str = "pass", after: str = "pass") -> str:
    return SCRIPT.format(before=f"    {before}", after=f"    {after}")


@pytest.mark.parametrize("asking", ASKING)
def test_asking_for_the_default_is_not_a_choice(tmp_path: Path, asking: str) -> None:
    assert scripts.output(tmp_path, script(before=ASKING[asking])) == ["fork fork"]


def test_asking_after_the_import_is_not_a_choice(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, script(after=ASKING["queue"])) == ["fork fork"]


def test_being_traced_is_not_a_choice(tmp_path: Path) -> None:
    before = "sys.setprofile(lambda *args: None); multiprocessing.Queue()"
    assert scripts.output(tmp_path, script(before, "sys.setprofile(None)")) == ["fork fork"]


@pytest.mark.parametrize("choosing", CHOOSING)
def test_a_choice_is_obeyed(tmp_path: Path, choosing: str) -> None:
    """Also a choice of the interpreter's own default."""
    chosen = CHOOSING[choosing].format("forkserver", "forkserver")
    assert scripts.output(tmp_path, script(before=chosen)) == ["forkserver forkserver"]


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_a_choice_after_the_import_is_obeyed(tmp_path: Path, method: str) -> None:
    chosen = CHOOSING["by force"].format(method)
    assert scripts.output(tmp_path, script(after=chosen)) == [f"{method} {method}"]


def test_a_choice_can_be_taken_back(tmp_path: Path) -> None:
    before = (
        "multiprocessing.set_start_method('spawn'); "
        "multiprocessing.set_start_method(None, force=True)"
    )
    assert scripts.output(tmp_path, script(before)) == ["fork fork"]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_process_inherits_the_choice(tmp_path: Path, method: str) -> None:
    before = (
        f"c = multiprocessing.get_context({method!r}); q = c.Queue(); "
        "p = c.Process(target=told_by_a_child, args=(q,)); p.start(); print(q.get()); p.join()"
    )
    assert scripts.output(tmp_path, script(before)) == [method, "fork fork"]


def test_the_context_of_a_swapped_pool_is_obeyed(tmp_path: Path) -> None:
    """`multiprocessing.Pool()` is a method of a context, and passes the context on."""
    after = (
        "import cpool; cpool.install(); "
        "default = multiprocessing.get_all_start_methods()[0]; "
        "a = multiprocessing.Pool(1); b = multiprocessing.get_context().Pool(1); "
        "print(*[type(p).__module__ + ' ' + str(p._ctx.get_start_method() == default) "
        "for p in (a, b)]); "
        "[(p.terminate(), p.join()) for p in (a, b)]"
    )
    lines = scripts.output(tmp_path, script(after=after))
    assert lines == ["cpool.pool True cpool.pool True", "fork fork"]
