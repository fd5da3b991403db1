"""Objects of a large result lie in large pages, and the pages are given back."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import engine
import pytest
import scripts

pytestmark = [
    pytest.mark.better,
    pytest.mark.skipif(
        not Path("/sys/kernel/mm/transparent_hugepage").exists() or engine.PORTABLE,
        reason="no large pages here",
    ),
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
        or os.environ.get("PYTHONMALLOC", "pymalloc") not in ("pymalloc", "pymalloc_debug"),
        reason="the interpreter has no arenas",
    ),
    pytest.mark.skipif(
        sys.version_info >= (3, 15), reason="the interpreter asks for large pages for each arena"
    ),
]

# A fresh process has no free memory from earlier objects.
PREFIX = """
import gc
from engine import Pool
import tasks

MANY = 400_000
MIB = 1 << 20

def advised():  # bytes of the mappings advised to use large pages
    total = size = 0
    for line in open("/proc/self/smaps"):
        word, *rest = line.split()
        if word == "Size:":
            size = int(rest[0]) * 1024
        elif word == "VmFlags:" and "hg" in rest:
            total += size
    return total

def ints():
    return list(range(1000, 1000 + MANY))

def floats():
    return [x / 7 for x in range(2 * MANY)]

def is_large():
    return advised() > 9 * MIB  # as large as any of them is at least

def is_over(shared=1):
    gc.collect()
    # Half a page for the next result, and so many arenas with other objects that stay.
    return advised() <= (1 + shared) * MIB
"""


def test_a_large_map_result_is_in_large_pages_until_freed(tmp_path: Path) -> None:
    source = """
with Pool(2) as pool:
    result = pool.map(tasks.identity, ints())
    print(is_large(), result == ints())
    own = advised()
    more = ints()  # the interpreter allocates as before
    print(advised() <= own)
    del result, more
    print(is_over())
"""
    assert scripts.output(tmp_path, PREFIX + source) == ["True True", "True", "True"]


def test_a_large_value_is_in_large_pages(tmp_path: Path) -> None:
    source = """
with Pool(2) as pool:
    value = pool.apply(floats)
    print(is_large(), value == floats())
    del value
    print(is_over())
"""
    assert scripts.output(tmp_path, PREFIX + source) == ["True True", "True"]


def test_a_small_result_is_not_in_large_pages(tmp_path: Path) -> None:
    source = """
with Pool(2) as pool:
    result = pool.map(tasks.identity, range(20_000), 50)
    print(advised(), len(result))
"""
    assert scripts.output(tmp_path, PREFIX + source) == ["0 20000"]


def test_decoding_may_use_another_pool(tmp_path: Path) -> None:
    source = """
class Nested:
    def __reduce__(self):
        return rebuild, ()

def rebuild():
    return len(inner.map(tasks.identity, range(MANY)))

def nested(x):
    return Nested() if x % 100_000 == 0 else x

with Pool(2) as pool, Pool(1) as inner:
    result = pool.map(nested, range(MANY), 50_000)
    print(result[::100_000], is_large())
    own = advised()
    more = ints()
    print(advised() <= own)
    del result, more
    print(is_over(4))  # rebuild() ran four times, and what each call leaves may lie apart
"""
    assert scripts.output(tmp_path, PREFIX + source) == [
        "[400000, 400000, 400000, 400000] True",
        "True",
        "True",
    ]


def test_a_process_forked_during_decoding_is_not_affected(tmp_path: Path) -> None:
    """Another thread forks: the decoding thread does not exist in the child."""
    source = """
import os, threading

class Forking:
    def __reduce__(self):
        return rebuild, ()

def rebuild():
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
    return 0

def fork():
    pid = os.fork()
    if pid == 0:
        own = advised()
        more = ints()
        os._exit(advised() > own)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

def forking(x):
    return Forking() if x == MANY - 1 else x

with Pool(2) as pool:
    result = pool.map(forking, range(MANY))
    print(is_large())
"""
    assert scripts.output(tmp_path, PREFIX + source) == ["0", "True"]


def test_an_allocator_set_during_decoding_stays(tmp_path: Path) -> None:
    source = """
import ctypes

class Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("ctx", "alloc", "free")]

def get():
    found = Allocator()
    ctypes.pythonapi.PyObject_GetArenaAllocator(ctypes.byref(found))
    return found

own = get()

class Setting:
    def __reduce__(self):
        return rebuild, ()

def rebuild():
    replaced.append(get().alloc != own.alloc)
    another = Allocator(1, own.alloc, own.free)
    ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(another))
    return 0

def setting(x):
    return Setting() if x == MANY - 1 else x

replaced = []
with Pool(2) as pool:
    result = pool.map(setting, range(MANY))
    print(replaced, get().ctx)
"""
    assert scripts.output(tmp_path, PREFIX + source) == ["[True] 1"]
