"""Other packages that take an executor, or make one: dask's local schedulers and tqdm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scripts
import tasks
from engine import DEADLINE

import cpool

pytestmark = pytest.mark.better

KINDS = {
    "processes": cpool.ProcessPoolExecutor,
    "threads": cpool.ThreadPoolExecutor,
    "a pool of processes": cpool.Pool,
    "a pool of threads": cpool.ThreadPool,
}


@pytest.mark.timeout(2 * DEADLINE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_local_schedulers_of_dask(kind: str) -> None:
    dask = pytest.importorskip("dask")
    scheduler = "processes" if "processes" in kind else "threads"
    with KINDS[kind](2) as pool, dask.config.set(scheduler=scheduler, pool=pool):
        squares = [dask.delayed(tasks.square)(x) for x in range(50)]
        assert dask.delayed(sum)(squares).compute() == sum(x * x for x in range(50))
        with pytest.raises(ValueError):
            dask.delayed(tasks.make_and_raise)(ValueError, "no").compute()
        assert dask.delayed(tasks.square)(3).compute() == 9


PROCESS_MAP = """
from tqdm.contrib import concurrent

def square(x):
    return x * x

if __name__ == "__main__":
    for name in "process_map", "thread_map":
        found = getattr(concurrent, name)(square, range(300), max_workers=2, chunksize=1)
        print(found == [x * x for x in range(300)])
"""


def test_process_map_of_tqdm_counts_all_items(tmp_path: Path) -> None:
    pytest.importorskip("tqdm")
    script = scripts.write(tmp_path, PROCESS_MAP)
    done: Any = scripts.run("-m", "cpool", "--executors", script)
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr
    assert done.stderr.count("100%") == done.stderr.count("300/300 [") == 2, done.stderr
