"""No write of the pool's raises SIGPIPE, where the program has not left the signal ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import scripts

pytestmark = pytest.mark.better

PROGRAM = """
import multiprocessing, os, signal, sys, warnings
from engine import DEADLINE, Pool
import tasks

METHOD, ACTION = sys.argv[1:]

def use(pool):
    assert pool.map(tasks.square, range(20), 1) == [x * x for x in range(20)]

def kill_and_use(pool):
    for _ in range(5):
        [worker] = pool._pool
        worker.kill()
        worker.join(DEADLINE)
        use(pool)
        assert pool.apply(tasks.size, (bytes(3_000_000),)) == 3_000_000

def handler(*_):
    os.write(1, b"SIGPIPE\\n")

def worker_writes_to_nobody(ppid):
    os.kill(ppid, signal.SIGKILL)

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL if ACTION == "default" else handler)
    with Pool(1, context=multiprocessing.get_context(METHOD)) as pool:
        use(pool)
        kill_and_use(pool)
        # What a task starts is not born with the signal blocked.
        assert signal.SIGPIPE not in pool.apply(signal.pthread_sigmask, (signal.SIG_BLOCK, []))
    pool.join()
    assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    if METHOD != "fork":
        warnings.simplefilter("ignore")  # of the tracker, that it died
        from multiprocessing import resource_tracker

        tracker = resource_tracker._resource_tracker
        os.kill(tracker._pid, signal.SIGKILL)
        os.waitid(os.P_PID, tracker._pid, os.WEXITED | os.WNOWAIT)
        with Pool(1, context=multiprocessing.get_context(METHOD)) as pool:
            use(pool)
        pool.join()
    print("done")
"""


@pytest.mark.parametrize("action", ["default", "handler"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_writing_to_a_dead_worker_raises_no_signal(
    tmp_path: Path, method: str, action: str
) -> None:
    done = scripts.run_source(tmp_path, PROGRAM, method, action)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
