"""Checks of a pool and its jobs that tests in many files use."""

from __future__ import annotations

from typing import Any

import tasks
from engine import DEADLINE
from gates import eventually


def failure(result: Any) -> Any:
    """Wait for a job that must fail; return its exception."""
    result.wait(DEADLINE)
    assert result.ready(), "the job never ended"
    assert not result.successful()
    return result._value


def read_during_join(pool: Any, results: Any, in_threads: Any) -> list[Any]:
    """list(results) in one thread, while another one closes and joins the pool."""

    def end(number: int) -> list[Any]:
        if number == 0:
            return list(results)
        pool.close()
        pool.join()
        return []

    found: list[Any] = in_threads(end, range(2))[0]
    return found


def whole_again(pool: Any, size: int) -> None:
    """Check that the pool has all its workers, and that the workers run tasks."""
    eventually(lambda: len(pool._pool) == size and all(w.is_alive() for w in pool._pool))
    squares = [x * x for x in range(20)]
    assert pool.map_async(tasks.square, range(20), 1).get(DEADLINE) == squares
    assert pool.map(tasks.square, range(20), 1) == squares
