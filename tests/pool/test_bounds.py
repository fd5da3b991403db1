"""What a pool holds: the numbers of docs/bounds.md, read from /proc/self."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import engine
import pytest
import scripts

pytestmark = [
    pytest.mark.better,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(5 * engine.DEADLINE, method="signal"),
]

LIMIT = 4 * engine.DEADLINE  # seconds for a program: a hundred thousand calls take some
# A sanitizer's allocator keeps free space around each block, and much else.
REDZONES = 3.0 if "libasan" in os.environ.get("LD_PRELOAD", "") else 1.0
TABLE = Path(__file__).parents[2] / "docs" / "bounds.md"


def bound(row: str, column: str) -> int:
    """The number in the table of docs/bounds.md."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if line.startswith("| Held for"))
    place = [cell.strip() for cell in header.split("|")].index(column)
    cells = next(line for line in lines if line.startswith(f"| {row} ")).split("|")
    return int(re.sub(r"[, ]|KiB|MiB", "", cells[place].strip().split(";")[0]))


PREFIX = """
import os, sys, time
from pathlib import Path
from engine import DEADLINE, Pool
import tasks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def descriptors():
    return len(os.listdir("/proc/self/fd"))

def threads():
    return len(os.listdir("/proc/self/task"))

def wakeups():
    return sum(
        int(line.split()[1])
        for status in Path("/proc/self/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )
"""

QUEUED = """
gate = os.pipe()
fds, one = descriptors(), threads()
with Pool(2) as pool:
    pool.apply_async(abs, (1,)).get(DEADLINE)
    before, fixed = resident(), descriptors() - fds - 2 * 2
    for _ in range(2):
        pool.apply_async(os.read, (gate[0], 1))
    results = [pool.apply_async(tasks.identity, (i,)) for i in range(100_000)]
    print((resident() - before) // len(results), fixed, threads() - one, descriptors() - fds)
    os.write(gate[1], b"..")
    assert [r.get(3 * DEADLINE) for r in results] == list(range(100_000))
    first = pool.apply_async(os.read, (gate[0], 1))
    before = resident()
    result = pool.map_async(tasks.identity, [None] * 1_000_000, 1)
    print((resident() - before) // 1_000_000)
    os.write(gate[1], b".")
    result.get(3 * DEADLINE)
"""


def test_a_hundred_thousand_queued_calls(tmp_path: Path) -> None:
    call, fixed, threads, descriptors, item = map(
        int, " ".join(scripts.output(tmp_path, PREFIX + QUEUED, seconds=LIMIT)).split()
    )
    assert call <= REDZONES * bound("a queued call", "Bytes")
    assert item <= REDZONES * bound("an item of a `map_async` of a list", "Bytes")
    assert fixed <= bound("a pool", "Descriptors")
    assert threads <= bound("a pool", "Threads")
    assert descriptors - fixed <= 2 * bound("a worker", "Descriptors")


WORKERS = """
def mappings():  # of memory that is shared: the others are the interpreter's
    return sum(line.split()[1].endswith("s") for line in open("/proc/self/maps"))

with Pool(2) as pool:  # what is there once in a process
    pool.map(tasks.square, range(3))
before, fds, one, maps = resident(), descriptors(), threads(), mappings()
with Pool(400) as pool:
    print((resident() - before) // 400, (descriptors() - fds - 8) / 400, threads() - one)
    print(mappings() - maps)
"""


def test_four_hundred_workers(tmp_path: Path) -> None:
    numbers, mappings = scripts.output(tmp_path, PREFIX + WORKERS, seconds=LIMIT)
    resident, descriptors, threads = numbers.split()
    assert int(resident) <= REDZONES * bound("a worker", "Bytes") * 1024
    assert float(descriptors) <= bound("a worker", "Descriptors")
    assert int(threads) == 0  # they start with the first asynchronous call
    assert int(mappings) <= 400 / 16 + 4  # each one makes every later fork slower


IDLE = """
with Pool(4) as pool:
    pool.map_async(tasks.square, range(100), callback=id).get(DEADLINE)
    list(pool.imap(tasks.square, iter(range(100))))
    end = time.monotonic() + DEADLINE
    before = -1
    while wakeups() - before > 2 and time.monotonic() < end:  # until the threads have parked
        before = wakeups()
        time.sleep(.1)
    for _ in range(4):  # other load on the machine does not count
        before = wakeups()
        for _ in range(10):
            time.sleep(.05)
        switches = wakeups() - before
        if switches <= int(sys.argv[1]):
            break
    print(switches)
"""


def test_an_idle_pool_does_not_wake_up(tmp_path: Path) -> None:
    """Half a second: a tick of 16 ms would be 30 times, the ten are the test's own sleeps."""
    most = 10 + bound("a pool", "Wake-ups in half a second, idle")
    [switches] = scripts.output(tmp_path, PREFIX + IDLE, str(most))
    assert int(switches) <= most
