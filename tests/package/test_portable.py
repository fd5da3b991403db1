"""Which system calls the build under test uses: Linux's own, or only those of POSIX."""

from __future__ import annotations

import os
from typing import Any

import pytest
from engine import PORTABLE, WORKER_THREADS
from leftovers import open_files

pytestmark = pytest.mark.better


def kernel_objects() -> set[str]:
    """The open descriptors that are neither file nor pipe: {"9 -> anon_inode:[pidfd]"}."""
    return {file for file in open_files() if "anon_inode" in file}


def own_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def test_the_build_uses_the_expected_system_calls(make_pool: Any) -> None:
    before = kernel_objects()
    pool = make_pool(2)
    assert all(worker.sentinel >= 0 for worker in pool._pool)
    kinds = {file.rpartition(":")[2] for file in kernel_objects() - before}
    assert kinds == (set() if PORTABLE else {"[eventfd]", "[eventpoll]", "[pidfd]"})
    assert pool.apply(own_threads) == WORKER_THREADS
