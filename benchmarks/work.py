"""The functions that the workers run.

This module imports nothing else of the package, because with spawn every worker imports it.
"""

import time
from typing import Any


def double(number: int) -> int:
    return number * 2


def shout(text: str) -> str:
    return text.upper()


def add(left: int, right: int) -> int:
    return left + right


def promote(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "rank": record["rank"] + 1}


def identity(value: Any) -> Any:
    return value


def length_plus(data: bytes, number: int) -> int:
    return len(data) + number


def nap(seconds: float) -> float:
    """A task that waits: it takes time, but no CPU."""
    if seconds:
        time.sleep(seconds)
    return seconds


def spin(loops: int) -> int:
    """A task that computes: a fixed amount of work, so two on one core take twice as long."""
    total = 0
    for number in range(loops):
        total += number
    return total


def loops_for(seconds: float) -> int:
    """How many loops of spin() take that long on this machine.

    Takes the fastest of many short runs: noise only adds time, and a short run may be undisturbed.
    """
    probe = 2_000
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter()
        spin(probe)
        best = min(best, time.perf_counter() - start)
    return max(1, round(probe * seconds / best))
