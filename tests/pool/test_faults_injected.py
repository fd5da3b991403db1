"""System calls and allocations that fail: a few of each kind (all of them: tests/faults)."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import scripts
from engine import DEADLINE
from programs_server import Server

sys.path.insert(0, str(scripts.TESTS / "faults"))
from run import ERRORS, build

try:
    from memory import ENDS, KINDS
except ModuleNotFoundError:  # an interpreter without _testcapi
    KINDS = ENDS = {}

pytestmark = [pytest.mark.better, pytest.mark.timeout(4 * DEADLINE, method="signal")]

# CPython 3.13.0 crashes where it has no memory for a generator, and these make one in Python.
CRASHES = {"pool", "imap chunks", "imap half"}
if "t" in sys.abiflags:
    # The free-threaded 3.13 crashes without memory in many places, PyList_New() among them.
    KINDS = ENDS = {}
CALLS = {
    "fork": sorted({*KINDS, *ENDS} - CRASHES),
    # A worker thread that has no memory when it goes is waited for by join().
    "threads": sorted({*KINDS} - CRASHES),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Starts a program with the library that lets calls fail."""
    changes = build(tmp_path_factory.mktemp("faults"))
    if not hasattr(os, "pidfd_open"):
        yield partial(scripts.start, env=changes)
        return
    folder = tempfile.gettempdir()
    server = Server(scripts.environment(**changes), folder, "numpy")
    yield lambda *argv: server.start([*map(str, argv)], folder, {})
    server.close()


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The option with which all tests but the first need no program without a fault."""
    return ["--counts", str(tmp_path_factory.mktemp("counts"))]


def passes(program: str, *args: str, start: Callable[..., Any] = scripts.start) -> None:
    started = start(scripts.TESTS / "faults" / program, *args)
    done = scripts.finish(started, 3 * DEADLINE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("call", ERRORS)
@pytest.mark.parametrize("kind", ["fork", "elastic"])
def test_a_system_call_fails(
    kind: str, call: str, start: Callable[..., Any], counts: list[str]
) -> None:
    """In the parent or in a worker, once: right results or a clear error, and never a hang."""
    passes("run.py", "--method", kind, "--call", call, "--sparse", *counts, start=start)


@pytest.mark.parametrize("error", ["EAGAIN", "ENOMEM", "SIGNAL"])
def test_a_fork_of_many_fails(error: str, start: Callable[..., Any], counts: list[str]) -> None:
    """Each of those that a pool, resize(), an elastic pool and an executor make, by turns."""
    words = ["--call", "fork", "--where", "parent", "--error", error]
    passes("run.py", "--method", "starts", *words, *counts, start=start)


def test_a_pool_of_threads_without_memory(start: Callable[..., Any]) -> None:
    passes(
        "run.py",
        "--method",
        "threads",
        "--call",
        "malloc,calloc,realloc",
        "--sparse",
        start=start,
    )


@pytest.mark.parametrize("call", ["malloc", "calloc", "realloc"])
def test_no_memory_to_show_what_workers_do(
    call: str, start: Callable[..., Any], counts: list[str]
) -> None:
    """Of statistics(), dump() and trace(), and the calls around them."""
    numbers = ["--where", "parent", "--dense", "20", "--most", "60"]
    passes("run.py", "--method", "seen", "--call", call, *numbers, *counts, start=start)


@pytest.mark.parametrize(
    ("method", "kind"), [(method, kind) for method, kinds in CALLS.items() for kind in kinds]
)
def test_an_allocation_fails(method: str, kind: str) -> None:
    """Of the interpreter's, in the parent: the right result or MemoryError; the pool goes on."""
    passes("memory.py", "--method", method, "--kind", kind, "--last", "25")


@pytest.mark.skipif(not KINDS, reason="no _testcapi, or an interpreter that crashes")
def test_an_allocation_fails_in_a_worker() -> None:
    kinds = ",".join(CALLS["fork"])
    passes("memory.py", "--method", "fork", "--where", "worker", "--kind", kinds, "--last", "12")
