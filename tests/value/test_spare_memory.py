"""A worker makes large bytes and strings of the memory of the last ones."""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import sys
import zlib
from pathlib import Path
from typing import Any

import engine
import pytest
from leftovers import eventually

from cpool import Pool

N = 5 << 20  # bytes: 4 MiB are large

KEPT: list[Any] = []
KINDS = {"bytes": 0, "ascii": 0x7F, "latin": 0xFF, "two": 0x3FF, "four": 0x103FF}
WIDTHS = {"two": 2, "four": 4}

has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()

pytestmark = pytest.mark.better


def made(kind: str, seed: int, n: int = N) -> Any:
    if kind == "bytes":
        return bytes([seed]) * n
    return (chr(KINDS[kind]) + chr(0x40 + seed)) * (n // 2 // WIDTHS.get(kind, 1))


def total(value: Any) -> int:
    """A checksum that caches nothing in the string."""
    data = value if isinstance(value, bytes) else value.encode("utf-32-le", "surrogatepass")
    return zlib.crc32(data)


def look(value: Any, how: str) -> tuple[Any, ...]:
    """What a task sees, which leaves something behind in the object, or keeps it."""
    found: Any = None
    if how == "hash":
        found = hash(value)
    elif how == "UTF-8" and isinstance(value, str):
        as_utf8 = ctypes.pythonapi.PyUnicode_AsUTF8
        as_utf8.restype, as_utf8.argtypes = ctypes.c_char_p, [ctypes.py_object]
        found = zlib.crc32(as_utf8(value))
    elif how == "interned" and isinstance(value, str):
        found = total(sys.intern(value))
    elif how == "kept":
        KEPT.append(value)
    elif how == "view" and isinstance(value, bytes):
        KEPT.append(memoryview(value))
    return type(value), len(value), total(value), found


def kept_totals(_: Any) -> list[int]:
    totals = [total(bytes(v) if isinstance(v, memoryview) else v) for v in KEPT]
    KEPT.clear()
    return totals


def look_at_both(values: list[Any]) -> list[int]:
    return [total(value) for value in values]


@pytest.fixture(scope="module")
def one() -> Any:
    with Pool(1) as made:
        # Its threads belong to no test.
        made.apply_async(abs, (1,)).get()
        yield made


@pytest.mark.parametrize("how", ["", "hash", "UTF-8", "interned", "kept", "view"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_task_gets_its_own_value(one: Any, kind: str, how: str) -> None:
    for seed in (1, 2, 3):
        value = made(kind, seed)
        assert one.apply(look, (value, how)) == look(value, how)
    kept = kept_totals(None)
    assert one.apply(kept_totals, (None,)) == kept


def test_values_of_other_types_and_lengths(one: Any) -> None:
    for seed in range(8):
        kind = list(KINDS)[seed // 2 % 2 * 2]
        value = made(kind, seed + 1, N + seed % 2 * 4096)
        assert one.apply(look, (value, "")) == look(value, "")


def test_values_that_are_returned(one: Any) -> None:
    values = [made("bytes", seed) for seed in (1, 2, 3)]
    assert one.map(bytes, values, chunksize=1) == values
    assert one.map(bytes, values, chunksize=3) == values


def test_several_values_in_one_task(one: Any) -> None:
    for seed in (1, 2):
        values = [made("bytes", seed), made("bytes", seed + 10)]
        assert one.apply(look_at_both, (values,)) == look_at_both(values)


def without_huge_pages() -> None:
    PR_SET_THP_DISABLE = 41
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def page_faults(value: Any) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt + 0 * len(value)


@pytest.mark.skipif(
    not has_gil or engine.PORTABLE or "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="memory is not used again",
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_is_used_again(kind: str) -> None:
    with Pool(1, without_huge_pages) as pool:
        faults = [pool.apply(page_faults, (made(kind, seed),)) for seed in range(1, 7)]
    pages = N // resource.getpagesize()
    assert min(after - before for before, after in itertools.pairwise(faults)) < pages / 2


def resident(pid: int) -> int:
    """The bytes of memory of its own that a process uses."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


@pytest.mark.skipif(
    not has_gil or sys.platform != "linux", reason="nothing is kept, or there is no /proc"
)
def test_an_idle_worker_keeps_no_memory() -> None:
    with Pool(1) as pool:
        pid, n = pool.apply(os.getpid), 48 << 20
        pool.apply(len, (made("ascii", 1, N),))
        before = resident(pid)
        pool.apply(len, (bytes(n),))
        eventually(lambda: resident(pid) < before + n // 4, "it keeps its memory")


def shared_bytes() -> int:
    """How much memory the files have that this process shares with workers."""
    total = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            if "memfd:" in os.readlink(fd):
                total += fd.stat().st_blocks * 512
        except OSError:  # the descriptor of the directory itself
            continue
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
@pytest.mark.parametrize("how", ["argument", "result", "str"])
def test_an_idle_pool_keeps_nothing_large(how: str) -> None:
    n = 48 << 20
    shared = shared_bytes()
    with Pool(1) as pool:
        pid = pool.apply(os.getpid)
        pool.apply(len, (made("ascii", 1, N),))
        before = resident(pid), resident(os.getpid())
        if how == "argument":
            assert pool.apply(len, (bytes(n),)) == n
        elif how == "result":
            assert len(pool.apply(bytes, (n,))) == n
        else:
            assert pool.apply(str.upper, ("x" * n,))[-1] == "X"
        eventually(lambda: shared_bytes() < shared + n // 4, "shared memory is kept")
        if not has_gil:  # the interpreter's own allocator keeps what it has freed
            return
        eventually(lambda: resident(pid) < before[0] + n // 2, "the worker keeps memory")
        eventually(lambda: resident(os.getpid()) < before[1] + n // 2, "the parent keeps memory")
