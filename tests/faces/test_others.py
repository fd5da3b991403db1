"""Other packages that take an executor, or make one: dask's local schedulers and tqdm."""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import scripts

pytestmark = pytest.mark.better

# In a program of its own: importing dask changes how exceptions are pickled.
DASK = """
import cpool, dask

def square(x):
    return x * x

def fail(x):
    raise ValueError(x)

if __name__ == "__main__":
    for scheduler, kind in (
        ("processes", cpool.ProcessPoolExecutor),
        ("threads", cpool.ThreadPoolExecutor),
        ("processes", cpool.Pool),
        ("threads", cpool.ThreadPool),
    ):
        with kind(2) as pool, dask.config.set(scheduler=scheduler, pool=pool):
            squares = [dask.delayed(square)(x) for x in range(50)]
            found = [dask.delayed(sum)(squares).compute()]
            try:
                dask.delayed(fail)(3).compute()
            except ValueError as error:
                found.append(error.args)
            print(found, dask.delayed(square)(3).compute())
"""


def test_the_local_schedulers_of_dask(tmp_path: Path) -> None:
    if importlib.util.find_spec("dask") is None:
        pytest.skip("dask is not installed")
    assert scripts.output(tmp_path, DASK) == ["[40425, (3,)] 9"] * 4


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
    # tqdm counts in callbacks of the futures. The last one may run after the bar is closed, since
    # a result is there before its callbacks have run, as in the stdlib. Without the GIL, callbacks
    # of several futures run at once, and tqdm's update() loses some: many, if they are threads'.
    shown = [int(n) for n in re.findall(r" (\d+)/300 \[", done.stderr)]
    # The last of each bar: a bar begins with 0, and on a busy machine shows more than its end.
    counted = [n for n, following in pairwise([*shown, 0]) if following == 0]
    least = [299, 299] if getattr(sys, "_is_gil_enabled", lambda: True)() else [250, 1]
    assert len(counted) == 2, done.stderr
    assert counted[0] >= least[0] and counted[1] >= least[1], done.stderr
