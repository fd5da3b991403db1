"""Descriptors: a worker has two in the parent, and hundreds fit under the usual limit."""

from __future__ import annotations

from multiprocessing import connection
from pathlib import Path
from typing import Any

import engine
import pytest
import scripts
import tasks

pytestmark = pytest.mark.better

PREFIX = """
import multiprocessing, os, resource, sys
from engine import DEADLINE, Pool, errors
import tasks

def descriptors():
    return len(os.listdir("/proc/self/fd"))

if __name__ == "__main__":
    ctx = multiprocessing.get_context(METHOD)
    with Pool(1, context=ctx) as pool:  # what is opened once in a process
        pool.map(tasks.square, range(3))
    pool.join()
    del pool
"""

# A fork server tells of a worker's end by a pipe of its own.
PER_WORKER = {"fork": 2, "spawn": 2, "forkserver": 3}

COUNT = """
    counts = []
    for size in (1, 4):
        with Pool(size, context=ctx) as pool:
            assert pool.map(tasks.square, range(40), 1) == [x * x for x in range(40)]
            assert pool.apply_async(abs, (-3,)).get(DEADLINE) == 3
            counts.append(descriptors())
        pool.join()
        del pool
    assert counts[1] - counts[0] <= 3 * PER_WORKER, counts
"""


@pytest.mark.parametrize("method", PER_WORKER)
def test_a_worker_has_few_descriptors(method: str, tmp_path: Path) -> None:
    assert scripts.output(tmp_path, _program(method, COUNT)) == []


MANY = """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    with Pool(400, context=ctx) as pool:
        assert len(set(pool.map(tasks.pid, range(4000), 1))) > 1
        victim = pool._pool[0]
        victim.kill()
        victim.join(DEADLINE)
        assert victim.exitcode == -9
        assert pool.map(tasks.square, range(400), 1) == [x * x for x in range(400)]
    pool.join()
"""


def test_hundreds_of_workers_fit_under_the_usual_limit(tmp_path: Path) -> None:
    assert scripts.output(tmp_path, _program("fork", MANY)) == []


def _program(method: str, body: str) -> str:
    head = f"METHOD, PER_WORKER = {method!r}, {PER_WORKER[method]}\n"
    return head + PREFIX + body


def test_sentinels_are_opened_when_they_are_asked_for(make_pool: Any) -> None:
    pool = make_pool(2)
    pool.map(tasks.square, range(10))
    before = tasks.count_descriptors()
    one, two = pool._pool
    sentinels = [one.sentinel, two.sentinel]
    assert connection.wait(sentinels, 0) == []
    assert [one.sentinel, two.sentinel] == sentinels
    assert tasks.count_descriptors() - before in (2, 4)  # pipes, where there are no pidfds
    one.kill()
    assert connection.wait(sentinels, engine.DEADLINE) == sentinels[:1]
    one.join()
