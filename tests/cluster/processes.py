"""dask schedulers and workers in separate processes, which tests can kill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]


def start_dask(part: str, *arguments: Any) -> subprocess.Popen[bytes]:
    """Start a scheduler or a worker, which can import what the tests run."""
    words = [sys.executable, "-m", f"distributed.cli.dask_{part}", "--no-dashboard", *arguments]
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    # Not where they may find cpool's sources, which have no extension.
    return subprocess.Popen(words, stderr=subprocess.DEVNULL, env=env, cwd=TESTS)


def start_scheduler(file: Path) -> subprocess.Popen[bytes]:
    """Start a scheduler that writes its address to a file."""
    return start_dask("scheduler", *"--host 127.0.0.1 --port 0 --scheduler-file".split(), file)


def start_worker(*where: Any) -> subprocess.Popen[bytes]:
    """Start a worker of one thread, for the scheduler of an address or a file.

    It has no nanny: nothing starts it again when it is killed.
    """
    return start_dask("worker", "--no-nanny", "--nthreads", "1", *where)
