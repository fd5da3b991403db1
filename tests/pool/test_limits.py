"""Exhausted resources: the call that needs the resource raises, and the pool still works."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
from engine import DEADLINE

pytestmark = pytest.mark.better

PREFIX = """
import gc, multiprocessing, os, resource, sys, threading
from engine import DEADLINE, Pool, errors
from gates import eventually, kill_all
from programs import told
import tasks

def limit(name, value=None):
    number = getattr(resource, name)
    hard = resource.getrlimit(number)[1]
    resource.setrlimit(number, (hard if value is None else value, hard))

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

def threads():
    return len(os.listdir("/proc/self/task"))

def at_once(pool):
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]
    assert pool.apply(abs, (-1,)) == 1

def at_leisure(pool):
    assert pool.apply_async(abs, (-3,), callback=id).get(DEADLINE) == 3
    assert list(pool.imap(abs, iter([-1, -2]))) == [1, 2]

# Open, import and start everything that a process needs only once.
with Pool(2) as pool:
    at_once(pool)
    at_leisure(pool)
pool.join()
del pool
eventually(lambda: threads() == 1)  # or from 3.12 on the next pool warns of a fork beside threads
"""

# Descriptors

NO_DESCRIPTORS = """
pool = Pool(2)
at_once(pool)
at_leisure(pool)
limit("RLIMIT_NOFILE", 3)
at_once(pool)
at_leisure(pool)
kill_all(pool)
# Neither worker can be replaced yet; both are replaced later.
held = pool.apply_async(abs, (-5,))
print(str(told(held.get, 0.02)).split(":")[0])
limit("RLIMIT_NOFILE")
print(held.get(DEADLINE))
eventually(lambda: len(pool._pool) == 2)
at_once(pool)
at_leisure(pool)
pool.close()
pool.join(timeout=DEADLINE)
"""


def test_workers_are_replaced_when_descriptors_are_free_again(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, PREFIX + NO_DESCRIPTORS) == ["TimeoutError", "5"]


# Processes and threads

# Root has no limit. For another user the limit counts all processes and threads of the user.
AS_A_USER = (
    PREFIX
    + """
import tokenize  # for tracebacks; the user may not be able to read the module later
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(54321, 54321, 54321)
    os.setresuid(54321, 54321, 54321)
AGAIN = "BlockingIOError: [Errno 11] Resource temporarily unavailable"
"""
)

NO_POOL = """
before = descriptors(), threads()
limit("RLIMIT_NPROC", 1)
print(told(Pool, 3) == AGAIN)
print((descriptors(), threads()) == before, multiprocessing.active_children())
limit("RLIMIT_NPROC")
with Pool(3) as pool:
    at_once(pool)
"""


def test_a_pool_that_cannot_be_made_leaks_nothing(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, AS_A_USER + NO_POOL) == ["True", "True []"]


NO_THREADS = """
pool = Pool(1)
limit("RLIMIT_NPROC", 1)
calls = [
    lambda: pool.apply_async(abs, (-1,)),
    lambda: pool.apply_async(abs, (-1,), callback=print),
    lambda: pool.map_async(abs, [-1] * 3),
    lambda: pool.imap(abs, [-1, 2]),
    lambda: pool.imap_unordered(abs, (x for x in range(3))),
]
before = threads()
print([told(call) == AGAIN for call in calls])
print(len(pool._cache), threads() - before)
at_once(pool)
limit("RLIMIT_NPROC")
at_leisure(pool)
pool.close()
pool.join(timeout=DEADLINE)
"""


def test_asynchronous_calls_are_refused_if_no_thread_can_start(tmp_path: Path) -> None:
    """Blocking calls need no thread."""
    lines = scripts.output(tmp_path, AS_A_USER + NO_THREADS)
    assert lines == [str([True] * 5), "0 0"]


NO_WORKERS = """
pool = Pool(2)
at_leisure(pool)
limit("RLIMIT_NPROC", 1)
kill_all(pool)
held = pool.apply_async(abs, (-5,))
print(told(held.get, 0.02).split(":")[0])
limit("RLIMIT_NPROC")
print(held.get(DEADLINE))
at_once(pool)
# A worker is listed a moment after its fork, and kill_all() kills those that are.
eventually(lambda: sum(worker.is_alive() for worker in list(pool._pool)) == 2)

limit("RLIMIT_NPROC", 1)
kill_all(pool)
held = [pool.apply_async(abs, (-5,)), pool.map_async(abs, [-1, -2])]
for result in held:
    result.wait(DEADLINE)
print([told(result.get, 0) for result in held])
print("BlockingIOError" in str(held[0]._value.__cause__))
limit("RLIMIT_NPROC")
print(told(pool.apply, abs, (-1,)).split(":")[0])
pool.close()
pool.join(timeout=DEADLINE)
print(multiprocessing.active_children())
"""


def test_the_pool_breaks_if_workers_cannot_be_replaced(tmp_path: Path) -> None:
    """The pool tries for more than a second. If an attempt succeeds, nothing is lost."""
    lines = scripts.output(tmp_path, AS_A_USER + NO_WORKERS)
    error = "PoolError: no worker can be started: N in a row were never ready, the last error: "
    error += "[Errno N] Resource temporarily unavailable"
    lines[2] = re.sub(r"\d+", "N", lines[2])
    assert lines == ["TimeoutError", "5", str([error] * 2), "True", "PoolError", "[]"]


# Memory

NO_MEMORY = """
def leave(kilobytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit("RLIMIT_AS", pages * resource.getpagesize() + kilobytes * 1024)

pool = Pool(2, shared_memory_limit=0)
at_leisure(pool)
at_once(pool)
# More than the 64 MB that an arena of malloc() can have in reserve.
large = bytes(70_000_000)
pids = [worker.pid for worker in pool._pool]
leave(20_000)
calls = [
    lambda: pool.apply(tasks.size, (large,)),
    lambda: pool.apply_async(tasks.size, (large,)).get(DEADLINE),
    lambda: pool.map(tasks.size, [large, large], 1),
    lambda: next(pool.imap(tasks.size, [large])),
    lambda: len(pool.apply(tasks.zeros, (70_000_000,))),
    lambda: next(pool.imap_unordered(tasks.zeros, [70_000_000])),
]
print([told(call) for call in calls])
print(len(pool._cache))
at_once(pool)
limit("RLIMIT_AS")
print(calls[0](), calls[-2]())
print([worker.pid for worker in pool._pool] == pids)
pool.close()
pool.join(timeout=DEADLINE)
"""


def test_a_task_without_memory_fails_alone(tmp_path: Path) -> None:
    lines = scripts.output(tmp_path, PREFIX + NO_MEMORY)
    assert lines == [str(["MemoryError: "] * 6), "0", "70000000 70000000", "True"]


# Shared memory

NO_SHM = """
import multiprocessing.synchronize
print(str(told(multiprocessing.Lock)).split(":")[0])
with Pool(2) as pool:
    at_once(pool)
    at_leisure(pool)
    print(len(pool.apply(tasks.zeros, (3_000_000,))))
    maps = [open(f"/proc/{pid}/maps").read() for pid in ["self", *(w.pid for w in pool._pool)]]
    print(any("/dev/shm" in text for text in maps))
"""


def test_nothing_is_in_dev_shm(tmp_path: Path) -> None:
    lines = scripts.output(tmp_path, PREFIX + NO_SHM)
    assert lines[1:] == ["3000000", "False"]


UNSHARE = "unshare", "--user", "--map-root-user", "--mount"


def can_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="this user may not have mounts of its own")
@pytest.mark.parametrize("how", ["read-only", "missing"])
def test_dev_shm_is_not_needed(tmp_path: Path, how: str) -> None:
    """The stdlib's pool needs /dev/shm for the locks of its queues."""
    path = scripts.write(tmp_path, PREFIX + NO_SHM)
    hide = (
        "mount -t tmpfs -o ro none /dev/shm"
        if how == "read-only"
        else "mount -t tmpfs none dev && touch dev/null && "
        "mount --bind /dev/null dev/null && mount --rbind dev /dev"
    )
    (tmp_path / "dev").mkdir()
    script = f'cd {tmp_path} && {hide} && exec "$0" "$1"'
    done = subprocess.run(
        [*UNSHARE, "sh", "-ec", script, sys.executable, str(path)],
        env=scripts.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    error = "OSError" if how == "read-only" else "FileNotFoundError"
    assert done.stdout.splitlines() == [error, "3000000", "False"]
